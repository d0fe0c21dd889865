package io.nuclio;

/** What a worker offers to its handler. */
public interface Context {
    /**
     * Where the handler's log records go.
     *
     * @return the logger
     */
    Logger getLogger();

    /**
     * Whether nobody waits for the answer to the current event any more: its client has left, or its time is over. To
     * be asked on the thread of the handler, and between steps of work that are long enough: a look costs a system call.
     *
     * @return true once that is so
     */
    default boolean isCancelled() {
        return false;
    }
}
