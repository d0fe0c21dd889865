package io.nuclio.processor;

import java.io.IOException;
import java.io.OutputStream;
import java.util.Arrays;
import java.util.Objects;

/** What a handler writes a streamed body to. Used by one thread at a time, which need not be the handler's. */
final class AnswerStream extends OutputStream {
    private static final int PIECE_BYTES = 64 * 1024;

    private final Session session;
    private final Answer answer;
    private byte[] buffer = new byte[1024];
    private int count;
    private boolean begun;
    private boolean closed;

    AnswerStream(Session session, Answer answer) {
        this.session = session;
        this.answer = answer;
    }

    @Override
    public synchronized void write(int value) throws IOException {
        write(new byte[] {(byte) value}, 0, 1);
    }

    @Override
    public synchronized void write(byte[] bytes, int from, int size) throws IOException {
        Objects.checkFromIndexSize(from, size, bytes.length);
        check();
        for (int done = 0; done < size;) {
            int piece = Math.min(size - done, PIECE_BYTES - count);
            if (buffer.length - count < piece) {
                buffer = Arrays.copyOf(buffer, Math.min(PIECE_BYTES, Math.max(2 * buffer.length, count + piece)));
            }
            System.arraycopy(bytes, from + done, buffer, count, piece);
            count += piece;
            done += piece;
            if (count == PIECE_BYTES) {
                send();
            }
        }
    }

    @Override
    public synchronized void flush() throws IOException {
        check();
        send();
    }

    /** The body ends when its writer returns; closing sends what there is. */
    @Override
    public synchronized void close() throws IOException {
        if (!closed) {
            send();
        }
    }

    private void check() throws IOException {
        if (closed) {
            throw new IOException("the answer has ended");
        }
    }

    private void send() throws IOException {
        if (!begun) {
            begun = true;
            session.beginStream(answer);
        }
        int size = count;
        count = 0;
        session.sendPiece(buffer, size);
    }

    /** Sends the rest, unless nothing has gone out so far. */
    synchronized void finish() throws IOException {
        if (begun && count > 0) {
            send();
        }
        closed = true;
    }

    /** Nothing is written any more. */
    synchronized void abandon() {
        closed = true;
    }

    synchronized boolean begun() {
        return begun;
    }

    /** What has not gone out. */
    synchronized byte[] rest() {
        return Arrays.copyOf(buffer, count);
    }
}
