/* The daemon: reads the configuration, loads the base, and supervises the workers. */
#include "adapters/home.h"
#include "config/config.h"
#include "core/base/log.h"
#include "core/base_model.h"
#include "server/cli.h"
#include "server/ledger.h"
#include "server/server.h"
#include "server/supervisor.h"
#include "server/watch.h"
#include "server/worker.h"

#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

enum { STOP_GRACE_MS = 15000 }; /* for workers, beyond their own limits */

/* One line, in the form that whoever collects the log can read. */
static int fail(const struct err *err, bool is_json)
{
    if (is_json)
        log_error("boot", "%s", err->msg);
    else
        fprintf(stderr, "prefixd: %s\n", err->msg);
    return 1;
}

static bool wants_json(const struct config *cfg)
{
    return strcmp(cfg->log_format, "json") == 0;
}

struct daemon {
    struct worker_parts parts;
    struct err err;
};

static void say_up(void *ud)
{
    const struct daemon *d = ud;
    printf("listening on %s\n", server_url(d->parts.server));
    fflush(stdout);
}

/* The folder is the workers' alone from here on, and free when the last has left it. */
static void stop(void *ud)
{
    const struct daemon *d = ud;
    server_stop_listening(d->parts.server);
    home_leave(d->parts.home);
}

static int work(const struct supervisor_child *c, void *ud)
{
    struct daemon *d = ud;
    int rc = worker_run(&d->parts, c, &d->err);
    d->parts.server = NULL;
    return rc < 0 ? fail(&d->err, wants_json(d->parts.cfg)) : 0;
}

/* Its tenants need not wait for what nobody will give back any more. */
static void forget_worker(int place, void *ud)
{
    const struct daemon *d = ud;
    ledger_forget_worker(d->parts.server->ledger, place);
}

static int supervise(struct daemon *d)
{
    const struct supervisor_opts opts = {
        .n_workers = (int)d->parts.cfg->workers,
        .stop_ms = d->parts.cfg->drain_ms + STOP_GRACE_MS,
        .work = work,
        .on_up = say_up,
        .on_stop = stop,
        .on_death = forget_worker,
        .ud = d,
    };
    return supervisor_run(&opts);
}

static void name_state(struct err *err, const char *path)
{
    struct err why = *err;
    if (err->code == ERR_IO)
        err_set(err, ERR_IO, "%.200s; a folder that can be made and written to is accepted",
                why.msg);
    worker_name_setting(err, "state", path);
}

/* A mistake in these should not wait for the model to be loaded. */
static int open_folders(struct daemon *d, struct err *err)
{
    const struct config *cfg = d->parts.cfg;
    d->parts.home = home_open(cfg->state[0] ? cfg->state : NULL, err);
    if (!d->parts.home)
        name_state(err, cfg->state);
    else if (server_check_open(d->parts.server, home_dir(d->parts.home), err) < 0)
        worker_name_setting(err, "state", cfg->state);
    else if (cfg->adapters[0] && watch_check(cfg->adapters, err) < 0)
        worker_name_setting(err, "adapters", cfg->adapters);
    else if (cfg->lora_root[0] && watch_check(cfg->lora_root, err) < 0)
        worker_name_setting(err, "lora-root", cfg->lora_root);
    return err->code ? -1 : 0;
}

static int load(struct daemon *d, struct err *err)
{
    const struct config *cfg = d->parts.cfg;
    d->parts.server = server_new(cfg, err);
    if (!d->parts.server || open_folders(d, err) < 0)
        return -1;
    d->parts.base = base_model_open(cfg->model, base_model_dtype_choice(cfg->dtype), err);
    if (!d->parts.base)
        worker_name_setting(err, "model", cfg->model);
    return d->parts.base ? 0 : -1;
}

/* From the middle on this runs in the supervisor and in every worker. */
static int run(const struct config *cfg)
{
    struct daemon d = {.parts = {.cfg = cfg}};
    int status = load(&d, &d.err) < 0 ? fail(&d.err, wants_json(cfg)) : supervise(&d);
    server_free(d.parts.server);
    base_model_free(d.parts.base);
    home_free(d.parts.home);
    return status;
}

static int print_help(void)
{
    struct buf text = {0};
    config_help(&text);
    fwrite(text.data, 1, text.len, stdout);
    buf_free(&text);
    return 0;
}

static int start(const struct config *cfg)
{
    struct err err = {0};
    signal(SIGPIPE, SIG_IGN);
    log_init(wants_json(cfg) ? LOG_JSON : LOG_TEXT, LOG_INFO);
    if (sodium_init() >= 0)
        return run(cfg);
    err_set(&err, ERR_INTERNAL, "libsodium does not start");
    return fail(&err, wants_json(cfg));
}

int main(int argc, char **argv)
{
    struct config cfg;
    struct err err = {0};
    if (cli_is_command(argc, argv))
        return cli_run(argc, argv);
    supervisor_early_signals();
    switch (config_from_args(&cfg, argc, argv, &err)) {
    case CONFIG_HELP:
        return print_help();
    case CONFIG_VERSION:
        printf("prefixd %s\n", PREFIXD_VERSION);
        return 0;
    case CONFIG_BAD:
        log_init(config_wants_json(argc, argv) ? LOG_JSON : LOG_TEXT, LOG_INFO);
        return fail(&err, config_wants_json(argc, argv));
    case CONFIG_RUN:
        break;
    }
    int rc = start(&cfg);
    config_fini(&cfg);
    return rc;
}
