#!/usr/bin/env python3
"""How a run ends, against the embedded services: CATCHMENT_BIN=… python3 tests/aws/test_services.py

Interrupted, at the budget, kept and cleaned up later, on the second day: nothing may be left behind.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / ".ci"))

from lib import tools  # noqa: E402
from lib.checks import skip_all, worker_binary  # noqa: E402


class Services(unittest.TestCase):
    """Against the embedded services, which outlive the script here."""

    def setUp(self):
        from kinesis_independent import embedded

        from hour.account import Account
        from hour.cost import Meter
        from lib.processes import end_group
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = Path(home.name)
        process, printed = embedded(BINARY, home.name)
        self.addCleanup(process.stdout.close)
        self.addCleanup(end_group, process)
        self.keys = {name: printed[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        self.endpoints = dict.fromkeys(("kinesis", "dynamodb", "s3"), printed["AWS_ENDPOINT_URL"])
        self.account = Account("endpoint", printed["AWS_REGION"], self.endpoints, self.keys, Meter(100))

    def script(self, *arguments):
        given = [part for name, url in self.endpoints.items() for part in ("--endpoint-url", f"{name}={url}")]
        return subprocess.Popen(
            [sys.executable, str(HERE / "run.py"), *given, "--report", str(self.home / "report"), *arguments],
            env=os.environ | self.keys | {"CATCHMENT_BIN": BINARY}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)

    def left(self):
        from hour.owned import leftovers
        return leftovers(self.account)

    def test_a_kept_run_is_cleaned_up_later(self):
        told, _ = self.script("--only", "wire", "--keep").communicate(timeout=120)
        self.assertEqual([kind for kind, _ in self.left()], ["stream"], told)
        told, _ = self.script("cleanup").communicate(timeout=120)
        self.assertIn("--yes deletes them", told)
        self.assertEqual(len(self.left()), 1, told)
        told, _ = self.script("cleanup", "--yes").communicate(timeout=120)
        self.assertEqual(self.left(), [], told)

    def test_the_budget_ends_a_run_that_then_leaves_nothing(self):
        script = self.script("--only", "reading", "--only", "wire", "--budget", "0.04")
        told, _ = script.communicate(timeout=120)
        self.assertEqual(script.returncode, 1, told)
        report = json.loads((self.home / "report.json").read_text())
        self.assertIn("would pass the budget", report["ended early"])
        self.assertEqual({f["group"] for f in report["findings"]}, {"reading"})
        self.assertEqual(self.left(), [], told)

    def test_the_second_day_finds_the_stream_of_the_first(self):
        from types import SimpleNamespace
        from unittest import mock

        from hour import expired
        from hour.owned import Owned
        options = SimpleNamespace(expire_after=True, state=str(self.home / "state.json"))
        self.account.real = True
        with mock.patch.multiple(expired, SPREAD=3, APART=0, LOOKS=1, BETWEEN=0, CRAWL=4):
            owned = Owned(self.account)
            for finding in expired.run(owned, options):
                self.assertIn("begun; ", finding.verdict)
            self.assertEqual(owned.delete(), [])
            self.assertEqual(len(self.left()), 1)
            _, early = expired.resume(self.account, options)
            self.assertIn("too early", early[0].verdict)
            with mock.patch.object(expired, "AFTER", -1):
                owned, findings = expired.resume(self.account, options)
        # Nothing has left the stream: that is seen, and called different.
        self.assertEqual([f.verdict for f in findings], ["DIFFERENT", "DIFFERENT", "same", "DIFFERENT", "recorded"])
        self.assertEqual(owned.delete(), [])
        self.assertEqual(self.left(), [])

    def test_an_interrupted_run_leaves_nothing(self):
        script = self.script("--only", "acceptance", "--rate", "50")
        end = time.monotonic() + 60
        # A worker's table is the last thing to appear.
        while "table" not in {kind for kind, _ in self.left()} and time.monotonic() < end:
            time.sleep(0.25)
        self.assertEqual({kind for kind, _ in self.left()}, {"stream", "bucket", "table"})
        script.send_signal(signal.SIGINT)
        told, _ = script.communicate(timeout=120)
        self.assertEqual(script.returncode, 1, told)
        self.assertEqual(self.left(), [], told)


if __name__ == "__main__":
    tools.enter(__file__, HERE / "requirements.txt")
    BINARY = worker_binary()
    if not BINARY:
        skip_all("the hour's ends: set CATCHMENT_BIN to the worker's binary")
    unittest.main()
