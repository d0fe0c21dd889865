package io.nuclio;

import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;

/** An answer: 200, {@code text/plain} and an empty body unless something else is set. */
public class Response {
    private static final byte[] EMPTY = {};

    private byte[] body = EMPTY;
    private BodyWriter writer;
    private long statusCode = 200;
    private String contentType = "text/plain";
    private Map<String, Object> headers = new HashMap<>();

    /** The answer with an empty body. */
    public Response() {
    }

    /**
     * The body, as it is.
     *
     * @param body bytes; null is an empty body
     * @return this
     */
    public Response setBody(byte[] body) {
        this.body = body;
        writer = null;
        return this;
    }

    /**
     * The body as text, sent in UTF-8.
     *
     * @param body a text, not null
     * @return this
     */
    public Response setBody(String body) {
        return setBody(utf8(body));
    }

    /**
     * A body that is streamed: what can be read from the stream, as it comes. The stream is closed in the end.
     *
     * @param body a stream, not null
     * @return this
     */
    public Response setBody(InputStream body) {
        if (body == null) {
            throw new NullPointerException("body");
        }
        return setBody((BodyWriter) out -> {
            try (InputStream in = body) {
                byte[] piece = new byte[1 << 16];
                for (int read; (read = in.read(piece)) >= 0;) {
                    out.write(piece, 0, read);
                    out.flush();
                }
            }
        });
    }

    /**
     * A body that is streamed: what the writer writes.
     *
     * @param writer called once, not null
     * @return this
     */
    public Response setBody(BodyWriter writer) {
        if (writer == null) {
            throw new NullPointerException("writer");
        }
        this.body = EMPTY;
        this.writer = writer;
        return this;
    }

    /**
     * The body.
     *
     * @return its bytes; those of a streamed body are not known
     */
    public byte[] getBody() {
        return body;
    }

    /**
     * What writes a streamed body.
     *
     * @return null if the body is not streamed
     */
    public BodyWriter getBodyWriter() {
        return writer;
    }

    /**
     * The status.
     *
     * @param statusCode from 200 to 999
     * @return this
     */
    public Response setStatusCode(long statusCode) {
        this.statusCode = statusCode;
        return this;
    }

    /**
     * The status.
     *
     * @return 200 unless set
     */
    public long getStatusCode() {
        return statusCode;
    }

    /**
     * The headers.
     *
     * @param headers texts, numbers, booleans; a collection repeats the header
     * @return this
     */
    public Response setHeaders(Map<String, Object> headers) {
        this.headers = headers;
        return this;
    }

    /**
     * The headers.
     *
     * @return those that were set, else an empty map
     */
    public Map<String, Object> getHeaders() {
        return headers;
    }

    /**
     * The type of the body.
     *
     * @param contentType such as {@code application/json}
     * @return this
     */
    public Response setContentType(String contentType) {
        this.contentType = contentType;
        return this;
    }

    /**
     * The type of the body.
     *
     * @return {@code text/plain} unless set
     */
    public String getContentType() {
        return contentType;
    }

    /** UTF-8, with U+FFFD for each half of a surrogate pair that stands alone, where Java would put a question mark. */
    private static byte[] utf8(String text) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        boolean plain = true;
        for (int at = 0; plain && at < bytes.length; at++) {
            plain = bytes[at] != '?';
        }
        if (plain) {
            return bytes;
        }
        StringBuilder mended = null;
        for (int at = 0; at < text.length(); at++) {
            char unit = text.charAt(at);
            if (!Character.isSurrogate(unit)) {
                continue;
            }
            if (Character.isHighSurrogate(unit) && at + 1 < text.length() && Character.isLowSurrogate(text.charAt(at + 1))) {
                at++;
                continue;
            }
            if (mended == null) {
                mended = new StringBuilder(text);
            }
            mended.setCharAt(at, '\ufffd');
        }
        return mended == null ? bytes : mended.toString().getBytes(StandardCharsets.UTF_8);
    }
}
