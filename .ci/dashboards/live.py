"""Every query of every panel, executed on a Prometheus that scrapes a fleet: well, and under each fault."""
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from dashboards import build, run
from dashboards.faults import Faults
from dashboards.scene import SHARDS, Scene, get, wait_for
from lib.checks import check, skipped, tally


def have_prometheus():
    """Debian's, without its service."""
    if shutil.which("prometheus") and shutil.which("promtool"):
        return True
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        install = ["apt-get", "install", "-y", "--no-install-recommends", "prometheus"]
        for command in (install, ["apt-get", "update"], install):
            ran = subprocess.run(command, capture_output=True, timeout=300,
                                 env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
            if command is install and ran.returncode == 0:
                break
    except subprocess.SubprocessError:
        pass
    finally:
        if ours:
            policy.unlink()
    return bool(shutil.which("prometheus") and shutil.which("promtool"))


def resolve(scene, board):
    """Values for the variables of a dashboard, as a person would have them on opening it."""
    values = {"__rate_interval": "10s", "__range": "300s"}
    for one in board["templating"]["list"]:
        if one["type"] != "query":
            continue
        query = one["query"]["query"]
        for name, value in values.items():
            query = query.replace(f"${name}", value)
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
        found = scene.ask(f"/api/v1/label/{label}/values", **{"match[]": selector})
        if not found:
            raise ValueError(f"variable {one['name']} finds nothing")
        values[one["name"]] = one.get("allValue") or found[0]
    return values


def panels(boards):
    for board in boards.values():
        for panel in board["panels"]:
            if panel["type"] != "row" and panel["datasource"]["type"] == "prometheus":
                yield board, panel


def look(scene, boards, since):
    """For each panel: the largest value it shows since then (None: it is empty), or what is wrong."""
    seen, wrong, queries = {}, [], 0
    values = {board["title"]: resolve(scene, board) for board in boards.values()}
    for board, panel in panels(boards):
        key, most = (board["title"], panel["title"]), None
        for target in panel["targets"]:
            expr = target["expr"]
            for name in sorted(values[board["title"]], key=len, reverse=True):
                expr = expr.replace(f"${name}", values[board["title"]][name])
            queries += 1
            try:
                found = scene.ask("/api/v1/query_range", query=expr, start=since, end=time.time(), step="1s")
            except ValueError as error:
                wrong.append(f"{key}: {error}")
                continue
            numbers = [float(v) for series in found["result"] for _, v in series["values"]]
            numbers = [n for n in numbers if n == n]
            if not numbers and key not in build.FILLS:
                wrong.append(f"{key}: {target['legendFormat']}: no series or only NaN")
            missing = {label for label in re.findall(r"{{(\w+)}}", target["legendFormat"])
                       for series in found["result"] if label not in series["metric"]}
            wrong += [f"{key}: its series have no label {label}" for label in missing]
            most = max([most or 0.0, *numbers]) if numbers else most
        seen[key] = most
    return seen, wrong, queries


def well(scene, boards, began):
    def everything():
        try:
            seen, wrong, queries = look(scene, boards, began)
        except ValueError as error:
            seen, wrong, queries = {}, [str(error)], 0
        dark = [key for key, most in seen.items() if not most and key not in build.FILLS]
        last[:] = [(seen, wrong + [f"{key}: never above zero" for key in dark], queries)]
        return not last[0][1]
    last = []
    end = time.monotonic() + 60
    while not everything() and time.monotonic() < end:
        time.sleep(1)
    seen, wrong, queries = last[0]
    check(f"while all is well: {queries} queries of {len(seen)} panels execute, and every panel shows something",
          not wrong, wrong)
    quiet = wait_for("while all is well no alert fires", lambda: not scene.firing(), 60)
    check("while all is well no alert fires", quiet, scene.firing())
    expected = {name for name, _ in build.RECORDING}
    # A rule has no result before its first evaluation with two scrapes behind it, nor while scrapes come late.
    def without():
        return [name for name in expected if scene.value(f"count({name})") is None]
    complete = wait_for("every recording rule has results", lambda: not without(), 60)
    check(f"{len(expected)} recording rules have results", complete, without())
    for name in ("local", "worker"):
        _, text = get(scene.listen[name], "/metrics")
        ran = run("promtool", "check", "metrics", input=text)
        check(f"promtool check metrics has nothing to say about {name}", ran.returncode == 0 and not ran.stderr,
              ran.stderr)
    count = len([line for line in text.splitlines() if not line.startswith("#")])
    print(f"note: the worker exposes {count} series for its {SHARDS} shards", flush=True)


def live(boards, binary):
    """While all is well everything shows something and nothing fires; then each fault, and its alerts."""
    if not binary.exists():
        skipped(f"no binary at {binary}: no query was executed, no alert fired")
        return
    home = Path(tempfile.mkdtemp(prefix="dashboards-"))
    scene = Scene(binary, home)
    good = False
    try:
        began = time.time()
        scene.begin()
        if os.environ.get("DASHBOARDS_HOLD"):
            input(f"Prometheus: http://127.0.0.1:{scene.port}  (Enter goes on)")
        well(scene, boards, began)
        faults, began = Faults(scene), time.time()
        for harm in (faults.refused_upload, faults.behind, faults.denied, faults.s3_refuses, faults.frozen,
                     faults.stolen, faults.unreadable, faults.gap, faults.nobody):
            harm()
        seen, wrong, queries = look(scene, boards, began)
        check(f"under faults: {queries} queries execute", not wrong, wrong)
        dark = {f"{key}: {fault}" for key, fault in build.FILLS.items() if not seen[key]}
        check(f"under faults: {len(build.FILLS)} panels show what they are for", not dark, dark)
        silent = {alert.name for alert in build.ALERTS} - faults.fired
        check(f"each of {len(build.ALERTS)} alerts has fired, its query as shipped but for the time",
              not silent, silent)
        good = not tally.failed
    finally:
        scene.end()
        if good:
            shutil.rmtree(home, ignore_errors=True)
        else:
            for program in {program.log: program for program in scene.programs}.values():
                print(f"--- {program.log}\n{program.tail()}", flush=True)
