#include "../case.h"

#include <time.h>
#include <unistd.h>

typedef struct stream {
    char kind, file[4096], piece[100000];
    int number;
} stream;

static nh_result next(void *owner, nh_str *chunk) {
    stream *self = owner;
    if (self->kind == '5' && self->number == 5) return NH_END;
    if (self->kind == 'b' && access(self->file, F_OK) == 0) {
        host->log(worker_ref, NULL, NH_LOG_ERROR, text("broken on purpose"), NULL, 0);
        return NH_ERROR;
    }
    if (self->kind == 'b' && self->number > 0) nanosleep(&(struct timespec){0, 5000000}, NULL);
    size_t len = sizeof self->piece;
    if (self->kind == 'f')
        memset(self->piece, 'x', len);
    else
        len = (size_t)snprintf(self->piece, len, "%d\n", self->number++);
    *chunk = (nh_str){(const uint8_t *)self->piece, len};
    return NH_OK;
}

static void release(void *owner) {
    puts("stream closed");
    fflush(stdout);
    free(owner);
}

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    static nh_pair headers[1];
    stream *self = calloc(1, sizeof *self);
    self->kind = is(event->path, "/five") ? '5' : (char)event->path.ptr[1];
    if (event->body.len < sizeof self->file) memcpy(self->file, event->body.ptr ? event->body.ptr : (const uint8_t *)"", event->body.len);
    headers[0] = (nh_pair){text("X-Kind"), text("pieces")};
    response->status = 201;
    response->content_type = text("text/csv");
    response->headers = (nh_pairs){headers, 1};
    response->flags = NH_RESPONSE_STREAM;
    response->owner = self;
    response->next = next;
    response->release = release;
    return NH_OK;
}
