#!/usr/bin/env python3
"""What others spend on reading the same stream: kcl-rs, boto3, the plain SDK, and Catchment.

    python3 benches/peers.py [--quick] [--sizes 100,1000,10000] [--write]

Every program reads a backlog without end of one shard from the canned server of
`cargo bench --bench end_to_end -- --serve`, in a process of its own. Measured is its CPU time
(/proc/PID/stat) between two amounts of payload that the server has given out, so that starting up
is not in it. Programs run in turns; a ratio is the median of the ratios of each round. What cannot
be installed is told as SKIPPED.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PINNED = ["boto3==1.44.5", "kcl-rs==0.1.4"]
TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 240

BOTO3 = """
import os, boto3
client = boto3.client("kinesis")
shard = client.list_shards(StreamName="events")["Shards"][0]["ShardId"]
iterator = client.get_shard_iterator(
    StreamName="events", ShardId=shard, ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
while True:
    reply = client.get_records(ShardIterator=iterator, Limit=int(os.environ["LIMIT"]))
    iterator = reply["NextShardIterator"]
    for record in reply["Records"]:
        len(record["Data"])
"""

KCL_RS = """
import os
from kcl_rs import RecordProcessorBase, Scheduler

class Processor(RecordProcessorBase):
    def initialize(self, given): pass
    def process_records(self, given): given.checkpointer.checkpoint()
    def lease_lost(self, given): pass
    def shard_ended(self, given): given.checkpointer.checkpoint()
    def shutdown_requested(self, given): pass

Scheduler(stream_name="events", application_name=os.environ["NAME"],
          record_processor_factory=Processor, region="us-east-1",
          endpoint_url=os.environ["AWS_ENDPOINT_URL"], access_key_id="local",
          secret_access_key="local-secret", initial_position="TRIM_HORIZON",
          retrieval_mode="POLLING", max_records=int(os.environ["LIMIT"]),
          idle_time_between_reads_millis=200).run()
"""


class Server:
    """The canned server; and what it has seen."""

    def __init__(self, size):
        command = ["cargo", "bench", "--quiet", "--bench", "end_to_end", "--",
                   "--serve", "0", "--size", str(size)]
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        line = self.process.stdout.readline().split()
        if len(line) != 3:
            raise SystemExit("the server does not start: " + " ".join(command))
        self.endpoint, self.bench, self.catchment = line

    def served(self):
        with urllib.request.urlopen(self.endpoint + "/seen", timeout=10) as reply:
            return json.load(reply)["served"]

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


def cpu(pid):
    """CPU seconds so far, user and system, all threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid):
    """Peak RSS, MiB."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024


def measure(server, command, environment, warm, payload):
    """CPU seconds per GB of payload, and peak RSS in MiB; None if it never read that much."""
    begun, before = time.monotonic(), server.served()
    # Settings of a worker that happen to be there are not for these.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CATCHMENT_")}
    process = subprocess.Popen(command, env={**inherited, **environment},
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        first = None
        while time.monotonic() - begun < PATIENCE:
            if process.poll() is not None:
                told = (process.stderr.read().strip().splitlines() or ["nothing said"])[-1]
                print(f"  it ended with {process.returncode}: {told}", file=sys.stderr)
                return None
            served = server.served() - before
            if first is None and served >= warm:
                first = (served, cpu(process.pid))
            if first and served >= first[0] + payload:
                spent = cpu(process.pid) - first[1]
                return spent / ((served - first[0]) / 1e9), resident(process.pid)
            time.sleep(0.02)
        return None
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def install():
    """A Python with what is pinned, and whether each can be imported."""
    venv = pathlib.Path(os.environ.get("CI_TOOLS", ROOT / "target/ci-tools")) / "peers"
    python = venv / "bin/python3"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    have = {}
    for requirement in PINNED:
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        name = requirement.split("==")[0]
        done = subprocess.run([*pip, requirement], capture_output=True, text=True)
        have[name] = done.returncode == 0
        if not have[name]:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"SKIPPED: {requirement} cannot be installed: {reason}")
    return str(python), have


def programs(server, python, have, size, tag):
    """Name, command, environment, and how much it reads: more, where it costs less."""
    address = server.endpoint.removeprefix("http://")
    aws = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_ACCESS_KEY_ID": "local",
           "AWS_SECRET_ACCESS_KEY": "local-secret", "AWS_REGION": "us-east-1",
           "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
           "AWS_CBOR_DISABLE": "true", "NAME": f"peer-{tag}",
           # Replies of at most 10 MB of payload, as the service makes them.
           "LIMIT": str(min(10_000, 10_000_000 // size))}
    worker = [server.catchment, "run", "--stream", "events", "--bucket", "archive"]
    for setting in ("aws.path_style=true", "telemetry.listen=off", f"lease.application=w-{tag}",
                    "stream.bytes_per_second=0B", "stream.calls_per_second=1000"):
        worker += ["--set", setting]
    role = [server.bench, "--endpoint", address, "--role"]
    yield "Catchment's reader", [*role, "reader"], aws, 4.0
    yield "Catchment, the whole worker to S3", worker, {**aws, "CATCHMENT_LOG": "error"}, 2.0
    yield "plain AWS SDK for Rust, read only", [*role, "sdk"], aws, 2.0
    if have["kcl-rs"]:
        yield "kcl-rs 0.1.4, read and checkpoint", [python, "-c", KCL_RS], aws, 1.0
    if have["boto3"]:
        yield "boto3 1.44.5, read only", [python, "-c", BOTO3], aws, 0.5


def table(size, rounds, payload, python, have):
    server = Server(size)
    costs, peaks = {}, {}
    try:
        for turn in range(rounds):
            for name, command, environment, share in programs(
                    server, python, have, size, f"{size}-{turn}"):
                print(f"{size} B, round {turn + 1}: {name}", file=sys.stderr)
                # Peers ask for 10 MB at once: a few replies at least.
                found = measure(server, command, environment, 0.1 * payload * share,
                                payload * share)
                if found is None:
                    print(f"SKIPPED: {name}: it did not read enough")
                costs.setdefault(name, []).append(found and found[0])
                if found:
                    peaks[name] = max(peaks.get(name, 0), found[1])
    finally:
        server.stop()
    base = costs["Catchment's reader"]
    whole = costs["Catchment, the whole worker to S3"]
    lines = [f"| records of {size:,} B | CPU s/GB | by Catchment's reader | by the whole worker | "
             "peak RSS, MiB |", "|---|---:|---:|---:|---:|"]
    for name, each in costs.items():
        good = [cost for cost in each if cost]
        if not good:
            continue

        def ratio(to):
            both = [a / b for a, b in zip(each, to) if a and b]
            return f"{statistics.median(both):.2f}" if both else "–"
        lines.append(f"| {name} | {statistics.median(good):.2f} | {ratio(base)} | {ratio(whole)} | "
                     f"{peaks[name]:.0f} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--sizes", default="1000", help="payload of a record, bytes")
    parser.add_argument("--write", action="store_true", help="write docs/PERFORMANCE.md")
    options = parser.parse_args()
    python, have = install()
    subprocess.run(["cargo", "bench", "--quiet", "--no-run", "--bench", "end_to_end"], cwd=ROOT,
                   check=True)
    rounds, payload = (1, 100e6) if options.quick else (3, 400e6)
    tables = []
    for size in map(int, options.sizes.split(",")):
        # Small records cost far more per byte.
        tables.append(table(size, rounds, payload * min(1.0, (size / 1000) ** 0.7), python, have))
        print(tables[-1])
    if options.write:
        path = ROOT / "docs/PERFORMANCE.md"
        begin, end = "<!-- peers: begin -->\n", "<!-- peers: end -->"
        head, rest = path.read_text().split(begin)
        _, tail = rest.split(end)
        path.write_text(head + begin + "\n".join(tables) + end + tail)


if __name__ == "__main__":
    main()
