/* Blocks as long as the caller says, then echoes: the body starts with a number of microseconds ("10000 rest"). */
#include <errno.h>
#include <time.h>

#include "nuclio_handler.h"

static nh_result start(const nh_host *host, const nh_config *config, void **plugin, nh_response *error) {
    (void)host, (void)config, (void)error;
    *plugin = NULL;
    return NH_OK;
}

static nh_result worker_start(void *plugin, const nh_worker_config *config, void **worker, nh_response *error) {
    (void)plugin, (void)config, (void)error;
    *worker = NULL;
    return NH_OK;
}

static int64_t leading_number(nh_str text) {
    int64_t number = 0;
    for (size_t i = 0; i < text.len && i < 9 && text.ptr[i] >= '0' && text.ptr[i] <= '9'; i++)
        number = number * 10 + (text.ptr[i] - '0');
    return number;
}

static void block(int64_t micros) {
    struct timespec rest = {micros / 1000000, micros % 1000000 * 1000};
    while (micros > 0 && nanosleep(&rest, &rest) == -1 && errno == EINTR) {
    }
}

/* The answer points into the event, which outlives it. */
static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    block(leading_number(event->body));
    response->body = event->body;
    return NH_OK;
}

static void worker_stop(void *worker) { (void)worker; }
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
