"""A tally of what passed, and the small things that every check needs.

A script prints `ok` or `FAIL` for each check, SKIPPED at the beginning of a line for what could not
run (the gate counts those), and ends with `N passed, N failed`.
"""
import os
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Tally:
    passed = failed = 0


tally = Tally()


def check(name, good, detail=""):
    """Counts and prints one check; returns whether it passed."""
    tally.passed, tally.failed = tally.passed + bool(good), tally.failed + (not good)
    print(f"{'ok  ' if good else 'FAIL'} {name}" + ("" if good else f": {detail}"), flush=True)
    return good


def skipped(what):
    print(f"SKIPPED: {what}", flush=True)


def skip_all(what):
    """Ends the script without a failure: nothing of it can run here."""
    skipped(what)
    sys.exit(0)


def finish():
    """Prints the tally and exits with 1 if anything failed."""
    print(f"{tally.passed} passed, {tally.failed} failed")
    sys.exit(1 if tally.failed else 0)


def wait_for(what, question, seconds=90, passing=()):
    """Asks until there is an answer, through the exceptions in `passing`.

    The bound only ends a run that hangs; reaching it is a failed check, and the result is None.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            answer = question()
        except passing:
            answer = None
        if answer:
            return answer
        time.sleep(0.25)
    check(what, False, f"not within {seconds} s")
    return None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment():
    """The environment without what the binary would read as configuration."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("CATCHMENT_", "AWS_"))}


def worker_binary():
    """The path in CATCHMENT_BIN, or None. Removed from the environment, where the binary refuses it."""
    given = os.environ.pop("CATCHMENT_BIN", None)
    return str(Path(given).resolve()) if given else None
