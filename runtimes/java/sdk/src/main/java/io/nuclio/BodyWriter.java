package io.nuclio;

import java.io.IOException;
import java.io.OutputStream;

/** Writes the body of an answer piece by piece. */
@FunctionalInterface
public interface BodyWriter {
    /**
     * Called once the handler has returned. What is written goes out when 64 KiB have come together, at {@code flush}, and
     * at the end; it waits while the client takes nothing. Once the client has left, writing throws an {@link IOException}.
     *
     * @param out where to write
     * @throws Exception cuts the answer off; before anything has gone out, the event fails with it
     */
    void write(OutputStream out) throws Exception;
}
