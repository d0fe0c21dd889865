#define CASE_STARTS
#include "../case.h"

#include <time.h>

static nh_result worker_start(void *plugin, const nh_worker_config *config, void **worker, nh_response *error) {
    static char ready[] = "ready";
    (void)plugin, (void)config, (void)error;
    struct timespec second = {1, 0};
    nanosleep(&second, NULL);
    *worker = ready;
    return NH_OK;
}

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)event;
    response->body = text(worker);
    return NH_OK;
}
