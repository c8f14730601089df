"""Reading one shard: an idle one, the horizon, and times. One stream of two shards; only one has records."""
import time
from datetime import UTC, datetime, timedelta

from botocore.exceptions import ClientError

from hour.finding import Finding

NAME = "reading"
LOW, HIGH = "0", str(2**128 - 1)  # explicit hash keys of the first and the last shard


def plan(options):
    return [("a stream of two shards, some hundred records", 0.03)]


def iterator(account, stream, shard, kind, **where):
    return account.kinesis.get_shard_iterator(
        StreamName=stream, ShardId=shard, ShardIteratorType=kind, **where)["ShardIterator"]


def page_facts(page):
    return {"records": len(page["Records"]), "millis_behind": page.get("MillisBehindLatest"),
            "next": bool(page.get("NextShardIterator"))}


def pages(account, position, count, pause=0.25, until=None):
    """Up to `count` pages from an iterator: their facts and records. Ends when `until(page)` is true."""
    facts, records = [], []
    for _ in range(count):
        page = account.kinesis.get_records(ShardIterator=position, Limit=1000)
        facts.append(page_facts(page))
        records += page["Records"]
        position = page.get("NextShardIterator")
        if not position or (until and until(page)):
            break
        time.sleep(pause)
    return facts, records


def put(account, stream, data, where=LOW):
    account.meter.put(1, len(data))
    return account.kinesis.put_record(StreamName=stream, Data=data, PartitionKey="k", ExplicitHashKey=where)


def run(owned, options):
    stream = owned.stream("look", 2)
    shards = sorted(owned.account.kinesis.list_shards(StreamName=stream)["Shards"],
                    key=lambda s: int(s["HashKeyRange"]["StartingHashKey"]))
    first, idle = shards[0]["ShardId"], shards[1]["ShardId"]
    return [*idle_shard(owned.account, stream, idle, options), *tip(owned.account, stream, first, options),
            *times(owned.account, stream, first), *horizon(owned.account, stream, first)]


def idle_shard(account, stream, shard, options):
    found = []
    for kind in ("TRIM_HORIZON", "LATEST"):
        facts, _ = pages(account, iterator(account, stream, shard, kind), options.pages)
        behind = sorted({f["millis_behind"] for f in facts}, key=str)
        good = len(facts) == options.pages and all(f["next"] for f in facts) and behind == [0]
        found.append(Finding(
            NAME, f"an open shard without records, from {kind}", "empty pages, each with a next iterator and "
            "MillisBehindLatest 0; answers without NextShardIterator are reported of open shards").judge(
            good, f"{len(facts)} pages, MillisBehindLatest {behind}, "
            f"{sum(not f['next'] for f in facts)} without a next iterator", pages=facts[:3] + facts[-1:]))
    return found


def tip(account, stream, shard, options):
    """Is a record that was acknowledged seen at once by a fresh iterator?"""
    lies, seen_after, facts = 0, [], []
    for number in range(options.pages):
        sequence = put(account, stream, b"tip %d" % number)["SequenceNumber"]
        position = iterator(account, stream, shard, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=sequence)
        told, records = pages(account, position, 40, until=lambda page: page["Records"])
        empty = [f for f in told if not f["records"]]
        lies += sum(f["millis_behind"] == 0 for f in empty)
        seen_after.append(len(told) if records else None)
        facts += empty
        time.sleep(0.25 if account.real else 0)  # five iterators a second and shard
    finding = Finding(NAME, "is an acknowledged record in the first page from its own number on?",
                      "not always: an empty page with MillisBehindLatest 0 although records exist is reported")
    seen = f"{lies} such pages for {options.pages} records; pages until seen {sorted(set(map(str, seen_after)))}"
    if None in seen_after:
        return [finding.judge(False, seen + ": None is a record that 40 pages did not show", pages=facts[:5])]
    if lies:
        return [finding.judge(True, seen, pages=facts[:5])]
    return [finding.unmeasured("it did not occur, which disproves nothing", seen)]


def times(account, stream, shard):
    """AT_TIMESTAMP at a record's own time, a millisecond beside it, before the stream, and in the future."""
    put(account, stream, b"before")
    time.sleep(0.05)
    sequence = put(account, stream, b"the one")["SequenceNumber"]
    time.sleep(0.05)
    put(account, stream, b"after")
    position = iterator(account, stream, shard, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=sequence)
    _, records = pages(account, position, 40, until=lambda page: page["Records"])
    when = records[0]["ApproximateArrivalTimestamp"]
    oldest = pages(account, iterator(account, stream, shard, "TRIM_HORIZON"), 40,
                   until=lambda page: page["Records"])[1][0]["Data"]

    def first_from(moment):
        position = iterator(account, stream, shard, "AT_TIMESTAMP", Timestamp=moment)
        found = pages(account, position, 40, until=lambda page: page["Records"])[1]
        return found[0]["Data"] if found else None
    found = []
    for question, moment, expected in (
            ("AT_TIMESTAMP of a record's own arrival", when, b"the one"),
            ("AT_TIMESTAMP a millisecond before it", when - timedelta(milliseconds=1), b"the one"),
            ("AT_TIMESTAMP a millisecond after it", when + timedelta(milliseconds=1), b"after"),
            ("AT_TIMESTAMP before the stream existed", when - timedelta(hours=2), oldest)):
        seen = first_from(moment)
        found.append(Finding(NAME, question, f"`{expected.decode()}` (documented)").judge(
            seen == expected, f"`{seen.decode() if seen else None}`", arrival=str(when), asked=str(moment)))
    future = Finding(NAME, "AT_TIMESTAMP an hour in the future", "nothing documented")
    try:
        facts, _ = pages(account, iterator(account, stream, shard, "AT_TIMESTAMP",
                                           Timestamp=datetime.now(UTC) + timedelta(hours=1)), 3)
        future.record(f"an iterator; its pages: {facts}", raw=account.raw())
    except ClientError as problem:
        future.record(problem.response["Error"]["Code"], raw=account.raw())
    return [*found, future]


def horizon(account, stream, shard):
    """TRIM_HORIZON and the first record's number, while nothing has left the stream."""
    position = iterator(account, stream, shard, "TRIM_HORIZON")
    _, records = pages(account, position, 40, until=lambda page: page["Records"])
    number = records[0]["SequenceNumber"]
    at = iterator(account, stream, shard, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=number)
    after = iterator(account, stream, shard, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=number)
    same = pages(account, at, 40, until=lambda page: page["Records"])[1][0]["SequenceNumber"]
    behind = pages(account, after, 40, until=lambda page: page["Records"])[1][0]["SequenceNumber"]
    good = same == number and int(behind) > int(number)
    return [Finding(NAME, "the horizon of a young stream: TRIM_HORIZON, AT and AFTER its first record",
                    "the first, the first, the second (documented)").judge(
        good, "as said" if good else f"{number}, {same}, {behind}", sequence_numbers=[number, same, behind])]
