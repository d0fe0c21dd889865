package io.nuclio.processor;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** Cuts what the processor sends into frames. The payload of the current frame is valid until the next one is read. */
final class FrameReader {
    static final int HEADER_BYTES = 16;
    /** A read of this size needs no memory of its own inside the JVM. */
    private static final int SMALL_READ_BYTES = 8192;
    private static final int READ_BYTES_MAX = 256 * 1024;
    private static final int BUFFER_BYTES = 64 * 1024;

    private final InputStream in;
    private final byte[] buffer = new byte[BUFFER_BYTES];
    private int start;
    private int end;
    private long maxFrame = 1L << 30;

    /** Fields of the current frame's header. */
    int kind;
    int flags;
    int code;
    int id;
    /** Its head, from {@code at} to {@code headEnd}. */
    byte[] head;
    int at;
    int headEnd;
    /** Its body, from {@code bodyAt} to {@code bodyEnd}. */
    byte[] body;
    int bodyAt;
    int bodyEnd;
    /** There was no memory for the body, which has been skipped; null: it is there. */
    OutOfMemoryError lack;

    FrameReader(InputStream in) {
        this.in = in;
    }

    void setMaxFrame(long bytes) {
        maxFrame = bytes;
    }

    /** Whether something has arrived that {@link #next} has not returned yet. */
    boolean waits() throws IOException {
        return end > start || in.available() > 0;
    }

    /** Reads the next frame; false: the processor has closed its end. */
    boolean next() throws IOException {
        if (start == end) {
            start = end = 0;
        }
        while (end - start < HEADER_BYTES) {
            if (!fill(HEADER_BYTES)) {
                return false;
            }
        }
        long size = Bytes.u32(buffer, start);
        long headBytes = Bytes.u32(buffer, start + 12);
        // What an array can hold is less than what a frame may have; nobody sends that much.
        if (headBytes > size || size > maxFrame || size > Integer.MAX_VALUE - 64) {
            throw new ProtocolException("bad frame header " + Bytes.hex(buffer, start, HEADER_BYTES));
        }
        kind = buffer[start + 4] & 0xff;
        flags = buffer[start + 5] & 0xff;
        code = Bytes.u16(buffer, start + 6);
        id = Bytes.i32(buffer, start + 8);
        lack = null;
        return size <= BUFFER_BYTES - HEADER_BYTES
            ? payloadInBuffer((int) headBytes, (int) size)
            : payloadAlone((int) headBytes, (int) (size - headBytes));
    }

    private boolean payloadInBuffer(int headBytes, int size) throws IOException {
        while (end - start < HEADER_BYTES + size) {
            if (!fill(HEADER_BYTES + size)) {
                return false;
            }
        }
        head = body = buffer;
        at = start + HEADER_BYTES;
        headEnd = bodyAt = at + headBytes;
        bodyEnd = start = at + size;
        return true;
    }

    /** Into arrays of their own, so that a large body is there once. */
    private boolean payloadAlone(int headBytes, int bodyBytes) throws IOException {
        start += HEADER_BYTES;
        head = new byte[headBytes];
        at = bodyAt = 0;
        headEnd = headBytes;
        if (!read(head)) {
            return false;
        }
        try {
            body = new byte[bodyBytes];
        } catch (OutOfMemoryError error) {
            lack = error;
            body = Answer.EMPTY;
            bodyEnd = 0;
            return skip(bodyBytes);
        }
        bodyEnd = bodyBytes;
        return read(body);
    }

    /** Fills an array with what is in the buffer, then with what is read. */
    private boolean read(byte[] into) throws IOException {
        int there = Math.min(into.length, end - start);
        System.arraycopy(buffer, start, into, 0, there);
        start += there;
        while (there < into.length) {
            int read = in.read(into, there, Math.min(into.length - there, READ_BYTES_MAX));
            if (read <= 0) {
                return false;
            }
            there += read;
        }
        return true;
    }

    private boolean skip(int bytes) throws IOException {
        int left = bytes - Math.min(bytes, end - start);
        start += bytes - left;
        while (left > 0) {
            // Nothing of the buffer is wanted any more.
            int read = in.read(buffer, 0, Math.min(left, SMALL_READ_BYTES));
            if (read <= 0) {
                return false;
            }
            left -= read;
        }
        return true;
    }

    /** The current frame's body, to keep: one that has an array of its own is not copied. */
    byte[] takeBody() {
        return body == buffer ? Arrays.copyOfRange(body, bodyAt, bodyEnd) : body;
    }

    /** Reads something; {@code wanted}: how much must fit behind {@code start}. */
    private boolean fill(int wanted) throws IOException {
        if (start + wanted > buffer.length || buffer.length - end < SMALL_READ_BYTES && start > 0) {
            System.arraycopy(buffer, start, buffer, 0, end - start);
            end -= start;
            start = 0;
        }
        int most = Math.max(SMALL_READ_BYTES, wanted - (end - start));
        int read = in.read(buffer, end, Math.min(most, buffer.length - end));
        if (read <= 0) {
            return false;
        }
        end += read;
        return true;
    }

    /** The current frame's head as a table of texts. */
    String[] headTexts() {
        return Bytes.split(new String(head, at, headEnd - at, StandardCharsets.UTF_8));
    }
}
