package io.nuclio.processor;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReentrantLock;

/**
 * Whole frames that go out with the next write. Any thread may put frames in. A processor that is gone is not an error
 * here: whoever reads notices it.
 */
final class FrameWriter {
    static final int HELLO = 0x81, READY = 0x82, ANSWER = 0x83, DATA = 0x84, LOG = 0x86, CONTROL_DONE = 0x87;
    static final int PONG = 0x8b, FAILED = 0x8f;

    private static final int HEADER_BYTES = FrameReader.HEADER_BYTES;
    /** Bytes that are held at most: a write of this size needs no memory of its own inside the JVM. */
    private static final int HELD_BYTES = 8192;
    /** Bodies above this are not copied. */
    private static final int COPIED_BYTES_MAX = 4096;
    private static final int WRITE_BYTES_MAX = 256 * 1024;

    private final OutputStream out;
    private final ReentrantLock lock = new ReentrantLock();
    private byte[] held = new byte[HELD_BYTES];
    private int count;
    private boolean broken;

    FrameWriter(OutputStream out) {
        this.out = out;
    }

    /** The first bytes of all. */
    void hello() {
        for (char letter : "NSH2".toCharArray()) {
            held[count++] = (byte) letter;
        }
    }

    /** Writes what is held. */
    void flush() {
        lock.lock();
        try {
            write(held, 0, count);
            count = 0;
            if (held.length > 64 * HELD_BYTES) {
                held = new byte[HELD_BYTES];
            }
        } finally {
            lock.unlock();
        }
    }

    /** The same, for a process that ends: it does not wait for a thread that hangs in a write. */
    void flushAtTheEnd() {
        try {
            if (lock.tryLock(200, TimeUnit.MILLISECONDS)) {
                try {
                    flush();
                } finally {
                    lock.unlock();
                }
            }
        } catch (InterruptedException ended) {
            Thread.currentThread().interrupt();
        }
    }

    /** Puts a frame in; head and body may be null. */
    void put(int kind, int flags, int code, int id, byte[] head, byte[] body) {
        int headBytes = head == null ? 0 : head.length;
        lock.lock();
        try {
            int at = begin(headBytes);
            if (head != null) {
                System.arraycopy(head, 0, held, count, headBytes);
                count += headBytes;
            }
            finish(at, kind, flags, code, id, body == null ? Answer.EMPTY : body, 0, body == null ? 0 : body.length);
        } finally {
            lock.unlock();
        }
    }

    /** A frame with a body alone. */
    void putBody(int kind, int flags, int code, int id, byte[] body, int from, int bytes) {
        lock.lock();
        try {
            finish(begin(0), kind, flags, code, id, body, from, bytes);
        } finally {
            lock.unlock();
        }
    }

    /** A frame whose head is a table. */
    void putTexts(int kind, int code, String... texts) {
        put(kind, 0, code, 0, String.join("\0", texts).getBytes(StandardCharsets.UTF_8), null);
    }

    /** A log record. */
    void putLog(int level, int id, long micros, byte[] message, byte[] fields) {
        byte[] head = new byte[8 + message.length];
        Bytes.put64(head, 0, micros);
        System.arraycopy(message, 0, head, 8, message.length);
        put(LOG, 0, level, id, head, fields);
    }

    /** An answer, or the beginning of a streamed one. */
    void putAnswer(int id, Answer answer, int flags, long nanos) {
        lock.lock();
        try {
            int at = begin(8);
            try {
                answer(at, id, answer, flags, nanos);
            } catch (OutOfMemoryError error) {
                count = at; // No half a frame.
                throw error;
            }
        } finally {
            lock.unlock();
        }
    }

    private void answer(int at, int id, Answer answer, int flags, long nanos) {
        List<String> pairs = answer.pairs;
        Bytes.put32(held, count, (int) Math.min(Math.max(0, nanos / 1000), 0xffffffffL));
        Bytes.put16(held, count + 4, pairs.size() / 2);
        Bytes.put16(held, count + 6, 0);
        count += 8;
        text(answer.contentType);
        for (int place = 0; place < pairs.size(); place++) {
            room(1);
            held[count++] = 0;
            text(pairs.get(place));
        }
        finish(at, ANSWER, flags | answer.flags, answer.status, id, answer.body, 0, answer.body.length);
    }

    /** Leaves room for a header and a head of that size; returns where the header goes. */
    private int begin(int headBytes) {
        if (count + HEADER_BYTES + headBytes > HELD_BYTES) {
            write(held, 0, count);
            count = 0;
        }
        room(HEADER_BYTES + headBytes);
        int at = count;
        count += HEADER_BYTES;
        return at;
    }

    private void finish(int at, int kind, int flags, int code, int id, byte[] body, int from, int bytes) {
        int head = count - at - HEADER_BYTES;
        Bytes.put32(held, at, head + bytes);
        held[at + 4] = (byte) kind;
        held[at + 5] = (byte) flags;
        Bytes.put16(held, at + 6, code);
        Bytes.put32(held, at + 8, id);
        Bytes.put32(held, at + 12, head);
        if (bytes <= COPIED_BYTES_MAX) {
            room(bytes);
            System.arraycopy(body, from, held, count, bytes);
            count += bytes;
            return;
        }
        flush();
        write(body, from, bytes);
    }

    private void room(int bytes) {
        if (held.length - count < bytes) {
            held = Arrays.copyOf(held, Math.max(held.length * 2, count + bytes));
        }
    }

    private void text(String text) {
        int length = text.length();
        room(length);
        for (int place = 0; place < length; place++) {
            char unit = text.charAt(place);
            if (unit >= 0x80) {
                byte[] rest = text.substring(place).getBytes(StandardCharsets.UTF_8);
                room(rest.length);
                System.arraycopy(rest, 0, held, count, rest.length);
                count += rest.length;
                return;
            }
            held[count++] = (byte) unit;
        }
    }

    private void write(byte[] bytes, int from, int size) {
        try {
            for (int done = 0; done < size && !broken;) {
                int piece = Math.min(size - done, WRITE_BYTES_MAX);
                out.write(bytes, from + done, piece);
                done += piece;
            }
        } catch (IOException gone) {
            broken = true;
        }
    }
}
