import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;
import java.nio.charset.StandardCharsets;

/** A streamed answer: each piece reaches the client when it is flushed. When the client has left, writing throws. */
public class Count implements EventHandler {
    @Override
    public Response handleEvent(Context context, Event event) {
        return new Response().setBody(out -> {
            for (int number = 1; number <= 5; number++) {
                out.write((number + "\n").getBytes(StandardCharsets.UTF_8));
                out.flush();
                Thread.sleep(200);
            }
        });
    }
}
