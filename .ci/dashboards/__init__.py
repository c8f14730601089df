"""The parts of dashboards_check.py. `build` is dashboards/build.py, whose lists say what there should be."""
import subprocess
import sys

from lib.checks import ROOT

HOME = ROOT / "dashboards"
sys.path.insert(0, str(HOME))
import build  # noqa: E402

build.files()  # Fills build.FILLS.


def run(*command, **more):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, **more)
