package io.nuclio.processor;

import io.nuclio.Context;
import io.nuclio.ContextInitializer;
import io.nuclio.EventHandler;
import io.nuclio.Logger;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.Map;

/** Protocol 1, that of the Go processor: lines of JSON in, lines of a letter and JSON out. */
final class LineSession implements ShimLogger.Sink, Context {
    private static final String[] LEVELS = {"debug", "info", "warning", "error"};
    private static final int READ_BYTES = 64 * 1024;
    /** Records that are held for an answer. */
    private static final int HELD_BYTES_MAX = 64 * 1024;

    private final InputStream in;
    private final OutputStream out;
    private final ShimLogger logger;
    private final byte[] buffer = new byte[READ_BYTES];
    private int start;
    private int end;
    /** Lines that go out with the next write. */
    private final ByteArrayOutputStream held = new ByteArrayOutputStream();
    private volatile boolean busy;

    LineSession(InputStream in, OutputStream out, String workerId) {
        this.in = in;
        this.out = out;
        logger = new ShimLogger(this, workerId);
    }

    /** From the start to the end of the connection; returns the status to exit with. */
    int run(String setting, String folder) throws IOException {
        EventHandler handler;
        try {
            handler = HandlerLoader.load(setting, folder);
            if (handler instanceof ContextInitializer) {
                ((ContextInitializer) handler).initContext(this);
            }
        } catch (LoadException error) {
            return failed(error.getMessage());
        } catch (Throwable error) {
            return failed("initContext failed: " + Answer.stack(error));
        }
        for (String line; (line = readLine()) != null;) {
            busy = true;
            long begun = System.nanoTime();
            Answer answer = answer(handler, line);
            double seconds = Math.max(1, System.nanoTime() - begun) / 1e9;
            busy = false;
            Thread.interrupted(); // It was meant for this event.
            hold('r', members(answer));
            hold('m', Map.of("duration", seconds));
            flush();
        }
        return 0;
    }

    private int failed(String text) {
        logger.errorWith("Failed to load the handler: " + text);
        System.err.println(text);
        return 1;
    }

    private Answer answer(EventHandler handler, String line) {
        try {
            Answer answer = Answer.of(handler.handleEvent(this, new JsonEvent(line)), logger);
            if (answer.writer == null) {
                return answer;
            }
            // Nothing here is streamed: all of it at once.
            ByteArrayOutputStream body = new ByteArrayOutputStream();
            answer.writer.write(body);
            return answer.with(body.toByteArray());
        } catch (Throwable error) {
            logger.errorWith("Exception caught in handler", "err", Answer.describe(error), "stack", Answer.stack(error));
            return Answer.failure(error);
        }
    }

    private static Map<String, Object> members(Answer answer) {
        Map<String, Object> headers = new LinkedHashMap<>();
        for (int at = 0; at < answer.pairs.size(); at += 2) {
            headers.put(answer.pairs.get(at), answer.pairs.get(at + 1)); // Of a repeated one the last.
        }
        if ((answer.flags & Answer.NO_ACK) != 0) {
            headers.put(Answer.NO_ACK_HEADER, true); // compat: looked for by this name and this type.
        }
        Map<String, Object> members = new LinkedHashMap<>();
        members.put("body", Base64.getEncoder().encodeToString(answer.body));
        members.put("body_encoding", "base64");
        members.put("content_type", answer.contentType);
        members.put("status_code", answer.status);
        members.put("headers", headers);
        return members;
    }

    /** The next line, null at the end. */
    private String readLine() throws IOException {
        ByteArrayOutputStream line = null;
        while (true) {
            for (int at = start; at < end; at++) {
                if (buffer[at] == '\n') {
                    int from = start;
                    start = at + 1;
                    if (line == null) {
                        return new String(buffer, from, at - from, StandardCharsets.UTF_8);
                    }
                    line.write(buffer, from, at - from);
                    return line.toString(StandardCharsets.UTF_8);
                }
            }
            if (start < end) {
                line = line == null ? new ByteArrayOutputStream() : line;
                line.write(buffer, start, end - start);
            }
            start = 0;
            end = in.read(buffer, 0, buffer.length);
            if (end <= 0) {
                return null;
            }
        }
    }

    private synchronized void hold(char letter, Map<String, Object> members) {
        StringBuilder text = new StringBuilder().append(letter);
        Json.write(text, members);
        held.writeBytes(text.append('\n').toString().getBytes(StandardCharsets.UTF_8));
    }

    private synchronized void flush() throws IOException {
        out.write(held.toByteArray());
        held.reset();
    }

    @Override
    public boolean wants(int level) {
        return true; // The processor chooses.
    }

    @Override
    public synchronized void record(int level, String message, String fields) {
        StringBuilder text = new StringBuilder("l{\"datetime\":\"");
        text.append(Instant.now().truncatedTo(ChronoUnit.MILLIS)).append("\",\"level\":\"").append(LEVELS[level]);
        text.append("\",\"message\":");
        Json.quote(text, message);
        text.append(",\"with\":").append(fields).append("}\n");
        held.writeBytes(text.toString().getBytes(StandardCharsets.UTF_8));
        if (level >= ShimLogger.WARN || !busy || held.size() > HELD_BYTES_MAX) {
            try {
                flush();
            } catch (IOException gone) {
                held.reset(); // Whoever reads notices it.
            }
        }
    }

    @Override
    public Logger getLogger() {
        return logger;
    }
}
