"""The battery with boto3, as it comes: every client has its defaults and what the environment says.

A line for each operation: its name, `ok` or `FAIL`, and what was wrong, between tabs.
"""
import datetime
import io
import sys
import time
import urllib.error
import urllib.request

import boto3
from botocore.exceptions import ClientError

kinesis, dynamodb, s3 = boto3.client("kinesis"), boto3.client("dynamodb"), boto3.client("s3")
NAME = f"battery-{sys.argv[1]}"


def refused(code, call, **arguments):
    try:
        answer = call(**arguments)
    except ClientError as problem:
        error = problem.response["Error"]
        status = str(problem.response["ResponseMetadata"]["HTTPStatusCode"])
        assert code in (error["Code"], status), f"{error['Code']} ({status}) instead of {code}"
        return problem
    raise AssertionError(f"not refused by {code}: {str(answer)[:80]}")


def equal(have, want):
    assert have == want, f"{str(have)[:80]} instead of {str(want)[:80]}"


def stream(name, **more):
    kinesis.create_stream(StreamName=name, **(more or {"ShardCount": 2}))
    kinesis.get_waiter("stream_exists").wait(StreamName=name)
    return kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]


def iterator(kind, **more):
    shard = kinesis.list_shards(StreamName=NAME)["Shards"][0]["ShardId"]
    return kinesis.get_shard_iterator(StreamName=NAME, ShardId=shard, ShardIteratorType=kind, **more)["ShardIterator"]


def kinesis_put():
    equal("ShardId" in kinesis.put_record(StreamName=NAME, Data=b"x", PartitionKey="k"), True)
    many = [{"Data": b"x", "PartitionKey": f"k{at}"} for at in range(500)]
    equal(kinesis.put_records(StreamName=NAME, Records=many)["FailedRecordCount"], 0)
    refused("ValidationException", kinesis.put_records, StreamName=NAME, Records=[*many, many[0]])


def kinesis_errors():
    refused("ResourceNotFoundException", kinesis.describe_stream_summary, StreamName="nobody")
    refused("InvalidArgumentException", kinesis.get_records, ShardIterator="bad")
    assert kinesis.describe_limits()["ResponseMetadata"].get("RequestId"), "no request id"


def kinesis_read():
    now = datetime.datetime.now(datetime.UTC)
    equal(len(kinesis.get_records(ShardIterator=iterator("TRIM_HORIZON"), Limit=3)["Records"]), 3)
    hour = datetime.timedelta(hours=1)
    assert kinesis.get_records(ShardIterator=iterator("AT_TIMESTAMP", Timestamp=now - hour))["Records"], "no records"
    equal(kinesis.get_records(ShardIterator=iterator("LATEST"))["Records"], [])


def kinesis_list_shards():
    first = kinesis.list_shards(StreamName=NAME, MaxResults=1)
    equal(len(kinesis.list_shards(NextToken=first["NextToken"])["Shards"]), 1)
    refused("InvalidArgumentException", kinesis.list_shards, StreamName=NAME, NextToken=first["NextToken"])
    equal(len(kinesis.list_shards(StreamName=NAME, ShardFilter={"Type": "AT_LATEST"})["Shards"]), 2)


def kinesis_describe():
    one = kinesis.describe_stream(StreamName=NAME, Limit=1)["StreamDescription"]
    equal((len(one["Shards"]), one["HasMoreShards"]), (1, True))
    first = one["Shards"][0]["ShardId"]
    two = kinesis.describe_stream(StreamName=NAME, ExclusiveStartShardId=first)["StreamDescription"]
    equal((len(two["Shards"]), two["HasMoreShards"]), (1, False))


def kinesis_list_streams():
    names = [f"{NAME}-list-{at:03d}" for at in range(12)]
    for name in names:
        kinesis.create_stream(StreamName=name, ShardCount=1)
    pages = kinesis.get_paginator("list_streams").paginate(PaginationConfig={"PageSize": 5})
    equal(len(set(names) - {name for page in pages for name in page["StreamNames"]}), 0)
    assert "StreamSummaries" in kinesis.list_streams(), "no StreamSummaries"
    for name in names:
        kinesis.delete_stream(StreamName=name)


def kinesis_consumer():
    arn = kinesis.describe_stream_summary(StreamName=NAME)["StreamDescriptionSummary"]["StreamARN"]
    one = kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="one")["Consumer"]
    refused("ResourceInUseException", kinesis.register_stream_consumer, StreamARN=arn, ConsumerName="one")
    equal(len(kinesis.list_stream_consumers(StreamARN=arn)["Consumers"]), 1)
    found = kinesis.describe_stream_consumer(ConsumerARN=one["ConsumerARN"])["ConsumerDescription"]
    equal(found["ConsumerStatus"] in ("ACTIVE", "CREATING"), True)
    kinesis.deregister_stream_consumer(ConsumerARN=one["ConsumerARN"])


def kinesis_subscribe():
    arn = stream(f"{NAME}-push", ShardCount=1)
    consumer = kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="push")["Consumer"]["ConsumerARN"]
    kinesis.put_record(StreamARN=arn, Data=b"pushed", PartitionKey="k")
    time.sleep(0.2)
    events = kinesis.subscribe_to_shard(ConsumerARN=consumer, ShardId="shardId-000000000000",
                                        StartingPosition={"Type": "TRIM_HORIZON"})["EventStream"]
    for event in events:
        if event["SubscribeToShardEvent"]["Records"]:
            equal(event["SubscribeToShardEvent"]["Records"][0]["Data"], b"pushed")
            break
    events.close()
    kinesis.delete_stream(StreamARN=arn, EnforceConsumerDeletion=True)


def kinesis_reshard():
    arn = stream(f"{NAME}-shards", ShardCount=1)
    kinesis.split_shard(StreamARN=arn, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127))
    wait_active(arn)
    kinesis.merge_shards(StreamARN=arn, ShardToMerge="shardId-000000000001",
                         AdjacentShardToMerge="shardId-000000000002")
    wait_active(arn)
    kinesis.update_shard_count(StreamARN=arn, TargetShardCount=2, ScalingType="UNIFORM_SCALING")
    wait_active(arn)
    refused("InvalidArgumentException", kinesis.update_shard_count, StreamARN=arn, TargetShardCount=9,
            ScalingType="UNIFORM_SCALING")
    kinesis.delete_stream(StreamARN=arn)


def wait_active(arn):
    while kinesis.describe_stream_summary(StreamARN=arn)["StreamDescriptionSummary"]["StreamStatus"] != "ACTIVE":
        time.sleep(0.1)


def kinesis_retention():
    kinesis.increase_stream_retention_period(StreamName=NAME, RetentionPeriodHours=48)
    refused("InvalidArgumentException", kinesis.increase_stream_retention_period, StreamName=NAME,
            RetentionPeriodHours=30)
    kinesis.decrease_stream_retention_period(StreamName=NAME, RetentionPeriodHours=24)


def kinesis_tags():
    arn = stream(f"{NAME}-tags", ShardCount=1, Tags={"made": "here"})
    equal(kinesis.list_tags_for_stream(StreamARN=arn)["Tags"], [{"Key": "made", "Value": "here"}])
    kinesis.tag_resource(ResourceARN=arn, Tags={"two": "2"})
    equal(len(kinesis.list_tags_for_resource(ResourceARN=arn)["Tags"]), 2)
    kinesis.untag_resource(ResourceARN=arn, TagKeys=["two"])
    kinesis.delete_stream(StreamARN=arn)


def kinesis_delete():
    arn = stream(f"{NAME}-gone", ShardCount=1)
    kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="c")
    refused("ResourceInUseException", kinesis.delete_stream, StreamARN=arn)
    kinesis.delete_stream(StreamARN=arn, EnforceConsumerDeletion=True)


def kinesis_summary():
    found = kinesis.describe_stream_summary(StreamName=NAME)["StreamDescriptionSummary"]
    missing = {"MaxRecordSizeInKiB", "OpenShardCount", "ConsumerCount", "StreamModeDetails"} - set(found)
    equal(missing, set())


def kinesis_distribution():
    refused("InvalidArgumentException", kinesis.create_stream, StreamName=f"{NAME}-wrong", ShardCount=1,
            RecordDistributionStrategy="AUTO")
    arn = stream(f"{NAME}-auto", StreamModeDetails={"StreamMode": "ON_DEMAND"}, RecordDistributionStrategy="AUTO")
    found = kinesis.describe_stream_summary(StreamARN=arn)["StreamDescriptionSummary"]
    equal(found.get("RecordDistributionStrategy"), "AUTO")
    kinesis.delete_stream(StreamARN=arn)


def kinesis_record_size():
    arn = kinesis.describe_stream_summary(StreamName=NAME)["StreamDescriptionSummary"]["StreamARN"]
    refused("ValidationException", kinesis.put_record, StreamName=NAME, Data=b"x" * (1024 * 1025), PartitionKey="k")
    kinesis.update_max_record_size(StreamARN=arn, MaxRecordSizeInKiB=2048)
    wait_active(arn)
    kinesis.put_record(StreamName=NAME, Data=b"x" * (1024 * 1025), PartitionKey="k")


def dynamodb_table():
    dynamodb.create_table(
        TableName=NAME, BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "a", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in "ab"],
        GlobalSecondaryIndexes=[{"IndexName": "by-b", "KeySchema": [{"AttributeName": "b", "KeyType": "HASH"}],
                                 "Projection": {"ProjectionType": "ALL"}}])
    dynamodb.get_waiter("table_exists").wait(TableName=NAME)
    arn = dynamodb.describe_table(TableName=NAME)["Table"]["TableArn"]
    equal(arn.split(":")[3], dynamodb.meta.region_name)


def dynamodb_condition():
    dynamodb.put_item(TableName=NAME, Item={"a": {"S": "1"}, "b": {"S": "x"}})
    problem = refused("ConditionalCheckFailedException", dynamodb.update_item, TableName=NAME, Key={"a": {"S": "1"}},
                      UpdateExpression="SET b = :n", ConditionExpression="b = :o",
                      ReturnValuesOnConditionCheckFailure="ALL_OLD",
                      ExpressionAttributeValues={":n": {"S": "y"}, ":o": {"S": "z"}})
    equal(problem.response["Item"]["b"], {"S": "x"})


def dynamodb_transact():
    put = {"Put": {"TableName": NAME, "Item": {"a": {"S": "2"}}, "ConditionExpression": "attribute_not_exists(a)"}}
    dynamodb.transact_write_items(TransactItems=[put])
    problem = refused("TransactionCanceledException", dynamodb.transact_write_items, TransactItems=[put])
    equal(problem.response["CancellationReasons"][0]["Code"], "ConditionalCheckFailed")


def dynamodb_query():
    dynamodb.batch_write_item(RequestItems={NAME: [
        {"PutRequest": {"Item": {"a": {"S": f"q{at}"}, "b": {"S": "q"}}}} for at in range(5)]})
    equal(len(dynamodb.query(TableName=NAME, IndexName="by-b", KeyConditionExpression="b = :b",
                             ExpressionAttributeValues={":b": {"S": "q"}})["Items"]), 5)
    pages = list(dynamodb.get_paginator("scan").paginate(TableName=NAME, PaginationConfig={"PageSize": 2}))
    equal(sum(len(page["Items"]) for page in pages), 7)
    equal(sum(len(dynamodb.scan(TableName=NAME, Segment=at, TotalSegments=2)["Items"]) for at in range(2)), 7)


def s3_put_get():
    s3.create_bucket(Bucket=NAME)
    s3.put_object(Bucket=NAME, Key="a", Body=b"hello", ChecksumAlgorithm="SHA256", StorageClass="STANDARD")
    equal(s3.get_object(Bucket=NAME, Key="a", ChecksumMode="ENABLED")["Body"].read(), b"hello")
    head = s3.head_object(Bucket=NAME, Key="a", ChecksumMode="ENABLED")
    assert "ChecksumSHA256" in head, "no checksum"
    equal(head.get("ChecksumType"), "FULL_OBJECT")
    refused("BadDigest", s3.put_object, Bucket=NAME, Key="b", Body=b"hello", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==")


def s3_if_none_match():
    refused("412", s3.put_object, Bucket=NAME, Key="a", Body=b"x", IfNoneMatch="*")


def s3_conditional_get():
    refused("412", s3.get_object, Bucket=NAME, Key="a", IfMatch='"wrong"')
    etag = s3.head_object(Bucket=NAME, Key="a")["ETag"]
    refused("304", s3.get_object, Bucket=NAME, Key="a", IfNoneMatch=etag)


def s3_range():
    equal(s3.get_object(Bucket=NAME, Key="a", Range="bytes=1-2")["Body"].read(), b"el")
    refused("416", s3.get_object, Bucket=NAME, Key="a", Range="bytes=90-99")


def s3_multipart():
    s3.upload_fileobj(io.BytesIO(b"m" * 16_000_000), NAME, "many/parts")
    equal(s3.head_object(Bucket=NAME, Key="many/parts")["ContentLength"], 16_000_000)
    upload = s3.create_multipart_upload(Bucket=NAME, Key="many/aborted")["UploadId"]
    s3.abort_multipart_upload(Bucket=NAME, Key="many/aborted", UploadId=upload)
    refused("NoSuchUpload", s3.complete_multipart_upload, Bucket=NAME, Key="many/aborted", UploadId=upload,
            MultipartUpload={"Parts": [{"ETag": "x", "PartNumber": 1}]})


def s3_list():
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=NAME, PaginationConfig={"PageSize": 1})
    equal([one["Key"] for page in pages for one in page["Contents"]], ["a", "many/parts"])
    equal(s3.list_objects_v2(Bucket=NAME, Delimiter="/")["CommonPrefixes"], [{"Prefix": "many/"}])
    assert s3.list_objects_v2(Bucket=NAME)["Contents"][0].get("StorageClass"), "no StorageClass"


def s3_list_v1():
    equal(len(s3.list_objects(Bucket=NAME)["Contents"]), 2)


def s3_presigned():
    url = s3.generate_presigned_url("get_object", Params={"Bucket": NAME, "Key": "a"})
    equal(urllib.request.urlopen(url, timeout=10).read(), b"hello")
    short = s3.generate_presigned_url("get_object", Params={"Bucket": NAME, "Key": "a"}, ExpiresIn=1)
    time.sleep(2.5)
    try:
        urllib.request.urlopen(short, timeout=10)
    except urllib.error.HTTPError as problem:
        equal(problem.code, 403)
    else:
        raise AssertionError("an expired one is served")


def s3_copy():
    s3.copy_object(Bucket=NAME, Key="copy", CopySource={"Bucket": NAME, "Key": "a"})
    equal(s3.get_object(Bucket=NAME, Key="copy")["Body"].read(), b"hello")


def s3_delete():
    keys = [{"Key": key} for key in ("a", "many/parts", "copy")]
    s3.delete_objects(Bucket=NAME, Delete={"Objects": keys, "Quiet": True})
    equal(s3.list_objects_v2(Bucket=NAME)["KeyCount"], 0)
    s3.delete_bucket(Bucket=NAME)


def sts_identity():
    assert boto3.client("sts").get_caller_identity()["Account"], "no account"


def main():
    try:
        stream(NAME)
    except Exception as problem:
        print(f"kinesis-put\tFAIL\tcreate_stream: {type(problem).__name__}: {problem}")
    for each in (kinesis_put, kinesis_errors, kinesis_read, kinesis_list_shards, kinesis_describe, kinesis_list_streams,
                 kinesis_consumer, kinesis_subscribe, kinesis_reshard, kinesis_retention, kinesis_tags, kinesis_delete,
                 kinesis_summary, kinesis_distribution, kinesis_record_size, dynamodb_table, dynamodb_condition,
                 dynamodb_transact, dynamodb_query, s3_put_get, s3_if_none_match, s3_conditional_get, s3_range,
                 s3_multipart, s3_list,
                 s3_list_v1, s3_presigned, s3_copy, s3_delete, sts_identity):
        name = each.__name__.replace("_", "-")
        try:
            each()
            print(f"{name}\tok\t", flush=True)
        except Exception as problem:
            print(f"{name}\tFAIL\t{type(problem).__name__}: {str(problem)[:160]}".replace("\n", " "), flush=True)


main()
