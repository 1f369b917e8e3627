#!/usr/bin/env python3
"""How many registrations a second are acknowledged over HTTP with 64 clients, each of them on the disk before.

Run by scripts/soak rate: rate.py BINARY SECONDS. The clients are processes of 8 connections each, so that they are not what is measured.
"""

import http.client
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

PROCESSES, THREADS = 8, 8


def client(port, name, until, counts):
    link, done = http.client.HTTPConnection("127.0.0.1", port, timeout=20), 0
    while time.monotonic() < until:
        body = {"id": f"{name}-{done % 100}", "name": f"s{name}", "host": "127.0.0.1", "port": 1 + done % 65535}
        link.request("POST", "/register", json.dumps(body))
        answer = link.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"a registration was answered with {answer.status}")
        done += 1
    counts.append(done)


def clients(port, process, until, total):
    counts = []
    threads = [threading.Thread(target=client, args=(port, f"{process}x{n}", until, counts)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with total.get_lock():
        total.value += sum(counts)


def syncs(folder):
    """Syncs of 200 bytes a second, one after the other."""
    with open(os.path.join(folder, "probe"), "wb") as probe:
        start, done = time.monotonic(), 0
        while time.monotonic() < start + 1:
            probe.write(b"x" * 200)
            probe.flush()
            os.fdatasync(probe.fileno())
            done += 1
    return done


def main():
    binary, seconds = sys.argv[1], int(sys.argv[2])
    folder = tempfile.mkdtemp(prefix="weft-rate-")
    state = os.path.join(folder, "state")
    os.mkdir(state)
    rate = syncs(folder)
    weft = subprocess.Popen([binary, "--listen", "127.0.0.1:0", "--state-dir", state, "--log", "error"], stdout=subprocess.PIPE, text=True)
    try:
        port = int(weft.stdout.readline().rsplit(":", 1)[1].split()[0])
        total, until = multiprocessing.Value("q", 0), time.monotonic() + seconds
        all_of_them = [multiprocessing.Process(target=clients, args=(port, n, until, total)) for n in range(PROCESSES)]
        for one in all_of_them:
            one.start()
        for one in all_of_them:
            one.join()
        if total.value == 0 or any(one.exitcode for one in all_of_them):
            print("some clients failed")
            return 1
        print(f"{total.value / seconds:.0f} durable registrations a second with {PROCESSES * THREADS} clients; the disk syncs {rate} times a second")
        return 0
    finally:
        weft.kill()
        weft.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
