package io.nuclio.processor;

import io.nuclio.Context;
import io.nuclio.ContextInitializer;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;
import java.io.IOException;
import java.util.Map;
import java.util.TreeMap;

/** Handlers of the tests. */
final class Handlers {
    private Handlers() {
    }

    /** Answers with the body, and with what it has seen. */
    public static final class Echo implements EventHandler {
        @Override
        public Response handleEvent(Context context, Event event) {
            if (event.getPath().equals("/throw")) {
                throw new IllegalStateException("on purpose");
            }
            Map<String, Object> headers = new TreeMap<>();
            headers.put("X-Seen", event.getID() + event.getMethod() + event.getTriggerInfo().getKindName() + event.getHeaders());
            return new Response().setBody(event.getBody()).setHeaders(headers);
        }
    }

    /** Streams as much as the path says. */
    public static final class Streams implements EventHandler {
        static volatile String ended = "";

        @Override
        public Response handleEvent(Context context, Event event) {
            int count = Integer.parseInt(event.getPath().substring(1));
            return new Response().setBody(out -> {
                try {
                    out.write(new byte[count]);
                    out.flush();
                    ended = "whole";
                } catch (IOException error) {
                    ended = error.getMessage();
                    throw error;
                }
            });
        }
    }

    /** Waits until it is cancelled. */
    public static final class Waits implements EventHandler {
        @Override
        public Response handleEvent(Context context, Event event) {
            long begun = System.nanoTime();
            while (event.getPath().equals("/wait") && !context.isCancelled() && System.nanoTime() - begun < 10_000_000_000L) {
                Thread.onSpinWait();
            }
            return new Response().setBody(event.getPath() + context.isCancelled());
        }
    }

    /** Keeps its event from being acknowledged. */
    public static final class NoAck implements EventHandler {
        @Override
        public Response handleEvent(Context context, Event event) {
            return new Response().setHeaders(Map.of("x-nuclio-stream-no-ack", "true"));
        }
    }

    /** Fails to prepare itself. */
    public static final class BadInit implements EventHandler, ContextInitializer {
        @Override
        public void initContext(Context context) throws Exception {
            throw new Exception("cannot prepare");
        }

        @Override
        public Response handleEvent(Context context, Event event) {
            return null;
        }
    }

    /** Fails at its end. */
    public static final class BadEnd implements EventHandler, AutoCloseable {
        @Override
        public Response handleEvent(Context context, Event event) {
            context.getLogger().info("logged");
            context.getLogger().debug("too low");
            return new Response();
        }

        @Override
        public void close() {
            throw new IllegalStateException("cannot close");
        }
    }
}
