"""Builds the foreign programs once, below $INTEROP_CACHE, else $CI_TOOLS, else target/ci-tools.

What is built has a directory named by the digest of its sources and pins, so checkouts can share one cache.
Whoever cannot be built raises `Missing` with the reason.
"""
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parents[1]
CACHE = Path(os.environ.get("INTEROP_CACHE") or os.environ.get("CI_TOOLS") or ROOT / "target" / "ci-tools").resolve()

KCL = ("2.7.2", "3.4.2", "3.5.1")
KPL = ("0.15.12", "1.1.1")


_building = threading.RLock()


class Missing(Exception):
    """It cannot be built here; the text says why."""


def needs(*programs):
    for program in programs:
        if not shutil.which(program):
            raise Missing(f"there is no {program} here")


def once(name, source, build, seconds=900):
    """The directory with a copy of `source` that `build` (commands) has succeeded in; made unless it is there."""
    with _building:
        return built(name, source, build, seconds)


def built(name, source, build, seconds):
    digest = hashlib.sha256(repr(build).encode())
    for file in sorted(source.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(str(file.relative_to(source)).encode() + b"\0" + file.read_bytes())
    home = CACHE / f"interop-{name}-{digest.hexdigest()[:12]}"
    if (home / "done").exists():
        return home
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, home)
    for command in build:
        try:
            ran = subprocess.run([str(word) for word in command], cwd=home, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False)
        except (OSError, subprocess.SubprocessError) as problem:
            raise Missing(f"{name}: {problem}") from problem
        if ran.returncode:
            said = [line for line in ran.stdout.decode(errors="replace").splitlines() if line.strip()]
            raise Missing(f"{name}: {command[0]} failed: " + " | ".join(said[-6:])[-700:])
    (home / "done").touch()
    return home


@functools.cache
def java():
    """The Maven project, compiled, each module with its libraries."""
    needs("java", "javac", "mvn")
    return once("java", HERE / "java", [["mvn", "-q", "-B", "-ntp", "compile"]])


@functools.cache
def node():
    needs("node", "npm")
    return once("node", HERE / "node", [["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]])


@functools.cache
def go():
    needs("go")
    return once("go", HERE / "go", [["go", "build", "-o", "battery", "."]])


@functools.cache
def python():
    """boto3 and version 1 of the AWS CLI."""
    return once("python", HERE / "python", [[sys.executable, "-m", "venv", "venv"], [
        "venv/bin/pip", "install", "-q", "--disable-pip-version-check", "-r", "requirements.txt"]])


def classpath(module):
    target = java() / module / "target"
    return f"{target / 'classes'}:{target / 'lib'}/*"
