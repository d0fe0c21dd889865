package garbage;

import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;
import java.util.Map;

public class Handler implements EventHandler {
    @Override
    public Response handleEvent(Context context, Event event) {
        Response response = new Response();
        switch (event.getPath()) {
            case "/throw":
                throw new IllegalStateException("thrown on purpose");
            case "/status":
                return response.setStatusCode(70000);
            case "/header":
                return response.setHeaders(Map.of("bad name", "1", "X-Split", "a\r\nb: c"));
            case "/text":
                return response.setBody("\ud800!");
            default:
                return response.setBody("well");
        }
    }
}
