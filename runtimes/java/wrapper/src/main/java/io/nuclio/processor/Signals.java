package io.nuclio.processor;

import java.util.Map;
import sun.misc.Signal;
import sun.misc.SignalHandler;

/** What a process of ours makes of signals. Java has no public way; without this one the JVM's own rules hold. */
final class Signals {
    /** Status of a process that SIGABRT has ended, as a shell would say it. */
    private static final int ABORTED = 128 + 6;

    private Signals() {
    }

    /** A terminal's SIGINT goes to everybody, and is not for us; SIGTERM is; at SIGABRT the process shows where it is. */
    static void install(Thread handlerThread, Runnable terminate) {
        try {
            Signal.handle(new Signal("INT"), SignalHandler.SIG_IGN);
            Signal.handle(new Signal("TERM"), signal -> terminate.run());
            Signal.handle(new Signal("ABRT"), signal -> {
                showStacks(handlerThread);
                Runtime.getRuntime().halt(ABORTED);
            });
        } catch (IllegalArgumentException | LinkageError without) {
            // This JVM keeps them for itself (-Xrs), or has no module jdk.unsupported.
        }
    }

    /** The user's threads; the handler's comes last, because the last lines are quoted. */
    private static void showStacks(Thread handlerThread) {
        Map<Thread, StackTraceElement[]> all = Thread.getAllStackTraces();
        StackTraceElement[] own = all.remove(handlerThread);
        all.forEach((thread, frames) -> {
            if (!thread.isDaemon()) {
                show(thread, frames);
            }
        });
        show(handlerThread, own == null ? new StackTraceElement[0] : own);
        System.err.flush();
    }

    private static void show(Thread thread, StackTraceElement[] frames) {
        StringBuilder text = new StringBuilder("Thread \"" + thread.getName() + "\" at SIGABRT:\n");
        for (StackTraceElement frame : frames) {
            text.append("\tat ").append(frame).append('\n');
        }
        System.err.print(text);
    }
}
