package interop;

import static interop.Battery.equal;
import static interop.Battery.operations;
import static interop.Battery.refused;

import java.util.Map;
import java.util.concurrent.atomic.AtomicInteger;
import software.amazon.awssdk.core.SdkBytes;
import software.amazon.awssdk.core.async.AsyncRequestBody;
import software.amazon.awssdk.core.async.AsyncResponseTransformer;
import software.amazon.awssdk.services.dynamodb.DynamoDbAsyncClient;
import software.amazon.awssdk.services.dynamodb.model.AttributeDefinition;
import software.amazon.awssdk.services.dynamodb.model.AttributeValue;
import software.amazon.awssdk.services.dynamodb.model.BillingMode;
import software.amazon.awssdk.services.dynamodb.model.KeySchemaElement;
import software.amazon.awssdk.services.dynamodb.model.KeyType;
import software.amazon.awssdk.services.dynamodb.model.ScalarAttributeType;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.awssdk.services.kinesis.model.ShardIteratorType;
import software.amazon.awssdk.services.kinesis.model.SubscribeToShardEvent;
import software.amazon.awssdk.services.kinesis.model.SubscribeToShardResponseHandler;
import software.amazon.awssdk.services.s3.S3AsyncClient;
import software.amazon.awssdk.transfer.s3.S3TransferManager;

/** SDK 2, clients that return futures: Kinesis by HTTP/2. */
final class Async {
    private Async() {}

    static void add(String name) {
        KinesisAsyncClient kinesis = KinesisAsyncClient.create();
        DynamoDbAsyncClient dynamo = DynamoDbAsyncClient.create();
        S3AsyncClient s3 = S3AsyncClient.builder().multipartEnabled(true).build();
        operations.put("kinesis-put", () -> {
            kinesis.createStream(b -> b.streamName(name).shardCount(1)).get();
            kinesis.waiter().waitUntilStreamExists(b -> b.streamName(name)).get();
            for (int at = 0; at < 3; at++) {
                kinesis.putRecord(b -> b.streamName(name).data(SdkBytes.fromUtf8String("x")).partitionKey("k")).get();
            }
        });
        operations.put("kinesis-errors", () -> {
            refused("ResourceNotFoundException", () -> kinesis.describeStreamSummary(b -> b.streamName("nobody")).get());
            refused("InvalidArgumentException", () -> kinesis.getRecords(b -> b.shardIterator("bad")).get());
        });
        operations.put("kinesis-read", () -> {
            var from = kinesis.getShardIterator(b -> b.streamName(name).shardId("shardId-000000000000")
                .shardIteratorType(ShardIteratorType.TRIM_HORIZON)).get();
            equal(kinesis.getRecords(b -> b.shardIterator(from.shardIterator())).get().records().size(), 3);
        });
        operations.put("kinesis-consumer", () -> {
            String arn = kinesis.describeStreamSummary(b -> b.streamName(name)).get().streamDescriptionSummary().streamARN();
            kinesis.registerStreamConsumer(b -> b.streamARN(arn).consumerName("one")).get();
            refused("ResourceInUseException", () -> kinesis.registerStreamConsumer(b -> b.streamARN(arn).consumerName("one")).get());
        });
        operations.put("kinesis-subscribe", () -> {
            String arn = kinesis.describeStreamSummary(b -> b.streamName(name)).get().streamDescriptionSummary().streamARN();
            String consumer = kinesis.listStreamConsumers(b -> b.streamARN(arn)).get().consumers().get(0).consumerARN();
            AtomicInteger got = new AtomicInteger();
            var handler = SubscribeToShardResponseHandler.builder().subscriber(event -> {
                if (event instanceof SubscribeToShardEvent some) {
                    got.addAndGet(some.records().size());
                }
            }).build();
            var open = kinesis.subscribeToShard(b -> b.consumerARN(consumer).shardId("shardId-000000000000")
                .startingPosition(p -> p.type(ShardIteratorType.TRIM_HORIZON)), handler);
            for (int tries = 0; tries < 100 && got.get() < 3 && !open.isDone(); tries++) {
                Thread.sleep(100);
            }
            if (open.isDone()) {
                open.get();
            }
            equal(got.get(), 3);
            open.cancel(true);
        });
        operations.put("kinesis-delete", () -> kinesis.deleteStream(b -> b.streamName(name).enforceConsumerDeletion(true)).get());
        operations.put("dynamodb-table", () -> {
            dynamo.createTable(b -> b.tableName(name).billingMode(BillingMode.PAY_PER_REQUEST)
                .keySchema(KeySchemaElement.builder().attributeName("a").keyType(KeyType.HASH).build())
                .attributeDefinitions(AttributeDefinition.builder().attributeName("a").attributeType(ScalarAttributeType.S).build())).get();
            dynamo.waiter().waitUntilTableExists(b -> b.tableName(name)).get();
        });
        operations.put("dynamodb-query", () -> {
            Map<String, AttributeValue> item = Map.of("a", AttributeValue.fromS("1"));
            dynamo.putItem(b -> b.tableName(name).item(item)).get();
            equal(dynamo.getItem(b -> b.tableName(name).key(item)).get().item(), item);
        });
        operations.put("s3-put-get", () -> {
            s3.createBucket(b -> b.bucket(name)).get();
            s3.putObject(b -> b.bucket(name).key("a"), AsyncRequestBody.fromString("hello")).get();
            equal(s3.getObject(b -> b.bucket(name).key("a"), AsyncResponseTransformer.toBytes()).get().asUtf8String(), "hello");
        });
        operations.put("s3-multipart", () -> {
            try (S3TransferManager manager = S3TransferManager.builder().s3Client(s3).build()) {
                manager.upload(u -> u.requestBody(AsyncRequestBody.fromBytes(new byte[20_000_000]))
                    .putObjectRequest(p -> p.bucket(name).key("many/parts"))).completionFuture().get();
            }
            equal(s3.headObject(b -> b.bucket(name).key("many/parts")).get().contentLength(), 20_000_000L);
        });
    }
}
