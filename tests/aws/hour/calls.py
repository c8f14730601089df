"""Every AWS operation that the script may call, the IAM action that allows it, and the policy of both.

An operation that is not in the table is refused before it is sent (account.py); test_hour.py compares
the table with the calls in the source, and the policy with README.md and with `catchment iam-policy`.
"""
STREAM, CONSUMER, TABLE, BUCKET, OBJECT, ACCOUNT = "stream", "consumer", "table", "bucket", "object", "account"

# Everything that is created is named so; the policy allows nothing else.
PREFIX = "catchment-hour-"

RESOURCES = {
    STREAM: f"arn:aws:kinesis:*:*:stream/{PREFIX}*",
    CONSUMER: f"arn:aws:kinesis:*:*:stream/{PREFIX}*/consumer/*",
    TABLE: f"arn:aws:dynamodb:*:*:table/{PREFIX}*",
    BUCKET: f"arn:aws:s3:::{PREFIX}*",
    OBJECT: f"arn:aws:s3:::{PREFIX}*/*",
    ACCOUNT: "*",
}

# Operation: (IAM action, on what). No action: the operation needs no permission.
CALLS = {
    "sts.GetCallerIdentity": (None, ACCOUNT),
    "kinesis.DescribeLimits": ("kinesis:DescribeLimits", ACCOUNT),
    "kinesis.ListStreams": ("kinesis:ListStreams", ACCOUNT),
    "kinesis.CreateStream": ("kinesis:CreateStream", STREAM),
    "kinesis.DeleteStream": ("kinesis:DeleteStream", STREAM),
    "kinesis.AddTagsToStream": ("kinesis:AddTagsToStream", STREAM),
    "kinesis.ListTagsForStream": ("kinesis:ListTagsForStream", STREAM),
    "kinesis.DescribeStreamSummary": ("kinesis:DescribeStreamSummary", STREAM),
    "kinesis.ListShards": ("kinesis:ListShards", STREAM),
    "kinesis.ListStreamConsumers": ("kinesis:ListStreamConsumers", STREAM),
    "kinesis.SplitShard": ("kinesis:SplitShard", STREAM),
    "kinesis.MergeShards": ("kinesis:MergeShards", STREAM),
    "kinesis.PutRecord": ("kinesis:PutRecord", STREAM),
    "kinesis.PutRecords": ("kinesis:PutRecords", STREAM),
    "kinesis.GetShardIterator": ("kinesis:GetShardIterator", STREAM),
    "kinesis.GetRecords": ("kinesis:GetRecords", STREAM),
    "kinesis.RegisterStreamConsumer": ("kinesis:RegisterStreamConsumer", STREAM),
    "kinesis.DescribeStreamConsumer": ("kinesis:DescribeStreamConsumer", CONSUMER),
    "kinesis.SubscribeToShard": ("kinesis:SubscribeToShard", CONSUMER),
    "dynamodb.ListTables": ("dynamodb:ListTables", ACCOUNT),
    "dynamodb.GetItem": ("dynamodb:GetItem", TABLE),
    "dynamodb.DeleteTable": ("dynamodb:DeleteTable", TABLE),
    "s3.ListBuckets": ("s3:ListAllMyBuckets", ACCOUNT),
    "s3.CreateBucket": ("s3:CreateBucket", BUCKET),
    "s3.DeleteBucket": ("s3:DeleteBucket", BUCKET),
    "s3.PutBucketTagging": ("s3:PutBucketTagging", BUCKET),
    "s3.GetBucketTagging": ("s3:GetBucketTagging", BUCKET),
    "s3.ListObjectsV2": ("s3:ListBucket", BUCKET),
    "s3.ListMultipartUploads": ("s3:ListBucketMultipartUploads", BUCKET),
    "s3.AbortMultipartUpload": ("s3:AbortMultipartUpload", OBJECT),
    "s3.GetObject": ("s3:GetObject", OBJECT),
    "s3.DeleteObject": ("s3:DeleteObject", OBJECT),
}

# What the worker and `catchment verify` need beside that: they run with the same credentials.
WORKER = {
    "dynamodb:CreateTable": TABLE,
    "dynamodb:DescribeTable": TABLE,
    "dynamodb:PutItem": TABLE,
    "dynamodb:UpdateItem": TABLE,
    "dynamodb:DeleteItem": TABLE,
    "dynamodb:Scan": TABLE,
    "s3:PutObject": OBJECT,
}


def policy():
    """The least policy under which the whole run passes, as README.md prints it."""
    grants = {action: on for action, on in CALLS.values() if action} | WORKER
    statements = []
    for kind, resource in RESOURCES.items():
        actions = sorted(action for action, on in grants.items() if on == kind)
        statements.append({"Effect": "Allow", "Action": actions, "Resource": resource})
    return {"Version": "2012-10-17", "Statement": statements}
