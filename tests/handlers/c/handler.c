/* Test handler in plain C: the behaviour is chosen by the path. Counts what it releases, see /counts. */
#include <nuclio_handler.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct worker {
    const nh_host *host;
    void *ref;
    int32_t id;
    nh_str config_handler;
} worker;

static const nh_host *the_host;
static const nh_config *the_config;
static long made, released, workers;

static nh_str text(const char *s) { return (nh_str){(const uint8_t *)s, strlen(s)}; }

static int is(nh_str a, const char *s) { return a.len == strlen(s) && memcmp(a.ptr, s, a.len) == 0; }

static int starts(nh_str a, const char *s) { return a.len >= strlen(s) && memcmp(a.ptr, s, strlen(s)) == 0; }

static void release(void *owner) {
    __atomic_add_fetch(&released, 1, __ATOMIC_SEQ_CST);
    free(owner);
}

/* Answers with heap memory that `release` frees. */
static void own(nh_response *response, void *memory, size_t len) {
    __atomic_add_fetch(&made, 1, __ATOMIC_SEQ_CST);
    response->body = (nh_str){memory, len};
    response->owner = memory;
    response->release = release;
}

static nh_result start(const nh_host *host, const nh_config *config, void **plugin, nh_response *error) {
    if (is(config->handler, "missing:Handler")) {
        static const char message[] = "there is no handler missing:Handler";
        error->body = text(message);
        return NH_ERROR;
    }
    the_host = host;
    the_config = config;
    *plugin = NULL;
    return NH_OK;
}

static nh_result worker_start(void *plugin, const nh_worker_config *config, void **out, nh_response *error) {
    (void)plugin;
#ifndef TEST_ALL_WORKERS
    if (config->worker_id == 13) {
        char *message = strdup("no worker 13 today");
        own(error, message, strlen(message));
        return NH_ERROR;
    }
#endif
#ifdef TEST_SECOND_START_FAILS
    static int starts;
    if (__atomic_add_fetch(&starts, 1, __ATOMIC_SEQ_CST) == 2) {
        error->body = text("not this time");
        return NH_ERROR;
    }
#endif
#ifdef TEST_SLOW_START
    the_host->log(config->worker_ref, NULL, NH_LOG_INFO, text("starting slowly"), NULL, 0);
    sleep(60);
#endif
    worker *self = calloc(1, sizeof *self);
    __atomic_add_fetch(&workers, 1, __ATOMIC_SEQ_CST);
    self->host = the_host;
    self->ref = config->worker_ref;
    self->id = config->worker_id;
    self->config_handler = the_config->handler;
    *out = self;
    return NH_OK;
}

typedef struct chunks {
    int left, fail;
    char text[16];
} chunks;

static nh_result next(void *owner, nh_str *chunk) {
    chunks *stream = owner;
    if (stream->left == 0) return stream->fail ? NH_ERROR : NH_END;
    chunk->len = (size_t)snprintf(stream->text, sizeof stream->text, "chunk%d;", stream->left--);
    chunk->ptr = (const uint8_t *)stream->text;
    return NH_OK;
}

static nh_result stream(nh_response *response, int fail) {
    chunks *state = calloc(1, sizeof *state);
    state->left = 3;
    state->fail = fail;
    own(response, state, 0);
    response->body = (nh_str){NULL, 0};
    response->flags = NH_RESPONSE_STREAM;
    response->next = next;
    return NH_OK;
}

typedef struct awaited {
    int number;
    char name[512];
} awaited;

/* The second piece comes once there is a file of that name. */
static nh_result next_awaited(void *owner, nh_str *chunk) {
    awaited *stream = owner;
    if (stream->number == 2) return NH_END;
    if (stream->number == 1)
        while (access(stream->name, F_OK) != 0) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    *chunk = stream->number++ == 0 ? text("first") : text("second");
    return NH_OK;
}

static nh_result endless(void *owner, nh_str *chunk) {
    static const uint8_t piece[65536];
    (void)owner;
    *chunk = (nh_str){piece, sizeof piece};
    return NH_OK;
}

static nh_result respond(nh_response *response) {
    static const nh_pair headers[] = {{{(const uint8_t *)"X-A", 3}, {(const uint8_t *)"1", 1}},
                                      {{(const uint8_t *)"bad name", 8}, {(const uint8_t *)"x", 1}},
                                      {{(const uint8_t *)"X-A", 3}, {(const uint8_t *)"a\r\nb", 4}}};
    response->status = 201;
    response->content_type = text("text/x-test");
    response->headers = (nh_pairs){headers, 3};
    response->body = text("fixed");
    return NH_OK;
}

static nh_result log_all(worker *self, const nh_event *event, nh_response *response) {
    nh_field fields[] = {{text("t"), {NH_TEXT, 0, {.text = text("v")}}}, {text("i"), {NH_INT, 0, {.integer = -5}}},
                         {text("f"), {NH_FLOAT, 0, {.real = 1.5}}},      {text("b"), {NH_BOOL, 0, {.integer = 1}}},
                         {text("j"), {NH_JSON, 0, {.text = text("[1,{}]")}}},
                         {text("broken"), {NH_JSON, 0, {.text = text("{")}}},
                         {text("n"), {NH_NULL, 0, {.integer = 0}}}};
    if (self->host->log_level(self->ref, event) <= NH_LOG_INFO)
        self->host->log(self->ref, event, NH_LOG_INFO, text("hello from C"), fields, 7);
    self->host->log(self->ref, NULL, NH_LOG_WARN, text("without event"), NULL, 0);
    response->body = text("logged");
    return NH_OK;
}

/* A line per thing the host can be asked. */
static nh_result describe(worker *self, const nh_event *event, nh_response *response) {
    char *out = self->host->alloc(event, 4096, 64);
    if (!out || (uintptr_t)out % 64) return NH_ERROR;
    nh_str header = self->host->header(event, text("x-THING"));
    nh_str absent = self->host->header(event, text("X-Absent"));
    nh_pairs fields = self->host->fields(event);
    int n = snprintf(out, 4096, "worker=%d handler=%.*s header=%.*s absent=%d fields=%zu first=%.*s:%.*s cancelled=%d",
                     self->id, (int)self->config_handler.len, self->config_handler.ptr, (int)header.len, header.ptr,
                     absent.ptr == NULL, fields.len, (int)fields.items[0].name.len, fields.items[0].name.ptr,
                     (int)fields.items[0].value.len, fields.items[0].value.ptr, self->host->cancelled(event));
    n += snprintf(out + n, 4096 - (size_t)n, " ack=%d huge=%d name0=%.*s deadline=%d shard=%d",
                  self->host->ack(self->ref, text("t"), 0, 0), self->host->alloc(event, (size_t)65 << 20, 1) == NULL,
                  (int)event->headers.items[0].name.len, event->headers.items[0].name.ptr, event->deadline_ns != 0,
                  event->shard_id);
    response->body = (nh_str){(const uint8_t *)out, (size_t)n};
    return NH_OK;
}

static nh_result broken(nh_str path, nh_response *response) {
    if (is(path, "/broken/code")) return -77;
    if (is(path, "/broken/body")) response->body.len = 5;
    if (is(path, "/broken/headers")) response->headers.len = 5;
    if (is(path, "/broken/stream")) response->flags = NH_RESPONSE_STREAM;
    if (is(path, "/broken/status")) response->status = 42;
    return NH_OK;
}

static nh_result handle(void *state, const nh_event *event, nh_response *response) {
    worker *self = state;
    nh_str path = event->path;
    if (is(path, "/empty")) return NH_OK;
    if (is(path, "/echo")) {
        response->body = event->body;
        return NH_OK;
    }
    if (is(path, "/owned")) {
        size_t len = event->body.len;
        char *copy = malloc(len + 1);
        memcpy(copy, event->body.ptr, len);
        own(response, copy, len);
        return NH_OK;
    }
    if (is(path, "/large-static")) {
        static char large[4096];
        memset(large, 'x', sizeof large);
        response->body = (nh_str){(const uint8_t *)large, sizeof large};
        return NH_OK;
    }
    if (is(path, "/respond")) return respond(response);
    if (is(path, "/error")) {
        char *message = strdup("it broke");
        own(response, message, strlen(message));
        return NH_ERROR;
    }
    if (is(path, "/error-status")) {
        response->status = 404;
        response->body = text("no such thing");
        return NH_ERROR;
    }
    if (is(path, "/panic")) {
        response->body = text("Caught panic: boom");
        return NH_PANIC;
    }
    if (is(path, "/unsupported")) return NH_UNSUPPORTED;
    if (is(path, "/no-ack")) {
        response->flags = NH_RESPONSE_NO_ACK;
        return NH_OK;
    }
    if (is(path, "/sleep")) {
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        return NH_OK;
    }
    if (is(path, "/block")) { /* until there is a file of that name */
        char name[512];
        snprintf(name, sizeof name, "%.*s", (int)event->body.len, event->body.ptr);
        self->host->log(self->ref, event, NH_LOG_INFO, text("blocking"), NULL, 0);
        while (access(name, F_OK) != 0) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        return NH_OK;
    }
    if (is(path, "/until-cancelled")) {
        int why;
        self->host->log(self->ref, event, NH_LOG_WARN, text("waiting"), NULL, 0);
        while (!(why = self->host->cancelled(event))) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        dprintf(2, "told: %s\n", why == 2 ? "client gone" : "deadline"); /* nobody reads records past the deadline */
        return NH_OK;
    }
    if (is(path, "/child")) { /* that ends a while before it is waited for, having left one of its own */
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            if (fork() == 0) nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
            _exit(7);
        }
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        if (waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7) return NH_OK;
        response->body = text("somebody else waited for it");
        return NH_ERROR;
    }
    if (is(path, "/log")) return log_all(self, event, response);
    if (is(path, "/describe")) return describe(self, event, response);
    if (is(path, "/stream")) return stream(response, 0);
    if (is(path, "/stream-endless")) {
        own(response, malloc(1), 0);
        response->body = (nh_str){NULL, 0};
        response->flags = NH_RESPONSE_STREAM;
        response->next = endless;
        return NH_OK;
    }
    if (is(path, "/stream-waits")) {
        awaited *state = calloc(1, sizeof *state);
        snprintf(state->name, sizeof state->name, "%.*s", (int)event->body.len, event->body.ptr);
        own(response, state, 0);
        response->body = (nh_str){NULL, 0};
        response->flags = NH_RESPONSE_STREAM;
        response->next = next_awaited;
        return NH_OK;
    }
    if (is(path, "/stream-fails")) return stream(response, 1);
    if (is(path, "/crash")) *(volatile int *)0 = 1;
    if (is(path, "/abort")) abort();
    if (starts(path, "/broken/")) return broken(path, response);
    if (is(path, "/thread")) {
        static _Thread_local char here;
        char *address = self->host->alloc(event, 64, 1);
        response->body = (nh_str){(const uint8_t *)address, (size_t)snprintf(address, 64, "%p", (void *)&here)};
        return NH_OK;
    }
    if (is(path, "/counts")) {
        char *counts = self->host->alloc(event, 64, 1);
        int n = snprintf(counts, 64, "%ld %ld", __atomic_load_n(&made, __ATOMIC_SEQ_CST),
                         __atomic_load_n(&released, __ATOMIC_SEQ_CST));
        response->body = (nh_str){(const uint8_t *)counts, (size_t)n};
        return NH_OK;
    }
    response->status = 404;
    response->body = text("unknown behaviour");
    return NH_ERROR;
}

#ifdef TEST_BATCHES
/* The path of the first event chooses for all, except for streams. */
static nh_result handle_batch(void *state, const nh_event *const *events, size_t n, nh_response *const *responses) {
    worker *self = state;
    nh_str path = events[0]->path;
    self->host->log(self->ref, events[0], NH_LOG_INFO, text("a batch"), NULL, 0);
    if (is(path, "/broken/code")) return -77;
    if (is(path, "/broken/body")) responses[n - 1]->body.len = 5;
    if (starts(path, "/broken/")) return NH_OK;
    if (is(path, "/error")) {
        char *message = strdup("none of you");
        own(responses[0], message, strlen(message));
        responses[0]->status = 422;
        return NH_ERROR;
    }
    if (is(path, "/panic")) {
        responses[0]->body = text("Caught panic: all of you");
        return NH_PANIC;
    }
    if (is(path, "/slow")) /* until it is told to stop */
        while (!self->host->cancelled(events[n - 1])) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (is(path, "/stuck")) sleep(60);
    for (size_t i = 0; i < n; i++) {
        nh_str body = events[i]->body;
        if (is(events[i]->path, "/stream")) {
            stream(responses[i], 0);
            continue;
        }
        /* In memory of another event of the batch. */
        char *out = self->host->alloc(events[n - 1 - i], body.len + 32, 1);
        int len = snprintf(out, body.len + 32, "%.*s of %zu", (int)body.len, body.ptr, n);
        responses[i]->status = 201;
        responses[i]->body = (nh_str){(const uint8_t *)out, (size_t)len};
    }
    return NH_OK;
}
#endif

static nh_result control(void *state, uint32_t what) {
    worker *self = state;
    if (what == NH_TERMINATE) self->host->log(self->ref, NULL, NH_LOG_INFO, text("terminating"), NULL, 0);
#ifdef TEST_SLOW_END
    if (what == NH_TERMINATE) sleep(60);
#endif
    return what == NH_CONTINUE ? NH_ERROR : NH_OK;
}

static void worker_stop(void *worker) {
    __atomic_sub_fetch(&workers, 1, __ATOMIC_SEQ_CST);
    free(worker);
}

static void stop(void *plugin) {
    (void)plugin;
#ifdef TEST_STOP_SPEAKS
    dprintf(2, "stopped with %ld workers left\n", __atomic_load_n(&workers, __ATOMIC_SEQ_CST));
#endif
}

#ifdef TEST_DESTRUCTOR
__attribute__((destructor)) static void destroy(void) { dprintf(2, "destroyed\n"); }
#endif

#ifndef TEST_ABI_VERSION
#define TEST_ABI_VERSION NH_ABI_VERSION
#endif
#ifndef TEST_TABLE_SIZE
#define TEST_TABLE_SIZE sizeof(nh_plugin)
#endif
#ifndef TEST_FEATURES
#define TEST_FEATURES 0
#endif

const uint32_t nh_abi_version = TEST_ABI_VERSION;

const nh_plugin *nh_plugin_v1(void) {
    static const nh_plugin table = {.size = TEST_TABLE_SIZE,
                                    .abi_version = TEST_ABI_VERSION,
                                    .features = TEST_FEATURES,
                                    .language = "c",
                                    .sdk_version = "test",
                                    .start = start,
                                    .worker_start = worker_start,
                                    .handle = handle,
#ifdef TEST_BATCHES
                                    .handle_batch = handle_batch,
#endif
                                    .control = control,
                                    .worker_stop = worker_stop,
                                    .stop = stop};
    return &table;
}
