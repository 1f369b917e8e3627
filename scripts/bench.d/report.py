"""What a run found: as rows with medians and ratios, and as text."""

from __future__ import annotations

import sys
from statistics import median
from typing import Iterable

from load import Round

BASELINES = ("nginx", "haproxy", "envoy", "naive")


def row(workload: str, connections: int, target: str, rounds: dict[str, list[Round]]) -> dict:
    def middle(figure: str) -> float:
        return median(getattr(r, figure) for (r,) in clean(zip(rounds[target])))

    def ratio(baseline: str) -> float | None:
        # Who speaks TLS is compared with who does.
        kind = "-tls" * target.endswith("-tls")
        pairs = clean(zip(rounds[target], rounds.get(baseline + kind, [])))
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
    print(f"\n{'footprint':<13}{'idle MiB':>10}{'size MiB':>10}{'start ms':>10}")
    for name, f in footprints.items():
        note = "" if f["stripped"] else "  (not stripped)"
        print(f"{name:<13}{f['idle_pss_mib']:>10.2f}{f['size_bytes'] / 2**20:>10.2f}{f['start_ms']:>10.1f}{note}")


def print_load(title: str, rows: list[dict]) -> None:
    progress("")
    ratios = "".join(f"{'/' + baseline:>10}" for baseline in BASELINES)
    print(f"\n{title}\n{'':<13}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'CPU us/req':>12}{'PSS MiB':>10}{ratios}")
    for r in rows:
        ratios = "".join(f"{'-' if ratio is None else f'{ratio:.2f}':>10}" for ratio in r["cpu_ratio"].values())
        name = r["target"] + " !" * bool(r["errors"])
        print(
            f"{name:<13}{r['requests_per_s']:>12,.0f}{r['p50_ms']:>10.3f}{r['p99_ms']:>10.2f}"
            f"{r['cpu_us_per_request']:>12.1f}{r['pss_mib']:>10.2f}{ratios}"
        )
    for r in rows:
        for error in r["errors"]:
            print(f"! {r['target']}, {error}")


# What weft is to cost at most, as a share of another target's CPU per request.
GOALS = {("proxy", "nginx"): 0.9, ("proxy", "haproxy"): 0.85, ("proxy", "envoy"): 0.3, ("invoke", "naive"): 0.45, ("health", "nginx"): 1.1}
# At 32 connections nginx is at its best.
AT_32 = {("proxy", "nginx"): 1.0}


def print_verdict(rows: list[dict]) -> None:
    """The figures all this is about. Marked where weft or the other had errors."""
    for (workload, baseline), goal in GOALS.items():
        figures = []
        for r in (r for r in rows if r["target"] == "weft" and r["workload"] == workload):
            if (ratio := r["cpu_ratio"][baseline]) is None:
                continue
            most = AT_32.get((workload, baseline), goal) if r["connections"] == 32 else goal
            pair = [p for p in rows if (p["workload"], p["connections"]) == (workload, r["connections"])]
            mark = "!" * any(p["errors"] for p in pair if p["target"] in ("weft", baseline))
            held = "" if ratio <= most else f", over {most}"
            figures.append(f"{ratio:.2f}{mark} ({r['connections']}{held})")
        if figures:
            print(f"CPU per request, {workload}, weft/{baseline}, at most {goal}: {'  '.join(figures)}")
    of = {(r["workload"], r["connections"], r["target"]): r["cpu_us_per_request"] for r in rows}
    own = [(c, cpu / of["proxy", c, "weft"]) for (w, c, t), cpu in of.items() if (w, t) == ("invoke", "weft") and ("proxy", c, "weft") in of]
    if own:
        print("CPU per request, /invoke over /proxy, at most 1.15: " + "  ".join(f"{ratio:.2f} ({c})" for c, ratio in own))
