"""One round of load on one target, by wrk."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from programs import on_path
from running import UNANSWERED, Request, Running, Trouble, Workload, ask_on


@dataclass
class Round:
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_request: float
    pss_mib: float
    errors: list[str]


def measure(running: Running, workload: Workload, connections: int, seconds: int) -> Round:
    if workload.handshakes:
        return shake(running, connections, seconds)
    request = running.target.request(workload)
    with held_open(running.port, request, workload.idle_connections):
        before = running.cpu_us()
        said, answered = wrk(running, request, connections, seconds)
        cpu, pss = running.cpu_us() - before, running.pss_mib()
    count = re.search(r"^\s*(\d+) requests in ", said, re.M)
    if not count or int(count[1]) == 0:
        raise Trouble(f"got no answer through to wrk:\n{said}")
    errors = []
    if sockets := re.search(r"^\s*Socket errors: (.*)", said, re.M):
        errors += [kind for kind in sockets[1].split(", ") if not kind.endswith(" 0")]
    if statuses := re.search(r"^\s*Non-2xx or 3xx responses: (\d+)", said, re.M):
        errors.append(f"answers other than 2xx or 3xx {statuses[1]}")
    if answered is not None and (starved := connections + workload.idle_connections - answered) > 0:
        errors.append(f"connections without any answer {starved}")
    return Round(
        requests_per_s=float(re.search(r"^Requests/sec:\s+([\d.]+)", said, re.M)[1]),
        p50_ms=milliseconds(said, "50%"),
        p99_ms=milliseconds(said, "99%"),
        cpu_us_per_request=cpu / int(count[1]),
        pss_mib=pss,
        errors=errors,
    )


def shake(running: Running, connections: int, seconds: int) -> Round:
    """Handshakes and nothing else; what stands for a request is one of them."""
    client = Path(__file__).resolve().parent / "handshakes.py"
    before = running.cpu_us()
    said = subprocess.run(
        [sys.executable, client, str(running.port), str(connections), str(seconds)], capture_output=True, text=True, timeout=60 + seconds
    )
    cpu, pss = running.cpu_us() - before, running.pss_mib()
    if said.returncode != 0 or (found := json.loads(said.stdout))["count"] == 0:
        raise Trouble(f"makes no handshake:\n{said.stdout}{said.stderr}")
    return Round(
        requests_per_s=found["count"] / seconds,
        p50_ms=found["p50"],
        p99_ms=found["p99"],
        cpu_us_per_request=cpu / found["count"],
        pss_mib=pss,
        errors=[f"handshakes that failed {found['errors']}, as by {found['first_error']}"] * bool(found["errors"]),
    )


def wrk(running: Running, request: Request, connections: int, seconds: int) -> tuple[str, int | None]:
    """wrk's report, and how many connections had been answered shortly before its end (None when that cannot be seen)."""
    script = running.directory / "wrk.lua"
    script.write_text(
        f'wrk.method = "{request.method}"\n'
        + f'wrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{request.body}]==]\n' * bool(request.body)
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script]
    load = subprocess.Popen(
        [*command, f"http{'s' * running.target.secured}://127.0.0.1:{running.port}{request.path}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    try:
        time.sleep(seconds - 0.3)
        answered = answered_connections(running.port)
        return load.communicate(timeout=60)[0], answered
    finally:
        load.kill()
        load.wait()


def answered_connections(port: int) -> int | None:
    if not (ss := on_path("ss")):
        return None
    seen = subprocess.run([ss, "-Htin", "state", "established", "dst", f"127.0.0.1:{port}"], capture_output=True, text=True)
    return len(re.findall(r"\bbytes_received:[1-9]", seen.stdout)) if seen.returncode == 0 else None


def milliseconds(said: str, percentile: str) -> float:
    # From the line's start: the thread statistics above hold percentages as well.
    value, unit = re.search(rf"^\s*{percentile}\s+([\d.]+)(us|ms|s|m)\b", said, re.M).groups()
    return float(value) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 60e3}[unit]


@contextmanager
def held_open(port: int, request: Request, count: int):
    """Connections that were answered once and stay."""
    with ExitStack() as stack:
        for n in range(count):
            connection = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)))
            try:
                ask_on(connection, request)
            except UNANSWERED as error:
                raise Trouble(f"holds no more than {n} of {count} idle connections: {error!r}") from None
        yield
