package io.nuclio.processor;

import io.nuclio.BodyWriter;
import io.nuclio.Response;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.lang.reflect.Array;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** What goes back for an event, in the terms of the wire. */
final class Answer {
    static final int MORE = 0x01, NO_ACK = 0x04, CANCELLED = 0x10;
    static final byte[] EMPTY = {};
    /** As many as their count in a frame can say. */
    private static final int HEADERS_MAX = 0xffff;
    static final String NO_ACK_HEADER = "X-Nuclio-Stream-No-Ack";

    final int status;
    final String contentType;
    /** Names and values in turn. */
    final List<String> pairs;
    final byte[] body;
    /** Writes the body instead; null: none. */
    final BodyWriter writer;
    int flags;

    private Answer(int status, String contentType, List<String> pairs, byte[] body, BodyWriter writer) {
        this.status = status;
        this.contentType = contentType;
        this.pairs = pairs;
        this.body = body;
        this.writer = writer;
    }

    /** A plain one. */
    static Answer of(int status, String text) {
        return new Answer(status, "text/plain", List.of(), text.getBytes(StandardCharsets.UTF_8), null);
    }

    /** The same head with another body. */
    Answer with(byte[] other) {
        Answer answer = new Answer(status, contentType, pairs, other, null);
        answer.flags = flags;
        return answer;
    }

    /** What a handler's failure becomes. */
    static Answer failure(Throwable error) {
        return of(500, "Error in handler: " + describe(error) + "\n" + stack(error));
    }

    /** What a response means; throws if it means nothing. */
    static Answer of(Response response, ShimLogger logger) {
        if (response == null) {
            throw new IllegalStateException("the handler returned null, want a Response");
        }
        long status = response.getStatusCode();
        if (status != 0 && (status < 100 || status > 999)) {
            throw new IllegalArgumentException("the answer's status is " + status + ", want one from 200 to 999");
        }
        byte[] body = response.getBody();
        String type = response.getContentType();
        Answer answer = new Answer(
            (int) status,
            type == null ? "" : type.replace("\0", ""),
            new ArrayList<>(),
            body == null ? EMPTY : body,
            response.getBodyWriter());
        Map<String, Object> headers = response.getHeaders();
        if (headers != null && !headers.isEmpty()) {
            headers.forEach((name, value) -> answer.header(name, value, logger));
            if (answer.pairs.size() / 2 > HEADERS_MAX) {
                throw new IllegalArgumentException(
                    "the answer has " + answer.pairs.size() / 2 + " headers, want at most " + HEADERS_MAX);
            }
        }
        return answer;
    }

    private void header(String name, Object value, ShimLogger logger) {
        if (name == null || value == null) {
            return;
        }
        if (name.equalsIgnoreCase(NO_ACK_HEADER)) {
            String text = value.toString();
            flags |= text.equalsIgnoreCase("true") || text.equals("1") ? NO_ACK : 0;
        } else if (value instanceof byte[]) {
            add(name, new String((byte[]) value, StandardCharsets.UTF_8), logger);
        } else if (value instanceof Iterable) {
            ((Iterable<?>) value).forEach(one -> add(name, one, logger));
        } else if (value.getClass().isArray()) {
            for (int at = 0; at < Array.getLength(value); at++) {
                add(name, Array.get(value, at), logger);
            }
        } else if (!(value instanceof Map)) {
            add(name, value, logger);
        }
    }

    private void add(String name, Object value, ShimLogger logger) {
        if (value == null) {
            return;
        }
        String text = value instanceof Number ? Json.number((Number) value) : value.toString();
        if (name.indexOf('\0') >= 0 || text.indexOf('\0') >= 0) {
            logger.warnWith("Dropped a header with a NUL byte", "header", name);
        } else {
            pairs.add(name);
            pairs.add(text);
        }
    }

    /** The error in one line, whatever its own methods do. */
    static String describe(Throwable error) {
        try {
            return error.toString();
        } catch (Throwable second) {
            return error.getClass().getName();
        }
    }

    static String stack(Throwable error) {
        try {
            StringWriter text = new StringWriter();
            error.printStackTrace(new PrintWriter(text, true));
            return text.toString();
        } catch (Throwable second) {
            return describe(error);
        }
    }
}
