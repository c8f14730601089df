"""A checkpoint whose record has left the stream. Retention is 24 hours at least, so it takes two runs.

`--expire-after` puts records and writes a state file; the stream stays. `run.py resume --state FILE`,
a day later, puts one record more and asks at the old positions, then deletes the stream.
"""
import json
import time
from datetime import UTC, datetime
from pathlib import Path

from hour.finding import Finding
from hour.owned import Owned
from hour.reading import iterator, page_facts, put

NAME = "expired"
RETENTION = 24 * 3600
AFTER = RETENTION + 1800  # retention trims at some granularity that nobody publishes
DAY_MS = 86_400_000
# Records of the first day, seconds apart: their disappearance shows the granularity.
SPREAD, APART = 60, 5
LOOKS, BETWEEN = 20, 15
# Pages that are followed from an old position: idle stretches are reported to take some 250.
CRAWL = 400

AT_OLD = ("0 records, a new iterator each time, MillisBehindLatest fixed at 86,400,000 for many minutes "
          "(reported: harlow/kinesis-consumer#125); some 250 empty pages (reported: qubole/kinesis-sql#87)")
FRESH = "records within 5 s (reported: harlow/kinesis-consumer#125)"
IDLE = "the same as the trimmed record (reported: harlow/kinesis-consumer#98)"
GRANULARITY = "not published; 0 (continuous) to minutes are handled"
QUESTIONS = [("AFTER_SEQUENCE_NUMBER of a record that left retention", AT_OLD),
             ("AT_SEQUENCE_NUMBER of a record that left retention", AT_OLD),
             ("TRIM_HORIZON of the same shard", FRESH),
             ("AFTER_SEQUENCE_NUMBER in a shard that was idle for longer than retention", IDLE),
             ("how old is the oldest readable record?", GRANULARITY)]


def plan(options):
    if not options.expire_after:
        return []
    return [("a stream of two shards that stays for 26 hours", 2 * 26 * 0.015)]


def run(owned, options):
    """The first day; on an emulator, and without --expire-after, every question says why it is open."""
    if not owned.account.real:
        return unmeasured("an emulator's retention, or its clock, is not AWS's")
    if not options.expire_after:
        return unmeasured("it takes a day: --expire-after, and `resume` on the next one")
    # The stream lives on after this process: its later hours are charged now.
    owned.account.meter.later("shard hours until `resume`", 2 * 25 * 0.015)
    stream = owned.stream("expire", 2)
    owned.keep.add(stream)
    began = time.time()
    account, sequences = owned.account, []
    idle = put(account, stream, b"idle 0", where=str(2**128 - 1))
    for number in range(SPREAD):
        answer = put(account, stream, b"old %d" % number)
        sequences.append((time.time(), answer["ShardId"], answer["SequenceNumber"]))
        time.sleep(APART)
    state = {"run": owned.run, "stream": stream, "region": account.region, "began": began,
             "idle": (idle["ShardId"], idle["SequenceNumber"]), "sequences": sequences}
    Path(options.state).write_text(json.dumps(state))
    when = datetime.fromtimestamp(sequences[0][0] + AFTER, UTC).isoformat(timespec="minutes")
    return unmeasured(f"begun; `run.py resume --state {options.state}` after {when}")


def unmeasured(why):
    return [Finding(NAME, question, expected).unmeasured(why) for question, expected in QUESTIONS]


def resume(account, options):
    """The second day. Returns an Owned that deletes the stream, and the findings."""
    state = json.loads(Path(options.state).read_text())
    owned = Owned(account)
    owned.run, owned.streams = state["run"], [state["stream"]]
    account.meter.add_shards(state["stream"], 2)
    ready = state["sequences"][0][0] + AFTER
    if time.time() < ready:
        owned.keep.add(state["stream"])
        left = (ready - time.time()) / 3600
        return owned, unmeasured(f"too early: {left:.1f} hours remain, the stream stays")
    stream, (_, shard, number) = state["stream"], state["sequences"][0]
    put(account, stream, b"new")
    idle_shard, idle_number = state["idle"]
    put(account, stream, b"new in the idle shard", where=str(2**128 - 1))
    after, at, horizon, idle, granularity = [Finding(NAME, *one) for one in QUESTIONS]
    crawled(account, after, stream, shard, "AFTER_SEQUENCE_NUMBER", number)
    crawled(account, at, stream, shard, "AT_SEQUENCE_NUMBER", number)
    facts, found, took = crawl(account, iterator(account, stream, shard, "TRIM_HORIZON"))
    horizon.judge(found and took <= 5, f"{len(facts)} pages, {took:.1f} s until a record: {found}", pages=facts[:5])
    crawled(account, idle, stream, idle_shard, "AFTER_SEQUENCE_NUMBER", idle_number)
    ages(account, granularity, stream, shard)
    return owned, [after, at, horizon, idle, granularity]


def crawl(account, position, pages=CRAWL):
    """Pages until one has records: their facts, whether one had, seconds. Five calls a second at most."""
    begun, facts = time.monotonic(), []
    while len(facts) < pages and position:
        page = account.kinesis.get_records(ShardIterator=position, Limit=100)
        facts.append(page_facts(page) | {"at": round(time.monotonic() - begun, 1)})
        if page["Records"]:
            return facts, True, time.monotonic() - begun
        position = page.get("NextShardIterator")
        time.sleep(0.25)
    return facts, False, time.monotonic() - begun


def crawled(account, finding, stream, shard, kind, number):
    position = iterator(account, stream, shard, kind, StartingSequenceNumber=number)
    facts, found, took = crawl(account, position)
    empty = [f for f in facts if not f["records"]]
    behind = sorted({f["millis_behind"] for f in empty}, key=str)
    stuck = bool(empty) and all(f["next"] for f in empty) and any(
        b is not None and abs(b - DAY_MS) < 60_000 for b in behind)
    finding.judge(stuck, f"{len(empty)} empty pages in {took:.0f} s, then {'a record' if found else 'none yet'}; "
                  f"MillisBehindLatest {behind[:2]}…{behind[-1:]}", pages=facts[:5] + facts[-5:])


def ages(account, finding, stream, shard):
    """The age of the first record from TRIM_HORIZON, again and again: steps show the granularity."""
    seen = []
    for _ in range(LOOKS):
        position, record = iterator(account, stream, shard, "TRIM_HORIZON"), None
        for _ in range(20):
            page = account.kinesis.get_records(ShardIterator=position, Limit=1)
            if page["Records"]:
                record = page["Records"][0]
                break
            position = page["NextShardIterator"]
            time.sleep(0.25)
        if record:
            seen.append(round(time.time() - record["ApproximateArrivalTimestamp"].timestamp() - RETENTION, 1))
        time.sleep(BETWEEN)
    told = f"{min(seen)} to {max(seen)} s beyond retention in {len(seen)} looks" if seen else "no record"
    finding.record(told, seconds_beyond_retention=seen)
