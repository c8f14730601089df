"""What the run creates, and its end: everything is deleted, whatever happened; `cleanup` finds the rest."""
import re
import secrets
import time

from botocore.exceptions import BotoCoreError, ClientError

from hour.calls import PREFIX

TAG = "catchment-acceptance"
OURS = re.compile(re.escape(PREFIX) + r"[0-9a-f]{8}(-[a-z0-9-]+)?$")


def waited(what, question, seconds=300, every=1.0):
    """Asks until the answer is true; raises TimeoutError. The bound ends a run that hangs."""
    end = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(every)


class Owned:
    """Creates by name and remembers; `name("x")` is `catchment-hour-<8 hex>-x`."""

    def __init__(self, account, say=print):
        self.account, self.say = account, say
        self.run = PREFIX + secrets.token_hex(4)
        self.streams, self.buckets, self.tables, self.keep = [], [], [], set()

    def name(self, what):
        return f"{self.run}-{what}"

    def stream(self, what, shards):
        """Creates a stream, tags it, and waits until it is active; returns its name."""
        name, kinesis = self.name(what), self.account.kinesis
        self.account.meter.add_shards(name, shards)
        self.streams.append(name)
        kinesis.create_stream(StreamName=name, ShardCount=shards)
        self.active(name)
        kinesis.add_tags_to_stream(StreamName=name, Tags={TAG: self.run})
        return name

    def active(self, name):
        def rests():
            try:
                told = self.account.kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
            except ClientError as problem:
                if problem.response["Error"]["Code"] != "ResourceNotFoundException":
                    raise
                return None  # Created a moment ago.
            return told if told["StreamStatus"] == "ACTIVE" else None
        return waited(f"{name} is active", rests)

    def bucket(self, what):
        name, region, s3 = self.name(what), self.account.region, self.account.s3
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        self.buckets.append(name)
        s3.create_bucket(Bucket=name, **where)
        try:
            s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": [{"Key": TAG, "Value": self.run}]})
        except ClientError as problem:
            # Tags are for bills; `cleanup` goes by the name.
            self.say(f"{name} has no tag: {problem.response['Error']['Code']}")
        return name

    def table(self, what):
        """The name for a lease table, which the worker creates."""
        name = self.name(what)
        self.tables.append(name)
        return name

    def delete(self):
        """Deletes everything but what is kept; returns what could not be deleted, with the reason."""
        self.account.meter.closing = True
        left = []
        for kind, names in (("stream", self.streams), ("table", self.tables), ("bucket", self.buckets)):
            for name in names:
                if name not in self.keep:
                    left += removed(self.account, kind, name)
        return left


GONE = {"ResourceNotFoundException", "NoSuchBucket"}
# Still being created or changed; a worker's last object; too many deletions at once.
PASSING = {"ResourceInUseException", "BucketNotEmpty", "LimitExceededException"}


def removed(account, kind, name, seconds=90):
    """Deletes one thing; what is not there is fine. Returns a list with a sentence if that failed."""
    end = time.monotonic() + seconds
    while True:
        code, problem = deleted(account, kind, name)
        if code in GONE | {None}:
            return []
        if code not in PASSING or time.monotonic() > end:
            return [f"{kind} {name}: {problem}"]
        time.sleep(2)


def deleted(account, kind, name):
    """One attempt: the code of its failure, or None, and the failure."""
    try:
        if kind == "stream":
            account.kinesis.delete_stream(StreamName=name, EnforceConsumerDeletion=True)
            account.meter.end_stream(name)
        elif kind == "table":
            account.dynamodb.delete_table(TableName=name)
        else:
            empty(account.s3, name)
            account.s3.delete_bucket(Bucket=name)
    except ClientError as problem:
        return problem.response["Error"]["Code"], problem
    except BotoCoreError as problem:
        return type(problem).__name__, problem
    return None, None


def keys(s3, bucket, prefix=""):
    """The keys of all objects, page by page."""
    more = {}
    while True:
        page = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, **more)
        yield from (found["Key"] for found in page.get("Contents", []))
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def empty(s3, bucket):
    for key in list(keys(s3, bucket)):
        s3.delete_object(Bucket=bucket, Key=key)
    for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def leftovers(account):
    """(kind, name) of everything in the account that a run could have created, by its name."""
    found, more = [], {}
    while True:
        page = account.kinesis.list_streams(**more)
        found += [("stream", name) for name in page["StreamNames"] if OURS.match(name)]
        if not page["HasMoreStreams"]:
            break
        more = {"ExclusiveStartStreamName": page["StreamNames"][-1]}
    more = {}
    while True:
        page = account.dynamodb.list_tables(**more)
        found += [("table", name) for name in page["TableNames"] if OURS.match(name)]
        if not page.get("LastEvaluatedTableName"):
            break
        more = {"ExclusiveStartTableName": page["LastEvaluatedTableName"]}
    buckets = account.s3.list_buckets()["Buckets"]
    return found + [("bucket", b["Name"]) for b in buckets if OURS.match(b["Name"])]


def tag(account, kind, name):
    """The run that a leftover's tag names, or `-`: tables have none."""
    try:
        if kind == "stream":
            tags = account.kinesis.list_tags_for_stream(StreamName=name)["Tags"]
        elif kind == "bucket":
            tags = account.s3.get_bucket_tagging(Bucket=name)["TagSet"]
        else:
            return "-"
    except ClientError:
        return "-"
    return next((t["Value"] for t in tags if t["Key"] == TAG), "-")
