/* What a handler forks and starts: processes of their own, which have no part in the connection. */
#include "case.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static nh_result handle(void *worker, const nh_event *event, nh_response *response) {
    (void)worker;
    char *said = host->alloc(event, 64, 1);
    response->body = (nh_str){(uint8_t *)said, 0};
    if (is(event->path, "/started")) {
        /* What it inherits of ours. */
        FILE *out = popen("grep SigIgn /proc/self/status", "r");
        if (!out || !fgets(said, 64, out)) return NH_ERROR;
        pclose(out);
        response->body.len = strlen(said);
        return NH_OK;
    }
    pid_t child = fork();
    if (child == 0) {
        if (is(event->path, "/killed")) sleep(60);
        if (is(event->path, "/logs")) {
            nh_str message = text("of the child");
            host->log(worker_ref, event, NH_LOG_WARN, message, NULL, 0);
        }
        response->body = text("child");
        return NH_OK;
    }
    if (is(event->path, "/killed")) kill(child, SIGTERM);
    int status = 0;
    waitpid(child, &status, 0);
    response->body.len = (size_t)snprintf(said, 64, "parent %d %d", WIFEXITED(status), WTERMSIG(status));
    return NH_OK;
}
