package io.nuclio.processor;

import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.Socket;
import java.net.SocketAddress;
import java.net.ProtocolFamily;
import java.nio.channels.ByteChannel;
import java.nio.channels.Channels;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;

/**
 * Runs a user's Java handler for a processor, which has started this program as a child process. With
 * {@code NUCLIO_SHIM_FD} or {@code NUCLIO_SHIM_SOCKET} in the environment it speaks shim protocol 2 ({@link Session}),
 * else protocol 1 with a Go processor that gives it arguments ({@link LineSession}).
 */
public final class Wrapper {
    static final String HANDLER_DIR = "/opt/nuclio";

    private static final String USAGE = "neither NUCLIO_SHIM_FD nor NUCLIO_SHIM_SOCKET is set, and these are not the "
        + "arguments of protocol 1: -handler CLASS -port PORT [-workerid N] [-verbose]";

    private static final byte[] FULL_HEAP = ("nuclio shim: java.lang.OutOfMemoryError between two events: the handler keeps "
        + "more than the heap holds; raise -Xmx in spec.runtimeAttributes.jvmOptions\n").getBytes(StandardCharsets.US_ASCII);
    private static final FileOutputStream ERRORS = new FileOutputStream(FileDescriptor.err);
    private static final int FULL_HEAP_STATUS = 3; // That of -XX:+ExitOnOutOfMemoryError.

    private Wrapper() {
    }

    /**
     * The program.
     *
     * @param arguments those of protocol 1, or none
     */
    public static void main(String[] arguments) {
        int status;
        try {
            status = run(arguments);
        } catch (Exception error) {
            System.err.println("nuclio shim: " + error);
            status = 1;
        } catch (OutOfMemoryError error) {
            fullHeap();
            return;
        }
        System.exit(status);
    }

    /** Ends without asking for memory. What fails inside a handler is its event's; between two, the heap is full for good. */
    private static void fullHeap() {
        try {
            ERRORS.write(FULL_HEAP);
        } catch (IOException nobodyListens) {
            // The status says it too.
        } finally {
            Runtime.getRuntime().halt(FULL_HEAP_STATUS);
        }
    }

    private static int run(String[] arguments) throws Exception {
        String descriptor = System.getenv("NUCLIO_SHIM_FD");
        String path = System.getenv("NUCLIO_SHIM_SOCKET");
        if ("0".equals(descriptor)) {
            // Streams of files are used on a socket because an interrupt of the handler's thread does not close them.
            Session session = new Session(new FileInputStream(FileDescriptor.in), new FileOutputStream(FileDescriptor.in));
            System.setIn(InputStream.nullInputStream());
            return session.run();
        }
        if (descriptor != null && !descriptor.isEmpty()) {
            System.err.println("nuclio shim: NUCLIO_SHIM_FD is " + descriptor + "; Java can adopt descriptor 0 only");
            return 2;
        }
        if (path != null && !path.isEmpty()) {
            ByteChannel channel = connect(path);
            return new Session(Channels.newInputStream(channel), Channels.newOutputStream(channel)).run();
        }
        Map<String, String> options = options(arguments);
        String port = options.get("port");
        if (port == null || !port.matches("\\d{1,5}") || options.get("handler") == null) {
            System.err.println("nuclio shim: " + USAGE);
            return 2;
        }
        try (Socket socket = new Socket("localhost", Integer.parseInt(port))) {
            socket.setTcpNoDelay(true);
            LineSession session = new LineSession(
                socket.getInputStream(), socket.getOutputStream(), options.getOrDefault("workerid", "0"));
            String folder = System.getenv("NUCLIO_HANDLER_DIR");
            return session.run(options.get("handler"), folder == null || folder.isEmpty() ? HANDLER_DIR : folder);
        }
    }

    /** Java knows Unix sockets since 16; this is compiled for 11. */
    private static ByteChannel connect(String path) throws IOException {
        try {
            Class<?> type = Class.forName("java.net.UnixDomainSocketAddress");
            SocketAddress address = (SocketAddress) type.getMethod("of", String.class).invoke(null, path);
            ProtocolFamily unix = (ProtocolFamily) Class.forName("java.net.StandardProtocolFamily")
                .getField("UNIX").get(null);
            SocketChannel channel = (SocketChannel) SocketChannel.class.getMethod("open", ProtocolFamily.class)
                .invoke(null, unix);
            channel.connect(address);
            return channel;
        } catch (ReflectiveOperationException error) {
            throw new IOException("NUCLIO_SHIM_SOCKET needs Java 16 or newer: " + error);
        }
    }

    /** Names without their dashes, and values. */
    private static Map<String, String> options(String[] arguments) {
        Map<String, String> options = new HashMap<>();
        for (int at = 0; at < arguments.length; at++) {
            String name = arguments[at].replaceFirst("^--?", "");
            boolean alone = name.equals("verbose") || at + 1 == arguments.length;
            options.put(name, alone ? "" : arguments[++at]);
        }
        return options;
    }
}
