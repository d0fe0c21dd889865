package slow_start;

import io.nuclio.Context;
import io.nuclio.ContextInitializer;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;

public class Handler implements EventHandler, ContextInitializer {
    private static final String LOADED = slowly("rea", 700);
    private String ready;

    @Override
    public void initContext(Context context) {
        ready = LOADED + slowly("dy", 300);
    }

    private static String slowly(String value, long millis) {
        try {
            Thread.sleep(millis);
        } catch (InterruptedException error) {
            throw new IllegalStateException(error);
        }
        return value;
    }

    @Override
    public Response handleEvent(Context context, Event event) {
        return new Response().setBody(ready);
    }
}
