#!/usr/bin/env python3
"""What etcd and a mesh spend on one of each: the unit costs behind the documentation of weft::outbound::etcd::scale.

Run by scripts/soak costs: costs.py BINARY. CPU is user and system time from /proc, memory is resident memory from there.
"""

import base64
import http.client
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time

WATCHES, RENEWALS, CHANGES, INSTANCES = 300, 2000, 500, 5000


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu(process):
    """Seconds of CPU so far."""
    with open(f"/proc/{process.pid}/stat", encoding="ascii") as stat:
        fields = stat.read().split()
    return (int(fields[13]) + int(fields[14])) / 100


def memory(process):
    """KB that are resident."""
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def asks(port):
    """A function that posts JSON on one connection."""
    link = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(100):
        try:
            link.connect()
            break
        except OSError:
            time.sleep(0.1)
    link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(path, body):
        link.request("POST", path, json.dumps(body))
        return json.loads(link.getresponse().read())
    return ask


def watch(port):
    """An open watch of everything under the prefix."""
    body = json.dumps({"create_request": {"key": encoded("/mesh/v1/"), "range_end": encoded("/mesh/v10")}})
    link = socket.create_connection(("127.0.0.1", port))
    link.sendall(f"POST /v3/watch HTTP/1.1\r\nHost: etcd\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    return link


def registration(number):
    return {"id": f"user-service-{number}", "name": f"user-service-{number % 50}", "host": "10.0.0.1", "port": 4001,
            "metadata": {"version": "1.0.0", "region": "us-east-1", "team": "a"}}


def measure(etcd, port, weft, mesh):
    ask, register = asks(port), asks(mesh)
    first = watch(port)
    time.sleep(0.5)
    first.recv(65536)
    register("/register", registration(1))
    time.sleep(0.5)
    print(f"line of a watch: {len(first.recv(65536))} bytes")
    record = ask("/v3/kv/range", {"key": encoded("/mesh/v1/instances/user-service-1/user-service-1")})
    print(f"record: {len(base64.b64decode(record['kvs'][0]['value']))} bytes")

    lease, before = ask("/v3/lease/grant", {"TTL": 600})["ID"], cpu(etcd)
    for _ in range(RENEWALS):
        ask("/v3/lease/keepalive", {"ID": lease})
    print(f"renewal: {(cpu(etcd) - before) / RENEWALS * 1e6:.0f} us of etcd's CPU")

    times = []
    for number in range(CHANGES):
        start = time.monotonic()
        ask("/v3/kv/put", {"key": encoded(f"/other/{number}"), "value": encoded("x" * 200)})
        times.append((time.monotonic() - start) * 1e3)
    times.sort()
    print(f"change: p50 {times[CHANGES // 2]:.2f} ms, p99 {times[CHANGES * 99 // 100]:.2f} ms")

    before = memory(etcd)
    watches = [watch(port) for _ in range(WATCHES)]
    time.sleep(2)
    print(f"open watch: {(memory(etcd) - before) / WATCHES:.0f} KB of etcd's memory")
    before = cpu(etcd)
    for number in range(100):
        ask("/v3/kv/put", {"key": encoded(f"/mesh/v1/other/{number}"), "value": encoded("x" * 200)})
    time.sleep(2)
    print(f"event told: {(cpu(etcd) - before) / 100 / WATCHES * 1e6:.0f} us of etcd's CPU")
    for link in watches:
        link.close()

    before = memory(weft)
    for number in range(INSTANCES):
        register("/register", registration(number))
    print(f"instance: {(memory(weft) - before) / INSTANCES:.1f} KB of a mesh's memory")


def main():
    folder, port, mesh = tempfile.mkdtemp(prefix="weft-costs-"), free_port(), free_port()
    at, quiet, started = f"http://127.0.0.1:{port}", subprocess.DEVNULL, []
    try:
        started.append(subprocess.Popen(["etcd", "--data-dir", folder, "--listen-client-urls", at, "--advertise-client-urls", at,
                                         "--listen-peer-urls", "http://127.0.0.1:0"], stdout=quiet, stderr=quiet))
        asks(port)("/v3/kv/range", {"key": encoded("/")})
        started.append(subprocess.Popen([sys.argv[1], "--etcd", at, "--listen", f"127.0.0.1:{mesh}", "--log", "error"], stdout=quiet))
        measure(started[0], port, started[1], mesh)
    finally:
        for process in started:
            process.kill()
            process.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
