import io.nuclio.Context;
import io.nuclio.ContextInitializer;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;
import java.nio.charset.StandardCharsets;

/** Each worker has one handler. `initContext` runs before its first event; `close` after its last. */
public class Greeting implements EventHandler, ContextInitializer, AutoCloseable {
    private String greeting;

    @Override
    public void initContext(Context context) {
        greeting = System.getenv().getOrDefault("GREETING", "Hello");
    }

    @Override
    public Response handleEvent(Context context, Event event) {
        return new Response().setBody(greeting + ", " + new String(event.getBody(), StandardCharsets.UTF_8));
    }

    @Override
    public void close() {
        System.out.println("no more greetings");
    }
}
