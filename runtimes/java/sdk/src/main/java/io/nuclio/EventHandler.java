package io.nuclio;

/** A function: a public class with a public constructor without arguments. Each worker has one object of it. */
public interface EventHandler {
    /**
     * Answers an event.
     *
     * @param context what the worker offers
     * @param event what happened
     * @return the answer; null and whatever is thrown fail the event with status 500
     */
    Response handleEvent(Context context, Event event);
}
