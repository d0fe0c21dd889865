package big_body;

import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;

public class Handler implements EventHandler {
    @Override
    public Response handleEvent(Context context, Event event) {
        byte[] body = event.getBody();
        return event.getMethod().equals("PUT")
            ? new Response().setBody(String.valueOf(body.length))
            : new Response().setBody(body);
    }
}
