package log;

import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Logger;
import io.nuclio.Response;

public class Handler implements EventHandler {
    @Override
    public Response handleEvent(Context context, Event event) {
        Logger logger = context.getLogger();
        logger.debug("%s", "d");
        logger.infoWith("i", "number", 1, "text", "grüß");
        logger.warn("w");
        logger.error("e");
        return new Response().setBody("logged");
    }
}
