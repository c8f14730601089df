"""The shape of answers that have nothing to say, and the codes of refusals."""
import json
import time

from botocore.exceptions import ClientError

from hour.finding import Finding
from hour.reading import LOW, iterator

NAME = "answers"


def plan(options):
    return [("a stream of one shard, a few thousand records, a bucket", 0.02)]


def run(owned, options):
    stream, bucket = owned.stream("answers", 1), owned.bucket("empty")
    return [*empty(owned, stream, bucket), *missing(owned, stream), *throttles(owned, stream)]


def outputs(client, operation):
    """The output's members that the service's own model requires, and all of them."""
    shape = client.meta.service_model.operation_model(operation).output_shape
    return (list(shape.required_members), list(shape.members)) if shape else ([], [])


def empty(owned, stream, bucket):
    """Answers without content: which fields are absent, null or empty."""
    account, found = owned.account, []
    summary = account.kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    shard = account.kinesis.list_shards(StreamName=stream)["Shards"][0]["ShardId"]
    position = iterator(account, stream, shard, "LATEST")
    kinesis = [
        ("GetRecords", "at the tip", lambda: account.kinesis.get_records(ShardIterator=position)),
        ("ListShards", "without another page", lambda: account.kinesis.list_shards(StreamName=stream)),
        ("ListShards", "behind the last shard", lambda: account.kinesis.list_shards(
            StreamName=stream, ExclusiveStartShardId=shard)),
        ("ListStreamConsumers", "of none", lambda: account.kinesis.list_stream_consumers(
            StreamARN=summary["StreamARN"])),
        ("DescribeStreamSummary", "of a new stream", lambda: account.kinesis.describe_stream_summary(
            StreamName=stream)),
        ("PutRecords", "without a refusal", lambda: account.kinesis.put_records(
            StreamName=stream, Records=[{"Data": b"one", "PartitionKey": "k"}])),
        ("AddTagsToStream", "which has no output", lambda: account.kinesis.add_tags_to_stream(
            StreamName=stream, Tags={"a": "b"})),
    ]
    for operation, when, ask in kinesis:
        ask()
        found.append(shaped(account, account.kinesis, operation, when))
    page = account.s3.list_objects_v2(Bucket=bucket)
    found.append(Finding(NAME, "s3 ListObjectsV2 of an empty bucket", "no Contents, KeyCount 0").judge(
        "Contents" not in page and page.get("KeyCount") == 0,
        f"Contents {page.get('Contents', 'absent')}, KeyCount {page.get('KeyCount', 'absent')}", raw=account.raw()))
    return found


def shaped(account, client, operation, when):
    raw = account.raw()
    required, members = outputs(client, operation)
    finding = Finding(NAME, f"kinesis {operation} {when}",
                      f"required by the service's model: {', '.join(required) or 'no field'}")
    body = json.loads(raw["body"]) if raw["body"] else {}
    null = [name for name in members if name in body and body[name] is None]
    absent = [name for name in members if name not in body]
    hollow = [name for name in members if body.get(name) in ([], {}, "")]
    lost = [name for name in required if body.get(name) is None]
    told = f"body of {len(raw['body'])} bytes; absent {absent}, null {null}, empty {hollow}"
    if operation == "PutRecords":
        told += f"; of an entry: {body['Records'][0]}"
    return finding.judge(not lost, told, raw=raw)


def missing(owned, stream):
    """What is asked of a table that is not there, and of positions that are none."""
    account = owned.account
    questions = [
        ("dynamodb GetItem of no table", "ResourceNotFoundException", lambda: account.dynamodb.get_item(
            TableName=owned.name("absent"), Key={"leaseKey": {"S": "x"}})),
        ("kinesis DescribeStreamSummary of no stream", "ResourceNotFoundException",
         lambda: account.once.describe_stream_summary(StreamName=owned.name("absent"))),
        ("kinesis GetShardIterator of no shard", "ResourceNotFoundException",
         lambda: iterator(account, stream, "shardId-000000000099", "LATEST")),
        ("kinesis GetRecords with no iterator of its own", "InvalidArgumentException",
         lambda: account.once.get_records(ShardIterator="AAAA" * 50)),
        ("kinesis SplitShard at the edge", "InvalidArgumentException", lambda: account.once.split_shard(
            StreamName=stream, ShardToSplit="shardId-000000000000", NewStartingHashKey=LOW)),
    ]
    found = []
    for question, expected, ask in questions:
        finding = Finding(NAME, question, f"{expected} (documented)")
        try:
            ask()
            found.append(finding.judge(False, "accepted", raw=account.raw()))
        except ClientError as problem:
            code = problem.response["Error"]["Code"]
            found.append(finding.judge(code == expected, code, raw=account.raw()))
    return found


def throttles(owned, stream):
    """More than is allowed, without retries: the codes, and the sentences beside them."""
    account, once = owned.account, owned.account.once
    shard = account.kinesis.list_shards(StreamName=stream)["Shards"][0]["ShardId"]
    position = iterator(account, stream, shard, "TRIM_HORIZON")
    throughput, limit = "ProvisionedThroughputExceededException", "LimitExceededException"
    storms = [
        ("kinesis GetRecords, beyond 5 calls a second", throughput, 40,
         lambda: once.get_records(ShardIterator=position, Limit=1)),
        ("kinesis GetShardIterator, beyond 5 calls a second", throughput, 40,
         lambda: once.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType="LATEST")),
        ("kinesis DescribeStreamSummary, beyond 20 calls a second", limit, 80,
         lambda: once.describe_stream_summary(StreamName=stream)),
        ("kinesis PutRecords, beyond 1,000 records a second, of an entry", throughput, 8,
         lambda: entries(account, stream)),
    ]
    return [storm(account, *one) for one in storms]


def entries(account, stream):
    account.meter.put(500, 10)
    return account.once.put_records(StreamName=stream, Records=[{"Data": b"0123456789", "PartitionKey": "k"}] * 500)


def storm(account, question, expected, times, ask):
    finding, codes, sentence, begun = Finding(NAME, question, f"{expected} (documented)"), {}, "", time.monotonic()
    for _ in range(times if account.real else 2):
        refused = []
        try:
            answer = ask()
            refused = [(r["ErrorCode"], r.get("ErrorMessage")) for r in answer.get("Records", []) if r.get("ErrorCode")]
        except ClientError as problem:
            error, status = problem.response["Error"], problem.response["ResponseMetadata"]["HTTPStatusCode"]
            refused = [(error["Code"], f"{status} {error['Message']}")]
        for code, said in refused:
            codes[code], sentence = codes.get(code, 0) + 1, said
    told = f"{codes or 'no refusal'} in {time.monotonic() - begun:.1f} s"
    if not codes:
        return finding.unmeasured("nothing was refused" if account.real else "an emulator has no such limit", told)
    return finding.judge(set(codes) == {expected}, told, sentence=sentence)
