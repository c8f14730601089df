"""Children in process groups of their own, ended by their id."""
import contextlib
import os
import signal
import subprocess


def end_group(process, seconds=30):
    """SIGTERM to the group, and SIGKILL for whatever is left of it."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, how)
            process.wait(seconds)
