#include "../case.h"

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    response->body = event->body;
    if (is(event->method, "PUT")) {
        char *size = host->alloc(event, 24, 1);
        response->body = (nh_str){(const uint8_t *)size, (size_t)snprintf(size, 24, "%zu", event->body.len)};
    }
    return NH_OK;
}
