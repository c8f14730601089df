package interop;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

/**
 * The battery with AWS's SDKs for Java, as they come: {@code Battery sync|async|v1 NAME}.
 *
 * <p>A line for each operation: its name, {@code ok} or {@code FAIL}, and what was wrong, between tabs.
 */
public final class Battery {
    /** One operation, which throws if anything is not as on AWS. */
    interface Operation {
        void run() throws Exception;
    }

    static final Map<String, Operation> operations = new LinkedHashMap<>();

    private Battery() {}

    static void equal(Object have, Object want) {
        if (!want.equals(have)) {
            throw new IllegalStateException(have + " instead of " + want);
        }
    }

    /** Has to be refused by an error of that code, or an exception of that name. */
    static Exception refused(String code, Operation call) throws Exception {
        try {
            call.run();
        } catch (ExecutionException problem) {
            return matches(code, (Exception) problem.getCause());
        } catch (Exception problem) {
            return matches(code, problem);
        }
        throw new IllegalStateException("not refused by " + code);
    }

    private static Exception matches(String code, Exception problem) {
        String found = problem.getClass().getSimpleName() + " " + problem;
        if (problem instanceof software.amazon.awssdk.awscore.exception.AwsServiceException service) {
            found += " " + service.awsErrorDetails().errorCode() + " " + service.statusCode();
        }
        if (problem instanceof com.amazonaws.AmazonServiceException service) {
            found += " " + service.getErrorCode() + " " + service.getStatusCode();
        }
        if (!found.contains(code)) {
            throw new IllegalStateException(found + " instead of " + code);
        }
        return problem;
    }

    public static void main(String[] arguments) {
        String name = "battery-" + arguments[1];
        switch (arguments[0]) {
            case "sync" -> Sync.add(name);
            case "async" -> Async.add(name);
            case "v1" -> First.add(name);
            default -> throw new IllegalArgumentException(arguments[0]);
        }
        operations.forEach((operation, call) -> {
            try {
                CompletableFuture.runAsync(() -> {
                    try {
                        call.run();
                    } catch (Exception problem) {
                        throw new java.util.concurrent.CompletionException(problem);
                    }
                }).get(25, TimeUnit.SECONDS);
                System.out.println(operation + "\tok\t");
            } catch (Exception problem) {
                Throwable cause = problem;
                while (cause.getCause() != null && cause instanceof ExecutionException) {
                    cause = cause.getCause();
                }
                String said = String.valueOf(cause).replaceAll("\\s+", " ");
                System.out.println(operation + "\tFAIL\t" + said.substring(0, Math.min(200, said.length())));
            }
        });
        System.exit(0);
    }
}
