/* One table of commands; which one is meant, and what becomes of its answer. */
#include "server/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>

#include "adapters/home.h"
#include "server/cli_args.h"
#include "server/cli_backup.h"
#include "server/cli_key.h"
#include "server/cli_tenant.h"

enum { PLAIN = CLI_STATE | CLI_JSON, LIMITED = PLAIN | CLI_WEIGHT | CLI_LIMIT };

static const struct cli_command commands[] = {
    {"tenant add", "NAME", LIMITED, CLI_STATE, "make a tenant; N of a limit may be default",
     cli_tenant_add},
    {"tenant list", NULL, PLAIN, 0, "list tenants", cli_tenant_list},
    {"tenant show", "NAME", PLAIN, 0, "show a tenant with its limits", cli_tenant_show},
    {"tenant set", "NAME", LIMITED, 0,
     "change what is given; N of a limit may be default", cli_tenant_set},
    {"tenant suspend", "NAME", PLAIN, 0, "refuse its requests from now on",
     cli_tenant_suspend},
    {"tenant resume", "NAME", PLAIN, 0, "serve it again", cli_tenant_resume},
    {"tenant remove", "NAME", PLAIN, 0, "remove it with its keys and adapters",
     cli_tenant_remove},
    {"key add", "[TENANT]", PLAIN | CLI_EXPIRES | CLI_SCOPE | CLI_ADMIN, CLI_ADMIN,
     "make a key and print it, this once", cli_key_add},
    {"key list", "[TENANT]", PLAIN, 0, "list keys, without the keys themselves",
     cli_key_list},
    {"key revoke", "ID", PLAIN, 0, "refuse a key from now on", cli_key_revoke},
    {"backup", "FILE", PLAIN, 0,
     "write the state folder into a tar archive, also while it is served from", cli_backup},
};

enum { N_COMMANDS = sizeof commands / sizeof *commands };

/* ---- which one ----------------------------------------------------------------------- */

/* "tenant" of "tenant add". */
static bool is_in_group(const struct cli_command *c, const char *group)
{
    size_t len = strcspn(c->name, " ");
    return strlen(group) == len && strncmp(c->name, group, len) == 0;
}

bool cli_is_command(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < N_COMMANDS; i++)
        if (is_in_group(&commands[i], argv[1]))
            return true;
    return false;
}

/* *n: of words that name it. */
static const struct cli_command *find(char **words, int *n)
{
    for (size_t i = 0; i < N_COMMANDS; i++) {
        const char *verb = strchr(commands[i].name, ' ');
        if (!is_in_group(&commands[i], words[0]))
            continue;
        if (!verb || (words[1] && strcmp(verb + 1, words[1]) == 0)) {
            *n = verb ? 2 : 1;
            return &commands[i];
        }
    }
    return NULL;
}

static int refuse_verb(char **words, struct err *err)
{
    struct buf accepted = {0};
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (is_in_group(&commands[i], words[0]))
            buf_printf(&accepted, "%s%s", accepted.len ? ", " : "",
                       strchr(commands[i].name, ' ') + 1);
    err_set(err, ERR_INVALID, "%s: %s%.60s%s; accepted: %s", words[0], words[1] ? "\"" : "",
            words[1] ? words[1] : "no word says what to do",
            words[1] ? "\" is unknown" : "", accepted.data);
    buf_free(&accepted);
    return -1;
}

/* ---- help ---------------------------------------------------------------------------- */

static void add_line(struct buf *out, const struct cli_command *c)
{
    char shown[64];
    snprintf(shown, sizeof shown, "prefixd %s%s%s", c->name, c->operand ? " " : "",
             c->operand ? c->operand : "");
    buf_printf(out, "  %-28s  %s\n", shown, c->doc);
}

static void add_group_help(struct buf *out, const char *group)
{
    buf_printf(out, "usage: prefixd %s COMMAND --state DIR [options]\n\n", group);
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (is_in_group(&commands[i], group))
            add_line(out, &commands[i]);
    buf_add_str(out,
                "\nEach takes --help. Beside a running daemon they take effect at once.\n");
}

static void add_help(struct buf *out, const struct cli_command *c)
{
    buf_printf(out, "usage: prefixd %s%s%s --state DIR [options]\n\n%s\n\n", c->name,
               c->operand ? " " : "", c->operand ? c->operand : "", c->doc);
    cli_args_help(out, c->options | CLI_HELP);
}

/* ---- running ------------------------------------------------------------------------- */

/* A mistyped folder is not a new one. */
static int check_state(const char *dir, struct err *err)
{
    if (home_is_made(dir))
        return 0;
    return err_set(err, ERR_INVALID,
                   "--state: \"%.200s\" is no state folder; accepted: one that a daemon, "
                   "prefixd tenant add or prefixd key add --admin has made",
                   dir);
}

static int run_on_state(const struct cli_args *a, struct buf *out, struct err *err)
{
    if (!(a->given & a->command->makes_state) && check_state(a->state, err) < 0)
        return -1;
    if (sodium_init() < 0)
        return err_set(err, ERR_INTERNAL, "libsodium does not start");
    struct store *s = store_open(&(struct store_opts){.dir = a->state}, err);
    if (!s)
        return -1;
    int rc = a->command->run(a, s, out, err);
    store_close(s);
    return rc;
}

static int run(char **words, struct buf *out, struct err *err)
{
    int n;
    struct cli_args a;
    const struct cli_command *c = find(words, &n);
    if (!c && words[1] && strcmp(words[1], "--help") == 0) {
        add_group_help(out, words[0]);
        return 0;
    }
    if (!c)
        return refuse_verb(words, err);
    if (cli_args_parse(&a, c, words + n, err) < 0)
        return -1;
    if (!(a.given & CLI_HELP))
        return run_on_state(&a, out, err);
    add_help(out, c);
    return 0;
}

static int write_out(const struct buf *out, struct err *err)
{
    for (size_t at = 0; at < out->len;) {
        ssize_t n = write(STDOUT_FILENO, out->data + at, out->len - at);
        if (n < 0 && errno != EINTR)
            return err_set(err, ERR_IO,
                           "what was asked for is done, but writing the answer to stdout "
                           "failed: %s",
                           strerror(errno));
        at += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* One line, whatever the words held that it repeats. */
static int fail(struct err *err)
{
    for (char *c = err->msg; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    fprintf(stderr, "prefixd: %s\n", err->msg);
    return EXIT_FAILURE;
}

int cli_run(int argc, char **argv)
{
    struct buf out = {0};
    struct err err = {0};
    (void)argc;
    signal(SIGPIPE, SIG_IGN); /* a reader that went away is told like any other failure */
    int rc = run(argv + 1, &out, &err);
    if (rc == 0)
        rc = write_out(&out, &err);
    if (out.data)
        sodium_memzero(out.data, out.len); /* it may hold a key */
    buf_free(&out);
    return rc < 0 ? fail(&err) : EXIT_SUCCESS;
}
