#include "../case.h"

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    nh_pair *pairs = host->alloc(event, 4 * sizeof *pairs, sizeof(void *));
    pairs[0] = (nh_pair){text("X-Seen"), host->header(event, text("X-Ask"))};
    pairs[1] = (nh_pair){text("X-Number"), text("7")};
    pairs[2] = (nh_pair){text("X-Twice"), text("a")};
    pairs[3] = (nh_pair){text("X-Twice"), text("b")};
    response->headers = (nh_pairs){pairs, 4};
    response->content_type = text("text/html");
    response->body = text("<p>");
    return NH_OK;
}
