"""Two applications on one stream under load, one polling and one by enhanced fan-out.

While records come in, a shard is split, two are merged, and a worker of each application is killed; then
all are told to stop. Every record must be in exactly one object of each application.
"""
import collections
import shutil
import signal
import tempfile
import threading

from hour.finding import DIFFERENT, Finding, requirement
from hour.load import Load
from hour.owned import waited
from hour.workers import Application

NAME = "acceptance"


def shards(options):
    """At 1,000 records a second and shard, with room for keys that are spread unevenly."""
    return max(2, -(-options.rate * 3 // 2 // 1000))


def plan(options):
    count, minutes = shards(options) + 3, 5 + options.seconds / 60
    records = options.rate * options.seconds
    return [(f"a stream of {count - 3} shards, split and merged", count * 0.015),
            (f"enhanced fan-out of it for {minutes:.0f} minutes", count * 0.015 * minutes / 60),
            (f"{records} records put, and pushed once", records * (0.014e-6 + 250e-9 * 0.013)),
            ("four workers: lease tables, objects", 4 * minutes * 60 * (20 * 0.625e-6 + 4 * 0.005e-3))]


def open_shards(account, stream):
    """Shards without children, by hash key."""
    found = account.kinesis.list_shards(StreamName=stream)["Shards"]
    parents = {s.get(k) for s in found for k in ("ParentShardId", "AdjacentParentShardId")}
    return sorted((s for s in found if s["ShardId"] not in parents),
                  key=lambda s: int(s["HashKeyRange"]["StartingHashKey"]))


def split(owned, stream):
    owned.active(stream)
    shard = open_shards(owned.account, stream)[0]
    low, high = (int(shard["HashKeyRange"][k]) for k in ("StartingHashKey", "EndingHashKey"))
    owned.account.meter.add_shards(stream, 2)
    owned.account.kinesis.split_shard(StreamName=stream, ShardToSplit=shard["ShardId"],
                                      NewStartingHashKey=str((low + high) // 2))


def merge(owned, stream):
    owned.active(stream)
    first, second = open_shards(owned.account, stream)[-2:]
    owned.account.meter.add_shards(stream, 1)
    owned.account.kinesis.merge_shards(StreamName=stream, ShardToMerge=first["ShardId"],
                                       AdjacentShardToMerge=second["ShardId"])


class Aside:
    """Reshards wait for the stream: they happen beside the load, one after the other."""

    def __init__(self):
        self.threads, self.problems = [], []

    def begin(self, action, *arguments):
        before = self.threads[-1] if self.threads else None

        def act():
            if before:
                before.join()
            try:
                action(*arguments)
            except Exception as problem:  # told by the finding
                self.problems.append(f"{action.__name__}: {problem}")
        self.threads.append(threading.Thread(target=act, daemon=True))
        self.threads[-1].start()

    def join(self):
        for thread in self.threads:
            thread.join(300)
        return self.problems


def run(owned, options):
    if not options.binary:
        return [Finding(NAME, "every record exactly once, through reshards, a kill and a stop",
                        "yes").unmeasured("set CATCHMENT_BIN to the worker's binary")]
    if owned.account.target != "emulator":
        return stage(owned, options, "load", ["polling", "fan-out"])
    # kinesis-local never says over a subscription that a shard has ended, as AWS does: nobody would
    # ever read its children.
    return [*stage(owned, options, "polled", ["polling"]), *stage(owned, options, "pushed", ["fan-out"], False),
            Finding(NAME, "fan-out: a subscribed shard is split or merged", "its children are read").unmeasured(
                "kinesis-local never tells a subscriber that its shard has ended")]


def stage(owned, options, name, readers, reshard=True):
    """One stream under load, with an application for each of the readers."""
    account, home = owned.account, tempfile.mkdtemp(prefix="catchment-hour-")
    stream, bucket = owned.stream(name, shards(options)), owned.bucket(f"of-{name}")
    more = [] if account.real else ["lease.failover=4s", "lease.shard_sync=5s"]
    applications = [Application(owned, options.binary, home, f"by-{reader}", stream, bucket, reader, more)
                    for reader in readers]
    load, aside = Load(account, stream), Aside()
    try:
        if "fan-out" in readers:
            account.meter.add_consumer(stream, shards(options) + 3)
        for application in applications:
            application.start()
            application.start()
        opened = 'catchment_subscriptions_total{result="opened"'
        waited("the shards are subscribed to", lambda: "fan-out" not in readers or
               applications[-1].metric(opened) >= shards(options), 180)
        victims = [(application, min(application.running)) for application in applications]

        def kill():
            for application, number in victims:
                application.end([number], signal.SIGKILL, 10)
                application.start()
        length = options.seconds
        load.run(options.rate, length, [
            (length * 0.25, lambda: reshard and aside.begin(split, owned, stream)),
            (length * 0.5, kill),
            (length * 0.6, lambda: reshard and aside.begin(merge, owned, stream))])
        return report(owned, options, load, applications, aside.join() if reshard else None)
    finally:
        for application in applications:
            application.kill()
        shutil.rmtree(home, ignore_errors=True)


def report(owned, options, load, applications, problems):
    facts = load.facts()
    rate = Finding(NAME, f"{options.rate} records/s for {options.seconds} s into {shards(options)} shards",
                   "accepted: 1,000 records/s and shard (documented)")
    reached = facts["per_second"] >= 0.95 * options.rate
    told = (f"{facts['records']} records, {facts['per_second']}/s, refusals {facts['refusals'] or 'none'}, "
            f"p50 {facts['call_ms_p50']} ms, p99 {facts['call_ms_p99']} ms a call")
    found = [rate.judge(reached, told, **facts) if owned.account.real else
             rate.unmeasured("an emulator's rate is that of this machine", told, **facts)]
    if problems is not None:
        listed = owned.account.kinesis.list_shards(StreamName=load.stream)["Shards"]
        found.append(requirement(
            NAME, "a shard is split and two are merged under load", not problems, "; ".join(problems) or "yes",
            shards=[(s["ShardId"], s.get("ParentShardId"), s.get("AdjacentParentShardId")) for s in listed]))
    for application in applications:
        found += judged(application, load)
        if found[-1].verdict == DIFFERENT or any(f.failed for f in found):
            found[-1].raw["logs"] = application.tail()
    return found


def compared(stored, unclear, archived):
    """What is wrong with the ids in objects. Those of calls without an answer may be there once, or not."""
    seen = collections.Counter(archived)
    return {"missing": sorted(stored - set(seen)), "twice": sorted(one for one, times in seen.items() if times > 1),
            "never put": sorted(set(seen) - stored - unclear)}


def judged(application, load):
    """Waits for the records, stops the workers, counts, and asks `catchment verify`."""
    name, want = application.reader, set(load.stored)
    try:
        waited("everything is archived", lambda: want <= set(application.archived()), 240, 2.0)
    except TimeoutError:
        pass  # The count below says what is missing.
    events = application.metric('catchment_fan_out_events_total{result="records"')
    ended = application.drain()
    found = [requirement(NAME, f"{name}: workers told to stop drain and end with 0", set(ended) == {0}, ended)]
    if application.reader == "fan-out":
        found.append(requirement(NAME, "fan-out: records came by subscription", events > 0,
                                 f"{events:.0f} events of the workers that were not killed"))
        application.account.meter.pushed(len(load.stored) * load.size)
    archived, letters = application.archived(), application.dead_letters()
    wrong = compared(want, load.unclear, archived) | {"dead letters": letters}
    found.append(requirement(
        NAME, f"{name}: every record in exactly one object, one of two workers killed", not any(wrong.values()),
        f"{len(want)} put, {len(archived)} archived in {len(application.cache)} objects; "
        + ", ".join(f"{len(ids)} {what}" for what, ids in wrong.items()),
        **{what.replace(" ", "_"): ids[:20] for what, ids in wrong.items()}))
    code, told = application.verify()
    found.append(requirement(NAME, f"{name}: catchment verify finds it whole", code == 0, f"exit code {code}",
                             printed=told))
    return found
