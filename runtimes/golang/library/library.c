/* The two symbols of a handler library, and the calls that cross between C and Go. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "_cgo_export.h"

/* An answer that fits here needs no call from Go to C. */
enum { ROOM = 1024, FIELDS_ON_STACK = 16 };

static const nh_host *host;

void nuclio_go_release_block(void *owner) { free(owner); }

void nuclio_go_release_stream(void *owner) { nuclioProcessorStreamRelease((uintptr_t)owner); }

nh_result nuclio_go_next_piece(void *owner, nh_str *chunk) { return nuclioProcessorStreamNext((uintptr_t)owner, chunk); }

uint32_t nuclio_go_log_level(uintptr_t worker_ref, const nh_event *event) {
    return host->log_level((void *)worker_ref, event);
}

/* texts holds the message and, for each field, its name and its text, one behind the other; lengths are in sizes. Each
 * field takes three numbers there: length of its name, kind, and length of its text or the value itself. */
void nuclio_go_log(uintptr_t worker_ref, const nh_event *event, uint32_t level, const uint8_t *texts, const uint64_t *sizes,
                   size_t n) {
    nh_field few[FIELDS_ON_STACK];
    nh_field *fields = n <= FIELDS_ON_STACK ? few : malloc(n * sizeof *fields);
    if (!fields) return;
    const nh_str message = {texts, sizes[0]};
    texts += *sizes++;
    for (size_t at = 0; at < n; at++, sizes += 3) {
        nh_field *field = &fields[at];
        memset(field, 0, sizeof *field);
        field->name = (nh_str){texts, sizes[0]};
        texts += sizes[0];
        field->value.kind = (uint32_t)sizes[1];
        if (sizes[1] == NH_TEXT || sizes[1] == NH_JSON || sizes[1] == NH_BYTES) {
            field->value.as.text = (nh_str){texts, sizes[2]};
            texts += sizes[2];
        } else {
            memcpy(&field->value.as, &sizes[2], sizeof sizes[2]);
        }
    }
    host->log((void *)worker_ref, event, level, message, fields, n);
    if (fields != few) free(fields);
}

/* While threads that come from C are busy Go's monitor looks every 20 µs, and each time takes their processors (P) away
 * from those that are between two calls, if no goroutine has been scheduled there for 10 ms; an event never schedules
 * one. On two cores that is a tenth of what an empty event costs. So its thread may sleep longer than it asks for, and
 * gives that to none of the threads that it starts, which have their timer slack from it otherwise. */
enum { MONITOR_SLACK_NANOS = 1000 * 1000 };

static struct {
    void *(*start)(void *);
    void *argument;
    pthread_t thread;
    int other_slack;
    atomic_bool sleeps_longer;
} monitor;

static void *run_monitor(void *unused) {
    (void)unused;
    monitor.thread = pthread_self();
    monitor.other_slack = prctl(PR_GET_TIMERSLACK);
    if (monitor.other_slack >= 0 && prctl(PR_SET_TIMERSLACK, MONITOR_SLACK_NANOS) == 0)
        atomic_store(&monitor.sleeps_longer, 1);
    return monitor.start(monitor.argument);
}

/* By this Go starts all its threads but the very first, which starts the monitor before anything else. The linker sends
 * the calls to us. Weak: should a version of Go call it otherwise, nobody calls us, and all is as it was. */
#define STARTS_THREAD (pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
__attribute__((weak)) int __real__cgo_try_pthread_create STARTS_THREAD;

__attribute__((visibility("hidden"))) int __wrap__cgo_try_pthread_create STARTS_THREAD {
    static atomic_bool started;
    if (!atomic_exchange(&started, 1)) {
        monitor.start = start;
        monitor.argument = argument;
        return __real__cgo_try_pthread_create(thread, attributes, run_monitor, NULL);
    }
    const int by_monitor = atomic_load(&monitor.sleeps_longer) && pthread_equal(pthread_self(), monitor.thread);
    if (by_monitor) prctl(PR_SET_TIMERSLACK, (unsigned long)monitor.other_slack);
    const int error = __real__cgo_try_pthread_create(thread, attributes, start, argument);
    if (by_monitor) prctl(PR_SET_TIMERSLACK, MONITOR_SLACK_NANOS);
    return error;
}

nh_pairs nuclio_go_fields(const nh_event *event) { return host->fields(event); }

static nh_result start(const nh_host *given, const nh_config *config, void **plugin, nh_response *error) {
    host = given;
    *plugin = NULL;
    return nuclioProcessorStart((void *)config, error);
}

static nh_result worker_start(void *plugin, const nh_worker_config *config, void **worker, nh_response *error) {
    (void)plugin;
    uintptr_t number = 0;
    const nh_result result = nuclioProcessorWorkerStart((void *)config, error, &number);
    *worker = (void *)number;
    return result;
}

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    void *block = malloc(ROOM);
    const nh_result result = nuclioProcessorHandle((uintptr_t)worker, (void *)event, response, block, block ? ROOM : 0);
    if (response->owner != block) free(block);
    return result;
}

static void worker_stop(void *worker) { nuclioProcessorWorkerStop((uintptr_t)worker); }

static void stop(void *plugin) { (void)plugin; }

static const nh_plugin table = {
    .size = sizeof(nh_plugin),
    .abi_version = NH_ABI_VERSION,
    .features = NH_FEATURE_OWNS_RUNTIME,
    .language = "go",
    .sdk_version = "nuclio-sdk-go",
    .start = start,
    .worker_start = worker_start,
    .handle = handle,
    .worker_stop = worker_stop,
    .stop = stop,
};

NH_EXPORT const uint32_t nh_abi_version = NH_ABI_VERSION;

NH_EXPORT const nh_plugin *nh_plugin_v1(void) { return &table; }
