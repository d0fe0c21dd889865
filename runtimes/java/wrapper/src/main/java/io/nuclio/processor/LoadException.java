package io.nuclio.processor;

/** The handler cannot be had; the message says why, to whom wrote it. */
final class LoadException extends Exception {
    private static final long serialVersionUID = 1;

    LoadException(String message) {
        super(message);
    }
}
