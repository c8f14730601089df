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
import base64, functools, hashlib, http.client, http.server, json, os, re, secrets, shutil, signal, subprocess
import sys, tempfile, threading, time, urllib.parse
from pathlib import Path

from front_door_acceptance import ROOT, check, free_port
import front_door_acceptance as counts

DASHBOARDS = ROOT / "dashboards"
sys.path.insert(0, str(DASHBOARDS))
import build  # noqa: E402

build.files()  # Fills build.FILLS.

TOOLS = Path(os.environ.get("CI_TOOLS", ROOT / "target" / "ci-tools"))
NPM = ("@grafana/schema@11.6.0", "typescript@5.8.3")
FASTER = 60
SHARDS = 4
SECRET = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local-secret", "AWS_REGION": "us-east-1",
          "AWS_EC2_METADATA_DISABLED": "true", "AWS_CBOR_DISABLE": "true"}


def run(*command, **more):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, **more)


# Text -------------------------------------------------------------------------------------------------

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
    ran = run(sys.executable, DASHBOARDS / "build.py", "--check")
    check("dashboards and rules are what build.py makes", ran.returncode == 0, ran.stderr)
    known, names = headings(), metric_names()
    boards = {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}
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
    tested = (DASHBOARDS / "rules" / "tests" / "alerts.yml").read_text()
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
    good = json.loads((DASHBOARDS / "overview.json").read_text())

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
    if not shutil.which("npm") or not shutil.which("node"):
        print("SKIPPED: no npm: the dashboards are not compared with Grafana's schema types", flush=True)
        return
    home = TOOLS / ("grafana-schema-" + hashlib.sha256(" ".join(NPM).encode()).hexdigest()[:8])
    if not (home / "done").exists():
        home.mkdir(parents=True, exist_ok=True)
        try:
            ran = subprocess.run(["npm", "install", "--prefix", str(home), "--ignore-scripts", "--no-audit",
                                  "--no-fund", "--legacy-peer-deps", *NPM],
                                 capture_output=True, text=True, timeout=300)
        except subprocess.SubprocessError as problem:
            ran = subprocess.CompletedProcess([], 1, "", str(problem))
        if ran.returncode:
            print(f"SKIPPED: {' '.join(NPM)} cannot be installed: {ran.stderr[-300:]}", flush=True)
            return
        (home / "done").touch()

    def compile(files):
        made = run("node", ROOT / ".ci" / "dashboards_schema.mjs", *files)
        (home / "check.ts").write_text(made.stdout)
        ran = run(home / "node_modules" / ".bin" / "tsc", "--noEmit", "--strict", "--skipLibCheck", "--module",
                  "esnext", "--moduleResolution", "bundler", "check.ts", cwd=home)
        return made.returncode == 0 and ran.returncode == 0, made.stderr + ran.stdout[-2000:]
    good, said = compile([DASHBOARDS / f"{name}.json" for name in boards])
    check(f"types: dashboards, panel options and CloudWatch queries fit {NPM[0]}", good, said)
    with tempfile.TemporaryDirectory() as scratch:
        bad = json.loads(json.dumps(boards["overview"]))
        bad["panels"][1]["fieldConfig"]["defaults"]["unti"] = "s"
        path = Path(scratch) / "bad.json"
        path.write_text(json.dumps(bad))
        good, said = compile([path])
        check("types: a misspelt key is noticed", not good and "unti" in said, said)


# Prometheus -------------------------------------------------------------------------------------------

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


def promtool():
    ran = run("promtool", "check", "config", DASHBOARDS / "prometheus.yml")
    check("promtool check config and rules", ran.returncode == 0, ran.stdout + ran.stderr)
    tests = sorted((DASHBOARDS / "rules" / "tests").glob("*.yml"))
    ran = run("promtool", "test", "rules", *tests)
    check("promtool test rules", ran.returncode == 0 and "SUCCESS" in ran.stdout + ran.stderr, ran.stdout + ran.stderr)


def get(port, path, **query):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path + ("?" + urllib.parse.urlencode(query, doseq=True) if query else ""))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


# What is asked may still be starting.
wait_for = functools.partial(counts.wait_for, passing=(OSError, http.client.HTTPException))


class Program:
    """A child in a process group of its own, ended by its id."""

    def __init__(self, home, name, command, environment):
        self.log = home / f"{name}.log"
        # Variables called CATCHMENT_… would be configuration to the binary.
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("CATCHMENT_", "AWS_"))}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(list(map(str, command)), env=clean | environment, cwd=home,
                                            start_new_session=True, stdout=log, stderr=log)

    def send(self, number):
        if self.process.poll() is None:
            os.kill(self.process.pid, number)

    def stop(self, number=signal.SIGTERM):
        self.send(signal.SIGCONT)
        self.send(number)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def tail(self):
        return self.log.read_text(errors="replace")[-1500:]


class Proxy:
    """Between a worker and the services; `fault` sees operation and reply and may change it."""

    def __init__(self, upstream):
        self.fault = lambda operation: None
        self.edit = lambda operation, body: body
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def serve(self):
                body = self.body()
                operation = self.headers.get("x-amz-target", "").rpartition(".")[2] or f"S3.{self.command}"
                refusal = proxy.fault(operation)
                if refusal:
                    return self.answer(refusal[0], {"Content-Type": "application/x-amz-json-1.1"}, refusal[1])
                connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=60)
                try:
                    headers = {k: v for k, v in self.headers.items()
                               if k.lower() not in ("expect", "connection", "transfer-encoding", "content-length")}
                    if body or self.command in ("PUT", "POST"):
                        headers["Content-Length"] = str(len(body))
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in headers.items():
                        connection.putheader(name, value)
                    connection.endheaders(body)
                    reply = connection.getresponse()
                    data = proxy.edit(operation, reply.read())
                    kept = {k: v for k, v in reply.getheaders()
                            if k.lower() not in ("content-length", "transfer-encoding", "connection", "x-amz-crc32")}
                    self.answer(reply.status, kept, data, reply.getheader("content-length"))
                finally:
                    connection.close()

            def body(self):
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                    parts = []
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    while self.rfile.readline().strip():
                        pass
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def answer(self, status, headers, data, length=None):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                head = self.command == "HEAD"
                self.send_header("Content-Length", length or "0" if head else str(len(data)))
                self.end_headers()
                if not head:
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):  # a worker that was killed
                pass
        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]

    def heal(self):
        self.fault, self.edit = lambda operation: None, lambda operation, body: body


def aggregate(payloads):
    """A KPL aggregate with one partition key."""
    def field(number, data):
        size, out = len(data), bytearray([number << 3 | 2])
        while True:
            out.append(size & 127 | (128 if size > 127 else 0))
            size >>= 7
            if not size:
                return bytes(out) + data
    message = field(1, b"k") + b"".join(field(3, b"\x08\x00" + field(3, data)) for data in payloads)
    return b"\xf3\x89\x9a\xc2" + message + hashlib.md5(message).digest()


class Scene:
    """Services with a worker, a worker and a second application behind proxies, load, Prometheus."""

    def __init__(self, binary, home):
        self.binary, self.home, self.programs = binary, home, []
        self.services, self.api, self.port = free_port(), free_port(), free_port()
        self.listen = {name: free_port() for name in ("local", "worker", "second")}
        self.halt = threading.Event()
        self.sent = 0

    def start(self, name, command, environment=None):
        program = Program(self.home, name, command, environment or {})
        self.programs.append(program)
        return program

    def begin(self):
        self.prometheus()
        self.local = self.start("local", [
            self.binary, "local", "--data-dir", self.home / "data", "--shards", SHARDS, "--port", self.services,
            "--api-port", self.api, "--set", f"telemetry.listen=127.0.0.1:{self.listen['local']}",
            "--set", "delivery.batch_age=1s", "--set", "shutdown.deadline=5s"])
        wait_for("catchment local answers", lambda: get(self.listen["local"], "/readyz")[0] == 200)
        self.proxies = {name: Proxy(self.services) for name in ("worker", "second")}
        self.worker = self.run("worker", "catchment", "!{stream}/")
        self.second = self.run("second", "second", "second/")  # its own prefix, and no uploads
        self.token = self.login()
        for work in (self.load, self.uploads):
            threading.Thread(target=self.forever, args=(work,), daemon=True).start()

    def run(self, name, application, prefix):
        settings = {
            "aws.path_style": "true", "telemetry.listen": f"127.0.0.1:{self.listen[name]}", "stream.idle": "200ms",
            "lease.application": application, "lease.scan": "200ms", "delivery.batch_age": "1s",
            "delivery.prefix": prefix, "delivery.on_gap": "continue", "memory.budget": "24MiB",
            "delivery.compression": "none", "shutdown.deadline": "5s",
            "delivery.upload_events": "true" if application == "catchment" else "false"}
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        return self.start(name, [self.binary, "run", "--stream", "local", "--bucket", "archive", *sets],
                          SECRET | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxies[name].port}"})

    def prometheus(self):
        (self.home / "rules").mkdir()
        for name, text in build.rules(FASTER).items():
            (self.home / name).write_text(text)
        jobs = {"catchment": ("local", "worker"), "second": ("second",)}
        scrape = "".join(
            f"  - job_name: {job}\n    static_configs:\n      - targets: "
            f"{json.dumps([f'127.0.0.1:{self.listen[n]}' for n in names])}\n" for job, names in jobs.items())
        (self.home / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s, scrape_timeout: 1s}\n"
            f"rule_files: [rules/recording.yml, rules/alerts.yml]\nscrape_configs:\n{scrape}")
        ran = run("promtool", "check", "config", self.home / "prometheus.yml")
        check("the rules made faster are rules", ran.returncode == 0, ran.stdout + ran.stderr)
        self.start("prometheus", ["prometheus", f"--config.file={self.home}/prometheus.yml",
                                  f"--storage.tsdb.path={self.home}/tsdb", "--web.listen-address="
                                  f"127.0.0.1:{self.port}", "--web.cors.origin=.*", "--log.level=warn"])
        wait_for("Prometheus is ready", lambda: get(self.port, "/-/ready")[0] == 200)

    def aws(self, service, operation, request):
        """One call to the embedded services, which take any signature."""
        versions = {"kinesis": "Kinesis_20131202", "dynamodb": "DynamoDB_20120810"}
        scope = f"local/20260101/us-east-1/{service}/aws4_request"
        connection = http.client.HTTPConnection("127.0.0.1", self.services, timeout=30)
        connection.request("POST", "/", json.dumps(request), {
            "X-Amz-Target": f"{versions[service]}.{operation}",
            "X-Amz-Date": "20260101T000000Z", "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, "
            "SignedHeaders=host;x-amz-date;x-amz-target, Signature=" + "0" * 64,
            "Content-Type": "application/x-amz-json-1." + ("1" if service == "kinesis" else "0")})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        if answer.status != 200:
            raise OSError(f"{operation}: {answer.status} {text[:300]}")
        return json.loads(text or "{}")

    def put(self, payloads):
        records = [{"Data": base64.b64encode(p).decode(), "PartitionKey": secrets.token_hex(8)} for p in payloads]
        return self.aws("kinesis", "PutRecords", {"StreamName": "local", "Records": records})

    def forever(self, work):
        while not self.halt.is_set():
            try:
                work()
            except (OSError, http.client.HTTPException, ValueError):
                pass  # The services are on their way out, or busy.
            self.halt.wait(0.2)

    def load(self):
        self.sent += 1
        lines = [json.dumps({"n": self.sent, "i": i, "x": secrets.token_hex(400)}).encode() for i in range(20)]
        self.put([*lines, aggregate(lines[:3])])

    def login(self):
        """The tour that `catchment local` prints, line by line."""
        text = wait_for("the tour is printed", lambda: re.findall(
            r"^  ((?:CODE|TOKEN)=.*)$", self.local.log.read_text(errors="replace"), re.M) or None)
        script = "\n".join(line.rsplit(";", 1)[0] for line in text) + '\nprintf "%s" "$TOKEN"'
        token = run("bash", "-c", script).stdout
        token = token.splitlines()[-1] if token else ""
        check("a login for the uploads", token.count(".") == 2, token[:60])
        return token

    def uploads(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.api, timeout=30)
        connection.request("POST", "/uploads", b"Hello " + secrets.token_hex(20).encode(),
                           {"Authorization": f"Bearer {self.token}", "Content-Type": "text/plain"})
        connection.getresponse().read()
        connection.close()

    def ask(self, path, **query):
        status, text = get(self.port, path, **query)
        answer = json.loads(text)
        if status != 200 or answer["status"] != "success":
            raise ValueError(f"{query}: {answer.get('error', text)[:300]}")
        return answer["data"]

    def value(self, expr):
        found = self.ask("/api/v1/query", query=expr)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self):
        return {a["labels"]["alertname"] for a in self.ask("/api/v1/alerts")["alerts"] if a["state"] == "firing"}

    def end(self):
        self.halt.set()
        for program in reversed(self.programs):
            program.stop()


# Queries ----------------------------------------------------------------------------------------------

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
    for name, board in boards.items():
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
        status, text = get(scene.listen[name], "/metrics")
        ran = run("promtool", "check", "metrics", input=text)
        check(f"promtool check metrics has nothing to say about {name}", ran.returncode == 0 and not ran.stderr,
              ran.stderr)
    count = len([line for line in text.splitlines() if not line.startswith("#")])
    print(f"note: the worker exposes {count} series for its {SHARDS} shards", flush=True)


def refuse(operation, status, kind):
    body = json.dumps({"__type": kind, "message": "by the check"}).encode()
    if operation.startswith("S3."):
        body = f"<Error><Code>{kind}</Code><Message>by the check</Message></Error>".encode()
    return lambda seen: (status, body) if seen == operation else None


class Faults:
    """Each method does harm, waits for its alerts and undoes it."""

    def __init__(self, scene):
        self.scene, self.fired = scene, set()

    def expect(self, fault, *names):
        """The alerts fire now; `quiet` was asked before the harm was done."""
        fired = wait_for(f"{fault}: {', '.join(names)}", lambda: set(names) <= self.scene.firing(), 60)
        if fired:
            check(f"{fault}: {', '.join(names)}", True)
            self.fired |= set(names)
        else:
            print(f"      firing: {sorted(self.scene.firing())}", flush=True)

    def quiet(self, *names):
        wait_for(f"{', '.join(names)} do not fire before", lambda: not set(names) & self.scene.firing(), 90)

    def refused_upload(self):
        names = ("CatchmentDeadLetters", "CatchmentUploadsRefused")
        self.quiet(*names)
        self.scene.put([b'{"catchment":"upload","v":1,"file_key":"uploads/../secret"}'])
        self.expect("an upload event that is none", *names)

    def behind(self):
        names = ("CatchmentLag", "CatchmentRetentionNear")
        self.quiet(*names)

        def edit(operation, body):
            if operation != "GetRecords":
                return body
            reply = json.loads(body)
            return json.dumps(reply | {"MillisBehindLatest": 80_000_000} if "Records" in reply else reply).encode()
        self.scene.proxies["worker"].edit = edit
        self.expect("Kinesis says that we are far behind", *names)
        self.scene.proxies["worker"].heal()

    def denied(self):
        names = ("CatchmentDenied", "CatchmentNoProgress")
        self.quiet(*names)
        self.scene.proxies["worker"].fault = refuse("GetRecords", 400, "AccessDeniedException")
        self.expect("GetRecords is refused", *names)
        self.scene.proxies["worker"].heal()

    def s3_refuses(self):
        names = ("CatchmentUndelivered", "CatchmentBudgetExhausted")
        self.quiet(*names, "CatchmentUploadsSlow")
        self.scene.proxies["worker"].fault = refuse("S3.PUT", 503, "SlowDown")
        for _ in range(12):
            self.scene.put([secrets.token_hex(200_000).encode() for _ in range(8)])
        self.expect("S3 refuses", *names)
        # What it had announced is finished by others, late.
        self.scene.worker.stop(signal.SIGKILL)
        self.scene.proxies["worker"].heal()
        self.scene.worker = self.scene.run("worker", "catchment", "!{stream}/")
        self.expect("its files are stored late", "CatchmentUploadsSlow")

    def frozen(self):
        names = ("CatchmentWorkerDown", "CatchmentShardsUnowned")
        owned = f'catchment_leases_owned{{instance="127.0.0.1:{self.scene.listen["worker"]}"}}'
        wait_for("the worker holds leases", lambda: self.scene.value(owned))
        self.quiet(*names)
        self.scene.worker.send(signal.SIGSTOP)
        self.expect("a worker is frozen", *names)
        other = f'catchment_leases_owned{{instance="127.0.0.1:{self.scene.listen["local"]}"}}'
        wait_for("the other takes everything", lambda: self.scene.value(other) == SHARDS)
        self.scene.worker.send(signal.SIGCONT)
        wait_for("it thaws and gets its part back", lambda: self.scene.value(owned))

    def stolen(self):
        self.quiet("CatchmentLeasesLost")
        for row in self.scene.aws("dynamodb", "Scan", {"TableName": "second"})["Items"]:
            self.scene.aws("dynamodb", "UpdateItem", {
                "TableName": "second", "Key": {"leaseKey": row["leaseKey"]},
                "UpdateExpression": "SET leaseOwner = :o, leaseCounter = leaseCounter + :n",
                "ExpressionAttributeValues": {":o": {"S": "somebody else"}, ":n": {"N": "100"}}})
        self.expect("somebody else takes the leases", "CatchmentLeasesLost")

    def unreadable(self):
        self.quiet("CatchmentLeaseUnreadable")
        key = {"leaseKey": {"S": "shardId-000000000099"}}
        row = key | {"checkpoint": {"S": "somewhere"}, "leaseCounter": {"N": "1"},
                     "checkpointSubSequenceNumber": {"N": "0"}}
        self.scene.aws("dynamodb", "PutItem", {"TableName": "catchment", "Item": row})
        self.expect("a row that cannot be read", "CatchmentLeaseUnreadable")
        self.scene.aws("dynamodb", "DeleteItem", {"TableName": "catchment", "Key": key})

    def gap(self):
        """Long ago somebody read so far; what was there is gone."""
        self.quiet("CatchmentGap")
        self.scene.second.stop()
        rows = self.scene.aws("dynamodb", "Scan", {"TableName": "second"})["Items"]
        reached = {row["checkpoint"]["S"] for row in rows}
        for row in rows:
            self.scene.aws("dynamodb", "UpdateItem", {
                "TableName": "second", "Key": {"leaseKey": row["leaseKey"]},
                "UpdateExpression": "SET catchment_read_through_ms = :v",
                "ExpressionAttributeValues": {":v": {"N": "1600000000000"}}})

        def edit(operation, body):
            if operation != "GetRecords":
                return body
            reply = json.loads(body)
            if "Records" in reply:
                reply["Records"] = [r for r in reply["Records"] if r["SequenceNumber"] not in reached]
            return json.dumps(reply).encode()
        self.scene.proxies["second"].edit = edit
        self.scene.second = self.scene.run("second", "second", "second/")
        self.expect("records left retention", "CatchmentGap")

    def nobody(self):
        self.scene.second.stop()
        self.expect("the last worker of an application stops", "CatchmentNoWorkers")


def live(boards):
    binary = os.environ.get("CATCHMENT_BIN") or Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "catchment"
    binary = Path(binary).resolve()
    if not binary.exists():
        print(f"SKIPPED: no binary at {binary}: no query was executed, no alert fired", flush=True)
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
        check(f"each of {len(build.ALERTS)} alerts has fired, its query as shipped but for the time", not silent, silent)
        good = not counts.failed
    finally:
        scene.end()
        if good:
            shutil.rmtree(home, ignore_errors=True)
        else:
            for program in {program.log: program for program in scene.programs}.values():
                print(f"--- {program.log}\n{program.tail()}", flush=True)


def main():
    began = time.monotonic()
    boards = texts()
    the_lint_notices()
    types(boards)
    if have_prometheus():
        promtool()
        live(boards)
    else:
        print("SKIPPED: Prometheus cannot be installed here: rules are not tested, no query is executed", flush=True)
    aside = [p["title"] for b in boards.values() for p in b["panels"]
             if p["type"] != "row" and p["datasource"]["type"] == "cloudwatch"]
    print(f"NOT EXECUTED: {len(aside)} panels of CloudWatch (types and text only): {', '.join(aside)}", flush=True)
    print(f"{len(boards)} dashboards, {len(build.ALERTS)} alerts, {len(build.RECORDING)} recording rules, "
          f"{time.monotonic() - began:.0f} s", flush=True)
    print(f"{counts.passed} passed, {counts.failed} failed")
    sys.exit(1 if counts.failed else 0)


if __name__ == "__main__":
    main()
