/* Counts the bytes of a body while it arrives. COUNT_FIXED_THREAD in the environment: on a thread of its own. */
#include "nuclio_handler.h"
#include <stdio.h>
#include <stdlib.h>

static const nh_host *host;

static nh_result start(const nh_host *given, const nh_config *config, void **plugin, nh_response *error) {
    (void)config, (void)plugin, (void)error;
    host = given;
    return NH_OK;
}

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    static __thread uint8_t buffer[50000];
    size_t total = event->body.len;
    while (event->flags & NH_EVENT_MORE) {
        size_t n = 0;
        nh_result result = host->read(event, buffer, sizeof buffer, &n);
        if (result == NH_END) break;
        if (result != NH_OK) return NH_ERROR;
        total += n;
    }
    char *text = host->alloc(event, 32, 1);
    if (!text) return NH_ERROR;
    int length = snprintf(text, 32, "%zu c", total);
    response->body = (nh_str){(const uint8_t *)text, (size_t)length};
    static const nh_pair cookies[] = {{{(const uint8_t *)"Set-Cookie", 10}, {(const uint8_t *)"a=1", 3}},
                                      {{(const uint8_t *)"X-Counted", 9}, {(const uint8_t *)"1", 1}},
                                      {{(const uint8_t *)"Set-Cookie", 10}, {(const uint8_t *)"b=2", 3}}};
    response->headers = (nh_pairs){cookies, 3};
    return NH_OK;
}

NH_EXPORT const uint32_t nh_abi_version = NH_ABI_VERSION;

NH_EXPORT const nh_plugin *nh_plugin_v1(void) {
    static nh_plugin table = {
        .size = sizeof(nh_plugin),
        .abi_version = NH_ABI_VERSION,
        .features = NH_FEATURE_STREAM_BODY,
        .language = "c",
        .sdk_version = "1.2",
        .start = start,
        .handle = handle,
    };
    if (getenv("COUNT_FIXED_THREAD")) table.features |= NH_FEATURE_FIXED_THREAD;
    return &table;
}
