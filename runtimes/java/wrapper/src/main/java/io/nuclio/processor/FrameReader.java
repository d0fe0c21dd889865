package io.nuclio.processor;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;

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
    /** Its payload: head from {@code at} to {@code body}, body from there to {@code limit}. */
    byte[] data;
    int at;
    int body;
    int limit;

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

    /** Whether the next frame is there already, so that reading it does not wait. */
    boolean holdsFrame() {
        return end - start >= HEADER_BYTES && end - start - HEADER_BYTES >= Bytes.u32(buffer, start);
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
        long head = Bytes.u32(buffer, start + 12);
        // What an array can hold is less than what a frame may have; nobody sends that much.
        if (head > size || size > maxFrame || size > Integer.MAX_VALUE - 64) {
            throw new ProtocolException("bad frame header " + Bytes.hex(buffer, start, HEADER_BYTES));
        }
        kind = buffer[start + 4] & 0xff;
        flags = buffer[start + 5] & 0xff;
        code = Bytes.u16(buffer, start + 6);
        id = Bytes.i32(buffer, start + 8);
        if (!(size <= BUFFER_BYTES - HEADER_BYTES ? payloadInBuffer((int) size) : payloadAlone((int) size))) {
            return false;
        }
        body = at + (int) head;
        limit = at + (int) size;
        return true;
    }

    private boolean payloadInBuffer(int size) throws IOException {
        while (end - start < HEADER_BYTES + size) {
            if (!fill(HEADER_BYTES + size)) {
                return false;
            }
        }
        data = buffer;
        at = start + HEADER_BYTES;
        start = at + size;
        return true;
    }

    private boolean payloadAlone(int size) throws IOException {
        byte[] payload = new byte[size];
        int there = Math.min(size, end - start - HEADER_BYTES);
        System.arraycopy(buffer, start + HEADER_BYTES, payload, 0, there);
        start += HEADER_BYTES + there;
        while (there < size) {
            int read = in.read(payload, there, Math.min(size - there, READ_BYTES_MAX));
            if (read <= 0) {
                return false;
            }
            there += read;
        }
        data = payload;
        at = 0;
        return true;
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
        return Bytes.split(new String(data, at, body - at, StandardCharsets.UTF_8));
    }
}
