#include "../case.h"

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    for (volatile int hangs = is(event->path, "/hang"); hangs;) {
    }
    response->body = text("back");
    return NH_OK;
}
