package stream;

import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;
import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Map;

public class Handler implements EventHandler {
    private static void pieces(Context context, Event event, OutputStream out) throws IOException, InterruptedException {
        String path = event.getPath();
        try {
            for (int number = 0; ; number++) {
                byte[] piece = path.equals("/flood") ? new byte[100000] : (number + "\n").getBytes(StandardCharsets.UTF_8);
                out.write(piece);
                out.flush();
                if (path.equals("/five") && number == 4) {
                    return;
                }
                if (path.equals("/broken")) {
                    if (new File(new String(event.getBody(), StandardCharsets.UTF_8)).exists()) {
                        throw new IllegalStateException("broken on purpose");
                    }
                    Thread.sleep(5);
                }
            }
        } finally {
            context.getLogger().warn("stream closed");
        }
    }

    @Override
    public Response handleEvent(Context context, Event event) {
        return new Response().setBody(out -> pieces(context, event, out)).setContentType("text/csv").setStatusCode(201)
            .setHeaders(Map.of("X-Kind", "pieces"));
    }
}
