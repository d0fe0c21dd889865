package headers;

import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;
import java.util.List;
import java.util.Map;

public class Handler implements EventHandler {
    @Override
    public Response handleEvent(Context context, Event event) {
        return new Response().setBody("<p>").setContentType("text/html").setHeaders(Map.of(
            "X-Seen", event.getHeader("X-Ask"), "X-Number", 7, "X-Twice", List.of("a", "b")));
    }
}
