#!/usr/bin/env python3
"""Kinesis by other people: the simulation's Kinesis compared, and our worker through their reshards.

    CATCHMENT_BIN=target/debug/catchment python3 .ci/kinesis_independent.py

1. `tests/sim/conformance.rs` has one conversation with kinesis-local, ministack and the embedded
   Kinesis of `catchment local`; what they answer otherwise must stand in
   `tests/sim/conformance_known.txt`.
2. A worker archives a stream of kinesis-local (leases and objects: `catchment local`) that is split,
   merged and split again with unread records in every shard, while one of two workers is killed.

3. Both emulators push a stream to a worker that reads by enhanced fan-out.

Environment, optional: CATCHMENT_BIN (without it part 2 and the embedded Kinesis are skipped).
The last line is `N passed, N failed`, or begins with SKIPPED.
"""
import gzip
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path

from lib import ministack, tools
from lib.checks import ROOT, check, clean_environment, finish, free_port, skipped, worker_binary
from lib.checks import wait_for as wait_briefly
from lib.ministack import BASE, client
from lib.processes import end_group

KINESIS_LOCAL = "kinesis-local@0.6.2"
# It binds every interface and has no option for it.
LOOPBACK = """\
const { Server } = require('net');
const listen = Server.prototype.listen;
const callbacks = (rest) => rest.filter((x) => typeof x === 'function');
Server.prototype.listen = function (first, ...rest) {
  if (typeof first === 'number')
    return listen.call(this, { port: first, host: '127.0.0.1' }, ...callbacks(rest));
  if (first && typeof first === 'object' && first.port !== undefined)
    return listen.call(this, { ...first, host: '127.0.0.1' }, ...rest);
  return listen.call(this, first, ...rest);
};
"""


wait_for = partial(wait_briefly, seconds=120)


class KinesisLocal:
    """kinesis-local in a process group of its own, on the loopback; None if it cannot be had."""

    @staticmethod
    def start(home):
        try:
            program = tools.node_packages("kinesis-local", KINESIS_LOCAL) / "node_modules" / "kinesis-local"
        except tools.Unavailable as problem:
            return None, f"{KINESIS_LOCAL} cannot be installed ({problem})"
        (Path(home) / "loopback.cjs").write_text(LOOPBACK)
        port = free_port()
        environment = {
            "PATH": os.environ["PATH"], "HOME": home, "LOG_LEVEL": "WARN", "SHARD_LIMIT": "200",
            "KINESIS_MOCK_PLAIN_PORT": str(port), "KINESIS_MOCK_TLS_PORT": str(free_port()),
            "KINESIS_MOCK_CERT_PATH": str(program / "server.json"),
        }
        log = open(Path(home) / "kinesis-local.log", "wb")
        process = subprocess.Popen(["node", "-r", str(Path(home) / "loopback.cjs"), str(program / "main.js")],
                                   cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True)
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            if process.poll() is not None:
                break
            try:
                client("kinesis", url).list_streams()
                return process, url
            except Exception:
                time.sleep(0.25)
        end_group(process)
        return None, "kinesis-local does not start: " + Path(log.name).read_text(errors="replace")[-300:]


def embedded(binary, home):
    """`catchment local` without workers: the process and the environment it prints."""
    process = subprocess.Popen([binary, "local", "--workers", "0", "--data-dir", str(Path(home) / "data")],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               start_new_session=True)
    environment = {}
    for line in process.stdout:
        found = re.match(r"export (\w+)='?([^']*)'?$", line.strip())
        if found:
            environment[found[1]] = found[2]
        if len(environment) == 7:
            break
    return process, environment


def conversation(endpoints):
    listed = " ".join(f"{name}={url}" for name, url in endpoints.items())
    done = subprocess.run(["cargo", "test", "--locked", "--test", "sim", "emulators_differ", "--", "--nocapture"],
                          cwd=ROOT, env=os.environ | {"CONFORMANCE": listed}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    told = [line for line in done.stdout.splitlines() if "|" in line or "answers alike" in line]
    print("\n".join(told), flush=True)
    check(f"answers as known: {', '.join(endpoints)}", done.returncode == 0, done.stdout[-2500:])


class Reshards:
    """A stream of kinesis-local, archived by our workers."""

    def __init__(self, binary, url, services, home, stream="resharded", more=()):
        self.binary, self.home, self.stream, self.more = binary, Path(home), stream, list(more)
        self.kinesis = client("kinesis", url)
        self.environment = clean_environment()
        # ministack knows these keys; the embedded services take any.
        self.environment |= services | {"AWS_ENDPOINT_URL_KINESIS": url, "AWS_ACCESS_KEY_ID": "test",
                                        "AWS_SECRET_ACCESS_KEY": "test"}
        self.kinesis.create_stream(StreamName=self.stream, ShardCount=2)
        self.active()
        self.sent, self.port = [], None

    def active(self):
        def rests():
            told = self.kinesis.describe_stream_summary(StreamName=self.stream)
            return told["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"
        wait_for("the stream is active", rests)

    def worker(self):
        port = self.port = free_port()
        log = open(self.home / f"worker-{port}.log", "wb")
        settings = ["aws.path_style=true", f"telemetry.listen=127.0.0.1:{port}", "stream.idle=300ms",
                    "lease.failover=4s", "lease.shard_sync=2s", "delivery.batch_age=1s",
                    "delivery.compression=gzip", f"lease.application={self.stream}"] + self.more
        command = [self.binary, "run", "--stream", self.stream, "--bucket", "archive"]
        command += [part for s in settings for part in ("--set", s)]
        return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log,
                                start_new_session=True)

    def send(self, count):
        lines = [f"line {len(self.sent) + n}" for n in range(count)]
        for at in range(0, count, 100):
            some = lines[at:at + 100]
            done = self.kinesis.put_records(StreamName=self.stream, Records=[
                {"Data": line.encode(), "PartitionKey": line} for line in some])
            assert done["FailedRecordCount"] == 0, done
        self.sent += lines

    def open_shards(self):
        shards = self.kinesis.list_shards(StreamName=self.stream)["Shards"]
        # Not by EndingSequenceNumber alone: a shard with children is closed.
        parents = {s.get(k) for s in shards for k in ("ParentShardId", "AdjacentParentShardId")}
        found = [s for s in shards if s["ShardId"] not in parents]
        return sorted(found, key=lambda s: int(s["HashKeyRange"]["StartingHashKey"]))

    def split(self):
        shard = self.open_shards()[0]
        low, high = (int(shard["HashKeyRange"][k]) for k in ("StartingHashKey", "EndingHashKey"))
        self.kinesis.split_shard(StreamName=self.stream, ShardToSplit=shard["ShardId"],
                                 NewStartingHashKey=str((low + high) // 2))
        self.active()

    def merge(self):
        a, b = self.open_shards()[-2:]
        self.kinesis.merge_shards(StreamName=self.stream, ShardToMerge=a["ShardId"],
                                  AdjacentShardToMerge=b["ShardId"])
        self.active()

    def metric(self, name):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as told:
                lines = told.read().decode().splitlines()
        except OSError:
            return 0.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def archived(self):
        found = []
        for path in (self.home / "data").rglob(f"*{self.stream}-shardId*.gz"):
            try:
                found += gzip.decompress(path.read_bytes()).decode().splitlines()
            except (EOFError, OSError, gzip.BadGzipFile):
                return None
        return sorted(found)


def reshards(binary, url, services, home):
    run = Reshards(binary, url, services, home)
    run.send(300)
    # Reshards before anybody reads: records wait in shards that are closed.
    run.split()
    run.send(300)
    workers = [run.worker(), run.worker()]
    try:
        run.merge()
        run.send(300)
        os.killpg(workers[0].pid, signal.SIGKILL)
        workers[0].wait()
        workers[0] = run.worker()
        run.split()
        run.send(300)
        want = sorted(run.sent)
        wait_for("everything is archived", lambda: len(run.archived() or []) >= len(want))
        for worker in workers:
            os.killpg(worker.pid, signal.SIGTERM)
        ended = [worker.wait(60) for worker in workers]
        check("the workers drain and end with 0", ended == [0, 0], ended)
        found = run.archived() or []
        check(f"split, merge, split, a worker killed: {len(want)} records, each in exactly one object",
              found == want, f"{len(found)} found, {len(set(found))} of them different")
        done = subprocess.run([binary, "verify", "--stream", run.stream, "--bucket", "archive",
                               "--set", "aws.path_style=true",
                               "--set", f"lease.application={run.stream}"], env=run.environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        check("catchment verify finds it whole", done.returncode == 0, done.stdout[-1500:])
    finally:
        for worker in workers:
            if worker.poll() is None:
                end_group(worker)


def fan_out(name, binary, url, services, home):
    run = Reshards(binary, url, services, home, f"pushed-{name}", ["stream.reader=fan-out"])
    worker = run.worker()
    try:
        opened = 'catchment_subscriptions_total{result="opened"'
        wait_for(f"{name}: both shards are subscribed to", lambda: run.metric(opened) >= 2)
        run.send(200)
        wait_for("everything is archived", lambda: len(run.archived() or []) >= 200)
        pushed = run.metric('catchment_fan_out_events_total{result="records"')
        os.killpg(worker.pid, signal.SIGTERM)
        check(f"{name}: the worker drains and ends with 0", worker.wait(60) == 0)
        check(f"{name}: 200 records pushed in {pushed:.0f} events, each in exactly one object",
              run.archived() == sorted(run.sent) and pushed > 0, pushed)
    finally:
        if worker.poll() is None:
            end_group(worker)


def main():
    ministack.begin(__file__, "other people's Kinesis")
    binary = worker_binary()
    home, running = tempfile.mkdtemp(prefix="kinesis-"), []
    try:
        with ministack.Ministack():
            process, url = KinesisLocal.start(home)
            endpoints = {"ministack": BASE}
            if process:
                running.append(process)
                endpoints["kinesis-local"] = url
            else:
                skipped(f"kinesis-local: {url}")
            if binary:
                local, services = embedded(binary, home)
                running.append(local)
                endpoints["embedded"] = services["AWS_ENDPOINT_URL"]
            conversation(endpoints)
            if process and binary:
                reshards(binary, url, services, home)
                for name in ("ministack", "kinesis-local"):
                    fan_out(name, binary, endpoints[name], services, home)
            else:
                skipped("the worker through reshards (needs CATCHMENT_BIN and kinesis-local)")
    finally:
        for process in reversed(running):
            end_group(process)
        shutil.rmtree(home, ignore_errors=True)
    print("not shown: neither emulator throttles, nor was any of them compared with AWS itself; of\n"
          "  fan-out: the end of a pushed shard with unread records (kinesis-local never names children\n"
          "  in an event, ministack drops the parent), the five-minute end of a subscription, HTTP/2")
    finish()


if __name__ == "__main__":
    main()
