#!/usr/bin/env python3
"""Checks what lies in dashboards/: text, types, rules, and every query on a Prometheus that scrapes workers.

    CATCHMENT_BIN=target/debug/catchment python3 .ci/dashboards_check.py

`catchment local` runs under load; a second worker and a second application reach its services through
a proxy that can be told to misbehave. Prometheus reads all three, with the alert rules sixty times
faster than they are shipped (build.py divides their durations and limits, nothing else). While all is
well, every panel must show something and no alert may fire; then each fault is injected, and the
alerts named for it must fire and the panels named for it must show it. Environment, optional:
    CATCHMENT_BIN         the binary; without it $CARGO_TARGET_DIR/debug/catchment, else SKIPPED
    CI_TOOLS              where pinned npm packages are kept (target/ci-tools)
    DASHBOARDS_HOLD=1     stay up after the load has begun, and say where Prometheus listens

CloudWatch's panels are checked by type and text only: nothing here can execute them. The last line is
`N passed, N failed`; what could not run says SKIPPED.
"""
import os
import time
from pathlib import Path

from dashboards import build, lint, live
from lib.checks import ROOT, finish, skipped, worker_binary


def main():
    began = time.monotonic()
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    binary = Path(worker_binary() or target / "debug" / "catchment").resolve()
    boards = lint.texts()
    lint.the_lint_notices()
    lint.types(boards)
    if live.have_prometheus():
        lint.promtool()
        live.live(boards, binary)
    else:
        skipped("Prometheus cannot be installed here: rules are not tested, no query is executed")
    aside = [p["title"] for b in boards.values() for p in b["panels"]
             if p["type"] != "row" and p["datasource"]["type"] == "cloudwatch"]
    print(f"NOT EXECUTED: {len(aside)} panels of CloudWatch (types and text only): {', '.join(aside)}", flush=True)
    print(f"{len(boards)} dashboards, {len(build.ALERTS)} alerts, {len(build.RECORDING)} recording rules, "
          f"{time.monotonic() - began:.0f} s", flush=True)
    finish()


if __name__ == "__main__":
    main()
