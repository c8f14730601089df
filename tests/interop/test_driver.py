#!/usr/bin/env python3
"""Would the driver notice? What it compares with is given here, with one thing wrong at a time."""
import argparse
import base64
import contextlib
import io
import os
import unittest
from unittest import mock

from driver import aws, battery, build, catalogue, compare, report
from driver.processes import Line

TRUTH = {"r0": ("s0", 10), "r1": ("s0", 20), "r2": ("s1", 10)}


def lines(*ids, at=1.0):
    return [Line(*TRUTH.get(one, ("s0", 99)), 0, one, at, "local") for one in ids]


def outcome(*checks):
    seen = report.Seen("scenario", "1")
    for good, known in checks:
        seen.check("something", good, known=known)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = report.summary([seen])
    return seen.result, code, said.getvalue()


class Compared(unittest.TestCase):
    def test_union_counts_what_is_lost_doubled_and_unknown(self):
        def figures(kcl, archive):
            found = compare.union(TRUTH, lines(*kcl), lines(*archive))
            return found["lost"], found["twice"], found["both"], found["unknown"]
        self.assertEqual(figures(["r0"], ["r1", "r2"]), (0, 0, 0, 0))
        self.assertEqual(figures(["r0"], ["r1"]), (1, 0, 0, 0))
        self.assertEqual(figures(["r0"], ["r1", "r2", "r2"]), (0, 1, 0, 0))
        self.assertEqual(figures(["r0", "r1"], ["r1", "r2", "x"]), (0, 0, 1, 1))

    def test_a_window_ends_at_its_checkpoints(self):
        low, high = {"s0": (10, 0)}, {"s0": (20, 0), "s1": (10**60, 0)}
        self.assertEqual(compare.window(TRUTH, low, high, lines("r1", "r2")), (0, 0, 0))
        self.assertEqual(compare.window(TRUTH, low, high, lines("r0", "r1")), (1, 1, 0))
        self.assertEqual(compare.window(TRUTH, low, high, lines("r1", "r2", "r2")), (0, 0, 1))

    def test_checkpoints_are_read_as_the_kcl_writes_them(self):
        rows = {"s0": {"checkpoint": "10", "checkpointSubSequenceNumber": "3", "pendingCheckpoint": "20"},
                "1:local:2:s1": {"checkpoint": "SHARD_END"}, "s2": {"checkpoint": "LATEST"}, "Leader": {"owner": "x"}}
        self.assertEqual(compare.checkpoints(rows), {"s0": (10, 3), "s1": (10**60, 0), "s2": (-1, 0)})
        self.assertEqual(compare.announced(rows), {"s0": (10, 20)})

    def test_a_child_before_its_parent_is_seen(self):
        rows = {"s1": {"parentShardId": ["s0"]}, "s0": {}}
        self.assertIsNone(compare.parents_first(rows, lines("r0", at=1) + lines("r2", at=2)))
        self.assertEqual(compare.parents_first(rows, lines("r0", at=3) + lines("r2", at=2)), ("s1", "s0", 1))

    def test_an_aggregate_is_taken_apart(self):
        parts = aws.user_records(base64.b64decode(aws.aggregate(["a", "b" * 300])))
        self.assertEqual(parts, [("k", None, b'{"id": "a"}'), ("k", None, b'{"id": "%s"}' % (b"b" * 300))])
        self.assertIsNone(aws.user_records(b"no aggregate"))


class Reported(unittest.TestCase):
    def test_a_failure_fails_and_a_known_one_does_not(self):
        known = next(iter(report.KNOWN))
        self.assertEqual(outcome((True, None))[:2], ("ok", 0))
        self.assertEqual(outcome((False, None))[:2], ("FAIL", 1))
        self.assertEqual(outcome((False, known))[:2], ("known", 0))
        self.assertEqual(outcome((False, known), (False, None))[:2], ("FAIL", 1))
        self.assertEqual(outcome((False, "never heard of"))[:2], ("FAIL", 1))

    def test_a_known_fault_that_no_longer_shows_fails_the_run(self):
        known = next(iter(report.KNOWN))
        _, code, said = outcome((True, known))
        self.assertEqual(code, 1)
        self.assertIn(f"KNOWN FAULT {known} NO LONGER SHOWS", said)
        # It shows elsewhere in the run.
        self.assertEqual(outcome((True, known), (False, known))[1], 0)

    def test_what_is_expected_is_an_operation_of_a_client_that_runs(self):
        self.assertLessEqual(set(battery.EXPECTED), set(battery.CLIENTS))
        self.assertEqual(set(battery.MEANS), set(battery.CLIENTS))


class Chosen(unittest.TestCase):
    def test_the_quick_set_has_a_kcl_of_both_generations_and_a_kpl(self):
        options = argparse.Namespace(quick=True, only=None, version=None)
        versions = {version for _, version in catalogue.chosen(options)}
        self.assertLessEqual({"2.7.2", "3.5.1", "1.1.1", "boto3"}, versions)

    def test_everything_has_each_version(self):
        options = argparse.Namespace(quick=False, only=None, version=None)
        versions = {version for _, version in catalogue.chosen(options)}
        self.assertEqual(versions, {*build.KCL, *build.KPL, *battery.CLIENTS})

    def test_what_is_missing_is_named(self):
        with mock.patch.dict(os.environ, PATH="/nowhere"), self.assertRaisesRegex(build.Missing, "no java here"):
            build.needs("java")


if __name__ == "__main__":
    unittest.main()
