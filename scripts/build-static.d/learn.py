"""Find out which functions of a weft with symbols run at its start and at rest, and which besides when it passes calls on, and write a
linker script that puts them together. Called by `scripts/build-static --learn`.

  learn.py BINARY MAP SCRIPT

MAP is what lld says of where it put what (-Map).
"""

from __future__ import annotations

import http.client
import http.server
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REST_SECONDS = 5  # slowed down by valgrind some twenty times, and more than every timer of a process at rest needs
# Names of Rust functions, in either mangling, end in a hash or have the hashes of crates in them: another with every compiler.
HASHED = ((re.compile(r"17h[0-9a-f]{16}E.*"), "17h*"), (re.compile(r"Cs[0-9A-Za-z]{8,13}_"), "Cs*_"), (re.compile(r"\.[.\w]*\d$"), "*"))


class Instance(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


def talk(port: int, instance: int) -> None:
    mesh = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(method: str, path: str, body: dict | None = None) -> None:
        mesh.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"} if body else {})
        answer = mesh.getresponse()
        answer.read()
        if answer.status != 200:
            sys.exit(f"{method} {path}: {answer.status}")

    health = f"http://127.0.0.1:{instance}/health"
    ask("POST", "/register", {"id": "one", "name": "learnt", "host": "127.0.0.1", "port": instance, "healthCheckUrl": health})
    for _ in range(20):
        ask("GET", "/health")
        ask("GET", "/proxy/learnt/path?query=1")
        ask("POST", "/invoke", {"serviceName": "learnt", "endpoint": "/path", "method": "GET"})


def executed(binary: str, calls: bool) -> set[str]:
    with tempfile.TemporaryDirectory(prefix="weft-learn-") as directory:
        out = Path(directory, "callgrind")
        weft = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--demangle=no", f"--callgrind-out-file={out}", binary, "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        said = weft.stdout.readline()
        if calls:
            instance = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Instance)
            threading.Thread(target=instance.serve_forever, daemon=True).start()
            talk(int(re.search(r"127\.0\.0\.1:(\d+)", said)[1]), instance.server_port)
        time.sleep(REST_SECONDS)
        weft.terminate()
        weft.wait()
        found = re.findall(r"^c?fn=\(\d+\) (\S+)", out.read_text(), re.MULTILINE)
    # Valgrind marks recursion by an apostrophe and a number.
    return {name.split("'")[0] for name in found}


def objects(map_of_linker: str) -> dict[str, str]:
    """The member of an archive that each C function comes from: its sections do not bear its name."""
    found, member = {}, None
    for line in Path(map_of_linker).read_text().splitlines()[1:]:
        if match := re.search(r"([\w.-]+\.a)\((\S+\.o)\):\(\.text", line):
            member = f"{match[1]}:{match[2]}"
        elif re.search(r":\(|^\s*\w+\s+\w+\s+\w+\s+\d+ \.", line):
            member = None
        elif member:
            found[line.split()[-1]] = member
    return found


def patterns(names: set[str], members: dict[str, str]) -> set[str]:
    made = set()
    for name in names:
        if name.startswith(("_ZN", "_R")):
            for hashed, instead in HASHED:
                name = hashed.sub(instead, name)
            made.add(f"*(.text*.{name})")  # .text.unlikely too
        elif name in members:
            made.add(f"*{members[name]}(.text .text.*)")
    return made


def group(lines: set[str]) -> str:
    return "".join(f"    {line}\n" for line in sorted(lines))


def main() -> None:
    binary, map_of_linker, script = sys.argv[1:]
    members = objects(map_of_linker)
    start, calls = (patterns(executed(binary, calls), members) for calls in (False, True))
    Path(script).write_text(
        "/* What runs at the start and at rest, then what calls run besides, each in one place: pages of program text are mapped by\n"
        "   the sixteen, and else nearly all would be. Written by scripts/build-static --learn; a name that is gone does no harm. */\n"
        f"SECTIONS\n{{\n  .text.start :\n  {{\n{group(start)}  }}\n  .text.calls :\n  {{\n{group(calls - start)}  }}\n}}\nINSERT BEFORE .text;\n")
    print(f"{len(start)} places at the start, {len(calls - start)} more for calls")


if __name__ == "__main__":
    main()
