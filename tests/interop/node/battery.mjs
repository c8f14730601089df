// The battery with AWS's SDK v3 for JavaScript, as it comes: clients have their defaults and what the environment says.
// A line for each operation: its name, `ok` or `FAIL`, and what was wrong, between tabs.
import * as k from '@aws-sdk/client-kinesis';
import * as d from '@aws-sdk/client-dynamodb';
import * as s from '@aws-sdk/client-s3';
import { GetCallerIdentityCommand, STSClient } from '@aws-sdk/client-sts';
import { Upload } from '@aws-sdk/lib-storage';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';

const NAME = `battery-${process.argv[2]}`;
const LIMIT = 20_000; // milliseconds, for an operation that hangs
const kinesis = new k.KinesisClient({ maxAttempts: 1 });
const dynamodb = new d.DynamoDBClient({ maxAttempts: 1 });
const s3 = new s.S3Client({ maxAttempts: 1 });

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const equal = (have, want) => {
  if (JSON.stringify(have) !== JSON.stringify(want)) throw new Error(`${JSON.stringify(have)} instead of ${JSON.stringify(want)}`);
};
const refused = async (name, call) => {
  try { await call; } catch (problem) {
    if (problem.name === name || String(problem.$metadata?.httpStatusCode) === name) return problem;
    throw new Error(`${problem.name} (${problem.message}) instead of ${name}`);
  }
  throw new Error(`not refused by ${name}`);
};
const on = (client) => (Command, input = {}) => client.send(new Command(input));
const [toKinesis, toDynamodb, toS3] = [on(kinesis), on(dynamodb), on(s3)];
const stream = async (name, more = { ShardCount: 2 }) => {
  await toKinesis(k.CreateStreamCommand, { StreamName: name, ...more });
  await k.waitUntilStreamExists({ client: kinesis, maxWaitTime: 20 }, { StreamName: name });
  return (await toKinesis(k.DescribeStreamSummaryCommand, { StreamName: name })).StreamDescriptionSummary.StreamARN;
};
const active = async (StreamARN) => {
  for (;;) {
    const found = await toKinesis(k.DescribeStreamSummaryCommand, { StreamARN });
    if (found.StreamDescriptionSummary.StreamStatus === 'ACTIVE') return;
    await pause(100);
  }
};
const iterator = async (ShardIteratorType, more = {}) => {
  const ShardId = (await toKinesis(k.ListShardsCommand, { StreamName: NAME })).Shards[0].ShardId;
  return (await toKinesis(k.GetShardIteratorCommand, { StreamName: NAME, ShardId, ShardIteratorType, ...more })).ShardIterator;
};
const bytes = (text) => new TextEncoder().encode(text);

const battery = {
  'kinesis-put': async () => {
    await stream(NAME);
    await toKinesis(k.PutRecordCommand, { StreamName: NAME, Data: bytes('x'), PartitionKey: 'k' });
    const Records = Array.from({ length: 500 }, (_, at) => ({ Data: bytes('x'), PartitionKey: `k${at}` }));
    equal((await toKinesis(k.PutRecordsCommand, { StreamName: NAME, Records })).FailedRecordCount, 0);
    await refused('ValidationException', toKinesis(k.PutRecordsCommand, { StreamName: NAME, Records: [...Records, Records[0]] }));
  },
  'kinesis-errors': async () => {
    await refused('ResourceNotFoundException', toKinesis(k.DescribeStreamSummaryCommand, { StreamName: 'nobody' }));
    await refused('InvalidArgumentException', toKinesis(k.GetRecordsCommand, { ShardIterator: 'bad' }));
    if (!(await toKinesis(k.DescribeLimitsCommand)).$metadata.requestId) throw new Error('no request id');
  },
  'kinesis-read': async () => {
    equal((await toKinesis(k.GetRecordsCommand, { ShardIterator: await iterator('TRIM_HORIZON'), Limit: 3 })).Records.length, 3);
    const Timestamp = new Date(Date.now() - 3_600_000);
    const found = await toKinesis(k.GetRecordsCommand, { ShardIterator: await iterator('AT_TIMESTAMP', { Timestamp }) });
    equal(found.Records.length > 0, true);
    equal((await toKinesis(k.GetRecordsCommand, { ShardIterator: await iterator('LATEST') })).Records, []);
  },
  'kinesis-list-shards': async () => {
    const first = await toKinesis(k.ListShardsCommand, { StreamName: NAME, MaxResults: 1 });
    equal((await toKinesis(k.ListShardsCommand, { NextToken: first.NextToken })).Shards.length, 1);
    await refused('InvalidArgumentException', toKinesis(k.ListShardsCommand, { StreamName: NAME, NextToken: first.NextToken }));
    equal((await toKinesis(k.ListShardsCommand, { StreamName: NAME, ShardFilter: { Type: 'AT_LATEST' } })).Shards.length, 2);
  },
  'kinesis-describe': async () => {
    const one = (await toKinesis(k.DescribeStreamCommand, { StreamName: NAME, Limit: 1 })).StreamDescription;
    equal([one.Shards.length, one.HasMoreShards], [1, true]);
  },
  'kinesis-list-streams': async () => {
    const names = Array.from({ length: 12 }, (_, at) => `${NAME}-list-${at}`);
    for (const StreamName of names) await toKinesis(k.CreateStreamCommand, { StreamName, ShardCount: 1 });
    const found = [];
    for await (const page of k.paginateListStreams({ client: kinesis, pageSize: 5 }, {})) found.push(...page.StreamNames);
    for (const StreamName of names) await toKinesis(k.DeleteStreamCommand, { StreamName });
    equal(names.filter((name) => !found.includes(name)).length, 0);
  },
  'kinesis-consumer': async () => {
    const StreamARN = (await toKinesis(k.DescribeStreamSummaryCommand, { StreamName: NAME })).StreamDescriptionSummary.StreamARN;
    const { Consumer } = await toKinesis(k.RegisterStreamConsumerCommand, { StreamARN, ConsumerName: 'one' });
    await refused('ResourceInUseException', toKinesis(k.RegisterStreamConsumerCommand, { StreamARN, ConsumerName: 'one' }));
    equal((await toKinesis(k.ListStreamConsumersCommand, { StreamARN })).Consumers.length, 1);
    await toKinesis(k.DeregisterStreamConsumerCommand, { ConsumerARN: Consumer.ConsumerARN });
  },
  'kinesis-subscribe': async () => {
    const StreamARN = await stream(`${NAME}-push`, { ShardCount: 1 });
    const { ConsumerARN } = (await toKinesis(k.RegisterStreamConsumerCommand, { StreamARN, ConsumerName: 'push' })).Consumer;
    const { EventStream } = await toKinesis(k.SubscribeToShardCommand, {
      ConsumerARN, ShardId: 'shardId-000000000000', StartingPosition: { Type: 'LATEST' } });
    setTimeout(() => toKinesis(k.PutRecordCommand, { StreamARN, Data: bytes('pushed'), PartitionKey: 'k' }), 500);
    for await (const event of EventStream) {
      const [record] = event.SubscribeToShardEvent.Records;
      if (record) { equal(new TextDecoder().decode(record.Data), 'pushed'); break; }
    }
    await toKinesis(k.DeleteStreamCommand, { StreamARN, EnforceConsumerDeletion: true });
  },
  'kinesis-reshard': async () => {
    const StreamARN = await stream(`${NAME}-shards`, { ShardCount: 1 });
    await toKinesis(k.SplitShardCommand, { StreamARN, ShardToSplit: 'shardId-000000000000', NewStartingHashKey: (2n ** 127n).toString() });
    await active(StreamARN);
    await toKinesis(k.MergeShardsCommand, {
      StreamARN, ShardToMerge: 'shardId-000000000001', AdjacentShardToMerge: 'shardId-000000000002' });
    await active(StreamARN);
    await toKinesis(k.UpdateShardCountCommand, { StreamARN, TargetShardCount: 2, ScalingType: 'UNIFORM_SCALING' });
    await toKinesis(k.DeleteStreamCommand, { StreamARN });
  },
  'kinesis-retention': async () => {
    await toKinesis(k.IncreaseStreamRetentionPeriodCommand, { StreamName: NAME, RetentionPeriodHours: 48 });
    await refused('InvalidArgumentException', toKinesis(k.IncreaseStreamRetentionPeriodCommand, { StreamName: NAME, RetentionPeriodHours: 30 }));
    await toKinesis(k.DecreaseStreamRetentionPeriodCommand, { StreamName: NAME, RetentionPeriodHours: 24 });
  },
  'kinesis-tags': async () => {
    const StreamARN = await stream(`${NAME}-tags`, { ShardCount: 1, Tags: { made: 'here' } });
    equal((await toKinesis(k.ListTagsForStreamCommand, { StreamARN })).Tags, [{ Key: 'made', Value: 'here' }]);
    await toKinesis(k.DeleteStreamCommand, { StreamARN });
  },
  'kinesis-delete': async () => {
    const StreamARN = await stream(`${NAME}-gone`, { ShardCount: 1 });
    await toKinesis(k.RegisterStreamConsumerCommand, { StreamARN, ConsumerName: 'c' });
    await refused('ResourceInUseException', toKinesis(k.DeleteStreamCommand, { StreamARN }));
    await toKinesis(k.DeleteStreamCommand, { StreamARN, EnforceConsumerDeletion: true });
  },
  'dynamodb-table': async () => {
    await toDynamodb(d.CreateTableCommand, {
      TableName: NAME, BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'a', KeyType: 'HASH' }],
      AttributeDefinitions: [{ AttributeName: 'a', AttributeType: 'S' }, { AttributeName: 'b', AttributeType: 'S' }],
      GlobalSecondaryIndexes: [{
        IndexName: 'by-b', KeySchema: [{ AttributeName: 'b', KeyType: 'HASH' }], Projection: { ProjectionType: 'ALL' } }] });
    await d.waitUntilTableExists({ client: dynamodb, maxWaitTime: 40 }, { TableName: NAME });
  },
  'dynamodb-condition': async () => {
    await toDynamodb(d.PutItemCommand, { TableName: NAME, Item: { a: { S: '1' }, b: { S: 'x' } } });
    const problem = await refused('ConditionalCheckFailedException', toDynamodb(d.UpdateItemCommand, {
      TableName: NAME, Key: { a: { S: '1' } }, UpdateExpression: 'SET b = :n', ConditionExpression: 'b = :o',
      ReturnValuesOnConditionCheckFailure: 'ALL_OLD', ExpressionAttributeValues: { ':n': { S: 'y' }, ':o': { S: 'z' } } }));
    equal(problem.Item.b, { S: 'x' });
  },
  'dynamodb-transact': async () => {
    const TransactItems = [{ Put: { TableName: NAME, Item: { a: { S: '2' } }, ConditionExpression: 'attribute_not_exists(a)' } }];
    await toDynamodb(d.TransactWriteItemsCommand, { TransactItems });
    const problem = await refused('TransactionCanceledException', toDynamodb(d.TransactWriteItemsCommand, { TransactItems }));
    equal(problem.CancellationReasons[0].Code, 'ConditionalCheckFailed');
  },
  'dynamodb-query': async () => {
    const items = Array.from({ length: 5 }, (_, at) => ({ PutRequest: { Item: { a: { S: `q${at}` }, b: { S: 'q' } } } }));
    await toDynamodb(d.BatchWriteItemCommand, { RequestItems: { [NAME]: items } });
    equal((await toDynamodb(d.QueryCommand, {
      TableName: NAME, IndexName: 'by-b', KeyConditionExpression: 'b = :b', ExpressionAttributeValues: { ':b': { S: 'q' } } })).Count, 5);
    let count = 0;
    for await (const page of d.paginateScan({ client: dynamodb, pageSize: 2 }, { TableName: NAME })) count += page.Count;
    equal(count, 7);
  },
  's3-put-get': async () => {
    await toS3(s.CreateBucketCommand, { Bucket: NAME });
    await toS3(s.PutObjectCommand, { Bucket: NAME, Key: 'a', Body: 'hello', ChecksumAlgorithm: 'SHA256' });
    equal(await (await toS3(s.GetObjectCommand, { Bucket: NAME, Key: 'a' })).Body.transformToString(), 'hello');
    equal((await toS3(s.HeadObjectCommand, { Bucket: NAME, Key: 'a', ChecksumMode: 'ENABLED' })).ChecksumType, 'FULL_OBJECT');
  },
  's3-if-none-match': () => refused('412', toS3(s.PutObjectCommand, { Bucket: NAME, Key: 'a', Body: 'x', IfNoneMatch: '*' })),
  's3-conditional-get': () => refused('412', toS3(s.GetObjectCommand, { Bucket: NAME, Key: 'a', IfMatch: '"wrong"' })),
  's3-range': async () => {
    equal(await (await toS3(s.GetObjectCommand, { Bucket: NAME, Key: 'a', Range: 'bytes=1-2' })).Body.transformToString(), 'el');
    await refused('416', toS3(s.GetObjectCommand, { Bucket: NAME, Key: 'a', Range: 'bytes=90-99' }));
  },
  's3-multipart': async () => {
    await new Upload({ client: s3, params: { Bucket: NAME, Key: 'many/parts', Body: Buffer.alloc(16_000_000, 'm') } }).done();
    equal((await toS3(s.HeadObjectCommand, { Bucket: NAME, Key: 'many/parts' })).ContentLength, 16_000_000);
  },
  's3-list': async () => {
    const keys = [];
    for await (const page of s.paginateListObjectsV2({ client: s3, pageSize: 1 }, { Bucket: NAME })) keys.push(...page.Contents.map((one) => one.Key));
    equal(keys, ['a', 'many/parts']);
    equal((await toS3(s.ListObjectsV2Command, { Bucket: NAME, Delimiter: '/' })).CommonPrefixes, [{ Prefix: 'many/' }]);
  },
  's3-list-v1': async () => equal((await toS3(s.ListObjectsCommand, { Bucket: NAME })).Contents.length, 2),
  's3-presigned': async () => {
    const url = await getSignedUrl(s3, new s.GetObjectCommand({ Bucket: NAME, Key: 'a' }), { expiresIn: 60 });
    equal(await (await fetch(url)).text(), 'hello');
    const short = await getSignedUrl(s3, new s.GetObjectCommand({ Bucket: NAME, Key: 'a' }), { expiresIn: 1 });
    await pause(2500);
    equal((await fetch(short)).status, 403);
  },
  's3-copy': async () => {
    await toS3(s.CopyObjectCommand, { Bucket: NAME, Key: 'copy', CopySource: `${NAME}/a` });
  },
  's3-delete': async () => {
    await toS3(s.DeleteObjectsCommand, {
      Bucket: NAME, Delete: { Quiet: true, Objects: ['a', 'many/parts', 'copy'].map((Key) => ({ Key })) } });
    await toS3(s.DeleteBucketCommand, { Bucket: NAME });
  },
  'sts-identity': async () => {
    if (!(await new STSClient({ maxAttempts: 1 }).send(new GetCallerIdentityCommand({}))).Account) throw new Error('no account');
  },
};

for (const [name, each] of Object.entries(battery)) {
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => fail(new Error(`nothing within ${LIMIT / 1000} s`)), LIMIT); });
  try {
    await Promise.race([each(), late]);
    console.log(`${name}\tok\t`);
  } catch (problem) {
    console.log(`${name}\tFAIL\t${problem.name}: ${String(problem.message).slice(0, 160).replaceAll('\n', ' ')}`);
  }
  clearTimeout(timer);
}
process.exit(0);
