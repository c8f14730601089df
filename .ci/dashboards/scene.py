"""A fleet under load: services with a worker, two workers behind proxies, and Prometheus reading all three."""
import base64
import functools
import hashlib
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import threading
import urllib.parse

from dashboards import build, run
from dashboards.proxy import Proxy
from lib import checks
from lib.checks import check, clean_environment, free_port

# Durations and limits of the alert rules are divided by this.
FASTER = 60
SHARDS = 4
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local-secret", "AWS_REGION": "us-east-1",
               "AWS_EC2_METADATA_DISABLED": "true", "AWS_CBOR_DISABLE": "true"}
# What is asked may still be starting.
wait_for = functools.partial(checks.wait_for, passing=(OSError, http.client.HTTPException))


def get(port, path, **query):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path + ("?" + urllib.parse.urlencode(query, doseq=True) if query else ""))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Program:
    """A child in a process group of its own, ended by its id."""

    def __init__(self, home, name, command, environment):
        self.log = home / f"{name}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(list(map(str, command)), env=clean_environment() | environment, cwd=home,
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
            "delivery.prefix": prefix, "delivery.on_gap": "continue",
            "delivery.on_possible_gap": "stop", "lease.shard_sync": "1s", "memory.budget": "24MiB",
            "delivery.compression": "none", "shutdown.deadline": "5s",
            "delivery.upload_events": "true" if application == "catchment" else "false"}
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        return self.start(name, [self.binary, "run", "--stream", "local", "--bucket", "archive", *sets],
                          CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxies[name].port}"})

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
