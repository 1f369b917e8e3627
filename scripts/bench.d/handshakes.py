"""A client that does nothing but handshakes, full ones, one after the other on each of so many threads; run as a program.

  handshakes.py PORT CONNECTIONS SECONDS      prints as JSON how many there were, their times in ms, and what went wrong
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import ssl
import sys
import threading
import time


def shake(port: int, context: ssl.SSLContext, until: float, times: list[float], errors: list[str]) -> None:
    while time.monotonic() < until:
        began = time.perf_counter()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
                # No session is given, so that none is resumed.
                with context.wrap_socket(plain):
                    times.append((time.perf_counter() - began) * 1e3)
        except OSError as error:
            errors.append(repr(error))


def process(port: int, threads: int, seconds: float, results: multiprocessing.Queue) -> None:
    times, errors = [], []
    # One for all: each one made would take as long as many handshakes. It trusts everybody, and so loads no authorities.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    until = time.monotonic() + seconds
    started = [threading.Thread(target=shake, args=(port, context, until, times, errors)) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    results.put((times, errors))


def main() -> None:
    port, connections, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    # Python uses one core for each process.
    processes = min(connections, os.cpu_count() or 1)
    shares = [connections // processes + (n < connections % processes) for n in range(processes)]
    results = multiprocessing.Queue()
    started = [multiprocessing.Process(target=process, args=(port, share, seconds, results)) for share in shares]
    for one in started:
        one.start()
    gathered = [results.get() for _ in started]
    for one in started:
        one.join()
    times = sorted(ms for ms_of_one, _ in gathered for ms in ms_of_one)
    errors = [error for _, errors_of_one in gathered for error in errors_of_one]
    at = lambda share: times[min(int(len(times) * share), len(times) - 1)] if times else 0.0
    print(json.dumps({"count": len(times), "p50": at(0.5), "p99": at(0.99), "errors": len(errors), "first_error": (errors or [""])[0]}))


if __name__ == "__main__":
    main()
