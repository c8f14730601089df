#!/usr/bin/env python3
"""Other people's code against ours: the Java KCL, the KPL and AWS's SDKs, with `catchment local`.

    CATCHMENT_BIN=target/debug/catchment python3 tests/interop/run.py --quick     what the gate runs
    CATCHMENT_BIN=target/debug/catchment python3 tests/interop/run.py             everything, some hours
    CATCHMENT_BIN=… python3 tests/interop/run.py --only kills --version 3.5.1     one scenario

A line for each scenario and version: its result, its name, the version of the foreign code, and what was seen.
`known` is a failure that an open issue explains (driver/report.py); `SKIPPED` could not run, with the reason.
Exit code 0 if everything did what it must, 1 if not, or if a known fault no longer shows, 2 for a wrong call.
"""
import argparse
import concurrent.futures
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from driver import battery, build, catalogue, processes
from driver.report import Seen, say, summary


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the scenarios of the gate, one or two kills each")
    parser.add_argument("--only", action="append", metavar="NAME", help="a scenario; may be repeated")
    parser.add_argument("--version", action="append", metavar="VERSION", help="of the KCL or KPL; may be repeated")
    parser.add_argument("--kills", type=int, help="of each side (full: 10, quick: 1)")
    parser.add_argument("--records", type=int, help="before a switch (full: 500, quick: 200)")
    parser.add_argument("--produced", type=int, help="by a KPL (full: 50000, quick: 5000)")
    parser.add_argument("--jobs", type=int, default=3, help="scenarios at the same time; most of them wait (3)")
    parser.add_argument("--keep", action="store_true", help="keep the directory of every scenario")
    parser.add_argument("--table", metavar="FILE", help="writes the table of the SDKs there")
    parser.add_argument("--list", action="store_true", help="names the scenarios")
    options = parser.parse_args()
    for name, full, quick in (("kills", 10, 1), ("records", 500, 200), ("produced", 50_000, 5_000)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    binary = os.environ.pop("CATCHMENT_BIN", None) or build.ROOT / "target" / "debug" / "catchment"
    options.binary = str(Path(binary).resolve())
    return options


def one(options, scenario, version):
    seen = Seen(scenario.name, version)
    begun = time.monotonic()
    try:
        scenario.needs()
        scenario.run(options, seen)
    except build.Missing as problem:
        seen.skipped = str(problem)
    except Exception as problem:
        traceback.print_exc()
        seen.check("the scenario runs to its end", False, f"{type(problem).__name__}: {problem}")
    seen.seconds = time.monotonic() - begun
    seen.print()
    return seen


def interrupted(*_):
    """Leaves no process behind; the threads that watch them end with this one."""
    processes.end_all()
    os._exit(1)


def main():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    options = parsed()
    chosen = catalogue.chosen(options)
    if options.list:
        for scenario, version in chosen:
            print(f"{scenario.name:<14} {version:<8} {scenario.run.__doc__.splitlines()[0]}")
        return 0
    if not chosen:
        say("nothing is chosen: --list names the scenarios")
        return 2
    if not Path(options.binary).is_file():
        say(f"SKIPPED: interop: there is no {options.binary}; CATCHMENT_BIN names a build")
        return 0
    catalogue.prepare(chosen)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        running = [pool.submit(one, options, scenario, version) for scenario, version in chosen]
        seen = [each.result() for each in running]
    if made := battery.table():
        say(made)
        if options.table:
            Path(options.table).write_text(made)
    return summary(seen)


if __name__ == "__main__":
    sys.exit(main())
