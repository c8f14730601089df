"""Harm done to a running fleet, and the alerts that must fire for it."""
import json
import secrets
import signal

from dashboards.proxy import refuse
from dashboards.scene import SHARDS, wait_for
from lib.checks import check


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
        """Long ago somebody read so far; what was there is gone. One row is as the KCL leaves it, which says
        nothing of that, and one calls its open shard finished."""
        names = ("CatchmentGap", "CatchmentPossibleGap", "CatchmentParked", "CatchmentOpenEnds")
        self.quiet(*names)
        self.scene.second.stop()
        rows = self.scene.aws("dynamodb", "Scan", {"TableName": "second"})["Items"]
        reached = {row["checkpoint"]["S"] for row in rows}
        of_the_kcl, finished, *others = sorted(rows, key=lambda row: row["leaseKey"]["S"])

        def update(row, expression, **values):
            self.scene.aws("dynamodb", "UpdateItem", {
                "TableName": "second", "Key": {"leaseKey": row["leaseKey"]}, "UpdateExpression": expression}
                | ({"ExpressionAttributeValues": values} if values else {}))
        update(of_the_kcl, "REMOVE " + ", ".join(name for name in of_the_kcl if name.startswith("catchment_")))
        update(finished, "SET checkpoint = :v", **{":v": {"S": "SHARD_END"}})
        for row in others:
            update(row, "SET catchment_read_through_ms = :v", **{":v": {"N": "1600000000000"}})

        def edit(operation, body):
            if operation != "GetRecords":
                return body
            reply = json.loads(body)
            if "Records" in reply:
                reply["Records"] = [r for r in reply["Records"] if r["SequenceNumber"] not in reached]
            return json.dumps(reply).encode()
        self.scene.proxies["second"].edit = edit
        self.scene.second = self.scene.run("second", "second", "second/")
        self.expect("records left retention, or may have; an open shard is finished", *names)

    def nobody(self):
        self.scene.second.stop()
        self.expect("the last worker of an application stops", "CatchmentNoWorkers")
