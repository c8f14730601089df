package interop;

import static interop.Battery.equal;
import static interop.Battery.operations;
import static interop.Battery.refused;

import java.net.HttpURLConnection;
import java.net.URI;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import software.amazon.awssdk.core.SdkBytes;
import software.amazon.awssdk.core.sync.RequestBody;
import software.amazon.awssdk.services.dynamodb.DynamoDbClient;
import software.amazon.awssdk.services.dynamodb.model.AttributeDefinition;
import software.amazon.awssdk.services.dynamodb.model.AttributeValue;
import software.amazon.awssdk.services.dynamodb.model.BillingMode;
import software.amazon.awssdk.services.dynamodb.model.ConditionalCheckFailedException;
import software.amazon.awssdk.services.dynamodb.model.GlobalSecondaryIndex;
import software.amazon.awssdk.services.dynamodb.model.KeySchemaElement;
import software.amazon.awssdk.services.dynamodb.model.KeyType;
import software.amazon.awssdk.services.dynamodb.model.ProjectionType;
import software.amazon.awssdk.services.dynamodb.model.ReturnValuesOnConditionCheckFailure;
import software.amazon.awssdk.services.dynamodb.model.ScalarAttributeType;
import software.amazon.awssdk.services.dynamodb.model.TransactWriteItem;
import software.amazon.awssdk.services.dynamodb.model.TransactionCanceledException;
import software.amazon.awssdk.services.kinesis.KinesisClient;
import software.amazon.awssdk.services.kinesis.model.PutRecordsRequestEntry;
import software.amazon.awssdk.services.kinesis.model.ScalingType;
import software.amazon.awssdk.services.kinesis.model.ShardIteratorType;
import software.amazon.awssdk.services.s3.S3Client;
import software.amazon.awssdk.services.s3.model.ChecksumAlgorithm;
import software.amazon.awssdk.services.s3.model.ChecksumMode;
import software.amazon.awssdk.services.s3.model.CompletedPart;
import software.amazon.awssdk.services.s3.model.ObjectIdentifier;
import software.amazon.awssdk.services.s3.presigner.S3Presigner;
import software.amazon.awssdk.services.sts.StsClient;

/** SDK 2, blocking clients. */
final class Sync {
    private Sync() {}

    private static AttributeValue text(String value) {
        return AttributeValue.fromS(value);
    }

    static void add(String name) {
        addKinesis(name, KinesisClient.create());
        addDynamo(name, DynamoDbClient.create());
        addS3(name, S3Client.create());
        operations.put("sts-identity", () -> StsClient.create().getCallerIdentity().account());
    }

    private static void addKinesis(String name, KinesisClient kinesis) {
        operations.put("kinesis-put", () -> {
            kinesis.createStream(b -> b.streamName(name).shardCount(2));
            kinesis.waiter().waitUntilStreamExists(b -> b.streamName(name));
            SdkBytes data = SdkBytes.fromUtf8String("x");
            kinesis.putRecord(b -> b.streamName(name).data(data).partitionKey("k"));
            List<PutRecordsRequestEntry> many = new ArrayList<>();
            for (int at = 0; at < 500; at++) {
                many.add(PutRecordsRequestEntry.builder().data(data).partitionKey("k" + at).build());
            }
            equal(kinesis.putRecords(b -> b.streamName(name).records(many)).failedRecordCount(), 0);
            many.add(many.get(0));
            refused("ValidationException", () -> kinesis.putRecords(b -> b.streamName(name).records(many)));
        });
        operations.put("kinesis-errors", () -> {
            refused("ResourceNotFoundException", () -> kinesis.describeStreamSummary(b -> b.streamName("nobody")));
            refused("InvalidArgumentException", () -> kinesis.getRecords(b -> b.shardIterator("bad")));
            equal(kinesis.describeLimits(b -> {}).responseMetadata().requestId().length() > 10, true);
        });
        operations.put("kinesis-read", () -> {
            String shard = kinesis.listShards(b -> b.streamName(name)).shards().get(0).shardId();
            var from = kinesis.getShardIterator(b -> b.streamName(name).shardId(shard).shardIteratorType(ShardIteratorType.TRIM_HORIZON));
            equal(kinesis.getRecords(b -> b.shardIterator(from.shardIterator()).limit(3)).records().size(), 3);
            var past = kinesis.getShardIterator(b -> b.streamName(name).shardId(shard)
                .shardIteratorType(ShardIteratorType.AT_TIMESTAMP).timestamp(Instant.now().minusSeconds(3600)));
            equal(kinesis.getRecords(b -> b.shardIterator(past.shardIterator())).records().isEmpty(), false);
        });
        operations.put("kinesis-list-shards", () -> {
            var first = kinesis.listShards(b -> b.streamName(name).maxResults(1));
            equal(kinesis.listShards(b -> b.nextToken(first.nextToken())).shards().size(), 1);
            refused("InvalidArgumentException", () -> kinesis.listShards(b -> b.streamName(name).nextToken(first.nextToken())));
        });
        operations.put("kinesis-describe", () -> {
            var one = kinesis.describeStream(b -> b.streamName(name).limit(1)).streamDescription();
            equal(one.shards().size() + " " + one.hasMoreShards(), "1 true");
        });
        operations.put("kinesis-list-streams", () -> {
            for (int at = 0; at < 12; at++) {
                String each = name + "-list-" + at;
                kinesis.createStream(b -> b.streamName(each).shardCount(1));
            }
            long found = kinesis.listStreamsPaginator(b -> b.limit(5)).streamNames().stream()
                .filter(one -> one.startsWith(name + "-list-")).count();
            for (int at = 0; at < 12; at++) {
                String each = name + "-list-" + at;
                kinesis.deleteStream(b -> b.streamName(each));
            }
            equal(found, 12L);
        });
        operations.put("kinesis-consumer", () -> {
            String arn = kinesis.describeStreamSummary(b -> b.streamName(name)).streamDescriptionSummary().streamARN();
            var one = kinesis.registerStreamConsumer(b -> b.streamARN(arn).consumerName("one")).consumer();
            refused("ResourceInUseException", () -> kinesis.registerStreamConsumer(b -> b.streamARN(arn).consumerName("one")));
            equal(kinesis.listStreamConsumers(b -> b.streamARN(arn)).consumers().size(), 1);
            kinesis.deregisterStreamConsumer(b -> b.consumerARN(one.consumerARN()));
        });
        operations.put("kinesis-reshard", () -> {
            String each = name + "-shards";
            kinesis.createStream(b -> b.streamName(each).shardCount(2));
            kinesis.waiter().waitUntilStreamExists(b -> b.streamName(each));
            kinesis.mergeShards(b -> b.streamName(each).shardToMerge("shardId-000000000000").adjacentShardToMerge("shardId-000000000001"));
            kinesis.waiter().waitUntilStreamExists(b -> b.streamName(each));
            kinesis.splitShard(b -> b.streamName(each).shardToSplit("shardId-000000000002")
                .newStartingHashKey("170141183460469231731687303715884105728"));
            kinesis.waiter().waitUntilStreamExists(b -> b.streamName(each));
            kinesis.updateShardCount(b -> b.streamName(each).targetShardCount(1).scalingType(ScalingType.UNIFORM_SCALING));
        });
        operations.put("kinesis-retention", () -> {
            kinesis.increaseStreamRetentionPeriod(b -> b.streamName(name).retentionPeriodHours(48));
            refused("InvalidArgumentException", () -> kinesis.increaseStreamRetentionPeriod(b -> b.streamName(name).retentionPeriodHours(30)));
            kinesis.decreaseStreamRetentionPeriod(b -> b.streamName(name).retentionPeriodHours(24));
        });
        operations.put("kinesis-tags", () -> {
            String each = name + "-tags";
            kinesis.createStream(b -> b.streamName(each).shardCount(1).tags(Map.of("made", "here")));
            equal(kinesis.listTagsForStream(b -> b.streamName(each)).tags().size(), 1);
        });
        operations.put("kinesis-delete", () -> {
            String each = name + "-gone";
            kinesis.createStream(b -> b.streamName(each).shardCount(1));
            String arn = kinesis.describeStreamSummary(b -> b.streamName(each)).streamDescriptionSummary().streamARN();
            kinesis.registerStreamConsumer(b -> b.streamARN(arn).consumerName("c"));
            refused("ResourceInUseException", () -> kinesis.deleteStream(b -> b.streamName(each)));
            kinesis.deleteStream(b -> b.streamName(each).enforceConsumerDeletion(true));
        });
    }

    private static void addDynamo(String name, DynamoDbClient dynamo) {
        operations.put("dynamodb-table", () -> {
            dynamo.createTable(b -> b.tableName(name).billingMode(BillingMode.PAY_PER_REQUEST)
                .keySchema(KeySchemaElement.builder().attributeName("a").keyType(KeyType.HASH).build())
                .attributeDefinitions(AttributeDefinition.builder().attributeName("a").attributeType(ScalarAttributeType.S).build(),
                    AttributeDefinition.builder().attributeName("b").attributeType(ScalarAttributeType.S).build())
                .globalSecondaryIndexes(GlobalSecondaryIndex.builder().indexName("by-b")
                    .keySchema(KeySchemaElement.builder().attributeName("b").keyType(KeyType.HASH).build())
                    .projection(p -> p.projectionType(ProjectionType.ALL)).build()));
            dynamo.waiter().waitUntilTableExists(b -> b.tableName(name));
        });
        operations.put("dynamodb-condition", () -> {
            dynamo.putItem(b -> b.tableName(name).item(Map.of("a", text("1"), "b", text("x"))));
            var problem = (ConditionalCheckFailedException) refused("ConditionalCheckFailedException", () -> dynamo.updateItem(
                b -> b.tableName(name).key(Map.of("a", text("1"))).updateExpression("SET b = :n").conditionExpression("b = :o")
                    .returnValuesOnConditionCheckFailure(ReturnValuesOnConditionCheckFailure.ALL_OLD)
                    .expressionAttributeValues(Map.of(":n", text("y"), ":o", text("z")))));
            equal(problem.item().get("b"), text("x"));
        });
        operations.put("dynamodb-transact", () -> {
            var put = TransactWriteItem.builder().put(p -> p.tableName(name).item(Map.of("a", text("2")))
                .conditionExpression("attribute_not_exists(a)")).build();
            dynamo.transactWriteItems(b -> b.transactItems(put));
            var problem = (TransactionCanceledException) refused("TransactionCanceledException",
                () -> dynamo.transactWriteItems(b -> b.transactItems(put)));
            equal(problem.cancellationReasons().get(0).code(), "ConditionalCheckFailed");
        });
        operations.put("dynamodb-query", () -> {
            equal(dynamo.query(b -> b.tableName(name).indexName("by-b").keyConditionExpression("b = :b")
                .expressionAttributeValues(Map.of(":b", text("x")))).count(), 1);
            equal(dynamo.scanPaginator(b -> b.tableName(name).limit(1)).items().stream().count(), 2L);
        });
    }

    private static void addS3(String name, S3Client s3) {
        operations.put("s3-put-get", () -> {
            s3.createBucket(b -> b.bucket(name));
            s3.putObject(b -> b.bucket(name).key("a").checksumAlgorithm(ChecksumAlgorithm.SHA256), RequestBody.fromString("hello"));
            equal(s3.getObjectAsBytes(b -> b.bucket(name).key("a")).asUtf8String(), "hello");
            equal(s3.headObject(b -> b.bucket(name).key("a").checksumMode(ChecksumMode.ENABLED)).checksumTypeAsString(), "FULL_OBJECT");
        });
        operations.put("s3-if-none-match", () -> refused("412",
            () -> s3.putObject(b -> b.bucket(name).key("a").ifNoneMatch("*"), RequestBody.fromString("x"))));
        operations.put("s3-conditional-get", () -> refused("412",
            () -> s3.getObjectAsBytes(b -> b.bucket(name).key("a").ifMatch("\"wrong\""))));
        operations.put("s3-range", () -> {
            equal(s3.getObjectAsBytes(b -> b.bucket(name).key("a").range("bytes=1-2")).asUtf8String(), "el");
            refused("416", () -> s3.getObjectAsBytes(b -> b.bucket(name).key("a").range("bytes=90-99")));
        });
        operations.put("s3-multipart", () -> {
            String id = s3.createMultipartUpload(b -> b.bucket(name).key("many/parts")).uploadId();
            List<CompletedPart> parts = new ArrayList<>();
            for (int at = 1; at <= 2; at++) {
                int number = at;
                String etag = s3.uploadPart(b -> b.bucket(name).key("many/parts").uploadId(id).partNumber(number),
                    RequestBody.fromBytes(new byte[6_000_000])).eTag();
                parts.add(CompletedPart.builder().partNumber(number).eTag(etag).build());
            }
            s3.completeMultipartUpload(b -> b.bucket(name).key("many/parts").uploadId(id).multipartUpload(m -> m.parts(parts)));
            equal(s3.headObject(b -> b.bucket(name).key("many/parts")).contentLength(), 12_000_000L);
        });
        operations.put("s3-list", () -> equal(s3.listObjectsV2Paginator(b -> b.bucket(name).maxKeys(1)).contents().stream().count(), 2L));
        operations.put("s3-list-v1", () -> equal(s3.listObjects(b -> b.bucket(name)).contents().size(), 2));
        operations.put("s3-presigned", () -> {
            try (S3Presigner signer = S3Presigner.builder().endpointOverride(URI.create(System.getenv("AWS_ENDPOINT_URL"))).build()) {
                for (int seconds : new int[] {60, 1}) {
                    var url = signer.presignGetObject(b -> b.signatureDuration(java.time.Duration.ofSeconds(seconds))
                        .getObjectRequest(g -> g.bucket(name).key("a"))).url();
                    if (seconds == 1) {
                        Thread.sleep(2500);
                    }
                    equal(((HttpURLConnection) url.openConnection()).getResponseCode(), seconds == 1 ? 403 : 200);
                }
            }
        });
        operations.put("s3-copy", () -> s3.copyObject(b -> b.sourceBucket(name).sourceKey("a").destinationBucket(name).destinationKey("copy")));
        operations.put("s3-delete", () -> {
            List<ObjectIdentifier> keys = new ArrayList<>();
            for (String key : List.of("a", "many/parts", "copy")) {
                keys.add(ObjectIdentifier.builder().key(key).build());
            }
            s3.deleteObjects(b -> b.bucket(name).delete(d -> d.objects(keys).quiet(true)));
            s3.deleteBucket(b -> b.bucket(name));
        });
    }
}
