/* nuclio_handler.h: handler plugin ABI, version 1.2. C11 and C++11. LP64 little-endian Linux only. */
#ifndef NUCLIO_HANDLER_H
#define NUCLIO_HANDLER_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define NH_ABI_MAJOR 1u
#define NH_ABI_MINOR 2u
#define NH_ABI_VERSION (NH_ABI_MAJOR << 16 | NH_ABI_MINOR)
#define NH_EXPORT __attribute__((visibility("default")))

/* Bytes owned by someone else. Not NUL-terminated. ptr may be NULL only if len is 0. */
typedef struct nh_str { const uint8_t *ptr; size_t len; } nh_str;
typedef struct nh_pair { nh_str name; nh_str value; } nh_pair;
typedef struct nh_pairs { const nh_pair *items; size_t len; } nh_pairs;

/* Result of every call that can fail. */
typedef int32_t nh_result;
enum { NH_OK = 0, NH_END = 1, NH_ERROR = -1, NH_PANIC = -2, NH_UNSUPPORTED = -3, NH_ARGUMENT = -4, NH_CLOSED = -5 };

enum { NH_LOG_DEBUG = 0, NH_LOG_INFO = 1, NH_LOG_WARN = 2, NH_LOG_ERROR = 3, NH_LOG_NONE = 4 };
enum { NH_TEXT = 0, NH_INT = 1, NH_FLOAT = 2, NH_BOOL = 3, NH_JSON = 4, NH_BYTES = 5, NH_NULL = 6 };
typedef struct nh_value {
    uint32_t kind;                                     /* NH_TEXT .. NH_NULL */
    uint32_t reserved;
    union { nh_str text; int64_t integer; double real; } as;
} nh_value;
typedef struct nh_field { nh_str name; nh_value value; } nh_field;

/* ---- event: host to plugin, read-only ---------------------------------------------------------------- */
enum {
    NH_EVENT_NO_BODY = 1u << 0,                        /* the request carried no body at all */
    NH_EVENT_BODY_JSON = 1u << 1,                      /* structured cloud event: body is the JSON text of its data */
    NH_EVENT_CLOUD = 1u << 2,                          /* structured or binary cloud event */
    NH_EVENT_LAST_IN_BATCH = 1u << 3,
    NH_EVENT_MORE = 1u << 4                            /* 1.2: body is not all of it, the host's read has the rest */
};
typedef struct nh_event {
    uint32_t size;                                     /* bytes of this struct as the host knows it */
    uint32_t flags;
    nh_str id, method, path, query, url, content_type;
    nh_str trigger_class, trigger_kind, trigger_name;
    nh_str type, type_version, version, topic;
    nh_str body;
    nh_pairs headers;                                  /* names as the trigger gives them; repeated names allowed */
    int64_t timestamp_ns;                              /* since 1970, UTC; INT64_MIN: earlier */
    int64_t deadline_ns;                               /* CLOCK_MONOTONIC; 0: none */
    int64_t offset;
    int32_t shard_id, num_shards;
    void *host;                                        /* the host's own; pass the event back, never look inside */
} nh_event;

/* ---- response: filled in by the plugin ---------------------------------------------------------------- */
enum { NH_RESPONSE_NO_ACK = 1u << 0, NH_RESPONSE_STREAM = 1u << 1 };
typedef struct nh_response {
    uint32_t size;                                     /* set by the host; also tells which fields exist */
    uint16_t status;                                   /* 0: 200, or 500 when the call failed */
    uint16_t flags;
    nh_str content_type;
    nh_pairs headers;
    nh_str body;                                       /* when the call failed: the error text */
    void *owner;                                       /* for release */
    void (*release)(void *owner);                      /* NULL: nothing to release */
    nh_result (*next)(void *owner, nh_str *chunk);     /* with NH_RESPONSE_STREAM: pulled until NH_END (see 14) */
} nh_response;

/* ---- host functions ------------------------------------------------------------------------------------ */
typedef struct nh_call {
    uint32_t size, reserved;
    nh_str function, method, path, content_type, body;
    nh_pairs headers;
    int64_t timeout_ns;                                /* 0: the host's default */
} nh_call;
typedef struct nh_host {
    uint32_t size, abi_version;
    uint32_t (*log_level)(void *worker_ref, const nh_event *event);
    void (*log)(void *worker_ref, const nh_event *event, uint32_t level, nh_str message, const nh_field *fields, size_t n);
    void *(*alloc)(const nh_event *event, size_t size, size_t align);
    nh_str (*header)(const nh_event *event, nh_str name);
    nh_pairs (*fields)(const nh_event *event);
    int32_t (*cancelled)(const nh_event *event);
    nh_result (*ack)(void *worker_ref, nh_str topic, int32_t partition, int64_t offset);
    nh_result (*call_function)(void *worker_ref, const nh_call *call, nh_response *answer);
    /* 1.2. Waits for the next bytes of a body with NH_EVENT_MORE and writes up to size of them: NH_OK, *n of them; NH_END;
     * NH_CLOSED: no more comes, and nobody waits for an answer (client gone, too slow, too large, deadline). */
    nh_result (*read)(const nh_event *event, uint8_t *buffer, size_t size, size_t *n);
} nh_host;

/* ---- what the plugin is told at start ------------------------------------------------------------------ */
typedef struct nh_config {
    uint32_t size, reserved;
    nh_str function_name, namespace_, project, platform_kind, handler, config_yaml;
    int64_t function_version;
} nh_config;
typedef struct nh_worker_config {
    uint32_t size;
    int32_t worker_id;
    nh_str trigger_kind, trigger_name;
    void *worker_ref;                                  /* first argument of log, ack, call_function */
} nh_worker_config;

/* ---- plugin -------------------------------------------------------------------------------------------- */
enum {
    NH_FEATURE_FIXED_THREAD = 1u << 0,                 /* all calls of one worker come from one thread; costs a hand-over */
    NH_FEATURE_SHORT = 1u << 1,                        /* handle returns within about 100 us and never blocks */
    NH_FEATURE_OWNS_RUNTIME = 1u << 2,                 /* brings a run-time (Go): signals early, one per process */
    NH_FEATURE_STREAM_BODY = 1u << 3                   /* 1.2: takes large bodies while they arrive, with read */
};
enum { NH_DRAIN = 1, NH_CONTINUE = 2, NH_TERMINATE = 3 };
typedef struct nh_plugin {
    uint32_t size, abi_version;
    uint64_t features;
    const char *language, *sdk_version;                /* NUL-terminated, static */
    nh_result (*start)(const nh_host *host, const nh_config *config, void **plugin, nh_response *error);
    nh_result (*worker_start)(void *plugin, const nh_worker_config *config, void **worker, nh_response *error);
    nh_result (*handle)(void *worker, const nh_event *event, nh_response *response);
    nh_result (*handle_batch)(void *worker, const nh_event *const *events, size_t n, nh_response *const *responses); /* may be NULL; pointers, because nh_response may grow */
    nh_result (*control)(void *worker, uint32_t what);                                                       /* may be NULL */
    void (*worker_stop)(void *worker);
    void (*stop)(void *plugin);
} nh_plugin;

/* The two symbols a library exports. The first is looked up first. */
NH_EXPORT extern const uint32_t nh_abi_version;
NH_EXPORT const nh_plugin *nh_plugin_v1(void);

/* Not for libraries: serves the processor with this table until it is enough, and returns the exit code of the program.
 * In the static library libnuclio_handler.a. */
int nh_main(const nh_plugin *table, int argc, char **argv);

/* ---- layout: the numbers every side relies on ----------------------------------------------------------- */
#ifdef __cplusplus
#define NH_STATIC_ASSERT(condition) static_assert(condition, #condition)
#else
#define NH_STATIC_ASSERT(condition) _Static_assert(condition, #condition)
#endif
#define NH_STATIC_SIZE(type, size) NH_STATIC_ASSERT(sizeof(type) == (size))
#define NH_STATIC_OFFSET(type, field, offset) NH_STATIC_ASSERT(offsetof(type, field) == (offset))
NH_STATIC_SIZE(nh_str, 16);
NH_STATIC_OFFSET(nh_str, ptr, 0);
NH_STATIC_OFFSET(nh_str, len, 8);
NH_STATIC_SIZE(nh_pair, 32);
NH_STATIC_SIZE(nh_pairs, 16);
NH_STATIC_SIZE(nh_value, 24);
NH_STATIC_OFFSET(nh_value, as, 8);
NH_STATIC_SIZE(nh_field, 40);
NH_STATIC_SIZE(nh_event, 288);
NH_STATIC_OFFSET(nh_event, id, 8);
NH_STATIC_OFFSET(nh_event, body, 216);
NH_STATIC_OFFSET(nh_event, headers, 232);
NH_STATIC_OFFSET(nh_event, timestamp_ns, 248);
NH_STATIC_OFFSET(nh_event, shard_id, 272);
NH_STATIC_OFFSET(nh_event, host, 280);
NH_STATIC_SIZE(nh_response, 80);
NH_STATIC_OFFSET(nh_response, status, 4);
NH_STATIC_OFFSET(nh_response, content_type, 8);
NH_STATIC_OFFSET(nh_response, headers, 24);
NH_STATIC_OFFSET(nh_response, body, 40);
NH_STATIC_OFFSET(nh_response, owner, 56);
NH_STATIC_OFFSET(nh_response, release, 64);
NH_STATIC_OFFSET(nh_response, next, 72);
NH_STATIC_SIZE(nh_call, 112);
NH_STATIC_SIZE(nh_host, 80);
NH_STATIC_OFFSET(nh_host, log_level, 8);
NH_STATIC_OFFSET(nh_host, call_function, 64);
NH_STATIC_OFFSET(nh_host, read, 72);
NH_STATIC_SIZE(nh_config, 112);
NH_STATIC_OFFSET(nh_config, function_version, 104);
NH_STATIC_SIZE(nh_worker_config, 48);
NH_STATIC_OFFSET(nh_worker_config, worker_ref, 40);
NH_STATIC_SIZE(nh_plugin, 88);
NH_STATIC_OFFSET(nh_plugin, features, 8);
NH_STATIC_OFFSET(nh_plugin, start, 32);
NH_STATIC_OFFSET(nh_plugin, handle, 48);
NH_STATIC_OFFSET(nh_plugin, stop, 80);

#ifdef __cplusplus
}
#endif
#endif
