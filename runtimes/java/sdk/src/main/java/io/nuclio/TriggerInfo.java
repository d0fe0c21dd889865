package io.nuclio;

/** Where an event came from. */
public interface TriggerInfo {
    /**
     * Not known to the processor.
     *
     * @return null
     */
    String getClassName();

    /**
     * The trigger's kind.
     *
     * @return such as {@code http}
     */
    String getKindName();
}
