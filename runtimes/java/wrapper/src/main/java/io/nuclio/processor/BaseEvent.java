package io.nuclio.processor;

import io.nuclio.Event;
import io.nuclio.TriggerInfo;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/** What events of both protocols have in common: how headers and fields are converted. */
abstract class BaseEvent implements Event {
    @Override
    public Object getBodyObject() {
        return getBody();
    }

    @Override
    public Object getHeader(String key) {
        return getHeaders().get(key);
    }

    @Override
    public String getHeaderString(String key) {
        return text(getHeader(key));
    }

    @Override
    public byte[] getHeaderBytes(String key) {
        return bytes(getHeader(key));
    }

    @Override
    public long getHeaderLong(String key) {
        return number(getHeader(key));
    }

    @Override
    public Object getField(String key) {
        return getFields().get(key);
    }

    @Override
    public String getFieldString(String key) {
        return text(getField(key));
    }

    @Override
    public byte[] getFieldBytes(String key) {
        return bytes(getField(key));
    }

    @Override
    public long getFieldLong(String key) {
        return number(getField(key));
    }

    private static String text(Object value) {
        if (value == null || value instanceof String) {
            return (String) value;
        }
        return value instanceof byte[] ? new String((byte[]) value, StandardCharsets.UTF_8) : value.toString();
    }

    private static byte[] bytes(Object value) {
        if (value == null || value instanceof byte[]) {
            return (byte[]) value;
        }
        return text(value).getBytes(StandardCharsets.UTF_8);
    }

    /** compat: a text is never read as a number, and there is no number where there is no value. */
    private static long number(Object value) {
        if (value == null) {
            throw new NullPointerException("there is no such value");
        }
        return value instanceof Number ? ((Number) value).longValue() : 0;
    }

    /** Where an event came from. */
    static final class Trigger implements TriggerInfo {
        private final String kind;

        Trigger(String kind) {
            this.kind = kind;
        }

        @Override
        public String getClassName() {
            return null; // compat: not known to the shim.
        }

        @Override
        public String getKindName() {
            return kind;
        }
    }

    /** A map of pairs that begin at a place of a table. */
    static void pairs(Object[] texts, int from, int count, Map<String, Object> into) {
        for (int at = from; at < from + 2 * count; at += 2) {
            into.put(String.valueOf(texts[at]), texts[at + 1]);
        }
    }
}
