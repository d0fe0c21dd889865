import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;

/** The least a Java handler can do. */
public class Empty implements EventHandler {
    @Override
    public Response handleEvent(Context context, Event event) {
        return new Response().setBody("hello");
    }
}
