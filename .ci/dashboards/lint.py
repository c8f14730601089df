"""What is checked without running anything: text, links, metric names, types, and rules by promtool."""
import json
import re
import sys
import tempfile
from pathlib import Path

from dashboards import HOME, build, run
from lib import tools
from lib.checks import ROOT, check, skipped

NPM = ("@grafana/schema@11.6.0", "typescript@5.8.3")


def headings():
    text = (ROOT / "docs" / "RUNBOOK.md").read_text()
    return {build.slug(line.lstrip("#").strip()) for line in text.splitlines() if line.startswith("#")}


def metric_names():
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs" / "METRICS.md").read_text(), re.M)
    names = {name: kind for name, kind in rows if kind != "histogram"}
    names |= {f"{name}_{part}": "counter" for name, kind in rows if kind == "histogram"
              for part in ("bucket", "sum", "count")}
    return names


def unknown_metrics(expr, names):
    used = set(re.findall(r"\b(?:catchment|process)_\w+", expr))
    return sorted(used - set(names))


def bare_counters(expr, names):
    """Counters that are shown as they are: they only ever grow."""
    plain = re.sub(r"\b(rate|increase)\([^()]*\)", "", expr)
    return sorted(name for name in set(re.findall(r"\b(?:catchment|process)_\w+", plain))
                  if names.get(name) == "counter")


def texts():
    ran = run(sys.executable, HOME / "build.py", "--check")
    check("dashboards and rules are what build.py makes", ran.returncode == 0, ran.stderr)
    known, names = headings(), metric_names()
    boards = {path.stem: json.loads(path.read_text()) for path in sorted(HOME.glob("*.json"))}
    check("three dashboards, each with a uid of its own",
          set(boards) == {"overview", "shard", "front-door"} and
          len({board["uid"] for board in boards.values()}) == 3, list(boards))
    for name, board in boards.items():
        wrong = lint(board, known, names)
        check(f"{name}.json: ids, places, units, descriptions, data sources, links, metric names", not wrong, wrong)
    wrong = [f"{a.name}: no heading" for a in build.ALERTS if build.slug(a.name) not in known]
    for text in [a.expr for a in build.ALERTS] + [expr for _, expr in build.RECORDING]:
        wrong += unknown_metrics(text, names)
    check("every alert has a heading in docs/RUNBOOK.md, and rules name metrics that exist", not wrong, wrong)
    tested = (HOME / "rules" / "tests" / "alerts.yml").read_text()
    untested = [a.name for a in build.ALERTS
                if not re.search(rf"alertname: {a.name}\n +exp_alerts:\n", tested)]
    check("every alert fires in a rule test", not untested, untested)
    return boards


def lint(board, known, names):
    wrong, ids, cells = [], set(), set()
    variables = {v["name"] for v in board["templating"]["list"]}
    if not {"datasource", "job", "stream", "runbook"} <= variables:
        wrong.append(f"variables: {variables}")
    for panel in board["panels"]:
        title, place = panel["title"], panel["gridPos"]
        wrong += [f"{title}: id {panel['id']} twice"] if panel["id"] in ids else []
        ids.add(panel["id"])
        mine = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])}
        if mine & cells or place["x"] + place["w"] > 24:
            wrong.append(f"{title}: lies on another panel or off the page")
        cells |= mine
        if panel["type"] == "row":
            continue
        if len(panel.get("description", "")) < 10 or not panel["fieldConfig"]["defaults"].get("unit"):
            wrong.append(f"{title}: needs a description and a unit")
        for link in panel["links"]:
            base, _, anchor = link["url"].partition("#")
            if base != "${runbook}" or anchor not in known:
                wrong.append(f"{title}: {link['url']} is no heading of the runbook")
        for target in panel["targets"]:
            if target["datasource"]["uid"] not in ("${datasource}", "${cloudwatch}"):
                wrong.append(f"{title}: its data source is not a variable")
            expr = target.get("expr", "")
            wrong += [f"{title}: no metric {name}" for name in unknown_metrics(expr, names)]
            wrong += [f"{title}: the counter {name} without rate" for name in bare_counters(expr, names)]
            if re.search(r"rate\([^)]*\[(?!\$__)", expr):
                wrong.append(f"{title}: a window that does not follow the scrape interval")
            used = set(re.findall(r"\$\{?(\w+)", json.dumps(target))) - {"__rate_interval", "__range", "__all"}
            wrong += [f"{title}: no variable {name}" for name in used - variables]
    return wrong


def the_lint_notices():
    """A lint that never complains proves nothing."""
    known, names = headings(), metric_names()
    good = json.loads((HOME / "overview.json").read_text())

    def broken(change):
        board = json.loads(json.dumps(good))
        change(board["panels"][1], board["panels"][2])
        return bool(lint(board, known, names))
    expr = "sum(rate(catchment_no_such_total{job=~\"$job\"}[$__rate_interval]))"
    changes = [
        lambda a, b: a.update(id=b["id"]), lambda a, b: a.update(description=""),
        lambda a, b: a.update(gridPos=b["gridPos"]), lambda a, b: a["fieldConfig"]["defaults"].pop("unit"),
        lambda a, b: a["links"][0].update(url="${runbook}#nowhere"),
        lambda a, b: a["targets"][0].update(expr=expr),
        lambda a, b: a["targets"][0].update(expr="sum(catchment_gaps_total)"),
        lambda a, b: a["targets"][0].update(expr="sum(rate(catchment_gaps_total[5m]))"),
        lambda a, b: a["targets"][0]["datasource"].update(uid="prom"),
    ]
    missed = [n for n, change in enumerate(changes) if not broken(change)]
    check(f"the lint notices {len(changes)} planted mistakes", not missed, missed)


def types(boards):
    try:
        home = tools.node_packages("grafana-schema", *NPM)
    except tools.Unavailable as problem:
        skipped(f"the dashboards are not compared with Grafana's schema types: {problem}")
        return

    def compile(files):
        made = run("node", Path(__file__).with_name("schema.mjs"), *files)
        (home / "check.ts").write_text(made.stdout)
        ran = run(home / "node_modules" / ".bin" / "tsc", "--noEmit", "--strict", "--skipLibCheck", "--module",
                  "esnext", "--moduleResolution", "bundler", "check.ts", cwd=home)
        return made.returncode == 0 and ran.returncode == 0, made.stderr + ran.stdout[-2000:]
    good, said = compile([HOME / f"{name}.json" for name in boards])
    check(f"types: dashboards, panel options and CloudWatch queries fit {NPM[0]}", good, said)
    with tempfile.TemporaryDirectory() as scratch:
        bad = json.loads(json.dumps(boards["overview"]))
        bad["panels"][1]["fieldConfig"]["defaults"]["unti"] = "s"
        path = Path(scratch) / "bad.json"
        path.write_text(json.dumps(bad))
        good, said = compile([path])
        check("types: a misspelt key is noticed", not good and "unti" in said, said)


def promtool():
    ran = run("promtool", "check", "config", HOME / "prometheus.yml")
    check("promtool check config and rules", ran.returncode == 0, ran.stdout + ran.stderr)
    tests = sorted((HOME / "rules" / "tests").glob("*.yml"))
    ran = run("promtool", "test", "rules", *tests)
    check("promtool test rules", ran.returncode == 0 and "SUCCESS" in ran.stdout + ran.stderr, ran.stdout + ran.stderr)
