#include "../case.h"

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    static nh_pair headers[2];
    headers[0] = (nh_pair){text("bad name"), text("1")};
    headers[1] = (nh_pair){text("X-Split"), text("a\r\nb: c")};
    response->body = text("well");
    if (is(event->path, "/throw")) {
        response->body = text("Caught panic: thrown on purpose");
        return NH_PANIC;
    }
    if (is(event->path, "/status")) response->status = 42;
    if (is(event->path, "/header")) response->headers = (nh_pairs){headers, 2};
    if (is(event->path, "/text")) response->body = text("\xef\xbf\xbd!");
    return NH_OK;
}
