"""What a scenario saw: figures, checks, and which failures are expected because an issue is open on them."""
import sys
import threading
import time

# Faults that are known and not mended yet: each is seen by the checks that carry its name. A check that passes
# although it carries a name fails the run, so that this list shrinks: remove the line then.
KNOWN = {
    "A2": "issue 17 A2: the archive has records twice after a KCL worker checkpointed inside an announced batch",
    "A5": "issue 17 A5: beside a live KCL 3.x worker `run` exits instead of waiting; one that joins is not noticed",
}

_lock = threading.Lock()


def say(*words):
    with _lock:
        print(*words, flush=True)


class Seen:
    """The checks and figures of one scenario with one version."""

    def __init__(self, name, version):
        self.name, self.version = name, version
        self.figures, self.failed, self.passed = {}, [], []
        self.begun, self.seconds = time.monotonic(), 0.0
        self.skipped = None

    def figure(self, **figures):
        self.figures.update(figures)

    def check(self, what, good, detail="", known=None):
        """One thing that has to hold; `known` names the fault because of which it does not yet."""
        entry = (what, str(detail), known if known in KNOWN else None)
        (self.passed if good else self.failed).append(entry)
        return good

    @property
    def result(self):
        if self.skipped:
            return "SKIPPED"
        if any(known is None for _, _, known in self.failed):
            return "FAIL"
        return "known" if self.failed else "ok"

    def line(self):
        figures = " ".join(f"{name}={value}" for name, value in self.figures.items())
        return f"{self.result:<7} {self.name:<14} {self.version:<8} {self.seconds:4.0f} s  {figures}"

    def print(self):
        if self.skipped:
            say(f"SKIPPED: interop {self.name} {self.version}: {self.skipped}")
            return
        lines = [self.line()]
        # Operations of a client: the table has the details.
        operations = [what for what, _, known in self.failed if known and known.startswith("B/")]
        if operations:
            lines.append(f"          known fault B: {', '.join(operations)}")
        for what, detail, known in self.failed:
            if known and known.startswith("B/"):
                continue
            reason = f"known fault {known}" if known else "FAIL"
            lines.append(f"          {reason}: {what}" + (f": {detail}" if detail else ""))
        say("\n".join(lines))


def summary(all_seen):
    """Prints what came out of everything; the exit code."""
    shown, gone = set(), set()
    for seen in all_seen:
        shown.update(known for _, _, known in seen.failed if known)
        gone.update(known for _, _, known in seen.passed if known)
    for fault in sorted(shown):
        if not fault.startswith("B/"):
            say(f"known fault {fault} shows: {KNOWN[fault]}")
    if operations := sum(fault.startswith("B/") for fault in shown):
        say(f"known fault B shows: issue 17 B: {operations} operations of the embedded services, see the table")
    for fault in sorted(gone - shown):
        where = "EXPECTED in tests/interop/driver/battery.py" if fault.startswith("B/") \
            else "KNOWN in tests/interop/driver/report.py"
        say(f"KNOWN FAULT {fault} NO LONGER SHOWS: remove it from {where}")
    counts = {result: sum(seen.result == result for seen in all_seen) for result in ("ok", "known", "FAIL", "SKIPPED")}
    failed = counts["FAIL"] + len(gone - shown)
    say(f"interop: {counts['ok']} ok, {counts['known']} with known faults, {counts['FAIL']} FAIL, "
        f"{counts['SKIPPED']} SKIPPED, {len(gone - shown)} known faults gone")
    say(f"{counts['ok'] + counts['known']} passed, {failed} failed, {counts['SKIPPED']} skipped")
    sys.stdout.flush()
    return 1 if failed else 0
