package io.nuclio;

/**
 * Log records. {@code format} is one of {@link String#format}, also without arguments, so a lone per cent sign is an error.
 * The others take a message as it is and pairs of names and values; an odd number of them is dropped.
 */
public interface Logger {
    /** An error. */
    void error(String format, Object... args);

    /** A warning. */
    void warn(String format, Object... args);

    /** Something to know. */
    void info(String format, Object... args);

    /** A detail. */
    void debug(String format, Object... args);

    /** An error with fields. */
    void errorWith(String message, Object... with);

    /** A warning with fields. */
    void warnWith(String message, Object... with);

    /** Something to know, with fields. */
    void infoWith(String message, Object... with);

    /** A detail with fields. */
    void debugWith(String message, Object... with);
}
