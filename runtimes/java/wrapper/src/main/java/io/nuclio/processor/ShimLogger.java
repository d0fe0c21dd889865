package io.nuclio.processor;

import io.nuclio.Logger;
import java.util.LinkedHashMap;
import java.util.Map;

/** Turns what handlers log into records of either protocol. */
final class ShimLogger implements Logger {
    static final int DEBUG = 0, INFO = 1, WARN = 2, ERROR = 3;

    private static final int MESSAGE_MAX = 64 * 1024;
    /** All fields of a record together; beyond, long values are cut. */
    private static final int FIELDS_MAX = 256 * 1024;
    private static final int FIELD_MAX = 4 * 1024;

    /** Where records go. */
    interface Sink {
        /** Whether a record of this level is wanted. */
        boolean wants(int level);

        /** Takes one; fields are a JSON object. */
        void record(int level, String message, String fields);
    }

    private final Sink sink;
    private final String workerId;

    ShimLogger(Sink sink, String workerId) {
        this.sink = sink;
        this.workerId = workerId;
    }

    @Override
    public void error(String format, Object... args) {
        format(ERROR, format, args);
    }

    @Override
    public void warn(String format, Object... args) {
        format(WARN, format, args);
    }

    @Override
    public void info(String format, Object... args) {
        format(INFO, format, args);
    }

    @Override
    public void debug(String format, Object... args) {
        format(DEBUG, format, args);
    }

    @Override
    public void errorWith(String message, Object... with) {
        log(ERROR, message, with);
    }

    @Override
    public void warnWith(String message, Object... with) {
        log(WARN, message, with);
    }

    @Override
    public void infoWith(String message, Object... with) {
        log(INFO, message, with);
    }

    @Override
    public void debugWith(String message, Object... with) {
        log(DEBUG, message, with);
    }

    private void format(int level, String format, Object... args) {
        if (sink.wants(level)) {
            // compat: always a format, so `100% done` throws.
            log(level, String.format(format, args));
        }
    }

    private void log(int level, String message, Object... with) {
        if (!sink.wants(level)) {
            return;
        }
        Map<String, Object> fields = new LinkedHashMap<>();
        if (with != null && with.length % 2 == 0) {
            for (int at = 0; at < with.length; at += 2) {
                fields.put(Json.safeText(with[at]), with[at + 1]);
            }
        } else {
            System.err.println("nuclio shim: a record has a name without a value, its fields are dropped: " + message);
        }
        fields.put("worker_id", workerId);
        String text = String.valueOf(message);
        if (text.length() > MESSAGE_MAX) {
            text = text.substring(0, MESSAGE_MAX) + "... (" + text.length() + " characters)";
        }
        sink.record(level, text, json(fields));
    }

    private static String json(Map<String, Object> fields) {
        StringBuilder all = new StringBuilder();
        try {
            Json.write(all, fields);
            if (all.length() <= FIELDS_MAX) {
                return all.toString();
            }
        } catch (RuntimeException odd) {
            // One of the values changes meanwhile, or its methods fail: one by one.
        }
        Map<String, Object> safe = new LinkedHashMap<>();
        int left = FIELDS_MAX;
        for (Map.Entry<String, Object> field : fields.entrySet()) {
            String text = Json.safeText(field.getValue());
            if (text.length() > FIELD_MAX) {
                text = text.substring(0, FIELD_MAX) + "... (" + text.length() + " characters)";
            }
            left -= field.getKey().length() + text.length();
            if (left < 0) {
                break;
            }
            safe.put(field.getKey(), text);
        }
        all.setLength(0);
        Json.write(all, safe);
        return all.toString();
    }
}
