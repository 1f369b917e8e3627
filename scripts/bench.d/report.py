"""What a run found: as rows with medians and ratios, and as text."""

from __future__ import annotations

import sys
from statistics import median
from typing import Iterable

from load import Round

BASELINES = ("nginx", "haproxy", "naive")


def row(workload: str, connections: int, target: str, rounds: dict[str, list[Round]]) -> dict:
    def middle(figure: str) -> float:
        return median(getattr(r, figure) for (r,) in clean(zip(rounds[target])))

    def ratio(baseline: str) -> float | None:
        pairs = clean(zip(rounds[target], rounds.get(baseline, [])))
        ratios = [ours.cpu_us_per_request / theirs.cpu_us_per_request for ours, theirs in pairs if theirs.cpu_us_per_request]
        return median(ratios) if ratios else None

    figures = ("requests_per_s", "p50_ms", "p99_ms", "cpu_us_per_request", "pss_mib")
    return {
        "workload": workload, "connections": connections, "target": target,
        **{figure: middle(figure) for figure in figures},
        "cpu_ratio": {baseline: ratio(baseline) for baseline in BASELINES},
        "errors": [f"round {n}: {', '.join(r.errors)}" for n, r in enumerate(rounds[target], 1) if r.errors],
        "rounds": [vars(r) for r in rounds[target]],
    }


def clean(rounds: Iterable[tuple[Round, ...]]) -> list[tuple[Round, ...]]:
    """Those in which nobody had errors; all if there are none: better a marked figure than a gap."""
    given = list(rounds)
    return [together for together in given if not any(r.errors for r in together)] or given


def say(sentence: str) -> None:
    progress("")
    print(f"bench: {sentence}", file=sys.stderr)


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def print_footprints(footprints: dict[str, dict]) -> None:
    progress("")
    print(f"\n{'footprint':<10}{'idle MiB':>10}{'size MiB':>10}{'start ms':>10}")
    for name, f in footprints.items():
        note = "" if f["stripped"] else "  (not stripped)"
        print(f"{name:<10}{f['idle_pss_mib']:>10.2f}{f['size_bytes'] / 2**20:>10.2f}{f['start_ms']:>10.1f}{note}")


def print_load(title: str, rows: list[dict]) -> None:
    progress("")
    ratios = "".join(f"{'/' + baseline:>10}" for baseline in BASELINES)
    print(f"\n{title}\n{'':<10}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'CPU us/req':>12}{'PSS MiB':>10}{ratios}")
    for r in rows:
        ratios = "".join(f"{'-' if ratio is None else f'{ratio:.2f}':>10}" for ratio in r["cpu_ratio"].values())
        name = r["target"] + " !" * bool(r["errors"])
        print(
            f"{name:<10}{r['requests_per_s']:>12,.0f}{r['p50_ms']:>10.3f}{r['p99_ms']:>10.2f}"
            f"{r['cpu_us_per_request']:>12.1f}{r['pss_mib']:>10.2f}{ratios}"
        )
    for r in rows:
        for error in r["errors"]:
            print(f"! {r['target']}, {error}")


def print_verdict(rows: list[dict]) -> None:
    """The figure all this is about. Marked where weft or naive had errors."""
    figures, held = [], True
    for r in rows:
        if r["target"] == "weft" and (ratio := r["cpu_ratio"]["naive"]) is not None:
            place = r["workload"], r["connections"]
            pair = [p for p in rows if (p["workload"], p["connections"]) == place and p["target"] in ("weft", "naive")]
            mark = "!" * any(p["errors"] for p in pair)
            figures.append(f"{ratio:.2f}{mark} ({place[0]}, {place[1]})")
            held &= ratio <= 1
    if figures:
        print(f"\nCPU per request, weft/naive: {', '.join(figures)}; at most 1.00: {'held' if held else 'NOT held'}")
