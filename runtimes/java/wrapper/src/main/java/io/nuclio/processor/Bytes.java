package io.nuclio.processor;

import java.util.ArrayList;
import java.util.List;

/** Little-endian numbers and tables of texts. */
final class Bytes {
    private static final char[] DIGITS = "0123456789abcdef".toCharArray();

    private Bytes() {
    }

    static int u16(byte[] data, int at) {
        return (data[at] & 0xff) | (data[at + 1] & 0xff) << 8;
    }

    static int i32(byte[] data, int at) {
        return u16(data, at) | u16(data, at + 2) << 16;
    }

    static long u32(byte[] data, int at) {
        return i32(data, at) & 0xffffffffL;
    }

    static long i64(byte[] data, int at) {
        return u32(data, at) | (long) i32(data, at + 4) << 32;
    }

    static void put16(byte[] data, int at, int value) {
        data[at] = (byte) value;
        data[at + 1] = (byte) (value >> 8);
    }

    static void put32(byte[] data, int at, int value) {
        put16(data, at, value);
        put16(data, at + 2, value >> 16);
    }

    static void put64(byte[] data, int at, long value) {
        put32(data, at, (int) value);
        put32(data, at + 4, (int) (value >> 32));
    }

    /** Texts that are joined by one NUL. */
    static String[] split(String table) {
        List<String> texts = new ArrayList<>();
        int from = 0;
        for (int to; (to = table.indexOf('\0', from)) >= 0; from = to + 1) {
            texts.add(table.substring(from, to));
        }
        texts.add(table.substring(from));
        return texts.toArray(new String[0]);
    }

    static String hex(byte[] data, int at, int count) {
        StringBuilder text = new StringBuilder(2 * count);
        for (int place = at; place < at + count; place++) {
            text.append(DIGITS[data[place] >> 4 & 15]).append(DIGITS[data[place] & 15]);
        }
        return text.toString();
    }
}
