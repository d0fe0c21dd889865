package crash;

import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;
import java.io.IOException;

public class Handler implements EventHandler {
    @Override
    public Response handleEvent(Context context, Event event) {
        if (event.getPath().equals("/exit")) {
            System.exit(7);
        }
        if (event.getPath().equals("/signal")) {
            try {
                new ProcessBuilder("kill", "-9", Long.toString(ProcessHandle.current().pid())).start().waitFor();
            } catch (IOException | InterruptedException error) {
                throw new IllegalStateException(error);
            }
        }
        return new Response().setBody("alive");
    }
}
