/* Greets whoever the body names. Builds to handler.so with
 *   cc -std=c11 -O2 -fPIC -shared -fvisibility=hidden -I../../../runtimes/rust/include hello.c -o handler.so
 */
#include <nuclio_handler.h>

#include <stdlib.h>
#include <string.h>

typedef struct worker {
    const nh_host *host;
    void *ref;
} worker;

static nh_str text(const char *s) {
    return (nh_str){(const uint8_t *)s, strlen(s)};
}

static nh_result start(const nh_host *host, const nh_config *config, void **plugin, nh_response *error) {
    (void)config, (void)error;
    *plugin = (void *)host;
    return NH_OK;
}

static nh_result worker_start(void *plugin, const nh_worker_config *config, void **out, nh_response *error) {
    worker *self = malloc(sizeof *self);
    if (!self) {
        error->body = text("out of memory");
        return NH_ERROR;
    }
    *self = (worker){.host = plugin, .ref = config->worker_ref};
    *out = self;
    return NH_OK;
}

static nh_result handle(void *state, const nh_event *event, nh_response *response) {
    static const char hello[] = "Hello, ";
    worker *self = state;
    /* Memory that lives as long as the event: nothing to release. */
    size_t len = sizeof hello - 1 + event->body.len;
    uint8_t *answer = self->host->alloc(event, len, 1);
    if (!answer) {
        response->status = 413;
        response->body = text("that name is too long");
        return NH_ERROR;
    }
    memcpy(answer, hello, sizeof hello - 1);
    if (event->body.len) memcpy(answer + sizeof hello - 1, event->body.ptr, event->body.len);
    self->host->log(self->ref, event, NH_LOG_INFO, text("greeting"), NULL, 0);
    response->body = (nh_str){answer, len};
    return NH_OK;
}

static void worker_stop(void *state) {
    free(state);
}

static void stop(void *plugin) {
    (void)plugin;
}

const uint32_t nh_abi_version = NH_ABI_VERSION;

const nh_plugin *nh_plugin_v1(void) {
    static const nh_plugin table = {
        .size = sizeof table,
        .abi_version = NH_ABI_VERSION,
        .language = "c",
        .sdk_version = "1.0",
        .start = start,
        .worker_start = worker_start,
        .handle = handle,
        .worker_stop = worker_stop,
        .stop = stop,
    };
    return &table;
}
