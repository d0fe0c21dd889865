/* All that the harness asks for beyond an empty answer; the path says what (see ../workload.rs). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nuclio_handler.h"

#define TEXT(s) ((nh_str){(const uint8_t *)(s), sizeof(s) - 1})

static const nh_host *host;

typedef struct worker {
    void *ref;
} worker;

static nh_result start(const nh_host *given, const nh_config *config, void **plugin, nh_response *error) {
    (void)config, (void)error;
    host = given;
    *plugin = NULL;
    return NH_OK;
}

static nh_result worker_start(void *plugin, const nh_worker_config *config, void **out, nh_response *error) {
    (void)plugin, (void)error;
    worker *self = malloc(sizeof *self);
    if (!self) return NH_ERROR;
    self->ref = config->worker_ref;
    *out = self;
    return NH_OK;
}

static int is(nh_str path, const char *text) {
    return path.len == strlen(text) && memcmp(path.ptr, text, path.len) == 0;
}

static int64_t cpu_nanos(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void burn(int64_t nanos) {
    int64_t end = cpu_nanos() + nanos;
    while (cpu_nanos() < end) {
    }
}

static void rest(int64_t nanos) {
    struct timespec left = {nanos / 1000000000, nanos % 1000000000};
    while (nanosleep(&left, &left) == -1 && errno == EINTR) {
    }
}

static nh_result next(void *owner, nh_str *chunk) {
    static uint8_t piece[1024];
    int *left = owner;
    if ((*left)-- == 0) return NH_END;
    memset(piece, 'x', sizeof piece);
    *chunk = (nh_str){piece, sizeof piece};
    return NH_OK;
}

static nh_result stream(nh_response *response) {
    int *left = malloc(sizeof *left);
    if (!left) return NH_ERROR;
    *left = 10;
    response->flags = NH_RESPONSE_STREAM;
    response->owner = left;
    response->next = next;
    response->release = free;
    return NH_OK;
}

static void log_some(worker *self, const nh_event *event) {
    const nh_field fields[] = {{TEXT("number"), {NH_INT, 0, {.integer = 7}}}};
    host->log(self->ref, event, NH_LOG_INFO, TEXT("first"), NULL, 0);
    host->log(self->ref, event, NH_LOG_INFO, TEXT("second"), fields, 1);
    host->log(self->ref, event, NH_LOG_INFO, TEXT("third"), NULL, 0);
}

static nh_result handle(void *state, const nh_event *event, nh_response *response) {
    nh_str path = event->path;
    response->body = TEXT("hello");
    if (is(path, "/echo")) response->body = event->body;
    else if (is(path, "/cpu")) burn(100000);
    else if (is(path, "/sleep")) rest(10000000);
    else if (is(path, "/log")) log_some(state, event);
    else if (is(path, "/stream")) {
        response->body = (nh_str){NULL, 0};
        return stream(response);
    }
    return NH_OK;
}

static void worker_stop(void *state) { free(state); }
static void stop(void *plugin) { (void)plugin; }

NH_EXPORT const uint32_t nh_abi_version = NH_ABI_VERSION;

NH_EXPORT const nh_plugin *nh_plugin_v1(void) {
    static const nh_plugin plugin = {
        .size = sizeof plugin,
        .abi_version = NH_ABI_VERSION,
        .language = "c",
        .sdk_version = "1.0",
        .start = start,
        .worker_start = worker_start,
        .handle = handle,
        .worker_stop = worker_stop,
        .stop = stop,
    };
    return &plugin;
}
