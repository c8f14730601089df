"""Embedded services, workers, and the Java programs: each a process, ended by its id."""
import base64
import collections
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from driver import aws, build
from driver.aws import wait

FAST = ("lease.failover=5s", "lease.shard_sync=5s", "delivery.batch_age=700ms", "delivery.format=envelope",
        "delivery.compression=none", "stream.idle=300ms", "aws.path_style=true", "telemetry.logs=text",
        "telemetry.listen=off")
Line = collections.namedtuple("Line", "shard sequence sub id time stream")


# All children of all scenes, for a run that is interrupted.
ALL = []


def end_all():
    for child in reversed(ALL):
        if child.poll() is None:
            child.kill()


class Process:
    """A child whose output is in files; kill and stop return when it is gone."""

    def __init__(self, scene, name, command, environment):
        self.scene, self.name = scene, name
        self.log = scene.home / f"{name}.log"
        self.begun = time.time()
        with open(scene.home / f"{name}.out", "ab") as out, open(self.log, "ab") as err:
            self.child = subprocess.Popen([str(word) for word in command], env=environment, stdin=subprocess.DEVNULL,
                                          stdout=out, stderr=err, cwd=scene.home)
        ALL.append(self.child)
        scene.children.append(self)

    @property
    def code(self):
        return self.child.poll()

    def kill(self):
        self.child.kill()
        self.child.wait()

    def stop(self, seconds=60):
        """SIGTERM; the exit code, or None if it had to be killed."""
        if self.code is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                return None
        return self.code

    def text(self):
        return self.log.read_text(errors="replace")


class Worker(Process):
    """`catchment run`."""

    def __init__(self, scene, name, *settings, environment=(), application="app"):
        settings = (*FAST, f"lease.worker={name}", f"lease.application={application}", *settings)
        command = [scene.binary, "run", "--stream", "local", "--bucket", "archive"]
        for one in settings:
            command += ["--set", one]
        super().__init__(scene, name, command, {**scene.environment, **dict(environment)})

    def warnings(self):
        return [line for line in self.text().splitlines() if " WARN " in line or " ERROR " in line]


class Kcl(Process):
    """The KCL application (java/kcl) of one version."""

    def __init__(self, scene, name, version, *options, application="app", stream="local"):
        self.output = scene.home / f"{name}.jsonl"
        self.read, self.at = [], 0
        command = ["java", "-Xmx300m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp",
                   build.classpath(f"kcl-{version}"), "interop.Consume", application, stream, self.output,
                   f"worker={name}", *options]
        super().__init__(scene, name, command, {**scene.environment, **scene.cbor()})

    def lines(self):
        """What it wrote so far; a line that is cut off by a kill was written by nobody."""
        if self.output.exists():
            with open(self.output, "rb") as file:
                file.seek(self.at)
                text = file.read()
            whole = text[:text.rfind(b"\n") + 1]
            self.at += len(whole)
            for line in whole.splitlines():
                one = json.loads(line)
                self.read.append(Line(one["shard"], int(one["sequence"]), one["sub"], json.loads(one["data"])["id"],
                                      one["time"] / 1000, one["stream"]))
        return self.read

    def events(self):
        file = self.output.with_name(self.output.name + ".events")
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


class SlowStore(http.server.ThreadingHTTPServer):
    """Passes everything on to the embedded services; the answer to a PutObject waits `delay` seconds."""
    daemon_threads = True

    def __init__(self, upstream, delay):
        self.upstream, self.delay, self.put = urllib.parse.urlsplit(upstream), delay, 0
        super().__init__(("127.0.0.1", 0), _Passing)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """A client that was killed while it waited is meant."""


class _Passing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def passed(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        up = http.client.HTTPConnection(self.server.upstream.hostname, self.server.upstream.port, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "expect")}
        up.request(self.command, self.path, body, headers)
        answer = up.getresponse()
        text = answer.read()
        if self.command == "PUT":
            self.server.put += 1
            time.sleep(self.server.delay)
        self.send_response(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(text)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(text)
        up.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = passed


class Scene:
    """The embedded services with a stream, and a directory for everything of one scenario."""

    def __init__(self, binary, name, shards=4, tls=False, keep=False):
        self.binary, self.shards, self.tls, self.keep = binary, shards, tls, keep
        self.home = Path(tempfile.mkdtemp(prefix=f"interop-{name}-"))
        self.children, self.objects_read, self.good = [], {}, False
        self.start()

    def start(self):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("CATCHMENT_", "AWS_", "CBOR_"))}
        command = [self.binary, "local", "--workers", "0", "--shards", str(self.shards), "--data-dir",
                   str(self.home / "data"), *(["--tls"] if self.tls else [])]
        self.services = Process(self, "services", command, clean)
        ready = wait(lambda: "Stop with Ctrl-C" in self.services.text() or self.services.code is not None, 60)
        if not ready or self.services.code is not None:
            self.end()
            raise RuntimeError(f"the embedded services did not start: {self.services.text()[-500:]}")
        printed = (self.home / "services.out").read_text()
        exports = dict(re.findall(r"^export (\w+)='(.*)'$", printed, re.MULTILINE))
        self.exports = exports
        # What the user pastes, and nothing else; logs of workers besides.
        self.environment = {**clean, **exports, "CATCHMENT_LOG": "info"}
        self.endpoint = exports["AWS_ENDPOINT_URL"]
        self.kinesis_endpoint = exports.get("AWS_ENDPOINT_URL_KINESIS", self.endpoint)
        authority = exports.get("AWS_CA_BUNDLE")
        self.kinesis = aws.Json(self.kinesis_endpoint, "Kinesis_20131202", "1.1", authority)
        self.dynamodb = aws.Json(self.endpoint, "DynamoDB_20120810", "1.0", authority)

    def cbor(self):
        """Until the embedded Kinesis speaks CBOR: what switches it off in the Java SDK 2."""
        if self.tls:
            return {"CBOR_ENABLED": "false"}
        body = b"\xa1\x6aStreamName\x65local"
        request = urllib.request.Request(self.kinesis_endpoint, body, {
            "Content-Type": "application/x-amz-cbor-1.1", "X-Amz-Target": "Kinesis_20131202.ListShards"})
        try:
            with urllib.request.urlopen(request, timeout=10):
                return {}
        except urllib.error.HTTPError:
            return {"CBOR_ENABLED": "false"}

    def rows(self, table="app"):
        try:
            return aws.rows(self.dynamodb, table)
        except aws.Refused:
            return {}

    def archive(self):
        """Everything delivered: Line, with the time its object was made; dead letters are not among it."""
        return [line for lines in self.objects().values() for line in lines]

    def objects(self):
        """The lines of each object, by key."""
        root = self.home / "data" / "archive"
        found = {}
        for folder, _, names in os.walk(root):
            for name in names:
                file = Path(folder) / name
                key = str(file.relative_to(root))
                if key.startswith("errors/") or name.startswith("."):
                    continue
                if key not in self.objects_read:
                    made = file.stat().st_mtime
                    self.objects_read[key] = [self.line(json.loads(text), made)
                                              for text in file.read_bytes().splitlines()]
                found[key] = self.objects_read[key]
        return found

    def line(self, one, made):
        data = base64.b64decode(one["data"])
        return Line(one["shard"], int(one["sequence"]), one["sub"], json.loads(data)["id"], made, one["stream"])

    def dead_letters(self):
        folder = self.home / "data" / "archive" / "errors"
        return [json.loads(text) for file in folder.rglob("*") if file.is_file()
                for text in file.read_bytes().splitlines()]

    def command(self, *words, settings=(), application="app", seconds=120):
        """A command of the binary; (exit code, output and errors)."""
        command = [self.binary, *words, "--stream", "local", "--bucket", "archive"]
        for one in (*FAST, f"lease.application={application}", *settings):
            command += ["--set", one]
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=seconds,
                             check=False)
        return ran.returncode, ran.stdout or ran.stderr

    def age(self, hours):
        """Starts the services anew with every record older by so much."""
        self.services.stop()
        log = self.home / "data" / ".catchment" / "kinesis" / "log.jsonl"
        older = re.sub(r'("ApproximateArrivalTimestamp":)([\d.]+)',
                       lambda found: f"{found[1]}{float(found[2]) - 3600 * hours:.3f}", log.read_text())
        log.write_text(older)
        for file in (self.services.log, self.home / "services.out"):
            file.unlink()
        self.start()

    def end(self):
        for child in reversed(self.children):
            if child.code is None:
                child.kill()
        if self.good and not self.keep:
            shutil.rmtree(self.home, ignore_errors=True)
