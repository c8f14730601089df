"""The KPL produces while the stream is split and merged, and the worker is killed."""
import collections
import http.server
import json
import ssl
import subprocess
import threading
import time
import urllib.parse

from driver import aws, build
from driver.aws import wait
from driver.processes import Process, Scene, Worker

PATIENCE = 300
IDENTITY = b"""<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
<Arn>arn:aws:iam::000000000000:user/local</Arn><UserId>local</UserId><Account>000000000000</Account>
</GetCallerIdentityResult><ResponseMetadata><RequestId>0</RequestId></ResponseMetadata></GetCallerIdentityResponse>"""


class Identity(http.server.ThreadingHTTPServer):
    """Answers GetCallerIdentity by TLS, which KPL 0.15 asks for; for as long as the embedded services do not."""
    daemon_threads = True

    def __init__(self, home):
        super().__init__(("127.0.0.1", 0), _Answers)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "sts.key",
                        "-out", "sts.pem", "-days", "2", "-subj", "/CN=localhost"],
                       cwd=home, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(home / "sts.pem", home / "sts.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Answers(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(IDENTITY)))
        self.end_headers()
        self.wfile.write(IDENTITY)

    do_GET = do_POST


def needs():
    build.needs("openssl")
    build.java()


class Stage:
    """A stream behind TLS, which the KPL insists on, a KPL that produces to it, and a worker."""

    def __init__(self, options, seen, shards=4):
        self.options, self.seen = options, seen
        self.scene = Scene(options.binary, f"{seen.name}-{seen.version}", shards, tls=True, keep=options.keep)
        self.sts = Identity(self.scene.home)
        self.output = self.scene.home / "kpl.jsonl"

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.sts.shutdown()
        self.scene.good = kind is None and self.seen.result in ("ok", "known")
        if not self.scene.good:
            self.seen.figure(kept=self.scene.home)
        self.scene.end()

    def produce(self, *settings):
        old = self.seen.version.startswith("0")
        port = urllib.parse.urlsplit(self.scene.kinesis_endpoint).port
        return Process(self.scene, "kpl", [
            "java", "-Xmx400m", "-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={self.scene.home}", "-cp",
            build.classpath(f"kpl-{self.seen.version}"), f"interop.Produce{'Old' if old else 'New'}", "local",
            self.output, self.options.produced, f"port={port}", f"sts-port={self.sts.server_address[1]}", *settings,
        ], self.scene.environment)

    def worker(self, number, *settings):
        return Worker(self.scene, f"catchment{number}", "lease.failover=2s", "delivery.batch_records=777", *settings)

    def finished(self, kpl):
        wait(lambda: kpl.code is not None, PATIENCE)
        self.seen.check("the KPL ends", kpl.code == 0, f"exit {kpl.code}: {kpl.text()[-300:]}")
        kpl.stop()
        lines = [json.loads(line) for line in self.output.read_text().splitlines()] if self.output.exists() else []
        acknowledged = {line["id"] for line in lines if line["done"]}
        self.seen.check("everything is acknowledged", len(acknowledged) == self.options.produced, len(acknowledged))
        return acknowledged

    def judge(self, acknowledged, worker):
        """Each acknowledged id is in the archive; each user record of the stream is, once, or is a foreign one that
        was put aside. A user record is in the stream twice if the KPL sent it twice."""
        check, scene = self.seen.check, self.scene
        stream, aggregates = {}, 0
        for shard, sequence, _, data in aws.records(scene.kinesis):
            inner = aws.user_records(data)
            aggregates += inner is not None
            for sub, part in enumerate(inner if inner is not None else [("", None, data)]):
                stream[shard, sequence, sub] = json.loads(part[2])["id"]

        def there():
            return len(scene.archive()) + len(scene.dead_letters()) >= len(stream)
        wait(lambda: there() or worker.code is not None, PATIENCE, 0.5)
        check("Catchment stops", worker.stop() == 0, worker.code)
        have = collections.Counter((line.shard, line.sequence, line.sub) for line in scene.archive())
        aside = {(one["shard"], int(one["sequence"]), one["sub"]) for one in scene.dead_letters()}
        ids = {line.id for line in scene.archive()}
        twice = sum(count > 1 for count in have.values())
        lost = acknowledged - ids
        self.seen.figure(acknowledged=len(acknowledged), aggregates=aggregates, stream=len(stream), archive=len(have),
                         aside=len(aside), resent=len(stream) - len(set(stream.values())), lost=len(lost), twice=twice)
        check("no acknowledged record is lost", not lost, f"{len(lost)}: {sorted(lost)[:3]}")
        check("nothing is in the archive twice", not twice, twice)
        missing = set(stream) - set(have) - aside
        check("the archive has what the stream has", not missing, f"{len(missing)}: {sorted(missing)[:2]}")
        check("the archive has nothing else", set(have) <= set(stream), len(set(have) - set(stream)))
        check("what is put aside was sent again", {stream[one] for one in aside if one in stream} <= ids, len(aside))
        code, said = scene.command("verify", "--deep", "--json", settings=("delivery.batch_records=777",))
        problems = json.loads(said).get("problems", []) if code in (0, 3) else [said[-200:]]
        check("catchment verify --deep is clean", code == 0, f"exit {code}: {problems[:1]}")


def through_reshards(options, seen):
    """50,000 records while the stream is split twice and merged, and the worker is killed five times."""
    with Stage(options, seen) as stage:
        scene, kills = stage.scene, min(options.kills, 5)
        seconds = 25 if options.produced > 20_000 else 10
        kpl = stage.produce(f"rate={options.produced / seconds:.0f}")
        worker = stage.worker(0)
        steps = [lambda: aws.split(scene.kinesis), lambda: aws.split(scene.kinesis, -1),
                 lambda: aws.merge(scene.kinesis, 1)]
        begun = wait(lambda: aws.records(scene.kinesis), 90)
        seen.check("the KPL produces", begun, kpl.text()[-300:])
        for at in range(max(len(steps), kills)):
            time.sleep(seconds / (max(len(steps), kills) + 1))
            if at < len(steps):
                steps[at]()
            if at < kills:
                worker.kill()
                worker = stage.worker(at + 1)
        seen.figure(kills=kills, produced=options.produced)
        stage.judge(stage.finished(kpl), worker)


def without_keys(options, seen):
    """Records without a partition key: the KPL puts them all into aggregates with an empty one."""
    with Stage(options, seen) as stage:
        kpl = stage.produce("keys=0")
        worker = stage.worker(0)
        stage.judge(stage.finished(kpl), worker)


def distributed(options, seen):
    """A stream with distribution strategy AUTO: records are put anywhere, whatever their hash key."""
    with Stage(options, seen) as stage:
        kinesis = stage.scene.kinesis
        try:
            kinesis("DeleteStream", StreamName="local", EnforceConsumerDeletion=True)
            wait(lambda: not kinesis("ListStreams")["StreamNames"], 30)
            kinesis("CreateStream", StreamName="local", StreamModeDetails={"StreamMode": "ON_DEMAND"},
                    RecordDistributionStrategy="AUTO")
        except aws.Refused as problem:
            raise build.Missing(f"the embedded Kinesis refuses distribution strategy AUTO: {problem}") from problem
        about = kinesis("DescribeStreamSummary", StreamName="local")["StreamDescriptionSummary"]
        if about.get("RecordDistributionStrategy") != "AUTO":
            raise build.Missing("the embedded Kinesis does not offer distribution strategy AUTO")
        worker = stage.worker(0)
        stage.judge(stage.finished(stage.produce()), worker)
