package hang;

import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;

public class Handler implements EventHandler {
    @Override
    public Response handleEvent(Context context, Event event) {
        while (event.getPath().equals("/hang")) {
            Thread.onSpinWait();
        }
        return new Response().setBody("back");
    }
}
