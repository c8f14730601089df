"""Worker processes, and what they archived: read by this script, not by the code that wrote it."""
import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

from hour.owned import keys


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Application:
    """One application of Catchment on a stream: its lease table, its prefix, its worker processes."""

    def __init__(self, owned, binary, home, name, stream, bucket, reader, more=()):
        self.account, self.binary, self.home = owned.account, binary, Path(home)
        self.name, self.stream, self.bucket, self.reader = name, stream, bucket, reader
        self.table, self.running, self.started = owned.table(name), {}, 0
        self.cache = {}
        self.settings = self.account.settings() + [
            f"lease.application={self.table}", f"stream.reader={reader}", "delivery.compression=gzip",
            f"delivery.prefix={name}/", f"delivery.error_prefix=errors-{name}/!{{error}}/",
            "delivery.batch_age=2s", *more]

    def arguments(self, command):
        given = ["--stream", self.stream, "--bucket", self.bucket]
        return [self.binary, command, *given, *(part for s in self.settings for part in ("--set", s))]

    def start(self):
        """One worker more; returns its number."""
        self.started += 1
        number, port = self.started, free_port()
        log = open(self.home / f"{self.name}-{number}.log", "wb")  # the process holds it
        command = self.arguments("run") + ["--set", f"telemetry.listen=127.0.0.1:{port}"]
        process = subprocess.Popen(command, env=self.account.environment(), stdout=log, stderr=log,
                                   start_new_session=True)
        log.close()
        self.running[number] = (process, port)
        self.account.meter.start_worker(f"{self.name}-{number}")
        return number

    def end(self, numbers, how=signal.SIGTERM, seconds=60):
        """Sends each of these workers one signal, then waits; exit codes, None for one that did not end.

        One only: at a second SIGTERM a worker leaves without draining.
        """
        processes = [self.running.pop(number)[0] for number in numbers]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
        codes = []
        for number, process in zip(numbers, processes, strict=True):
            try:
                codes.append(process.wait(seconds))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
                codes.append(None)
            self.account.meter.end_worker(f"{self.name}-{number}")
        return codes

    def drain(self):
        """SIGTERM to all of them; their exit codes."""
        return self.end(list(self.running))

    def kill(self):
        self.end(list(self.running), signal.SIGKILL, 10)

    def series(self, begin):
        """Every series of the workers whose line begins so: {name and labels: the sum of its values}."""
        found = {}
        for _, port in self.running.values():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as told:
                    lines = told.read().decode().splitlines()
            except OSError:
                continue
            for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith(begin)):
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def metric(self, begin):
        """The sum of those series."""
        return sum(self.series(begin).values())

    def archived(self):
        """The `id` of every record in every object under the prefix; each object is fetched once."""
        for key in keys(self.account.s3, self.bucket, f"{self.name}/"):
            if key not in self.cache:
                body = self.account.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
                self.cache[key] = [json.loads(line)["id"] for line in gzip.decompress(body).splitlines()]
        return [one for found in self.cache.values() for one in found]

    def dead_letters(self):
        return list(keys(self.account.s3, self.bucket, f"errors-{self.name}/"))

    def verify(self):
        """`catchment verify`: its exit code and what it printed."""
        done = subprocess.run(self.arguments("verify"), env=self.account.environment(), text=True, timeout=300,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout[-3000:]

    def tail(self):
        """The ends of the logs, for a report of a failure."""
        return {path.name: path.read_text(errors="replace")[-1500:]
                for path in sorted(self.home.glob(f"{self.name}-*.log"))}
