package io.nuclio.processor;

import io.nuclio.TriggerInfo;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The event of an EVENT frame. Its texts are made when they are first asked for: most handlers want few. */
final class FrameEvent extends BaseEvent {
    private static final int MORE = 0x01, TYPED = 0x20;
    private static final int FIXED_BYTES = 32;
    private static final int TEXTS = 12;
    private static final int LEVEL_SHIFT = 12, TRIGGER_MASK = 0xfff;

    /** The frame's id, and the level its caller asked for: -1 for the worker's. */
    final int id;
    final int level;
    /** Why its body is not there; null: it is. */
    final OutOfMemoryError lack;

    private final byte[] head;
    private final byte[] body;
    private final boolean typed;
    private final String kind;
    private volatile Object[] texts;
    private volatile Map<String, Object> headers;
    private volatile Map<String, Object> fields;

    /** Of the reader's current frame; {@code kinds}: those of the triggers, by index. */
    FrameEvent(FrameReader frame, String[] kinds) {
        if ((frame.flags & MORE) != 0) {
            throw new ProtocolException("event " + frame.id + ": request streams were not offered");
        }
        id = frame.id;
        level = (frame.code >> LEVEL_SHIFT) - 1;
        int trigger = frame.code & TRIGGER_MASK;
        kind = trigger < kinds.length ? kinds[trigger] : "";
        if (frame.headEnd - frame.at < FIXED_BYTES) {
            throw new ProtocolException("event " + frame.id + ": its head has " + (frame.headEnd - frame.at) + " bytes");
        }
        head = Arrays.copyOfRange(frame.head, frame.at, frame.headEnd);
        body = frame.takeBody();
        lack = frame.lack;
        typed = (frame.flags & TYPED) != 0;
        int wanted = TEXTS + 2 * (headerCount() + fieldCount());
        int there;
        if (typed) {
            texts = items(FIXED_BYTES, head.length).toArray();
            there = texts.length;
        } else {
            there = 1;
            for (int at = FIXED_BYTES; at < head.length; at++) {
                there += head[at] == 0 ? 1 : 0;
            }
        }
        if (there < wanted) {
            throw new ProtocolException("event has " + there + " texts, want " + wanted);
        }
    }

    private int headerCount() {
        return Bytes.u16(head, 28);
    }

    private int fieldCount() {
        return Bytes.u16(head, 30);
    }

    private Object[] texts() {
        Object[] all = texts;
        if (all == null) {
            all = Bytes.split(new String(head, FIXED_BYTES, head.length - FIXED_BYTES, StandardCharsets.UTF_8));
            texts = all;
        }
        return all;
    }

    private String text(int place) {
        return String.valueOf(texts()[place]);
    }

    /** Values that are more than plain text: each has a type and a length. */
    private List<Object> items(int from, int end) {
        List<Object> items = new ArrayList<>();
        for (int at = from; at < end;) {
            long next = at + 5 + (end - at < 5 ? end : Bytes.u32(head, at + 1));
            if (next > end) {
                throw new ProtocolException("event " + id + ": a value of its head is cut off");
            }
            items.add(item((char) head[at], at + 5, (int) next));
            at = (int) next;
        }
        return items;
    }

    private Object item(char type, int at, int end) {
        if ((type == 'i' || type == 'f') && end - at != 8 || type == 't' && end - at != 1) {
            throw new ProtocolException("event " + id + ": a value of type " + type + " has " + (end - at) + " bytes");
        }
        switch (type) {
            case 's':
                return new String(head, at, end - at, StandardCharsets.UTF_8);
            case 'i':
                return (double) Bytes.i64(head, at); // compat: all numbers are Doubles.
            case 'f':
                return Double.longBitsToDouble(Bytes.i64(head, at));
            case 't':
                return head[at] != 0;
            case 'n':
                return null;
            case 'l':
                return items(at, end);
            case 'm':
                Map<String, Object> map = new LinkedHashMap<>();
                Object[] members = items(at, end).toArray();
                pairs(members, 0, members.length / 2, map);
                return map;
            default:
                return Arrays.copyOfRange(head, at, end);
        }
    }

    @Override
    public String getID() {
        return text(0);
    }

    @Override
    public String getMethod() {
        return text(1);
    }

    @Override
    public String getPath() {
        return text(2);
    }

    @Override
    public String getURL() {
        return text(4);
    }

    @Override
    public String getContentType() {
        return text(5);
    }

    @Override
    public String getType() {
        return text(7);
    }

    @Override
    public String getTypeVersion() {
        return text(8);
    }

    @Override
    public String getVersion() {
        return text(9);
    }

    @Override
    public TriggerInfo getTriggerInfo() {
        String own = text(10);
        return new Trigger(own.isEmpty() ? kind : own);
    }

    @Override
    public byte[] getBody() {
        return body;
    }

    @Override
    public Map<String, Object> getHeaders() {
        Map<String, Object> map = headers;
        if (map == null) {
            map = new HashMap<>();
            pairs(texts(), TEXTS, headerCount(), map);
            headers = map;
        }
        return map;
    }

    @Override
    public Map<String, Object> getFields() {
        Map<String, Object> map = fields;
        if (map == null) {
            map = new HashMap<>();
            pairs(texts(), TEXTS + 2 * headerCount(), fieldCount(), map);
            fields = map;
        }
        return map;
    }

    @Override
    public Date getTimestamp() {
        return new Date(Math.floorDiv(Bytes.i64(head, 0), 1000L));
    }

    @Override
    public long getShardID() {
        return Bytes.i32(head, 16);
    }

    @Override
    public long getTotalNumShards() {
        return Bytes.i32(head, 20);
    }
}
