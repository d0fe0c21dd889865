#include "../case.h"

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    response->body = event->body;
    return NH_OK;
}
