"""The battery with the AWS CLI: `cli.py PROGRAM NAME`; its first commands as a user types them.

A line for each operation: its name, `ok` or `FAIL`, and what was wrong, between tabs.
"""
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

AWS, NAME = sys.argv[1], f"battery-{sys.argv[2]}"
HOME = Path.cwd()  # the driver's, for this client
SAID = subprocess.run([AWS, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
MAJOR, MINOR = (int(part) for part in SAID.split()[0].removeprefix("aws-cli/").split(".")[:2])
# Older ones do not know AWS_ENDPOINT_URL, and would talk to AWS.
TOLD = ["--endpoint-url", os.environ["AWS_ENDPOINT_URL"]] if (MAJOR, MINOR) < (2, 13) and MAJOR == 2 else []


def aws(*words, fails=None):
    ran = subprocess.run([AWS, *TOLD, *words, *([] if words[0] == "s3" else ["--output", "json"])], capture_output=True,
                         text=True, timeout=60, cwd=HOME, check=False)
    if fails:
        assert ran.returncode and fails in ran.stderr, f"not refused by {fails}: {ran.stdout[:60]} {ran.stderr[:60]}"
        return None
    assert ran.returncode == 0, ran.stderr.strip()[:200]
    return json.loads(ran.stdout) if words[0] != "s3" and ran.stdout.strip() else ran.stdout


def kinesis_put():
    aws("kinesis", "create-stream", "--stream-name", NAME, "--shard-count", "2")
    aws("kinesis", "wait", "stream-exists", "--stream-name", NAME)
    aws("kinesis", "put-record", "--stream-name", NAME, "--partition-key", "k", "--data", "aGVsbG8=")


def kinesis_errors():
    aws("kinesis", "describe-stream-summary", "--stream-name", "nobody", fails="ResourceNotFoundException")


def kinesis_read():
    found = [aws("kinesis", "get-records", "--shard-iterator", aws(
        "kinesis", "get-shard-iterator", "--stream-name", NAME, "--shard-id", f"shardId-00000000000{at}",
        "--shard-iterator-type", "TRIM_HORIZON")["ShardIterator"])["Records"] for at in range(2)]
    assert len(found[0] + found[1]) == 1, found


def kinesis_list_shards():
    assert len(aws("kinesis", "list-shards", "--stream-name", NAME)["Shards"]) == 2


def kinesis_describe():
    aws("kinesis", "describe-stream", "--stream-name", NAME)


def kinesis_list_streams():
    names = [f"{NAME}-list-{at:02d}" for at in range(12)]
    for name in names:
        aws("kinesis", "create-stream", "--stream-name", name, "--shard-count", "1")
    found = aws("kinesis", "list-streams")["StreamNames"]
    for name in names:
        aws("kinesis", "delete-stream", "--stream-name", name)
    assert set(names) <= set(found), f"{len(set(names) - set(found))} of {len(names)} are missing"


def dynamodb_table():
    aws("dynamodb", "create-table", "--table-name", NAME, "--billing-mode", "PAY_PER_REQUEST", "--key-schema",
        "AttributeName=a,KeyType=HASH", "--attribute-definitions", "AttributeName=a,AttributeType=S")
    aws("dynamodb", "wait", "table-exists", "--table-name", NAME)


def dynamodb_query():
    aws("dynamodb", "put-item", "--table-name", NAME, "--item", '{"a": {"S": "1"}}')
    assert aws("dynamodb", "scan", "--table-name", NAME)["Count"] == 1


def s3_put_get():
    (HOME / "a").write_text("hello")
    aws("s3", "mb", f"s3://{NAME}")
    aws("s3", "cp", "a", f"s3://{NAME}/a")
    aws("s3", "cp", f"s3://{NAME}/a", "back")
    assert (HOME / "back").read_text() == "hello"


def s3_multipart():
    (HOME / "large").write_bytes(b"m" * 16_000_000)
    aws("s3", "cp", "large", f"s3://{NAME}/many/parts")


def s3_list():
    assert len(aws("s3", "ls", "--recursive", f"s3://{NAME}/").splitlines()) == 2
    aws("s3", "sync", f"s3://{NAME}/", "copied")
    assert (HOME / "copied" / "many" / "parts").stat().st_size == 16_000_000


def s3_list_v1():
    assert len(aws("s3api", "list-objects", "--bucket", NAME)["Contents"]) == 2


def s3_presigned():
    with urllib.request.urlopen(aws("s3", "presign", f"s3://{NAME}/a").strip(), timeout=10) as answer:
        assert answer.read() == b"hello"


def s3_copy():
    aws("s3", "cp", f"s3://{NAME}/a", f"s3://{NAME}/b")
    aws("s3", "mv", f"s3://{NAME}/b", f"s3://{NAME}/c")


def s3_delete():
    aws("s3", "rb", "--force", f"s3://{NAME}")


def sts_identity():
    assert aws("sts", "get-caller-identity")["Account"]


for each in (kinesis_put, kinesis_errors, kinesis_read, kinesis_list_shards, kinesis_describe, kinesis_list_streams,
             dynamodb_table, dynamodb_query, s3_put_get, s3_multipart, s3_list, s3_list_v1, s3_presigned, s3_copy,
             s3_delete, sts_identity):
    name = each.__name__.replace("_", "-")
    try:
        each()
        print(f"{name}\tok\t", flush=True)
    except (AssertionError, subprocess.TimeoutExpired, urllib.error.URLError, ValueError, LookupError) as problem:
        print(f"{name}\tFAIL\t{type(problem).__name__}: {str(problem)[:160]}".replace("\n", " "), flush=True)
