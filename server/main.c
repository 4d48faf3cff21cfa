/* The daemon: reads the configuration, opens the parts, serves, and frees them in reverse.
 */
#include "adapters/adapters.h"
#include "config/config.h"
#include "core/base/log.h"
#include "core/base_model.h"
#include "core/engine.h"
#include "server/server.h"

#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static enum dtype_choice dtype_of(const char *name)
{
    return strcmp(name, "f32") == 0    ? DTYPE_CHOICE_F32
           : strcmp(name, "bf16") == 0 ? DTYPE_CHOICE_BF16
                                       : DTYPE_CHOICE_AUTO;
}

/* What is wrong is said by the parts, which setting it came from here. */
static void name_setting(struct err *err, const char *flag, const char *value)
{
    char msg[sizeof err->msg];
    if (!err->code || strncmp(err->msg, "--", 2) == 0)
        return;
    memcpy(msg, err->msg, sizeof msg);
    err_set(err, err->code, "--%s %.120s: %s", flag, value, msg);
}

static struct engine *open_engine(const struct config *cfg, const struct base_model *base,
                                  struct server *s, struct err *err)
{
    const struct engine_opts opts = {
        .n_threads = (int)cfg->threads,
        .max_ctx = (int)cfg->ctx,
        .kv_bytes = (size_t)cfg->kv_bytes,
        .max_batch = (int)cfg->max_batch,
        .max_queue = (int)cfg->max_queue,
        .prefill_chunk = (int)cfg->prefill_chunk,
        .wake = server_wake,
        .wake_ud = s,
    };
    return engine_open(base, &opts, err);
}

static struct adapters *open_adapters(const struct config *cfg,
                                      const struct server_parts *p, const struct server *s,
                                      struct err *err)
{
    const struct adapters_opts opts = {
        .engine = p->engine,
        .base = p->base,
        .base_name = s->base_name,
        .state_dir = cfg->state[0] ? cfg->state : NULL,
        .keep_versions = (int)cfg->keep_versions,
        .max_virtual_tokens = (int)cfg->max_virtual,
        .max_bytes = (size_t)cfg->max_upload,
    };
    struct adapters *a = adapters_open(&opts, err);
    if (!a)
        name_setting(err, "state", cfg->state);
    if (a && adapters_load_all(a, cfg->adapters[0] ? cfg->adapters : NULL, err) < 0) {
        name_setting(err, "adapters", cfg->adapters);
        adapters_free(a);
        return NULL;
    }
    return a;
}

/* A mistake in these should not wait for the model to be loaded. */
static int check_folders(const struct config *cfg, struct err *err)
{
    if (cfg->state[0] && adapters_check_state(cfg->state, err) < 0)
        name_setting(err, "state", cfg->state);
    else if (cfg->adapters[0] && adapters_check_folder(cfg->adapters, err) < 0)
        name_setting(err, "adapters", cfg->adapters);
    return err->code ? -1 : 0;
}

static int serve(struct server *s, const struct server_parts *parts, struct err *err)
{
    if (server_start(s, parts, err) < 0)
        return -1;
    printf("listening on %s\n", server_url(s));
    fflush(stdout);
    server_run(s);
    return 0;
}

/* The server is freed before what it uses, the base last of all. */
static int run(const struct config *cfg, struct err *err)
{
    struct server *s = server_new(cfg, err);
    if (!s)
        return -1;
    struct server_parts p = {0};
    struct base_model *base = NULL;
    if (check_folders(cfg, err) == 0)
        base = base_model_open(cfg->model, dtype_of(cfg->dtype), err);
    p.base = base;
    if (!base)
        name_setting(err, "model", cfg->model);
    if (base)
        p.engine = open_engine(cfg, base, s, err);
    if (p.engine)
        p.adapters = open_adapters(cfg, &p, s, err);
    int rc = p.adapters ? serve(s, &p, err) : -1;
    if (p.engine && rc < 0)
        engine_close(p.engine);
    server_free(s);
    if (p.adapters)
        adapters_free(p.adapters);
    if (p.engine)
        engine_free(p.engine);
    base_model_free(base);
    return rc;
}

static int print_help(void)
{
    struct buf text = {0};
    config_help(&text);
    fwrite(text.data, 1, text.len, stdout);
    buf_free(&text);
    return 0;
}

/* One line, in the form that whoever collects the log can read. */
static int fail(const struct err *err, bool is_json)
{
    if (is_json)
        log_error("boot", "%s", err->msg);
    else
        fprintf(stderr, "prefixd: %s\n", err->msg);
    return 1;
}

static int start(const struct config *cfg)
{
    struct err err = {0};
    signal(SIGPIPE, SIG_IGN);
    bool is_json = strcmp(cfg->log_format, "json") == 0;
    log_init(is_json ? LOG_JSON : LOG_TEXT, LOG_INFO);
    if (sodium_init() < 0)
        err_set(&err, ERR_INTERNAL, "libsodium does not start");
    else if (run(cfg, &err) == 0)
        return 0;
    return fail(&err, is_json);
}

/* Until the loop takes the signals over there is nothing to drain. As the first process of
 * a container, the daemon would not even be ended without this. */
static void end_at_once(int signum)
{
    (void)signum;
    _exit(0);
}

int main(int argc, char **argv)
{
    struct config cfg;
    struct err err = {0};
    signal(SIGTERM, end_at_once);
    signal(SIGINT, end_at_once);
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
