"""One subscription to an idle shard, from its begin to its end: what comes while nothing happens."""
import threading
import time

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from hour.finding import Finding
from hour.owned import waited
from hour.reading import put

NAME = "subscription"
LENGTH = 300  # seconds, as documented


def plan(options):
    return [("a stream of one shard with a consumer for ten minutes", 0.015 + 0.015 / 6)]


def run(owned, options):
    account, stream = owned.account, owned.stream("pushed-to", 1)
    arn = account.kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
    account.meter.add_consumer(stream, 1)
    consumer = account.kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="hour")["Consumer"]["ConsumerARN"]
    waited("the consumer is active", lambda: account.kinesis.describe_stream_consumer(
        ConsumerARN=consumer)["ConsumerDescription"]["ConsumerStatus"] == "ACTIVE")
    shard = account.kinesis.list_shards(StreamName=stream)["Shards"][0]["ShardId"]

    def subscribe():
        return account.once.subscribe_to_shard(ConsumerARN=consumer, ShardId=shard,
                                               StartingPosition={"Type": "LATEST"})
    begun, events, ended = time.monotonic(), [], []
    try:
        opened = subscribe()
    except ResponseParserError as problem:
        first = Finding(NAME, "a subscription begins with an initial response", "yes (documented)")
        return [first.judge(False, f"{problem}: boto3 refuses it; the rest cannot be asked")]
    reader = threading.Thread(target=read, args=(opened["EventStream"], begun, events, ended), daemon=True)
    reader.start()
    second = Finding(NAME, "a second subscription within five seconds", "ResourceInUseException (documented)")
    try:
        again = subscribe()
        again["EventStream"].close()
        second.judge(False, "accepted")
    except ClientError as problem:
        error = problem.response["Error"]
        second.judge(error["Code"] == "ResourceInUseException", error["Code"], sentence=error["Message"])
    reader.join(20 if account.real else 6)
    quiet = list(events)
    sent = time.monotonic() - begun
    put(account, stream, b"pushed")
    if account.real:
        reader.join(LENGTH + 60)
    else:
        reader.join(4)
        opened["EventStream"].close()
    return [second, idle(account, quiet), pushed(account, events, sent), end(account, events, ended)]


def read(stream, begun, events, ended):
    """Keeps of each event when it came, and everything but the data."""
    try:
        for event in stream:
            body = event.get("SubscribeToShardEvent")
            if body is None:
                events.append({"at": time.monotonic() - begun, "event": str(event)})
                continue
            records = [{"bytes": len(r["Data"]), "number": r["SequenceNumber"]} for r in body.get("Records") or []]
            events.append({"at": round(time.monotonic() - begun, 2), **body, "Records": records})
        ended.append((time.monotonic() - begun, "closed"))
    except (BotoCoreError, ClientError, OSError, ValueError, AttributeError) as problem:
        ended.append((time.monotonic() - begun, f"{type(problem).__name__}: {problem}"))


def idle(account, events):
    finding = Finding(NAME, "events of an idle shard", "events without records, whose ContinuationSequenceNumber moves")
    numbers = [e.get("ContinuationSequenceNumber") for e in events]
    told = (f"{len(events)} events at {[round(e['at'], 1) for e in events]} s, {len(set(numbers))} different "
            f"numbers, fields {sorted({name for e in events for name in e} - {'at'})}")
    if len(events) < 2:
        return finding.unmeasured("fewer than two events came", told, events=events)
    return finding.judge(len(set(numbers)) > 1, told, events=events)


def pushed(account, events, sent):
    finding = Finding(NAME, "how late is a pushed record?", "typically 70 ms (documented)")
    came = [e["at"] for e in events if e.get("Records")]
    if not came:
        return finding.judge(False, "it did not come", events=events[-3:])
    told = f"{(came[0] - sent) * 1000:.0f} ms after the call of its PutRecord"
    if not account.real:
        return finding.unmeasured("an emulator's time is that of this machine", told)
    return finding.record(told)


def end(account, events, ended):
    finding = Finding(NAME, "the end of a subscription", "closed after five minutes (documented)")
    told = "; ".join(f"{how} after {at:.0f} s" for at, how in ended) or "still open"
    if not account.real:
        return finding.unmeasured("short form")
    return finding.judge(bool(ended) and abs(ended[0][0] - LENGTH) < 15, told, last=events[-2:])
