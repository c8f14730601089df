#!/usr/bin/env python3
"""Pinned tools from the package indexes, installed once below $CI_TOOLS (target/ci-tools).

    python3 .ci/lib/tools.py NAME==VERSION...    prints the directory its programs are in

Each pin has an environment of its own, named by the pin: several checkouts can share one directory.
"""
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(os.environ.get("CI_TOOLS") or ROOT / "target" / "ci-tools")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


class Unavailable(Exception):
    """The package cannot be installed here; the text says why."""


def once(home, install):
    """Runs `install` unless it has succeeded in this directory before."""
    done = home / "done"
    if not done.exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        try:
            install()
        except subprocess.CalledProcessError as problem:
            said = (problem.stderr or b"").decode(errors="replace").strip()
            raise Unavailable(said[-300:] or str(problem)) from problem
        except (subprocess.SubprocessError, OSError) as problem:
            raise Unavailable(str(problem)) from problem
        done.touch()
    return home


def ran(command, seconds):
    subprocess.run(list(map(str, command)), check=True, timeout=seconds, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE)


def virtual_environment(name, *requirements):
    """An environment with the requirements (pip's arguments); raises Unavailable."""
    home = TOOLS / name

    def install():
        ran([sys.executable, "-m", "venv", home], 120)
        ran([home / "bin" / "pip", "install", "-q", "--disable-pip-version-check", *requirements], 600)
    return once(home, install)


def pinned(requirement):
    """The directory of the programs of `name==version`; raises Unavailable."""
    return virtual_environment(re.sub(r"[^\w.]+", "-", requirement), requirement) / "bin"


def enter(script, requirements=REQUIREMENTS):
    """Goes on with `script` in the environment of those requirements; returns if this is it already."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    name = "emulator" if requirements == REQUIREMENTS else requirements.resolve().parent.name
    home = virtual_environment(f"{name}-{digest}", "-r", requirements)
    if Path(sys.prefix).resolve() != home.resolve():
        python = home / "bin" / "python"
        os.execv(python, [str(python), str(Path(script).resolve()), *sys.argv[1:]])


def node_packages(name, *packages):
    """A directory whose node_modules holds the pinned packages; raises Unavailable."""
    if not (shutil.which("npm") and shutil.which("node")):
        raise Unavailable("there is no npm and node here")
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:8]
    home = TOOLS / f"{name}-{digest}"
    return once(home, lambda: ran(["npm", "install", "--prefix", home, "--ignore-scripts", "--no-audit",
                                   "--no-fund", "--legacy-peer-deps", *packages], 300))


if __name__ == "__main__":
    try:
        print(*[pinned(requirement) for requirement in sys.argv[1:]], sep=":")
    except Unavailable as problem:
        sys.exit(f"{' '.join(sys.argv[1:])} cannot be installed: {problem}")
