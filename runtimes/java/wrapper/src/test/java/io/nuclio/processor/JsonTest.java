package io.nuclio.processor;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** JSON. */
final class JsonTest {
    private static String written(Object value) {
        StringBuilder text = new StringBuilder();
        Json.write(text, value);
        return text.toString();
    }

    void valuesAreWrittenAndReadBack() {
        Map<String, Object> value = new LinkedHashMap<>();
        value.put("text", "a\"\\\n\u0001é\ud83d\ude00");
        value.put("list", Arrays.asList(1.0, -2.5e10, true, false, null, List.of(), Map.of()));
        Check.equal(value, Json.read(written(value)));
        Check.equal("[1,2.5,\"NaN\",\"c\",[1,2]]", written(Arrays.asList(1L, 2.5, Double.NaN, 'c', new int[] {1, 2})));
        Check.equal("\"\\ud800\"", written("\ud800"));
    }

    void whitespaceAndEscapesAreRead() {
        Check.equal("{a=[1.0, \u00e9/\b\f\n\r\t]}", Json.read(" { \"a\" : [ 1 , \"\\u00e9\\/\\b\\f\\n\\r\\t\" ] }\r\n").toString());
    }

    void whatIsNoJsonIsRefusedWithItsPlace() {
        String deep = "[".repeat(200);
        for (String text : new String[] {
            "", "{", "[1", "{\"a\"}", "{\"a\":1,}", "{1:2}", "\"a", "\"\\x\"", "\"\\u12\"", "\"\\uzzzz\"", "nul", "1 2", "--1", deep}) {
            try {
                Json.read(text);
            } catch (IllegalArgumentException error) {
                Check.that(error.getMessage().contains("at character"), error.getMessage());
                continue;
            }
            throw new AssertionError("read: " + text);
        }
    }
}
