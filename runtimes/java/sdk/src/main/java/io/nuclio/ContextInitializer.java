package io.nuclio;

/**
 * What a handler may implement besides {@link EventHandler} to prepare itself. A handler that implements
 * {@link AutoCloseable} is closed when its worker ends.
 */
public interface ContextInitializer {
    /**
     * Called once, before the first event. The function is ready when it returns.
     *
     * @param context what the worker offers
     * @throws Exception the worker cannot serve: the start fails with it
     */
    void initContext(Context context) throws Exception;
}
