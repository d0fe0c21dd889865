import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;

/** Log records with fields. Send `X-Nuclio-Log-Level: debug` to get them back with the answer. */
public class Visit implements EventHandler {
    @Override
    public Response handleEvent(Context context, Event event) {
        context.getLogger().debug("got %d bytes", event.getBody().length);
        context.getLogger().infoWith("visit", "path", event.getPath(), "kind", event.getTriggerInfo().getKindName());
        return new Response().setBody("logged");
    }
}
