#include "../case.h"

#include <signal.h>

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    if (is(event->path, "/exit")) _Exit(7);
    if (is(event->path, "/signal")) raise(SIGKILL);
    if (is(event->path, "/fault")) *(volatile int *)8 = 1;
    response->body = text("alive");
    return NH_OK;
}
