package interop;

import com.google.common.util.concurrent.ListenableFuture;
import java.io.FileWriter;
import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Puts numbered user records: {@code ProduceOld|ProduceNew STREAM OUTPUT COUNT [name=value ...]}.
 *
 * <p>OUTPUT gets a line of JSON for each record that was acknowledged, or given up. What a version of the KPL does in
 * its own way is in the class that is started.
 */
final class Produce {
    /** The KPL, as far as it is needed here. */
    interface Producer {
        /** {@code partitionKey} null: without one. */
        ListenableFuture<Outcome> add(String stream, String partitionKey, String explicitHashKey, ByteBuffer data);

        void flushSync();

        void destroy();
    }

    /** What became of a record. */
    record Outcome(boolean done, String shard, String sequence, int attempts) {}

    private Produce() {}

    static Map<String, String> options(String[] arguments) {
        Map<String, String> options = new HashMap<>();
        for (int at = 3; at < arguments.length; at++) {
            String[] pair = arguments[at].split("=", 2);
            options.put(pair[0], pair[1]);
        }
        return options;
    }

    static void run(String[] arguments, Producer producer) throws Exception {
        Map<String, String> options = options(arguments);
        String stream = arguments[0];
        int count = Integer.parseInt(arguments[2]);
        boolean keys = !options.getOrDefault("keys", "300").equals("0");
        int distinct = Math.max(1, Integer.parseInt(options.getOrDefault("keys", "300")));
        double rate = Double.parseDouble(options.getOrDefault("rate", "0"));
        Random drawn = new Random(Long.parseLong(options.getOrDefault("seed", "1")));
        Semaphore open = new Semaphore(5000);
        AtomicLong failed = new AtomicLong();
        PrintWriter output = new PrintWriter(new FileWriter(arguments[1], StandardCharsets.UTF_8));
        long begun = System.nanoTime();
        for (int at = 0; at < count; at++) {
            String id = String.format("k%06d", at);
            byte[] data = ("{\"id\":\"" + id + "\",\"text\":\"" + "x".repeat(drawn.nextInt(60)) + "\"}")
                .getBytes(StandardCharsets.UTF_8);
            // A third by a hash key of its own, some keys beyond ASCII.
            int key = drawn.nextInt(distinct);
            String partitionKey = keys ? (key % 7 == 0 ? "schlüssel-" : "key-") + key : null;
            String hash = keys && at % 3 == 0 ? new java.math.BigInteger(128, drawn).toString() : null;
            open.acquire();
            ListenableFuture<Outcome> future = producer.add(stream, partitionKey, hash, ByteBuffer.wrap(data));
            future.addListener(() -> {
                try {
                    Outcome outcome = future.get();
                    if (!outcome.done()) {
                        failed.incrementAndGet();
                    }
                    synchronized (output) {
                        output.println("{\"id\":\"" + id + "\",\"done\":" + outcome.done() + ",\"shard\":\"" + outcome.shard()
                            + "\",\"sequence\":\"" + outcome.sequence() + "\",\"attempts\":" + outcome.attempts() + "}");
                    }
                } catch (Exception problem) {
                    failed.incrementAndGet();
                    System.err.println(id + ": " + problem);
                } finally {
                    open.release();
                }
            }, Runnable::run);
            if (rate > 0) {
                long due = begun + (long) (at / rate * 1e9);
                long wait = due - System.nanoTime();
                if (wait > 1_000_000) {
                    Thread.sleep(wait / 1_000_000);
                }
            }
        }
        producer.flushSync();
        open.acquire(5000);
        synchronized (output) {
            output.close();
        }
        producer.destroy();
        System.out.println("{\"count\":" + count + ",\"failed\":" + failed + "}");
        System.exit(0);
    }
}
