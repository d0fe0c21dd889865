package io.nuclio.processor;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PipedInputStream;
import java.io.PipedOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** Plays the processor against a session on a thread of its own. */
final class Peer implements AutoCloseable {
    static final int HELLO = 0x81, READY = 0x82, ANSWER = 0x83, DATA = 0x84, LOG = 0x86, DONE = 0x87, PONG = 0x8b;
    static final int FAILED = 0x8f;

    private final PipedOutputStream toShim = new PipedOutputStream();
    private final PipedInputStream fromShim = new PipedInputStream(1 << 22);
    private final CompletableFuture<Integer> status = new CompletableFuture<>();

    /** One frame of the shim's. */
    static final class Frame {
        int kind;
        int flags;
        int code;
        int id;
        byte[] head;
        byte[] body;

        String text() {
            return new String(body, StandardCharsets.UTF_8);
        }

        /** Table of an answer. */
        String[] table() {
            return Bytes.split(new String(head, 8, head.length - 8, StandardCharsets.UTF_8));
        }
    }

    /** A session whose start is not played. */
    Peer() throws IOException {
        PipedInputStream in = new PipedInputStream(toShim, 1 << 22);
        PipedOutputStream out = new PipedOutputStream(fromShim) {
            @Override
            public void write(byte[] bytes, int from, int size) throws IOException {
                super.write(bytes, from, size);
                flush(); // Else the reader wakes once a second.
            }
        };
        Thread thread = new Thread(() -> {
            try {
                status.complete(new Session(in, out).run());
            } catch (Throwable error) {
                status.completeExceptionally(error);
            }
            try {
                out.close();
            } catch (IOException error) {
                throw new IllegalStateException(error);
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    /** A session that has this handler and is ready. */
    static Peer ready(Class<?> handler) throws IOException {
        Peer peer = new Peer();
        peer.hello();
        peer.init(handler.getName());
        Check.equal(READY, peer.next().kind);
        return peer;
    }

    void hello() throws IOException {
        Check.equal("NSH2", new String(fromShim.readNBytes(4), StandardCharsets.US_ASCII));
        Frame hello = next();
        Check.equal(HELLO, hello.kind);
        Check.that(new String(hello.head, StandardCharsets.UTF_8).startsWith("language\0java\0"), "language");
    }

    void init(String handler, String... more) throws IOException {
        String pairs = "handler\0" + handler + "\0handler_dir\0/nonexistent\0worker_id\0" + 3
            + "\0triggers\0" + 1 + "\0trigger.0.kind\0http\0credit\0" + 100000;
        for (String text : more) {
            pairs += "\0" + text;
        }
        send(frame(0x01, 0, 2, 0, pairs.getBytes(StandardCharsets.UTF_8), new byte[0]));
    }

    static byte[] frame(int kind, int flags, int code, int id, byte[] head, byte[] body) {
        ByteBuffer bytes = ByteBuffer.allocate(16 + head.length + body.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.putInt(head.length + body.length).put((byte) kind).put((byte) flags).putShort((short) code);
        return bytes.putInt(id).putInt(head.length).put(head).put(body).array();
    }

    /** An event; {@code pairs}: headers. */
    static byte[] event(int id, String path, byte[] body, String... pairs) {
        String table = "e" + id + "\0POST\0" + path + "\0\0\0text/plain\0\0\0\0\0\0";
        for (String text : pairs) {
            table += "\0" + text;
        }
        return frame(0x02, 0, 0, id, eventHead(pairs.length / 2, table.getBytes(StandardCharsets.UTF_8)), body);
    }

    static byte[] eventHead(int headers, byte[] table) {
        ByteBuffer head = ByteBuffer.allocate(32 + table.length).order(ByteOrder.LITTLE_ENDIAN);
        head.putLong(1735689600123456L).putLong(0).putInt(-1).putInt(0).putInt(0);
        return head.putShort((short) headers).putShort((short) 0).put(table).array();
    }

    static byte[] credit(int id, int bytes) {
        return frame(0x04, 0, 0, id, ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(bytes).array(), new byte[0]);
    }

    static byte[] cancel(int id) {
        return frame(0x05, 0, 1, id, new byte[0], new byte[0]);
    }

    static byte[] join(byte[]... parts) {
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        for (byte[] part : parts) {
            all.writeBytes(part);
        }
        return all.toByteArray();
    }

    void send(byte[] bytes) throws IOException {
        toShim.write(bytes);
        toShim.flush();
    }

    Frame next() throws IOException {
        byte[] bytes = fromShim.readNBytes(16);
        Check.equal(16, bytes.length);
        ByteBuffer header = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        Frame frame = new Frame();
        int size = header.getInt();
        frame.kind = header.get() & 0xff;
        frame.flags = header.get() & 0xff;
        frame.code = header.getShort() & 0xffff;
        frame.id = header.getInt();
        int head = header.getInt();
        frame.head = fromShim.readNBytes(head);
        frame.body = fromShim.readNBytes(size - head);
        Check.equal(size, frame.head.length + frame.body.length);
        return frame;
    }

    /** The next frame of that kind; those before it are passed over, if they are log records. */
    Frame next(int kind) throws IOException {
        List<Integer> passed = new ArrayList<>();
        for (Frame frame; ; passed.add(frame.kind)) {
            frame = next();
            if (frame.kind == kind) {
                return frame;
            }
            Check.that(frame.kind == LOG, "got kind " + frame.kind + " after " + passed);
        }
    }

    void closeSending() throws IOException {
        toShim.close();
    }

    /** What the program would exit with. */
    int status() throws Exception {
        return status.get(20, TimeUnit.SECONDS);
    }

    @Override
    public void close() throws IOException {
        toShim.close();
        fromShim.close();
    }
}
