package io.nuclio;

import java.util.Date;
import java.util.Map;

/** What happened. Names of headers and fields are compared as they are written; HTTP headers have canonical names. */
public interface Event {
    /** The event's id. */
    String getID();

    /** Where it came from. */
    TriggerInfo getTriggerInfo();

    /** Type of its body, or an empty text. */
    String getContentType();

    /** Its body, empty if it has none. */
    byte[] getBody();

    /** The same. */
    Object getBodyObject();

    /** A header, or null. */
    Object getHeader(String key);

    /** A header as text, or null. */
    String getHeaderString(String key);

    /** A header as bytes, or null. */
    byte[] getHeaderBytes(String key);

    /** A header that is a number; 0 for a text. Throws a NullPointerException if there is none. */
    long getHeaderLong(String key);

    /** All headers. */
    Map<String, Object> getHeaders();

    /** A field (of the query, over HTTP), or null. */
    Object getField(String key);

    /** A field as text, or null. */
    String getFieldString(String key);

    /** A field as bytes, or null. */
    byte[] getFieldBytes(String key);

    /** A field that is a number; 0 for a text. Throws a NullPointerException if there is none. */
    long getFieldLong(String key);

    /** All fields. */
    Map<String, Object> getFields();

    /** When it happened. */
    Date getTimestamp();

    /** Path of the request, or what other triggers have in its place. */
    String getPath();

    /** Empty over HTTP. */
    String getURL();

    /** Method of the request. */
    String getMethod();

    /** Shard or partition; -1 if there is none. */
    long getShardID();

    /** Number of shards, 0 if there are none. */
    long getTotalNumShards();

    /** Type of a cloud event. */
    String getType();

    /** Version of that type. */
    String getTypeVersion();

    /** Version of the cloud events specification. */
    String getVersion();
}
