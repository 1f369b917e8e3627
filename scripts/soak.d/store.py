#!/usr/bin/env python3
"""Kills the mesh at random moments while clients change the registry, and looks whether it comes back with all it has acknowledged.

Run by scripts/soak store: store.py BINARY ROUNDS SEED. Exit status: 0; 1 when something acknowledged was lost or something was half there.
"""

import http.client
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

CLIENTS = 8


class Lost(Exception):
    """Something is not as it was acknowledged."""


def start(binary, state):
    """Starts the mesh; answers the process and its port."""
    child = subprocess.Popen([binary, "--listen", "127.0.0.1:0", "--state-dir", state, "--log", "error"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = child.stdout.readline()
    if "http://127.0.0.1:" not in line:
        raise Lost(f"it does not start: {line!r} {child.stderr.read()!r}")
    return child, int(line.rsplit(":", 1)[1].split()[0])


def there(port):
    """What the mesh knows: id to (port, labels)."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    link.request("GET", "/services")
    services = json.loads(link.getresponse().read())
    link.close()
    return {one["id"]: (one["port"], one["metadata"].get("n")) for service in services for one in service["instances"]}


def client(number, port, dice, known):
    """Changes instances of its own until the mesh is gone. `known` says for each what it may have come to; None is "not there"."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        while True:
            name = f"i{number}-{dice.randrange(60)}"
            if dice.random() < 0.25:
                path, body, becomes = "/deregister", {"name": "s", "id": name}, None
            else:
                at = dice.randrange(1, 65536)
                # The label repeats the port, so that half a change would show.
                becomes = (at, str(at))
                path, body = "/register", {"name": "s", "id": name, "host": "127.0.0.1", "port": at, "metadata": {"n": str(at)}}
            known.setdefault(name, [None]).append(becomes)
            link.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = link.getresponse()
            answer.read()
            if answer.status == 200 or (path == "/deregister" and answer.status == 404):
                known[name] = [becomes]
            else:
                raise Lost(f"{path} was answered with {answer.status}")
    except (OSError, http.client.HTTPException):
        pass


def compare(known, found):
    """Looks whether `found` is what it may be, and settles what was open."""
    for name, possible in known.items():
        if found.get(name) not in possible:
            raise Lost(f"{name} is {found.get(name)}, and may be one of {possible}")
        known[name] = [found.get(name)]
    strange = set(found) - set(known)
    if strange:
        raise Lost(f"nobody has registered {sorted(strange)}")


def main():
    binary, rounds, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # So that nothing is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    dice = random.Random(seed)
    state = tempfile.mkdtemp(prefix="weft-soak-")
    known = [{} for _ in range(CLIENTS)]
    child, began = None, time.monotonic()
    try:
        for done in range(rounds + 1):
            child, port = start(binary, state)
            found = there(port)
            for number, mine in enumerate(known):
                compare(mine, {name: value for name, value in found.items() if name.startswith(f"i{number}-")})
            if done < rounds:
                seeds = [dice.random() for _ in known]
                clients = [threading.Thread(target=client, args=(n, port, random.Random(seeds[n]), mine)) for n, mine in enumerate(known)]
                for thread in clients:
                    thread.start()
                time.sleep(dice.uniform(0.001, 0.08))
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
            child.stderr.close()
            if done < rounds:
                for thread in clients:
                    thread.join()
            if done and done % 100 == 0:
                print(f"{done} times killed, {len(found)} instances, nothing lost", flush=True)
    except Lost as lost:
        print(f"LOST after {done} rounds of seed {seed}: {lost}; see {state}")
        state = None
        return 1
    finally:
        if child and child.poll() is None:
            child.kill()
            child.wait()
        if state:
            shutil.rmtree(state)
    print(f"{rounds} times killed in {time.monotonic() - began:.0f} s: everything acknowledged was there (seed {seed})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
