/* What the cases in C have in common: a case defines `handle` and includes this first. */
#include <nuclio_handler.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const nh_host *host;

static nh_result handle(void *worker, const nh_event *event, nh_response *response);

static inline nh_str text(const char *s) { return (nh_str){(const uint8_t *)s, strlen(s)}; }

static inline int is(nh_str a, const char *s) { return a.len == strlen(s) && memcmp(a.ptr, s, a.len) == 0; }

/* A copy that ends with a NUL and lives as long as the event. */
static inline char *terminated(const nh_event *event, nh_str s) {
    char *copy = host->alloc(event, s.len + 1, 1);
    if (s.len) memcpy(copy, s.ptr, s.len);
    copy[s.len] = 0;
    return copy;
}

static nh_result start(const nh_host *given, const nh_config *config, void **plugin, nh_response *error) {
    (void)config, (void)plugin, (void)error;
    host = given;
    return NH_OK;
}

#ifndef CASE_STARTS
static void *worker_ref; /* of the case's only worker */

static nh_result worker_start(void *plugin, const nh_worker_config *config, void **worker, nh_response *error) {
    (void)plugin, (void)worker, (void)error;
    worker_ref = config->worker_ref;
    return NH_OK;
}
#else
static nh_result worker_start(void *plugin, const nh_worker_config *config, void **worker, nh_response *error);
#endif

NH_EXPORT const uint32_t nh_abi_version = NH_ABI_VERSION;

NH_EXPORT const nh_plugin *nh_plugin_v1(void) {
    static const nh_plugin table = {.size = sizeof table,
                                    .abi_version = NH_ABI_VERSION,
                                    .language = "c",
                                    .sdk_version = "1.2",
                                    .start = start,
                                    .worker_start = worker_start,
                                    .handle = handle};
    return &table;
}
