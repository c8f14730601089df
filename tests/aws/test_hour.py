#!/usr/bin/env python3
"""What the hour promises before it meets AWS: python3 tests/aws/test_hour.py

CATCHMENT_BIN adds the worker's own policy. test_services.py has what needs services to talk to.
"""
import ast
import json
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / ".ci"))

from lib import tools  # noqa: E402

CLIENTS = {"kinesis": "kinesis", "once": "kinesis", "dynamodb": "dynamodb", "s3": "s3", "sts": "sts"}
BINARY = os.environ.get("CATCHMENT_BIN")


def called():
    """`service.Operation` of every call of a client in the source, and of every raw request."""
    found = set()
    for path in [HERE / "run.py", *HERE.glob("hour/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            on = node.func.value
            name = on.attr if isinstance(on, ast.Attribute) else on.id if isinstance(on, ast.Name) else ""
            if name in CLIENTS:
                operation = "".join(word.capitalize() for word in node.func.attr.split("_"))
                found.add(f"{CLIENTS[name]}.{operation}")
    return found


def actions(policy):
    return {action for statement in policy["Statement"] for action in statement["Action"]}


class Policy(unittest.TestCase):
    def test_the_table_has_the_calls_of_the_source_and_no_other(self):
        from hour.calls import CALLS
        self.assertEqual(called(), set(CALLS))

    def test_the_policy_in_the_readme_is_the_table(self):
        from hour.calls import policy
        block = re.search(r"```json\n(\{.*?\n\})\n```", (HERE / "README.md").read_text(), re.S)
        self.assertEqual(json.loads(block[1]), policy())

    @unittest.skipUnless(BINARY, "needs CATCHMENT_BIN")
    def test_what_the_worker_and_verify_need_is_in_it_and_no_more(self):
        from hour.calls import CALLS, WORKER, policy
        printed = set()
        for role in ("worker", "operator"):
            done = subprocess.run(
                [BINARY, "iam-policy", "--role", role, "--stream", "s-1", "--bucket", "bucket", "--region",
                 "us-east-1", "--account", "000000000000", "--set", "stream.reader=fan-out"],
                capture_output=True, text=True, check=True)
            printed |= actions(json.loads(done.stdout))
        self.assertLessEqual(printed, actions(policy()))
        self.assertLessEqual(set(WORKER), printed)
        self.assertFalse(set(WORKER) & {action for action, _ in CALLS.values()})

    def test_an_operation_that_the_table_lacks_is_not_sent(self):
        from hour.account import Account, UnknownCall
        from hour.cost import Meter
        nowhere = dict.fromkeys(("kinesis", "dynamodb", "s3", "sts"), "http://127.0.0.1:9")
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        account = Account("endpoint", "us-east-1", nowhere, keys, Meter(1))
        with self.assertRaises(UnknownCall):
            account.kinesis.update_stream_mode(
                StreamARN="arn:aws:kinesis:us-east-1:000000000000:stream/x", StreamModeDetails={
                    "StreamMode": "ON_DEMAND"})


class Cost(unittest.TestCase):
    def test_begun_hours_count_and_the_budget_ends_the_run_before_it_is_passed(self):
        from hour.cost import Meter, OverBudget
        now = [0.0]
        meter = Meter(1.0, clock=lambda: now[0])
        meter.add_shards("a", 40)
        self.assertAlmostEqual(meter.spent(), 0.6)
        with self.assertRaises(OverBudget):
            meter.add_shards("b", 40)
        self.assertAlmostEqual(meter.spent(), 0.6)
        now[0] = 3601.0
        self.assertAlmostEqual(meter.spent(), 1.2)
        with self.assertRaises(OverBudget):
            meter.request("kinesis", "GetRecords")
        meter.closing = True
        meter.request("kinesis", "DeleteStream")

    def test_what_has_ended_costs_no_more(self):
        from hour.cost import Meter
        now = [0.0]
        meter = Meter(9.0, clock=lambda: now[0])
        meter.add_consumer("a", 200)
        now[0] = 360.0
        meter.end_stream("a")
        now[0] = 9999.0
        self.assertAlmostEqual(meter.spent(), 200 * 0.1 * 0.015)

    def test_the_usual_plan_is_within_the_usual_budget(self):
        done = run("--report", os.devnull)
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertIn("nothing was created: --yes goes on", done.stdout)
        total = float(re.search(r"in all +\$([\d.]+); stops before \$5\.00", done.stdout)[1])
        self.assertLess(total, 5.0)
        self.assertGreater(total, 200 * 0.015)

    def test_a_plan_over_the_budget_is_refused_even_with_yes(self):
        done = run("--yes", "--budget", "1")
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertIn("over the budget", done.stdout)


def run(*arguments, **more):
    """The script without credentials that anybody would take."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "CATCHMENT_"))} | {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"} | more
    return subprocess.run([sys.executable, str(HERE / "run.py"), *arguments], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)


class Counting(unittest.TestCase):
    def test_what_is_missing_twice_or_from_nowhere(self):
        from hour.acceptance import compared
        told = compared({"1.0", "2.1", "3.0"}, {"2.0", "4.0"}, ["1.0", "3.0", "3.0", "4.0", "9.0"])
        self.assertEqual(told, {"missing": ["2.1"], "twice": ["3.0"], "never put": ["9.0"]})
        self.assertFalse(any(compared({"1.0"}, {"2.0"}, ["1.0"]).values()))

    def test_a_record_whose_call_failed_gets_another_id(self):
        from botocore.exceptions import ReadTimeoutError

        from hour.cost import Meter
        from hour.load import Load

        class Kinesis:
            """Loses the first answer, refuses one record of the second."""
            calls = 0

            def put_records(self, StreamName, Records):
                self.calls += 1
                if self.calls == 1:
                    raise ReadTimeoutError(endpoint_url="x")
                refused = {"ErrorCode": "ProvisionedThroughputExceededException"}
                return {"Records": [refused if self.calls == 2 and at == 0 else {"ShardId": "s"}
                                    for at in range(len(Records))]}

        class Account:
            once, meter = Kinesis(), Meter(9)
        load = Load(Account(), "stream")
        load.run(20, 0.2)
        self.assertTrue(load.unclear)
        self.assertEqual({one.split(".")[0] for one in load.stored}, set(map(str, range(load.next))))
        self.assertEqual(len(load.stored), load.next)
        self.assertFalse(load.unclear & set(load.stored))
        self.assertIn("0.2", load.stored)  # lost once, refused once


class Names(unittest.TestCase):
    def test_only_what_a_run_can_have_created_is_cleaned_up(self):
        from hour.owned import OURS
        for name in ("catchment-hour-0123abcd-load", "catchment-hour-0123abcd-by-fan-out"):
            self.assertTrue(OURS.match(name), name)
        for name in ("catchment-hour", "catchment-hour-production", "catchment-hour-0123abcd_x", "catchment",
                     "my-catchment-hour-0123abcd-load", "catchment-hour-0123abcdef-load"):
            self.assertFalse(OURS.match(name), name)

    def test_whatever_would_reach_aws_is_real(self):
        from hour.account import is_real
        local = dict.fromkeys(("kinesis", "dynamodb", "s3"), "http://127.0.0.1:4566")
        self.assertFalse(is_real(local))
        self.assertTrue(is_real({}))
        self.assertTrue(is_real(local | {"s3": None}))
        self.assertTrue(is_real(local | {"kinesis": "https://kinesis.us-east-1.amazonaws.com"}))

    def test_both_environments_have_the_same_boto3(self):
        ours = set((HERE / "requirements.txt").read_text().splitlines()[1:])
        self.assertLessEqual(ours, set(tools.REQUIREMENTS.read_text().splitlines()))


class Wire(unittest.TestCase):
    def test_cbor(self):
        from hour import cbor
        asked = {"ShardIterator": "x" * 300, "Limit": 10, "Data": b"\0\xff", "Small": 23, "Large": 2**40}
        self.assertEqual(cbor.decode(cbor.encode(asked)), asked)
        for text, value in (("bf61610161629f02ffff", {"a": 1, "b": [2]}), ("fb3ff8000000000000", 1.5), ("f6", None),
                            ("c11b000001a22140324b", (1, 0x1A22140324B)), ("5f42010243030405ff", b"\1\2\3\4\5"),
                            ("3903e7", -1000), ("f97c00", float("inf")), ("820102", [1, 2])):
            self.assertEqual(cbor.decode(bytes.fromhex(text)), value, text)
        for text in ("6261", "8201", "a161", "0000", "1c"):
            with self.assertRaises((ValueError, IndexError)):
                cbor.decode(bytes.fromhex(text))

    def test_settings_of_a_connection(self):
        import io

        from hour.wire import allowed
        told = bytes.fromhex("00000c040000000000" "000300000005" "000400100000"
                             "000004080000000000" "000f0001" "000000040100000000")
        self.assertEqual(allowed(io.BytesIO(told).read), {
            "MAX_CONCURRENT_STREAMS": 5, "INITIAL_WINDOW_SIZE": 1 << 20, "connection window": (1 << 20)})
        self.assertEqual(allowed(io.BytesIO(b"").read), {})


if __name__ == "__main__":
    tools.enter(__file__, HERE / "requirements.txt")
    # The binary refuses variables of that name that are none of its keys.
    BINARY = str(Path(os.environ.pop("CATCHMENT_BIN")).resolve()) if BINARY else None
    unittest.main()
