package io.nuclio.processor;

import java.lang.reflect.Array;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * JSON, for fields of log records and for protocol 1. Java has none of its own, and a library beside the handler's classes
 * would be one more that can clash with them.
 */
final class Json {
    private static final int DEPTH_MAX = 100;
    /** Deeper values of a record become text. */
    private static final int WRITE_DEPTH_MAX = 20;

    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    // ---- writing

    /** A value as JSON: texts, numbers, booleans, null, maps, collections, arrays; anything else as its text. */
    static void write(StringBuilder out, Object value) {
        write(out, value, 0);
    }

    private static void write(StringBuilder out, Object value, int depth) {
        if (value == null || value instanceof Boolean) {
            out.append(value);
        } else if (value instanceof Number && value.getClass().getName().startsWith("java.")) {
            String number = number((Number) value);
            boolean finite = !number.endsWith("N") && !number.endsWith("y");
            quoteIf(!finite, out, number);
        } else if (depth >= WRITE_DEPTH_MAX) {
            quote(out, safeText(value));
        } else if (value instanceof Map) {
            out.append('{');
            String separator = "";
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
                out.append(separator);
                quote(out, safeText(entry.getKey()));
                out.append(':');
                write(out, entry.getValue(), depth + 1);
                separator = ",";
            }
            out.append('}');
        } else if (value instanceof Iterable && !(value instanceof java.nio.file.Path)) {
            out.append('[');
            String separator = "";
            for (Object item : (Iterable<?>) value) {
                out.append(separator);
                write(out, item, depth + 1);
                separator = ",";
            }
            out.append(']');
        } else if (value.getClass().isArray()) {
            List<Object> items = new ArrayList<>();
            for (int place = 0; place < Array.getLength(value); place++) {
                items.add(Array.get(value, place));
            }
            write(out, items, depth);
        } else {
            quote(out, safeText(value));
        }
    }

    private static void quoteIf(boolean quoted, StringBuilder out, String text) {
        if (quoted) {
            quote(out, text);
        } else {
            out.append(text);
        }
    }

    /** A value's own text, whatever its methods do. */
    static String safeText(Object value) {
        try {
            return value instanceof Throwable ? Answer.stack((Throwable) value) : String.valueOf(value);
        } catch (Throwable error) {
            return value.getClass().getName();
        }
    }

    /** A number without a fraction that is none; what is no finite number by its name. */
    static String number(Number value) {
        if (value instanceof Double || value instanceof Float) {
            double number = value.doubleValue();
            if (number == Math.rint(number) && Math.abs(number) < 1e15) {
                return Long.toString((long) number);
            }
        }
        return value.toString();
    }

    static void quote(StringBuilder out, String text) {
        out.append('"');
        for (int place = 0; place < text.length(); place++) {
            char unit = text.charAt(place);
            if (unit == '"' || unit == '\\') {
                out.append('\\').append(unit);
            } else if (unit == '\n') {
                out.append("\\n");
            } else if (unit < 0x20 || Character.isSurrogate(unit)) {
                out.append(String.format("\\u%04x", (int) unit));
            } else {
                out.append(unit);
            }
        }
        out.append('"');
    }

    // ---- reading

    /** Maps, lists, texts, doubles, booleans and null; throws if it is no JSON. */
    static Object read(String text) {
        Json json = new Json(text);
        Object value = json.value(0);
        json.space();
        if (json.at < text.length()) {
            throw json.wrong("more than one value");
        }
        return value;
    }

    private IllegalArgumentException wrong(String what) {
        return new IllegalArgumentException("bad JSON at character " + at + ": " + what);
    }

    private void space() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
    }

    private boolean takes(char wanted) {
        space();
        boolean there = at < text.length() && text.charAt(at) == wanted;
        at += there ? 1 : 0;
        return there;
    }

    private Object value(int depth) {
        if (depth > DEPTH_MAX) {
            throw wrong("too deep");
        }
        if (takes('{')) {
            return object(depth);
        }
        if (takes('[')) {
            return array(depth);
        }
        if (takes('"')) {
            return string();
        }
        for (Object word : new Object[] {true, false, null}) {
            if (text.startsWith(String.valueOf(word), at)) {
                at += String.valueOf(word).length();
                return word;
            }
        }
        return number();
    }

    private Map<String, Object> object(int depth) {
        Map<String, Object> object = new LinkedHashMap<>();
        if (takes('}')) {
            return object;
        }
        do {
            if (!takes('"')) {
                throw wrong("want a name");
            }
            String name = string();
            if (!takes(':')) {
                throw wrong("want a colon");
            }
            object.put(name, value(depth + 1));
        } while (takes(','));
        if (!takes('}')) {
            throw wrong("want a brace");
        }
        return object;
    }

    private List<Object> array(int depth) {
        List<Object> array = new ArrayList<>();
        if (takes(']')) {
            return array;
        }
        do {
            array.add(value(depth + 1));
        } while (takes(','));
        if (!takes(']')) {
            throw wrong("want a bracket");
        }
        return array;
    }

    private String string() {
        int from = at;
        StringBuilder mended = null;
        for (; at < text.length(); at++) {
            char unit = text.charAt(at);
            if (unit == '"') {
                String rest = text.substring(from, at++);
                return mended == null ? rest : mended.append(rest).toString();
            }
            if (unit == '\\') {
                mended = (mended == null ? new StringBuilder() : mended).append(text, from, at++);
                mended.append(escaped());
                from = at + 1;
            }
        }
        throw wrong("a text without an end");
    }

    private char escaped() {
        char letter = at < text.length() ? text.charAt(at) : ' ';
        if (letter == 'u' && at + 4 < text.length()) {
            at += 4;
            try {
                return (char) Integer.parseInt(text.substring(at - 3, at + 1), 16);
            } catch (NumberFormatException error) {
                throw wrong("want four digits");
            }
        }
        int which = "\"\\/bfnrt".indexOf(letter);
        if (which < 0) {
            throw wrong("unknown escape");
        }
        return "\"\\/\b\f\n\r\t".charAt(which);
    }

    private Double number() {
        int from = at;
        while (at < text.length() && "+-.eE0123456789".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
        try {
            return Double.valueOf(text.substring(from, at));
        } catch (NumberFormatException error) {
            throw wrong("want a value");
        }
    }
}
