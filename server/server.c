/* Starting, running and stopping the server.
 *
 * Thread: loop. Stopping: no new connections; running requests finish, or are cancelled
 * when the drain's time is over; the engine is closed and its last events handed out; HTTP
 * is closed, which ends what is still open; the loop runs dry, which waits for the pool. A
 * second signal exits at once. */
#include "server/server.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/base/utf8.h"
#include "adapters/home.h"
#include "server/auth.h"
#include "server/bridge.h"
#include "server/changes.h"
#include "server/exchange.h"
#include "server/generation.h"
#include "server/http.h"
#include "server/ledger.h"
#include "server/limits.h"
#include "server/loads.h"
#include "server/loop.h"
#include "server/metrics.h"
#include "server/quarantine.h"
#include "server/tenants.h"
#include "server/usage.h"
#include "server/watch.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    SERVER_MAGIC = 0x73727672,
    KEEPALIVE_MS = 10000,
    MAX_BACKLOG = 1 << 20,
    READ_GRACE_MS = 30000,
    CANCEL_GRACE_MS = 1000, /* for cancelled requests to tell their clients */
    OWN_FILES = 128,        /* descriptors that are no connections */
    UPLOADS_AT_ONCE = 2,    /* of the largest size and one tenant, in memory together */
    BODIES_AT_ONCE = 64,
    ANSWERS_AT_ONCE = 3, /* likewise; what others are left is room for a largest one too */
};

static struct server *server_of(void *p)
{
    struct server *s = p;
    CHECK(s && s->magic == SERVER_MAGIC);
    return s;
}

void server_wake(void *server)
{
    loop_wake(server_of(server)->loop);
}

static void mark_broken(int64_t owner, const char *digest, int64_t until, void *ud)
{
    adapters_mark_broken(ud, owner, digest, until, QUARANTINE_WHY);
}

void server_heed_quarantine(struct server *s)
{
    const struct quarantine *q = s->shared->quarantine;
    if (quarantine_changed(q, &s->quarantine_seen))
        quarantine_each(q, (int64_t)time(NULL), mark_broken, s->parts.adapters);
}

bool server_is_draining(const struct server *s)
{
    return s->state >= SERVER_DRAINING;
}

/* ---- stopping ------------------------------------------------------------------------ */

static void cancel_all(struct server *s)
{
    for (struct exchange *x = s->exchanges; x; x = x->next)
        bridge_cancel(x);
}

/* A request whose body is not there yet is not waited for. */
static bool has_running(const struct server *s)
{
    for (const struct exchange *x = s->exchanges; x; x = x->next)
        if (x->is_received)
            return true;
    return false;
}

static void drain(struct server *s)
{
    int64_t now = clock_us();
    if (!has_running(s) || (now > s->stop_us && s->has_cancelled)) {
        loop_stop(s->loop);
    } else if (now > s->stop_us) {
        log_warn("stop", "requests still run after %lld ms and are cancelled",
                 (long long)s->cfg->drain_ms);
        s->has_cancelled = true;
        s->stop_us = now + CANCEL_GRACE_MS * 1000LL;
        cancel_all(s);
    }
}

/* Whether it changes something or may still do: loads store what they made. */
static bool is_at_work(const struct exchange *x)
{
    return x->is_work_live || x->station == EXCHANGE_adapt;
}

/* The folder's lock goes once nothing changes but counts of usage: these are rows, which a
 * process beside the folder's owner may add like any command. */
static void leave_home(struct server *s)
{
    bool is_busy = !changes_are_over(s->changes) || !loads_are_over(s->loads) ||
                   usage_is_writing(s->usage) || watch_is_writing(s->watch);
    for (const struct exchange *x = s->exchanges; x && !is_busy; x = x->next)
        is_busy = is_at_work(x);
    if (is_busy || !s->parts.home)
        return;
    home_leave(s->parts.home);
    s->parts.home = NULL;
}

static void start_draining(struct server *s)
{
    if (s->state == SERVER_DRAINING)
        return;
    s->state = SERVER_DRAINING;
    s->stop_us = clock_us() + s->cfg->drain_ms * 1000;
    http_stop_listening(s->http);
    leave_home(s);
    loop_set_ticking(s->loop, true);
    drain(s);
}

static void on_signal(void *ud, int signum)
{
    struct server *s = server_of(ud);
    if (++s->n_signals > 1 && has_running(s)) {
        log_warn("stop", "signal %d again: exit", signum);
        _exit(128 + signum);
    }
    if (s->state != SERVER_DRAINING)
        log_info("stop", "signal %d: draining", signum);
    start_draining(s);
}

static void on_life_end(void *ud)
{
    struct server *s = server_of(ud);
    if (s->state != SERVER_DRAINING)
        log_info("stop", "the supervisor stops or is gone: draining");
    start_draining(s);
}

void server_watch_life(struct server *s, int fd)
{
    loop_watch_life(s->loop, fd);
}

/* ---- running ------------------------------------------------------------------------- */

static void on_wake(void *ud)
{
    bridge_drain(server_of(ud));
}

static void on_tick(void *ud)
{
    struct server *s = server_of(ud);
    int64_t now = clock_us();
    http_find_gone(s->http);
    metrics_refresh(s);
    for (struct exchange *x = s->exchanges; x; x = x->next)
        exchange_tick(x, now);
    if (s->state == SERVER_DRAINING) {
        leave_home(s);
        drain(s);
    } else if (!s->exchanges && !http_has_connections(s->http)) {
        loop_set_ticking(s->loop, false);
    }
}

void server_add(struct server *s, struct exchange *x)
{
    CHECK_ON_THREAD(s->owner);
    x->next = s->exchanges;
    if (x->next)
        x->next->prev = x;
    s->exchanges = x;
    loop_set_ticking(s->loop, true);
}

void server_remove(struct server *s, struct exchange *x)
{
    CHECK_ON_THREAD(s->owner);
    if (x->next)
        x->next->prev = x->prev;
    if (x->prev)
        x->prev->next = x->next;
    else
        s->exchanges = x->next;
    if (s->state == SERVER_DRAINING)
        drain(s);
}

void server_run(struct server *s)
{
    CHECK_ON_THREAD(s->owner);
    loop_run(s->loop);
    s->state = SERVER_STOPPED;
    loop_detach_http(s->loop);
    engine_close(s->parts.engine);
    bridge_drain(s);
    http_close(s->http);
    log_info("stop", "stopped");
}

/* ---- starting ------------------------------------------------------------------------ */

/* The last component of the model's path, without ".gguf". */
static char *last_part(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    if (end - start > 5 && strncmp(path + end - 5, ".gguf", 5) == 0)
        end -= 5;
    return xstrndup(path + start, end - start);
}

/* "." and ".." mean a folder by another name than its own. */
static char *name_of(const char *path)
{
    char *name = last_part(path);
    if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
        return name;
    char *real = realpath(path, NULL);
    free(name);
    name = last_part(real && real[1] ? real : "model");
    free(real);
    return name;
}

static bool has_control(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return true;
    return false;
}

/* It stands in JSON, in log lines, and before the colon of BASE:adapter. */
static int check_name(const char *name, struct err *err)
{
    size_t n = strlen(name);
    struct buf shown = {0};
    if (n && utf8_valid_len(name, n) == n && !has_control(name) && !strchr(name, ':'))
        return 0;
    utf8_add_lossy(&shown, name, n < 80 ? n : 80);
    for (size_t i = 0; i < shown.len; i++)
        if ((unsigned char)shown.data[i] < 0x20 || shown.data[i] == 0x7f)
            shown.data[i] = '?';
    err_set(err, ERR_INVALID,
            "--name \"%s\" (from --model if not given): UTF-8 text without ':' and control "
            "characters is accepted",
            shown.data ? shown.data : "");
    buf_free(&shown);
    return -1;
}

int server_check_open(const struct server *s, const char *state_dir, struct err *err)
{
    bool has_key = false;
    if (s->auth || s->admin_auth || s->addr.is_loopback || s->cfg->allow_open)
        return 0;
    if (tenants_has_key(state_dir, &has_key, err) < 0)
        return -1;
    if (has_key)
        return 0;
    return err_set(
        err, ERR_INVALID,
        "--listen %.80s: without keys (--api-key-file, --admin-key-file, or prefixd key add) "
        "only loopback is accepted (127.0.0.0/8, [::1], localhost), unless "
        "allow_unauthenticated_remote is true",
        s->cfg->listen);
}

static int open_keys(const char *setting, const char *path, struct auth **out,
                     struct err *err)
{
    *out = path[0] ? auth_open(setting, path, err) : NULL;
    return path[0] && !*out ? -1 : 0;
}

static int set_up(struct server *s, struct err *err)
{
    if (check_name(s->base_name, err) < 0 ||
        listen_parse(&s->addr, s->cfg->listen, err) < 0 ||
        open_keys("--api-key-file", s->cfg->api_key_file, &s->auth, err) < 0 ||
        open_keys("--admin-key-file", s->cfg->admin_key_file, &s->admin_auth, err) < 0)
        return -1;
    s->ledger = ledger_new((int)s->cfg->workers, err);
    if (!s->ledger)
        return -1;
    s->listen_fd = listen_bind(&s->addr, err);
    return s->listen_fd < 0 ? -1 : 0;
}

struct server *server_new(const struct config *cfg, struct err *err)
{
    struct server *s = xcalloc(1, sizeof *s);
    s->magic = SERVER_MAGIC;
    s->listen_fd = -1;
    s->cfg = cfg;
    s->base_name = cfg->name[0] ? xstrdup(cfg->name) : name_of(cfg->model);
    s->created = (int64_t)time(NULL);
    s->keepalive_ms = KEEPALIVE_MS;
    s->max_backlog = MAX_BACKLOG;
    s->read_grace_ms = READ_GRACE_MS;
    budget_set(&s->answers, ANSWERS_AT_ONCE * (size_t)GENERATION_MAX_ANSWER);
    budget_set(&s->uploads, UPLOADS_AT_ONCE * (size_t)cfg->max_upload);
    budget_set(&s->bodies, BODIES_AT_ONCE * (size_t)cfg->max_body);
    if (set_up(s, err) == 0)
        return s;
    server_free(s);
    return NULL;
}

void server_stop_listening(struct server *s)
{
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    s->listen_fd = -1;
}

int server_open(struct server *s, struct err *err)
{
    const struct loop_handlers on = {.on_wake = on_wake,
                                     .on_tick = on_tick,
                                     .on_signal = on_signal,
                                     .on_life_end = on_life_end,
                                     .ud = s};
    s->loop = loop_new(&on, err);
    return s->loop ? 0 : -1;
}

/* A worker's share; connections beyond the limit of open files would only fail at accept. */
static int max_connections(const struct server *s)
{
    struct rlimit lim;
    int64_t n = s->cfg->workers, wanted = (s->cfg->max_connections + n - 1) / n;
    if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
        return (int)wanted;
    if (lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = lim.rlim_max;
        setrlimit(RLIMIT_NOFILE, &lim);
        getrlimit(RLIMIT_NOFILE, &lim);
    }
    int64_t room =
        lim.rlim_cur == RLIM_INFINITY ? wanted : (int64_t)lim.rlim_cur - OWN_FILES;
    room = room > 1 ? room : 1;
    if (wanted <= room)
        return (int)wanted;
    log_warn("boot",
             "max_connections %lld is more than the limit of open files allows: %lld",
             (long long)wanted, (long long)room);
    return (int)room;
}

static void enter_shared(struct server *s)
{
    if (!s->shared) {
        shared_open(&s->own, 1);
        s->shared = &s->own;
    }
    shared_enter(s->shared, s->place);
    s->metrics = (struct metrics){s->shared->metrics, s->place};
    metrics_refresh(s);
}

void server_take_parts(struct server *s, const struct server_parts *parts)
{
    const struct tenants_opts who = {.store = parts->store,
                                     .keys = s->auth,
                                     .admin_keys = s->admin_auth,
                                     .is_loopback = s->addr.is_loopback,
                                     .allows_open = s->cfg->allow_open};
    const struct limits_opts limits = {
        .ledger = s->ledger, .place = s->place, .loop = s->loop};
    const struct usage_opts usage = {.store = parts->store, .loop = s->loop};
    thread_owner_set(&s->owner);
    s->parts = *parts;
    enter_shared(s);
    s->tenants = tenants_new(&who);
    s->limits = limits_new(&limits);
    s->usage = usage_new(&usage);
    s->changes = changes_new(s);
    s->loads = loads_new(s);
}

/* The socket is shared by all workers: it listens from the first one's start on, and what
 * the later ones ask for is so already. */
int server_start(struct server *s, struct err *err)
{
    CHECK_ON_THREAD(s->owner);
    const struct http_opts opts = {.listen_fd = s->listen_fd,
                                   .idle_timeout_s = (int)s->cfg->idle_timeout_s,
                                   .max_connections = max_connections(s),
                                   .connection_memory = (size_t)s->cfg->connection_memory,
                                   .server = s};
    if (listen_start(&s->addr, s->listen_fd, err) < 0)
        return -1;
    s->http = http_open(&opts, err);
    if (!s->http)
        return -1;
    s->listen_fd = -1;
    s->state = SERVER_READY;
    if (loop_start(s->loop, s->http, err) == 0)
        return 0;
    http_close(s->http);
    return -1;
}

const char *server_url(const struct server *s)
{
    return s->addr.url;
}

void server_free(struct server *s)
{
    if (!s)
        return;
    usage_stop(s->usage);
    watch_stop(s->watch);
    loop_free(s->loop);
    server_stop_listening(s);
    CHECK(!s->exchanges);
    http_free(s->http);
    watch_free(s->watch);
    changes_free(s->changes);
    loads_free(s->loads);
    usage_free(s->usage);
    limits_free(s->limits);
    tenants_free(s->tenants);
    ledger_free(s->ledger);
    auth_free(s->auth);
    auth_free(s->admin_auth);
    shared_close(&s->own);
    buf_free(&s->chunks);
    free(s->base_name);
    s->magic = 0;
    free(s);
}
