package interop;

import static interop.Battery.equal;
import static interop.Battery.operations;
import static interop.Battery.refused;

import com.amazonaws.HttpMethod;
import com.amazonaws.client.builder.AwsClientBuilder.EndpointConfiguration;
import com.amazonaws.services.dynamodbv2.AmazonDynamoDBClientBuilder;
import com.amazonaws.services.kinesis.AmazonKinesisClientBuilder;
import com.amazonaws.services.kinesis.model.GetRecordsRequest;
import com.amazonaws.services.s3.AmazonS3ClientBuilder;
import com.amazonaws.services.s3.model.GeneratePresignedUrlRequest;
import com.amazonaws.services.s3.model.GetObjectRequest;
import com.amazonaws.services.securitytoken.AWSSecurityTokenServiceClientBuilder;
import com.amazonaws.services.securitytoken.model.GetCallerIdentityRequest;
import java.net.HttpURLConnection;
import java.nio.ByteBuffer;
import java.util.Date;

/** SDK 1, which has to be told the endpoint: it does not know the variable. */
final class First {
    private First() {}

    static void add(String name) {
        String url = System.getenv("AWS_ENDPOINT_URL");
        var endpoint = new EndpointConfiguration(url, System.getenv("AWS_REGION"));
        var kinesis = AmazonKinesisClientBuilder.standard().withEndpointConfiguration(endpoint).build();
        var dynamo = AmazonDynamoDBClientBuilder.standard().withEndpointConfiguration(endpoint).build();
        var s3 = AmazonS3ClientBuilder.standard().withEndpointConfiguration(endpoint).build();
        var sts = AWSSecurityTokenServiceClientBuilder.standard().withEndpointConfiguration(endpoint).build();
        operations.put("kinesis-put", () -> {
            kinesis.createStream(name, 1);
            kinesis.putRecord(name, ByteBuffer.wrap("x".getBytes()), "k");
        });
        operations.put("kinesis-errors", () -> {
            refused("ResourceNotFoundException", () -> kinesis.describeStream("nobody"));
            refused("InvalidArgumentException", () -> kinesis.getRecords(new GetRecordsRequest().withShardIterator("bad")));
        });
        operations.put("kinesis-read", () -> {
            String from = kinesis.getShardIterator(name, "shardId-000000000000", "TRIM_HORIZON").getShardIterator();
            equal(kinesis.getRecords(new GetRecordsRequest().withShardIterator(from)).getRecords().size(), 1);
        });
        operations.put("kinesis-delete", () -> kinesis.deleteStream(name));
        operations.put("dynamodb-table", () -> dynamo.listTables());
        operations.put("s3-put-get", () -> {
            s3.createBucket(name);
            s3.putObject(name, "a", "hello");
            equal(s3.getObjectAsString(name, "a"), "hello");
            equal(s3.doesBucketExistV2(name), true);
        });
        operations.put("s3-conditional-get", () -> equal(
            s3.getObject(new GetObjectRequest(name, "a").withMatchingETagConstraint("wrong")) == null, true));
        operations.put("s3-list", () -> equal(s3.listObjectsV2(name).getKeyCount(), 1));
        operations.put("s3-list-v1", () -> equal(s3.listObjects(name).getObjectSummaries().size(), 1));
        operations.put("s3-presigned", () -> {
            for (int seconds : new int[] {60, 1}) {
                var signed = s3.generatePresignedUrl(new GeneratePresignedUrlRequest(name, "a", HttpMethod.GET)
                    .withExpiration(new Date(System.currentTimeMillis() + seconds * 1000L)));
                if (seconds == 1) {
                    Thread.sleep(2500);
                }
                equal(((HttpURLConnection) signed.openConnection()).getResponseCode(), seconds == 1 ? 403 : 200);
            }
        });
        operations.put("s3-copy", () -> s3.copyObject(name, "a", name, "copy"));
        operations.put("sts-identity", () -> sts.getCallerIdentity(new GetCallerIdentityRequest()).getAccount());
    }
}
