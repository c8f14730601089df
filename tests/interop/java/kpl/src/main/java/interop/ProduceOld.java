package interop;

import com.amazonaws.auth.EnvironmentVariableCredentialsProvider;
import com.amazonaws.services.kinesis.producer.KinesisProducer;
import com.amazonaws.services.kinesis.producer.KinesisProducerConfiguration;
import com.amazonaws.services.kinesis.producer.UserRecordResult;
import com.google.common.util.concurrent.Futures;
import com.google.common.util.concurrent.ListenableFuture;
import com.google.common.util.concurrent.MoreExecutors;
import java.nio.ByteBuffer;
import java.util.Map;

/** KPL 0.x. */
public final class ProduceOld {
    private ProduceOld() {}

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = Produce.options(arguments);
        KinesisProducer kpl = new KinesisProducer(new KinesisProducerConfiguration()
            .setRegion("us-east-1")
            .setCredentialsProvider(new EnvironmentVariableCredentialsProvider())
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
                // It has no way to leave the partition key out.
                ListenableFuture<UserRecordResult> future = kpl.addUserRecord(stream, key, hash, data);
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
