"""A target, what it is asked, and a started one: its directory, its processes, what they used."""

from __future__ import annotations

import functools
import http.client
import os
import random
import re
import shutil
import signal
import socket
import ssl
import string
import subprocess
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

CONFIGS = Path(__file__).resolve().parent
UNANSWERED = (OSError, http.client.HTTPException)
# What the peers are configured for: as much as the load needs, since some of them pay for it in advance.
MOST_CONNECTIONS = 4096
ANSWER = '{"id":123,"name":"alice","email":"alice@example.com","roles":["admin","user"]}'


class Trouble(Exception):
    """One target cannot be measured. The sentence says why."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: str = ""


@dataclass(frozen=True)
class Workload:
    """What to ask of a target that speaks a dialect. A target that speaks none of them takes no part."""

    requests: dict[str, Request]
    idle_connections: int = 0
    handshakes: bool = False  # nothing but handshakes, each on a connection of its own
    answers: str | None = ANSWER  # what every answer must be; None where it is each target's own, or too long to compare


@dataclass(frozen=True)
class Target:
    name: str
    find: Callable[[], str | None]  # the path of its program, built if need be; None when it is not installed
    command: str  # after the program; {port} is filled in
    speaks: tuple[str, ...]  # the workloads' dialects it understands, the preferred one first
    config: str = ""  # a template in bench.d, put into the directory it runs in
    env: dict[str, str] = field(default_factory=dict)
    ready: Request = Request("GET", "/")
    files: dict[str, int] = field(default_factory=dict)  # put into the directory it runs in, with so many bytes each
    register: Request | None = None  # sent once when it is ready; ${upstream} is filled in
    secured: bool = False  # it speaks TLS, by the certificate and the key in door.pem
    version: str = ""  # the argument that makes it print its version

    def request(self, workload: Workload) -> Request | None:
        return next((workload.requests[d] for d in self.speaks if d in workload.requests), None)


class Running:
    """A started target, with a directory and a session of its own: its processes are known, and end with it."""

    def __init__(self, target: Target, program: str, upstream: int = 0):
        self.target, self.program, self.upstream = target, program, upstream
        self.port = free_port()

    def __enter__(self) -> Running:
        self.directory = Path(tempfile.mkdtemp(prefix=f"bench-{self.target.name}-"))
        self.process = None
        try:
            self._configure()
            self._start()
            if self.target.register:
                self._register(self.target.register)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            self._signal(signal.SIGTERM)  # so that it collects its own children
            try:
                self.process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                pass
            self._signal(signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def _configure(self) -> None:
        if self.target.config:
            template = string.Template((CONFIGS / self.target.config).read_text())
            text = template.substitute(port=self.port, upstream=self.upstream, answer=ANSWER, connections=MOST_CONNECTIONS)
            (self.directory / self.target.config).write_text(text)
        if self.target.secured:
            (self.directory / "door.pem").touch(0o600)
            (self.directory / "door.pem").write_text(door())
        for name, size in self.target.files.items():
            path = self.directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x" * size)

    def _start(self) -> None:
        """Start the program and ask, without a pause, until it answers."""
        env = {name: str(self.directory) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")} | self.target.env
        command = [self.program, *self.target.command.format(port=self.port).split()]
        with open(self.directory / "output", "wb") as output:
            before = time.perf_counter()
            self.process = subprocess.Popen(
                command, cwd=self.directory, env={"PATH": os.environ["PATH"]} | env, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )
        while True:
            try:
                status, _ = ask(self.port, self.target.ready, self.target.secured)
                if status == 200:
                    break
            except UNANSWERED:
                pass
            if self.process.poll() is not None or time.perf_counter() - before > 20:
                raise Trouble(f"did not start; it said:\n{self._said()}")
        self.start_ms = (time.perf_counter() - before) * 1e3

    def _register(self, request: Request) -> None:
        body = string.Template(request.body).substitute(upstream=self.upstream)
        status, answer = self._ask(Request(request.method, request.path, body))
        if status != 200:
            raise Trouble(f"refused {request.path} with {status}: {answer}")

    def check(self, workload: Workload) -> None:
        """Is one answer what it should be?"""
        request = self.target.request(workload)
        status, answer = self._ask(request)
        if status != 200 or workload.answers not in (None, answer):
            raise Trouble(f"answers {request.method} {request.path} with {status}: {answer[:500]}")

    def _ask(self, request: Request) -> tuple[int, str]:
        try:
            return ask(self.port, request, self.target.secured)
        except UNANSWERED as error:
            raise Trouble(f"does not answer {request.method} {request.path}: {error!r}") from None

    def cpu_us(self) -> float:
        """User and system time so far: fields 14 to 17 of /proc/PID/stat, the last two being those of exited children."""
        ticks = sum(sum(map(int, stat[11:15])) for _, stat in self._processes())
        return ticks * 1e6 / os.sysconf("SC_CLK_TCK")

    def pss_mib(self) -> float:
        rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid, _ in self._processes())
        return sum(int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.M)[1]) for rollup in rollups) / 1024

    def _processes(self) -> list[tuple[str, list[str]]]:
        """The processes of this target's session, with their fields of /proc/PID/stat from the third on."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # gone since it was listed
            session, alive = int(stat[3]), stat[0] != "Z"
            if session == self.process.pid and alive:
                found.append((pid, stat))
        if not found:
            raise Trouble(f"ended by itself; it said:\n{self._said()}")
        return found

    def _said(self) -> str:
        return (self.directory / "output").read_text(errors="replace")[-2000:] or "nothing"


def free_port() -> int:
    """A free port below those Linux gives to clients: else one might hold it, or who asks too early meet itself."""
    while True:
        port = random.randrange(10_000, 32_768)
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


@functools.cache
def door() -> str:
    """A certificate for nobody in particular and its key, the same for all targets."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        key, certificate = Path(directory, "key"), Path(directory, "certificate")
        command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-newkey", "ec",
                   "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", key, "-out", certificate]
        try:
            made = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            raise Trouble("needs openssl for its certificate: apt-get install openssl") from None
        if made.returncode != 0:
            raise Trouble(f"has no certificate; openssl said:\n{made.stderr}")
        return certificate.read_text() + key.read_text()


def ask(port: int, request: Request, secured: bool = False) -> tuple[int, str]:
    if secured:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with closing(connection):
        return ask_on(connection, request)


def ask_on(connection: http.client.HTTPConnection, request: Request) -> tuple[int, str]:
    headers = {"Content-Type": "application/json"} if request.body else {}
    connection.request(request.method, request.path, request.body or None, headers)
    response = connection.getresponse()
    return response.status, response.read().decode(errors="replace")
