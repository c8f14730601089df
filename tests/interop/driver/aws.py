"""Kinesis and DynamoDB by JSON over HTTP, as far as the scenarios need them. The standard library only."""
import base64
import hashlib
import http.client
import json
import random
import ssl
import threading
import time
import urllib.parse


class Refused(Exception):
    """The service's own error."""


class Json:
    """A service at an endpoint; a connection for each thread."""

    def __init__(self, endpoint, prefix, version, authority=None):
        at = urllib.parse.urlsplit(endpoint)
        self.host, self.port, self.tls = at.hostname, at.port, at.scheme == "https"
        self.prefix, self.version, self.authority = prefix, version, authority
        self.local = threading.local()

    def connection(self):
        if getattr(self.local, "open", None) is None:
            if self.tls:
                context = ssl.create_default_context(cafile=self.authority)
                self.local.open = http.client.HTTPSConnection(self.host, self.port, timeout=30, context=context)
            else:
                self.local.open = http.client.HTTPConnection(self.host, self.port, timeout=30)
        return self.local.open

    def __call__(self, operation, **body):
        headers = {"Content-Type": f"application/x-amz-json-{self.version}",
                   "X-Amz-Target": f"{self.prefix}.{operation}"}
        for again in (True, False):
            try:
                connection = self.connection()
                connection.request("POST", "/", json.dumps(body), headers)
                answer = connection.getresponse()
                text = answer.read()
                break
            except (OSError, http.client.HTTPException):
                self.local.open = None
                if not again:
                    raise
        if answer.status != 200:
            raise Refused(f"{operation}: {answer.status} {text[:300].decode(errors='replace')}")
        return json.loads(text or b"{}")


class Producer(threading.Thread):
    """Numbered records with some forty partition keys; `truth` maps each id to its shard and sequence number."""

    def __init__(self, kinesis, stream="local", size=6, pause=0.15, prefix="r", name="producer"):
        super().__init__(daemon=True, name=name)
        self.kinesis, self.stream, self.size, self.pause, self.prefix = kinesis, stream, size, pause, prefix
        self.truth, self.problems, self.ending = {}, [], threading.Event()
        self.drawn = random.Random(7)

    def put(self, count):
        ids = [f"{self.prefix}{len(self.truth) + at:06d}" for at in range(count)]
        records = [{"Data": base64.b64encode(json.dumps({"id": one}).encode()).decode(),
                    "PartitionKey": f"key{self.drawn.randrange(40)}"} for one in ids]
        answer = self.kinesis("PutRecords", StreamName=self.stream, Records=records)
        for one, result in zip(ids, answer["Records"], strict=True):
            if "SequenceNumber" not in result:
                raise Refused(f"PutRecords: {result}")
            self.truth[one] = (result["ShardId"], int(result["SequenceNumber"]))

    def run(self):
        while not self.ending.wait(self.pause):
            try:
                self.put(self.size)
            except (OSError, Refused, http.client.HTTPException) as problem:
                self.problems.append(str(problem))

    def end(self):
        self.ending.set()
        self.join()


def open_shards(kinesis, stream="local"):
    """Open shards by the first hash key of each: (id, first, last)."""
    shards = kinesis("ListShards", StreamName=stream)["Shards"]
    found = [(one["ShardId"], int(one["HashKeyRange"]["StartingHashKey"]), int(one["HashKeyRange"]["EndingHashKey"]))
             for one in shards if "EndingSequenceNumber" not in one["SequenceNumberRange"]]
    return sorted(found, key=lambda one: one[1])


def split(kinesis, at=0, stream="local"):
    shard, first, last = open_shards(kinesis, stream)[at]
    kinesis("SplitShard", StreamName=stream, ShardToSplit=shard, NewStartingHashKey=str((first + last) // 2 + 1))


def merge(kinesis, at=0, stream="local"):
    one, other = open_shards(kinesis, stream)[at:at + 2]
    kinesis("MergeShards", StreamName=stream, ShardToMerge=one[0], AdjacentShardToMerge=other[0])


def records(kinesis, stream="local"):
    """Every record of the stream: (shard, sequence number, partition key, bytes)."""
    found, after = [], {}
    shards = []
    while True:
        answer = kinesis("ListShards", **(after or {"StreamName": stream}))
        shards += answer["Shards"]
        if "NextToken" not in answer:
            break
        after = {"NextToken": answer["NextToken"]}
    for shard in shards:
        iterator = kinesis("GetShardIterator", StreamName=stream, ShardId=shard["ShardId"],
                           ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
        while iterator:
            page = kinesis("GetRecords", ShardIterator=iterator, Limit=10000)
            found += [(shard["ShardId"], int(one["SequenceNumber"]), one["PartitionKey"], base64.b64decode(one["Data"]))
                      for one in page["Records"]]
            iterator = page.get("NextShardIterator")
            if not page["Records"] and not page.get("MillisBehindLatest"):
                break
    return found


def rows(dynamodb, table):
    """The items of a table by their key, attributes without their types."""
    items, more = [], {}
    while True:
        answer = dynamodb("Scan", TableName=table, ConsistentRead=True, **more)
        items += answer["Items"]
        if "LastEvaluatedKey" not in answer:
            break
        more = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
    plain = [{name: next(iter(value.values())) for name, value in item.items()} for item in items]
    return {item.get("leaseKey") or item.get("key") or item.get("wid"): item for item in plain}


# The KPL's container: https://github.com/awslabs/amazon-kinesis-producer, aggregation-format.md
MAGIC = b"\xf3\x89\x9a\xc2"


def fields(data):
    """The fields of a protobuf message: (number, integer or bytes)."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        elif tag & 7 == 2:
            size = varint()
            yield tag >> 3, data[at:at + size]
            at += size
        else:
            raise ValueError(f"wire type {tag & 7}")


def user_records(data):
    """The user records of a Kinesis record: [(partition key, explicit hash key, bytes)], or None if no aggregate."""
    if not data.startswith(MAGIC) or hashlib.md5(data[4:-16]).digest() != data[-16:]:
        return None
    keys, hashes, parts = [], [], []
    for number, value in fields(data[4:-16]):
        if number in (1, 2):
            (keys if number == 1 else hashes).append(value.decode())
        elif number == 3:
            parts.append(dict(fields(value)))
    return [(keys[part.get(1, 0)] if keys else "", hashes[part[2]] if 2 in part else None, part[3]) for part in parts]


def aggregate(ids, key="k"):
    """An aggregate of user records with those ids, as the KPL makes it, in base64."""
    def varint(value):
        out = b""
        while value > 0x7F:
            out += bytes([value & 0x7F | 0x80])
            value >>= 7
        return out + bytes([value])

    def field(number, data):
        return bytes([number << 3 | 2]) + varint(len(data)) + data
    body = field(1, key.encode())
    for one in ids:
        body += field(3, b"\x08\x00" + field(3, json.dumps({"id": one}).encode()))
    return base64.b64encode(MAGIC + body + hashlib.md5(body).digest()).decode()


def wait(question, seconds, every=0.25):
    """Asks until there is an answer, or the time is over; the answer."""
    end = time.monotonic() + seconds
    while True:
        answer = question()
        if answer or time.monotonic() > end:
            return answer
        time.sleep(every)
