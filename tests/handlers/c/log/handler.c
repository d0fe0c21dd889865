#include "../case.h"

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    const nh_field fields[] = {{text("number"), {NH_INT, 0, {.integer = 1}}},
                               {text("text"), {NH_TEXT, 0, {.text = text("gr\xc3\xbc\xc3\x9f")}}}};
    host->log(worker_ref, event, NH_LOG_DEBUG, text("d"), NULL, 0);
    host->log(worker_ref, event, NH_LOG_INFO, text("i"), fields, 2);
    host->log(worker_ref, event, NH_LOG_WARN, text("w"), NULL, 0);
    host->log(worker_ref, event, NH_LOG_ERROR, text("e"), NULL, 0);
    response->body = text("logged");
    return NH_OK;
}
