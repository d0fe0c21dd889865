package io.nuclio.processor;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Map;

/** Protocol 1. */
final class LineSessionTest {
    /** What it writes for these lines. */
    private static String[] play(Class<?> handler, String lines, int status) throws Exception {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        ByteArrayInputStream in = new ByteArrayInputStream(lines.getBytes(StandardCharsets.UTF_8));
        Check.equal(status, new LineSession(in, out, "3").run("any:" + handler.getName(), "/nonexistent"));
        return out.toString(StandardCharsets.UTF_8).split("\n");
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> answer(String line) {
        Check.equal('r', line.charAt(0));
        return (Map<String, Object>) Json.read(line.substring(1));
    }

    private static String body(Map<String, Object> answer) {
        return new String(Base64.getDecoder().decode((String) answer.get("body")), StandardCharsets.UTF_8);
    }

    void eventsAreAnsweredThenMeasured() throws Exception {
        String event = "{\"id\":\"i\",\"method\":\"GET\",\"path\":\"/\",\"body\":\"aGk=\",\"trigger\":{\"kind\":\"cron\",\"name\":\"t\"},"
            + "\"headers\":{\"N\":7},\"fields\":null,\"timestamp\":1735689600}\n";
        String[] lines = play(Handlers.Echo.class, event + event, 0);
        Check.equal(4, lines.length);
        Map<String, Object> answer = answer(lines[0]);
        Check.equal("hi", body(answer));
        Check.equal(200.0, answer.get("status_code"));
        Check.equal("{X-Seen=iGETcron{N=7.0}}", answer.get("headers").toString());
        Check.that(lines[1].startsWith("m{\"duration\":"), lines[1]);
        answer(lines[2]);
    }

    void linesLongerThanTheBufferAreWhole() throws Exception {
        byte[] body = new byte[200000];
        String event = "{\"id\":\"i\",\"path\":\"/\",\"body\":\"" + Base64.getEncoder().encodeToString(body) + "\"}\n";
        Check.equal(body.length, body(answer(play(Handlers.Echo.class, event + event, 0)[2])).length());
    }

    void whatIsNoEventIsAnsweredAndTheNextIsServed() throws Exception {
        String[] lines = play(Handlers.Echo.class, "no json\n[1]\n{\"path\":\"/throw\"}\n{\"body\":{\"a\":1},\"path\":\"/\"}\n", 0);
        int answers = 0;
        String last = "";
        for (String line : lines) {
            answers += line.startsWith("r") ? 1 : 0;
            last = line.startsWith("r") ? line : last;
        }
        Check.equal(4, answers);
        Check.equal("{\"a\":1}", body(answer(last)));
        Check.that(lines[0].startsWith("l{") && lines[0].contains("\"level\":\"error\""), lines[0]);
    }

    void aStreamsEventThatIsNotToBeAcknowledgedIsMarkedInTheHeaders() throws Exception {
        String[] lines = play(Handlers.NoAck.class, "{\"path\":\"/\"}\n", 0);
        Check.equal("{X-Nuclio-Stream-No-Ack=true}", answer(lines[0]).get("headers").toString());
    }

    void streamedBodiesAreSentAsAWhole() throws Exception {
        String[] lines = play(Handlers.Streams.class, "{\"path\":\"/70000\"}\n", 0);
        Check.equal(70000, body(answer(lines[0])).length());
    }

    void aHandlerThatCannotBeHadIsALineAndTheEnd() throws Exception {
        String[] lines = play(String.class, "", 1);
        Check.equal(1, lines.length);
        Check.that(lines[0].startsWith("l{") && lines[0].contains("does not implement"), lines[0]);
        Check.that(play(Handlers.BadInit.class, "", 1)[0].contains("cannot prepare"), "init");
    }
}
