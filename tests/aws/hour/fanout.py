"""One worker, one consumer, many shards: how long until all are subscribed to, and until all deliver."""
import shutil
import tempfile
import time

from hour.finding import Finding, requirement
from hour.owned import waited
from hour.workers import Application

NAME = "fan-out"
MINUTES = 6  # a subscription lasts five: each is renewed once


def count(options):
    return options.fan_out_shards


def plan(options):
    shards = count(options)
    return [(f"a stream of {shards} shards for an hour begun", shards * 0.015),
            (f"enhanced fan-out of it for {MINUTES + 4} minutes", shards * 0.015 * (MINUTES + 4) / 60),
            ("a worker", MINUTES * 60 * (20 * 0.625e-6 + 4 * 0.005e-3))]


def put_each(account, stream, number):
    """A record into every shard, by its hash key; returns their ids."""
    shards, more = [], {"StreamName": stream}
    while True:
        page = account.kinesis.list_shards(**more)
        shards += page["Shards"]
        if not page.get("NextToken"):
            break
        more = {"NextToken": page["NextToken"]}
    ids = [f"{number}-{s['ShardId']}" for s in shards]
    for one, shard in zip(ids, shards, strict=True):
        account.meter.put(1, 50)
        account.kinesis.put_record(StreamName=stream, Data=f'{{"id":"{one}"}}'.encode(), PartitionKey="k",
                                   ExplicitHashKey=shard["HashKeyRange"]["StartingHashKey"])
    return set(ids)


def run(owned, options):
    account, shards = owned.account, count(options)
    subscribed = Finding(NAME, f"one worker subscribes to {shards} shards",
                         "all, whatever the streams of a connection")
    if not options.binary:
        return [subscribed.unmeasured("set CATCHMENT_BIN to the worker's binary")]
    if account.real:
        limits = account.kinesis.describe_limits()
        if limits["ShardLimit"] - limits["OpenShardCount"] < shards:
            return [subscribed.unmeasured(f"the account's quota: {limits['OpenShardCount']} of "
                                          f"{limits['ShardLimit']} shards in use")]
    stream, bucket = owned.stream("wide", shards), owned.bucket("wide")
    home = tempfile.mkdtemp(prefix="catchment-hour-")
    application = Application(owned, options.binary, home, "wide", stream, bucket, "fan-out")
    account.meter.add_consumer(stream, shards)
    try:
        begun = time.monotonic()
        application.start()

        def opened():
            return application.metric('catchment_subscriptions_total{result="opened"')
        try:
            waited("all are subscribed to", lambda: opened() >= shards, 300)
        except TimeoutError:
            subscribed.failed = True
        took, reached = time.monotonic() - begun, opened()
        results = application.series("catchment_subscriptions_total") | application.series("catchment_call_failures")
        told = f"{reached:.0f} subscribed {took:.1f} s after the start"
        if account.real:
            subscribed.judge(reached >= shards, told, results=results)
        else:
            subscribed.unmeasured("an emulator over HTTP/1.1: the calls were made, the connection's limits not met",
                                  told, results=results)
        found = [subscribed, delivered(application, account, stream, 0, shards)]
        if account.real:
            # Over the end of every subscription, which the service closes after five minutes.
            time.sleep(max(0, MINUTES * 60 - (time.monotonic() - begun)))
            found.append(delivered(application, account, stream, 1, shards))
        else:
            found.append(Finding(NAME, "each subscription is renewed after five minutes", "nothing is lost")
                         .unmeasured("short form"))
        ended = application.drain()
        return [*found, requirement(NAME, "the worker drains and ends with 0", ended == [0], ended)]
    finally:
        application.kill()
        shutil.rmtree(home, ignore_errors=True)


def delivered(application, account, stream, number, shards):
    begun = time.monotonic()
    want = put_each(account, stream, number)
    put = time.monotonic() - begun
    try:
        waited("all are archived", lambda: want <= set(application.archived()), 120)
        late = ""
    except TimeoutError:
        late = f", {len(want - set(application.archived()))} missing"
    took = time.monotonic() - begun
    question = f"a record in each of {shards} shards, " + ("at once" if number == 0 else "after the renewals")
    return requirement(NAME, question + ", is delivered", not late,
                       f"put in {put:.1f} s, archived after {took:.1f} s{late}", expected="all",
                       subscriptions=application.series("catchment_subscriptions_total"))
