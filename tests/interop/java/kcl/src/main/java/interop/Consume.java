package interop;

import java.io.FileWriter;
import java.io.IOException;
import java.io.PrintWriter;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import software.amazon.awssdk.services.cloudwatch.CloudWatchAsyncClient;
import software.amazon.awssdk.services.dynamodb.DynamoDbAsyncClient;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.kinesis.common.ConfigsBuilder;
import software.amazon.kinesis.common.InitialPositionInStream;
import software.amazon.kinesis.common.InitialPositionInStreamExtended;
import software.amazon.kinesis.common.KinesisClientUtil;
import software.amazon.kinesis.common.LeaseCleanupConfig;
import software.amazon.kinesis.common.StreamConfig;
import software.amazon.kinesis.common.StreamIdentifier;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.leases.LeaseManagementConfig;
import software.amazon.kinesis.lifecycle.events.InitializationInput;
import software.amazon.kinesis.lifecycle.events.LeaseLostInput;
import software.amazon.kinesis.lifecycle.events.ProcessRecordsInput;
import software.amazon.kinesis.lifecycle.events.ShardEndedInput;
import software.amazon.kinesis.lifecycle.events.ShutdownRequestedInput;
import software.amazon.kinesis.metrics.NullMetricsFactory;
import software.amazon.kinesis.processor.FormerStreamsLeasesDeletionStrategy;
import software.amazon.kinesis.processor.MultiStreamTracker;
import software.amazon.kinesis.processor.RecordProcessorCheckpointer;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.processor.ShardRecordProcessorFactory;
import software.amazon.kinesis.processor.SingleStreamTracker;
import software.amazon.kinesis.retrieval.KinesisClientRecord;
import software.amazon.kinesis.retrieval.polling.PollingConfig;

/**
 * A KCL application that writes what it got: {@code Consume APPLICATION STREAM OUTPUT [name=value ...]}.
 *
 * <p>A line of JSON for each user record goes to OUTPUT before a checkpoint can cover it, one for each event
 * of a shard to OUTPUT.events. One source for KCL 2.x and 3.x; settings that one of them lacks are set by name:
 * {@code coordinator.NAME=VALUE}, {@code lease.NAME=VALUE}.
 */
public final class Consume {
    private static final Map<String, String> options = new HashMap<>();
    private static PrintWriter output;
    private static PrintWriter events;
    private static long taken;

    private static String option(String name, String otherwise) {
        return options.getOrDefault(name, otherwise);
    }

    private static long number(String name, long otherwise) {
        return Long.parseLong(option(name, Long.toString(otherwise)));
    }

    private static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ') {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }

    private static synchronized void event(String what, String shard, String detail) {
        events.println("{\"time\":" + System.currentTimeMillis() + ",\"event\":" + quoted(what) + ",\"shard\":"
            + quoted(String.valueOf(shard)) + ",\"detail\":" + quoted(String.valueOf(detail)) + "}");
        events.flush();
    }

    private static synchronized long write(String stream, String shard, KinesisClientRecord record) {
        ByteBuffer data = record.data().duplicate();
        byte[] bytes = new byte[data.remaining()];
        data.get(bytes);
        output.println("{\"stream\":" + quoted(stream) + ",\"shard\":" + quoted(shard) + ",\"sequence\":"
            + quoted(record.sequenceNumber()) + ",\"sub\":" + record.subSequenceNumber() + ",\"key\":"
            + quoted(String.valueOf(record.partitionKey())) + ",\"time\":" + System.currentTimeMillis()
            + ",\"data\":" + quoted(new String(bytes, StandardCharsets.UTF_8)) + "}");
        output.flush();
        taken++;
        return taken;
    }

    /** Checkpoints at drawn places: in the middle of a batch, also in the middle of an aggregate. */
    private static final class Processor implements ShardRecordProcessor {
        private final String stream;
        private final Random drawn = new Random(number("seed", 1));
        private String shard;
        private long next;

        Processor(String stream) {
            this.stream = stream;
        }

        private void draw() {
            // 0: only at the end of a batch of records.
            long every = number("checkpoint-every", 25);
            next = every == 0 ? Long.MAX_VALUE : 1 + (long) (drawn.nextDouble() * 2 * every);
        }

        @Override
        public void initialize(InitializationInput input) {
            shard = input.shardId();
            draw();
            event("begin", shard, input.extendedSequenceNumber() + " pending " + input.pendingCheckpointSequenceNumber());
        }

        @Override
        public void processRecords(ProcessRecordsInput input) {
            long pause = number("pause", 0);
            long halt = number("halt-after", 0);
            for (KinesisClientRecord record : input.records()) {
                long count = write(stream, shard, record);
                if (pause > 0) {
                    rest(pause);
                }
                if (halt > 0 && count == halt) {
                    checkpoint(input.checkpointer(), record);
                    event("halt", shard, record.sequenceNumber() + "/" + record.subSequenceNumber());
                    Runtime.getRuntime().halt(9);
                }
                if (halt == 0 && --next <= 0) {
                    checkpoint(input.checkpointer(), record);
                    draw();
                }
            }
            if (halt == 0 && next > 1_000_000_000L && !input.records().isEmpty()) {
                checkpoint(input.checkpointer(), null);
            }
        }

        private void checkpoint(RecordProcessorCheckpointer checkpointer, KinesisClientRecord record) {
            try {
                if (record == null) {
                    checkpointer.checkpoint();
                } else {
                    checkpointer.checkpoint(record.sequenceNumber(), record.subSequenceNumber());
                }
                event("checkpoint", shard, record == null ? "all" : record.sequenceNumber() + "/" + record.subSequenceNumber());
            } catch (Exception problem) {
                event("no checkpoint", shard, problem.toString());
            }
        }

        @Override
        public void leaseLost(LeaseLostInput input) {
            event("lost", shard, "");
        }

        @Override
        public void shardEnded(ShardEndedInput input) {
            try {
                input.checkpointer().checkpoint();
                event("ended", shard, "");
            } catch (Exception problem) {
                event("not ended", shard, problem.toString());
            }
        }

        @Override
        public void shutdownRequested(ShutdownRequestedInput input) {
            checkpoint(input.checkpointer(), null);
        }
    }

    private static void rest(long millis) {
        try {
            Thread.sleep(millis);
        } catch (InterruptedException problem) {
            Thread.currentThread().interrupt();
        }
    }

    private static InitialPositionInStreamExtended initial() {
        String at = option("initial", "TRIM_HORIZON");
        return Character.isDigit(at.charAt(0))
            ? InitialPositionInStreamExtended.newInitialPositionAtTimestamp(new Date(Long.parseLong(at)))
            : InitialPositionInStreamExtended.newInitialPosition(InitialPositionInStream.valueOf(at));
    }

    /** Calls the setter of that name; false where this version has none that takes the value. */
    @SuppressWarnings({"unchecked", "rawtypes"})
    private static boolean set(Object config, String name, String value) throws ReflectiveOperationException {
        for (Method method : config.getClass().getMethods()) {
            if (!method.getName().equals(name) || method.getParameterCount() != 1) {
                continue;
            }
            Class<?> type = method.getParameterTypes()[0];
            Object given;
            if (type.isEnum()) {
                given = Enum.valueOf((Class) type, value);
            } else if (type == boolean.class || type == Boolean.class) {
                given = Boolean.valueOf(value);
            } else if (type == int.class || type == Integer.class) {
                given = Integer.valueOf(value);
            } else if (type == long.class || type == Long.class) {
                given = Long.valueOf(value);
            } else {
                continue;
            }
            method.invoke(config, given);
            return true;
        }
        return false;
    }

    private static void setAll(Object config, String prefix) throws ReflectiveOperationException {
        for (Map.Entry<String, String> one : options.entrySet()) {
            if (one.getKey().startsWith(prefix) && !set(config, one.getKey().substring(prefix.length()), one.getValue())) {
                throw new IllegalArgumentException("this KCL has no setting " + one.getKey());
            }
        }
    }

    private static void cleanUpEvery(LeaseManagementConfig lease, long millis) throws ReflectiveOperationException {
        var field = LeaseManagementConfig.class.getDeclaredField("leaseCleanupConfig"); // has no setter
        field.setAccessible(true);
        field.set(lease, LeaseCleanupConfig.builder().leaseCleanupIntervalMillis(millis)
            .completedLeaseCleanupIntervalMillis(millis).garbageLeaseCleanupIntervalMillis(millis).build());
    }

    /** Streams as {@code account:name:epoch,...}: leases are keyed by all three and the shard. */
    private static MultiStreamTracker several(String streams) {
        List<StreamConfig> list = new ArrayList<>();
        for (String one : streams.split(",")) {
            list.add(new StreamConfig(StreamIdentifier.multiStreamInstance(one), initial()));
        }
        return new MultiStreamTracker() {
            @Override
            public List<StreamConfig> streamConfigList() {
                return list;
            }

            @Override
            public FormerStreamsLeasesDeletionStrategy formerStreamsLeasesDeletionStrategy() {
                return new FormerStreamsLeasesDeletionStrategy.NoLeaseDeletionStrategy();
            }
        };
    }

    public static void main(String[] arguments) throws Exception {
        String application = arguments[0];
        String stream = arguments[1];
        for (int at = 3; at < arguments.length; at++) {
            String[] pair = arguments[at].split("=", 2);
            options.put(pair[0], pair[1]);
        }
        output = append(arguments[2]);
        events = append(arguments[2] + ".events");
        // As AWS's guide makes it: HTTP/2. Region, credentials and endpoints come from the environment.
        KinesisAsyncClient kinesis = KinesisClientUtil.createKinesisAsyncClient(KinesisAsyncClient.builder());
        DynamoDbAsyncClient dynamo = DynamoDbAsyncClient.create();
        CloudWatchAsyncClient unused = CloudWatchAsyncClient.create();
        String worker = option("worker", "kcl");
        ShardRecordProcessorFactory factory = new ShardRecordProcessorFactory() {
            @Override
            public ShardRecordProcessor shardRecordProcessor() {
                return new Processor(stream);
            }

            @Override
            public ShardRecordProcessor shardRecordProcessor(StreamIdentifier one) {
                return new Processor(one.streamName());
            }
        };
        ConfigsBuilder builder = options.containsKey("streams")
            ? new ConfigsBuilder(several(options.get("streams")), application, kinesis, dynamo, unused, worker, factory)
            : new ConfigsBuilder(new SingleStreamTracker(StreamIdentifier.singleStreamInstance(stream), initial()),
                application, kinesis, dynamo, unused, worker, factory);
        LeaseManagementConfig lease = builder.leaseManagementConfig()
            .failoverTimeMillis(number("failover", 5000))
            .shardSyncIntervalMillis(number("shard-sync", 5000))
            .leasesRecoveryAuditorExecutionFrequencyMillis(number("shard-sync", 5000))
            .initialPositionInStream(initial());
        if (options.containsKey("clean-up")) {
            cleanUpEvery(lease, number("clean-up", 0));
        }
        setAll(lease, "lease.");
        var coordinator = builder.coordinatorConfig().parentShardPollIntervalMillis(1000)
            .shardConsumerDispatchPollIntervalMillis(200);
        setAll(coordinator, "coordinator.");
        var polling = options.containsKey("streams") ? new PollingConfig(kinesis) : new PollingConfig(stream, kinesis);
        polling.idleTimeBetweenReadsInMillis(number("idle", 250));
        polling.maxRecords((int) number("page", 1000));
        var retrieval = builder.retrievalConfig().retrievalSpecificConfig(polling);
        Scheduler scheduler = new Scheduler(builder.checkpointConfig(), coordinator, lease, builder.lifecycleConfig(),
            builder.metricsConfig().metricsFactory(new NullMetricsFactory()), builder.processorConfig(), retrieval);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                event("stopped", "", scheduler.startGracefulShutdown().get().toString());
            } catch (Exception problem) {
                event("not stopped", "", problem.toString());
            }
        }));
        event("start", "", worker);
        scheduler.run();
    }

    private static PrintWriter append(String file) throws IOException {
        return new PrintWriter(new FileWriter(file, StandardCharsets.UTF_8, true));
    }
}
