#include "../case.h"

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    long status = atol(terminated(event, event->path) + 1);
    response->status = status < 1 || status > 65535 ? 1 : (uint16_t)status;
    response->body = text("as asked");
    return NH_OK;
}
