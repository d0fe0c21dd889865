import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;

public class Hello implements EventHandler {
    @Override
    public Response handleEvent(Context context, Event event) {
        String name = event.getFieldString("name");
        return new Response().setBody("Hello, " + (name == null ? "world" : name));
    }
}
