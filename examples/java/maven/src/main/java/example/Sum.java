package example;

import com.google.gson.Gson;
import com.google.gson.JsonSyntaxException;
import io.nuclio.Context;
import io.nuclio.Event;
import io.nuclio.EventHandler;
import io.nuclio.Response;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;

/** Adds numbers up. Which Gson this is says the project alone: the shim has none. */
public class Sum implements EventHandler {
    private final Gson gson = new Gson();

    @Override
    public Response handleEvent(Context context, Event event) {
        Response response = new Response().setContentType("application/json");
        try {
            double[] numbers = gson.fromJson(new String(event.getBody(), StandardCharsets.UTF_8), double[].class);
            return response.setBody(gson.toJson(Map.of("sum", Arrays.stream(numbers).sum())));
        } catch (JsonSyntaxException error) {
            return response.setStatusCode(400).setBody(gson.toJson(Map.of("error", error.getMessage())));
        }
    }
}
