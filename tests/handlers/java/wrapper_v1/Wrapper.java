import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.Socket;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.function.Function;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A wrapper of shim protocol 1 over TCP: says nothing when it is ready, writes twice for an event, looks into java.util. */
public final class Wrapper {
    public static final class Echo implements Function<String, String> {
        @Override
        public String apply(String body) {
            return body.length() + " " + System.getProperty("word", "none");
        }
    }

    @SuppressWarnings("unchecked")
    public static void main(String[] words) throws Exception {
        Map<String, String> arguments = new HashMap<>();
        for (int at = 0; at + 1 < words.length; at += 2) {
            arguments.put(words[at], words[at + 1]);
        }
        Socket socket = new Socket("localhost", Integer.parseInt(arguments.get("-port")));
        OutputStream out = socket.getOutputStream();
        Function<String, String> handler = null;
        try {
            handler = (Function<String, String>) Class.forName(arguments.get("-handler")).getConstructor().newInstance();
        } catch (ReflectiveOperationException error) {
            say(out, "l{\"level\": \"error\", \"message\": \"Failed to load handler\", \"with\": {}}");
            System.err.println("no class " + arguments.get("-handler"));
            System.exit(1);
        }
        BufferedReader in = new BufferedReader(new InputStreamReader(socket.getInputStream()));
        Pattern pattern = Pattern.compile("\"body\":\"([^\"]*)\".*\"path\":\"([^\"]*)\"");
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            Matcher event = pattern.matcher(line);
            if (!event.find()) {
                throw new IllegalStateException(line);
            }
            String body = new String(Base64.getDecoder().decode(event.group(1)), "UTF-8");
            java.util.ArrayList.class.getDeclaredField("size").setAccessible(true);
            String answer = Base64.getEncoder().encodeToString((event.group(2) + " " + handler.apply(body)).getBytes("UTF-8"));
            say(out, "r{\"body\": \"" + answer + "\", \"body_encoding\": \"base64\", \"status_code\": 200}");
            say(out, "m{\"duration\": 0.001}");
        }
    }

    private static void say(OutputStream out, String line) throws java.io.IOException {
        out.write((line + "\n").getBytes("US-ASCII"));
    }
}
