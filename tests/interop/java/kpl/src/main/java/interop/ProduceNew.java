package interop;

import com.google.common.util.concurrent.Futures;
import com.google.common.util.concurrent.ListenableFuture;
import com.google.common.util.concurrent.MoreExecutors;
import java.nio.ByteBuffer;
import java.util.Map;
import software.amazon.awssdk.auth.credentials.EnvironmentVariableCredentialsProvider;
import software.amazon.kinesis.producer.KinesisProducer;
import software.amazon.kinesis.producer.KinesisProducerConfiguration;
import software.amazon.kinesis.producer.UserRecordResult;

/** KPL 1.x. */
public final class ProduceNew {
    private ProduceNew() {}

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = Produce.options(arguments);
        KinesisProducer kpl = new KinesisProducer(new KinesisProducerConfiguration()
            .setRegion("us-east-1")
            .setCredentialsProvider(EnvironmentVariableCredentialsProvider.create())
            .setKinesisEndpoint("127.0.0.1")
            .setKinesisPort(Long.parseLong(options.get("port")))
            .setStsEndpoint("127.0.0.1")
            .setStsPort(Long.parseLong(options.get("sts-port")))
            .setVerifyCertificate(false)
            .setMetricsLevel("none")
            .setRecordTtl(600_000));
        Produce.run(arguments, new Produce.Producer() {
            @Override
            public ListenableFuture<Produce.Outcome> add(String stream, String key, String hash, ByteBuffer data) {
                ListenableFuture<UserRecordResult> future = key == null
                    ? kpl.addUserRecord(stream, data) : kpl.addUserRecord(stream, key, hash, data);
                return Futures.transform(future, result -> new Produce.Outcome(result.isSuccessful(), result.getShardId(),
                    result.getSequenceNumber(), result.getAttempts().size()), MoreExecutors.directExecutor());
            }

            @Override
            public void flushSync() {
                kpl.flushSync();
            }

            @Override
            public void destroy() {
                kpl.destroy();
            }
        });
    }
}
