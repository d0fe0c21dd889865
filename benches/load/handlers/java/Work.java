import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** What the harness asks for beyond an empty answer; the path says what (see ../../workload.rs). */
public class Work implements EventHandler {
    private static void burn(long nanos) {
        long end = System.nanoTime() + nanos;
        while (System.nanoTime() < end) {
            Thread.onSpinWait();
        }
    }

    private static void rest(long millis) {
        try {
            Thread.sleep(millis);
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
        }
    }

    private static void detect(byte[] body) {
        String text = new String(body, StandardCharsets.ISO_8859_1);
        int start = text.indexOf(": \"") + 3;
        java.util.Base64.getDecoder().decode(text.substring(start, text.indexOf('"', start)));
        burn(20_000_000);
    }

    @Override
    public Response handleEvent(Context context, Event event) {
        switch (event.getPath()) {
            case "/echo":
                return new Response().setBody(event.getBody());
            case "/stream":
                byte[] piece = new byte[1024];
                Arrays.fill(piece, (byte) 'x');
                return new Response().setBody(out -> {
                    for (int number = 0; number < 10; number++) {
                        out.write(piece);
                        out.flush();
                    }
                });
            case "/detect":
                detect(event.getBody());
                return new Response().setBody("[]");
            case "/cpu":
                burn(100_000);
                break;
            case "/sleep":
                rest(10);
                break;
            case "/log":
                context.getLogger().info("first");
                context.getLogger().infoWith("second", "number", 7);
                context.getLogger().info("third");
                break;
            default:
                break;
        }
        return new Response().setBody("hello");
    }
}
