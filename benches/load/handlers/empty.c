/* The least a compiled handler can do: "hello", whatever is asked. */
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

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    static const uint8_t hello[] = "hello";
    (void)worker, (void)event;
    response->body = (nh_str){hello, sizeof hello - 1};
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
