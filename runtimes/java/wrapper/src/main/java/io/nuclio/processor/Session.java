package io.nuclio.processor;

import io.nuclio.Context;
import io.nuclio.ContextInitializer;
import io.nuclio.EventHandler;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.locks.ReentrantLock;

/**
 * Protocol 2: one thread reads an event, calls the handler and writes the answer. While a handler looks whether it is
 * cancelled, and while it streams, the same thread reads what has come meanwhile; events among that wait their turn.
 */
final class Session implements ShimLogger.Sink, Context {
    private static final int VERSION = 2;
    private static final int INIT = 0x01, EVENT = 0x02, CREDIT = 0x04, CANCEL = 0x05, CONTROL = 0x06, PING = 0x08;
    private static final int OPTIONAL = 0x80;
    private static final int END = 0x01, ABORT = 0x02;
    private static final int LOAD_FAILED = 1, INIT_FAILED = 2, PROTOCOL_FAULT = 3;
    private static final int TERMINATE = 3;
    private static final int PREFETCH = 32;
    private static final int DEFAULT_CREDIT = 256 * 1024;
    /** An answer's head and header have room beside its body in a frame. */
    private static final int HEAD_BYTES_MAX = 64 * 1024;
    private static final long LOGS_HELD_NANOS = 100_000_000;

    private final FrameReader reader;
    private final FrameWriter writer;
    private final Thread thread = Thread.currentThread();
    private final Deque<Runnable> waiting = new ArrayDeque<>();
    /** Held by whoever reads while a handler runs: its thread, or another one that writes a streamed body. */
    private final ReentrantLock reading = new ReentrantLock();
    private final Map<String, String> settings = new HashMap<>();
    private String[] kinds = {};
    private long maxFrame = 1L << 30;
    private int workerLevel;
    private ShimLogger logger;
    private EventHandler handler;

    /** Of the event in work; 0: none. */
    private volatile int id;
    private volatile int level;
    private volatile boolean cancelled;
    private volatile long written;
    private volatile boolean busy;
    private volatile boolean stopping;
    private long begun;
    private long credit;

    Session(InputStream in, OutputStream out) {
        reader = new FrameReader(in);
        writer = new FrameWriter(out);
    }

    /** From the first byte to the last; returns the status to exit with. */
    int run() {
        Signals.install(thread, this::terminate);
        Runtime.getRuntime().addShutdownHook(new Thread(writer::flushAtTheEnd, "nuclio-flush"));
        try {
            writer.hello();
            writer.putTexts(FrameWriter.HELLO, VERSION,
                "language", "java", "version", Runtime.version().toString(), "sdk", "1.1.0",
                "protocol_min", "2", "protocol_max", "2",
                "capabilities", "cancel,stream-out,control,client-gone",
                "max_inflight", "1", "prefetch", Integer.toString(PREFETCH),
                "pid", Long.toString(ProcessHandle.current().pid()));
            writer.flush();
            return initialize() ? serve() : 1;
        } catch (IOException gone) {
            return 0; // As good as its end.
        } catch (ProtocolException fault) {
            return fail(PROTOCOL_FAULT, fault.getMessage());
        }
    }

    private int fail(int code, String text) {
        writer.put(FrameWriter.FAILED, 0, code, 0, null, text.getBytes(StandardCharsets.UTF_8));
        writer.flush();
        return 1;
    }

    /** From INIT to READY; false: it has been said why not. */
    private boolean initialize() throws IOException {
        if (!reader.next()) {
            return false;
        }
        if (reader.kind != INIT || reader.code != VERSION) {
            throw new ProtocolException("want INIT of protocol 2, got kind " + reader.kind + ", version " + reader.code);
        }
        String[] texts = reader.headTexts();
        for (int at = 0; at + 1 < texts.length; at += 2) {
            settings.put(texts[at], texts[at + 1]);
        }
        maxFrame = number("max_frame", maxFrame);
        reader.setMaxFrame(maxFrame);
        workerLevel = (int) number("log_level", ShimLogger.DEBUG);
        kinds = new String[(int) number("triggers", 0)];
        for (int at = 0; at < kinds.length; at++) {
            kinds[at] = settings.getOrDefault("trigger." + at + ".kind", "");
        }
        logger = new ShimLogger(this, settings.getOrDefault("worker_id", "0"));
        try {
            handler = HandlerLoader.load(
                settings.getOrDefault("handler", ""), settings.getOrDefault("handler_dir", Wrapper.HANDLER_DIR));
        } catch (LoadException error) {
            fail(LOAD_FAILED, error.getMessage());
            return false;
        }
        if (handler instanceof ContextInitializer) {
            try {
                ((ContextInitializer) handler).initContext(this);
            } catch (Throwable error) {
                fail(INIT_FAILED, "initContext failed: " + Answer.stack(error));
                return false;
            }
        }
        writer.putTexts(FrameWriter.READY, 0, "handler_async", "0", "max_inflight", "1");
        writer.flush();
        return true;
    }

    private long number(String name, long otherwise) {
        try {
            return Long.parseLong(settings.getOrDefault(name, ""));
        } catch (NumberFormatException absent) {
            return otherwise;
        }
    }

    private int serve() throws IOException {
        while (true) {
            Runnable next = waiting.poll();
            if (next != null) {
                next.run();
            } else if (!reader.next()) {
                return 0;
            } else if (reader.kind == EVENT) {
                handle(new FrameEvent(reader, kinds));
            } else {
                receive();
                writer.flush();
            }
            if (stopping) {
                return 0;
            }
        }
    }

    /** SIGTERM: after the event in work, which is now if there is none. */
    private void terminate() {
        stopping = true;
        if (!busy) {
            System.exit(0);
        }
    }

    /** One frame that is not the next event to be handled. */
    private void receive() {
        FrameReader frame = reader;
        boolean current = id != 0 && frame.id == id;
        switch (frame.kind) {
            case EVENT:
                FrameEvent event = new FrameEvent(frame, kinds);
                waiting.add(() -> handle(event));
                break;
            case CREDIT:
                if (frame.headEnd - frame.at < 4) {
                    throw new ProtocolException("CREDIT of " + (frame.headEnd - frame.at) + " bytes");
                }
                credit += current ? Bytes.u32(frame.head, frame.at) : 0;
                break;
            case CANCEL:
                cancelled |= current; // Of an event that is over: too late.
                break;
            case CONTROL:
                int code = frame.code;
                int control = frame.id;
                waiting.add(() -> control(code, control));
                break;
            case PING:
                writer.putBody(
                    FrameWriter.PONG, 0, frame.code, frame.id, frame.body, frame.bodyAt, frame.bodyEnd - frame.bodyAt);
                writer.flush();
                break;
            default:
                if ((frame.flags & OPTIONAL) == 0) {
                    throw new ProtocolException("unexpected frame of kind 0x" + Integer.toHexString(frame.kind));
                }
        }
    }

    private void handle(FrameEvent event) {
        busy = true;
        if (stopping) {
            return; // Not begun: another worker gets it.
        }
        cancelled = false;
        level = event.level < 0 ? workerLevel : event.level;
        id = event.id;
        written = begun = System.nanoTime();
        Answer answer;
        try {
            if (event.lack != null) {
                throw event.lack;
            }
            answer = Answer.of(handler.handleEvent(this, event), logger);
            if (answer.body.length > maxFrame - HEAD_BYTES_MAX) {
                answer = Answer.failure(new IllegalStateException(
                    "an answer of " + answer.body.length + " bytes is above the limit; stream it"));
            }
        } catch (Throwable error) {
            answer = failed(error, "Exception caught in handler");
        }
        if (answer.writer == null) {
            end(answer);
        } else {
            stream(answer);
        }
        writer.flush();
        Thread.interrupted(); // It was meant for this event.
        busy = false;
    }

    /** The error is told; what was cancelled may fail as it likes. */
    private Answer failed(Throwable error, String message) {
        if (!cancelled) {
            logger.errorWith(message, "err", Answer.describe(error), "stack", Answer.stack(error));
        }
        return Answer.failure(error);
    }

    private void end(Answer answer) {
        int of = id;
        id = 0;
        int flags = cancelled ? Answer.CANCELLED : 0;
        try {
            writer.putAnswer(of, answer, flags, System.nanoTime() - begun);
        } catch (OutOfMemoryError error) {
            writer.putAnswer(of, Answer.failure(error), flags, System.nanoTime() - begun);
        }
    }

    private void stream(Answer answer) {
        credit = number("credit", DEFAULT_CREDIT);
        AnswerStream out = new AnswerStream(this, answer);
        Throwable error = null;
        try {
            answer.writer.write(out);
            out.finish();
        } catch (Throwable thrown) {
            error = thrown;
            out.abandon();
        }
        if (!out.begun()) {
            end(error == null ? answer.with(out.rest()) : failed(error, "Exception caught in handler"));
            return;
        }
        String text = cancelled ? "cancelled" : null;
        if (error != null && !cancelled) {
            failed(error, "Exception caught in a streamed answer");
            text = Answer.describe(error);
        }
        byte[] why = text == null ? null : text.getBytes(StandardCharsets.UTF_8);
        int of = id;
        id = 0;
        writer.put(FrameWriter.DATA, why == null ? END : ABORT, 0, of, null, why);
    }

    // ---- of a stream

    void beginStream(Answer answer) {
        writer.putAnswer(id, answer.with(Answer.EMPTY), Answer.MORE, System.nanoTime() - begun);
    }

    /** Sends a piece, as the processor gives credit. */
    void sendPiece(byte[] bytes, int count) throws IOException {
        reading.lock();
        try {
            sendPieceAlone(bytes, count);
        } finally {
            reading.unlock();
        }
    }

    private void sendPieceAlone(byte[] bytes, int count) throws IOException {
        look();
        for (int from = 0; from < count;) {
            while (credit <= 0 && !cancelled) {
                writer.flush();
                if (!reader.next()) {
                    throw new IOException("the processor is gone");
                }
                receive();
            }
            if (cancelled) {
                throw new IOException("nobody waits for this answer any more");
            }
            int piece = (int) Math.min(credit, count - from);
            credit -= piece;
            writer.putBody(FrameWriter.DATA, 0, 0, id, bytes, from, piece);
            from += piece;
        }
        writer.flush();
        written = System.nanoTime();
        if (cancelled) {
            throw new IOException("nobody waits for this answer any more");
        }
    }

    /** Takes what has arrived meanwhile. */
    private void look() throws IOException {
        while (reader.waits()) {
            if (!reader.next()) {
                throw new IOException("the processor is gone");
            }
            receive();
        }
    }

    // ---- the context

    @Override
    public io.nuclio.Logger getLogger() {
        return logger;
    }

    @Override
    public boolean isCancelled() {
        // Where another thread writes the answer it reads meanwhile.
        if (!cancelled && Thread.currentThread() == thread && id != 0 && reading.tryLock()) {
            try {
                look();
            } catch (IOException gone) {
                cancelled = true; // Nobody is there.
            } finally {
                reading.unlock();
            }
        }
        return cancelled;
    }

    private void control(int code, int control) {
        int outcome = 0;
        byte[] text = null;
        if (code == TERMINATE && handler instanceof AutoCloseable) {
            try {
                ((AutoCloseable) handler).close();
            } catch (Throwable error) {
                outcome = 1;
                text = Answer.describe(error).getBytes(StandardCharsets.UTF_8);
                logger.errorWith(
                    "Exception caught while the handler was closed", "err", Answer.describe(error), "stack", Answer.stack(error));
            }
        }
        writer.put(FrameWriter.CONTROL_DONE, 0, outcome, control, null, text);
        writer.flush();
    }

    // ---- log records

    @Override
    public boolean wants(int wanted) {
        return wanted >= (id == 0 ? workerLevel : level);
    }

    @Override
    public void record(int wanted, String message, String fields) {
        long micros = System.currentTimeMillis() * 1000;
        writer.putLog(wanted, id, micros, message.getBytes(StandardCharsets.UTF_8), fields.getBytes(StandardCharsets.UTF_8));
        long now = System.nanoTime();
        boolean late = now - written > LOGS_HELD_NANOS;
        if (wanted >= ShimLogger.WARN || id == 0 || late || "always".equals(settings.get("log_flush"))) {
            written = now;
            writer.flush();
        }
    }
}
