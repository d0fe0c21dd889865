package io.nuclio.processor;

import io.nuclio.TriggerInfo;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Date;
import java.util.Map;

/** The event of a line of protocol 1. */
final class JsonEvent extends BaseEvent {
    private final Map<String, Object> members;
    private final byte[] body;

    /** Throws if the line holds no event. */
    JsonEvent(String line) {
        members = map(Json.read(line), "event");
        Object value = members.get("body");
        if (value == null || value instanceof String) {
            body = Base64.getDecoder().decode(value == null ? "" : (String) value);
        } else {
            // The Go processor puts the data of structured cloud events there as they are.
            StringBuilder text = new StringBuilder();
            Json.write(text, value);
            body = text.toString().getBytes(StandardCharsets.UTF_8);
        }
    }

    @SuppressWarnings("unchecked") // Names of JSON are texts.
    private static Map<String, Object> map(Object value, String what) {
        if (value == null) {
            return Map.of();
        }
        if (!(value instanceof Map)) {
            throw new IllegalArgumentException(what + " is no JSON object");
        }
        return (Map<String, Object>) value;
    }

    private String text(String name) {
        Object value = members.get(name);
        return value == null ? "" : value.toString();
    }

    private long number(String name) {
        Object value = members.get(name);
        return value instanceof Number ? ((Number) value).longValue() : 0;
    }

    @Override
    public String getID() {
        return text("id");
    }

    @Override
    public TriggerInfo getTriggerInfo() {
        Object kind = map(members.get("trigger"), "trigger").get("kind");
        return new Trigger(kind == null ? "" : kind.toString());
    }

    @Override
    public String getContentType() {
        return text(members.containsKey("content-type") ? "content-type" : "content_type");
    }

    @Override
    public byte[] getBody() {
        return body;
    }

    @Override
    public Map<String, Object> getHeaders() {
        return map(members.get("headers"), "headers");
    }

    @Override
    public Map<String, Object> getFields() {
        return map(members.get("fields"), "fields");
    }

    @Override
    public Date getTimestamp() {
        return new Date(number("timestamp") * 1000);
    }

    @Override
    public String getPath() {
        return text("path");
    }

    @Override
    public String getURL() {
        return text("url");
    }

    @Override
    public String getMethod() {
        return text("method");
    }

    @Override
    public long getShardID() {
        return number("shard_id");
    }

    @Override
    public long getTotalNumShards() {
        return number("num_shards");
    }

    @Override
    public String getType() {
        return text("type");
    }

    @Override
    public String getTypeVersion() {
        return text("type_version");
    }

    @Override
    public String getVersion() {
        return text("version");
    }
}
