/* One table of options; each is told by its row how it is written and where it goes. */
#include "server/cli_args.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/check.h"
#include "server/date.h"

enum { DAY_S = 86400, HOUR_S = 3600, MAX_AHEAD_DAYS = 365000 };

struct option {
    enum cli_option bit;
    const char *name;  /* underscores stand for the hyphens that are typed */
    const char *value; /* its placeholder; NULL: a flag */
    const char *doc;
    int (*put)(struct cli_args *a, const struct option *o, const char *value,
               struct err *err);
    size_t offset; /* of a limit in struct tenant_limits */
};

/* ---- values -------------------------------------------------------------------------- */

static int refuse(const struct option *o, const char *value, const char *accepted,
                  struct err *err)
{
    char name[40];
    snprintf(name, sizeof name, "%s", o->name);
    for (char *c = name; *c; c++)
        if (*c == '_')
            *c = '-';
    return err_set(err, ERR_INVALID, "--%s: \"%.60s\" is not accepted; accepted: %s", name,
                   value, accepted);
}

/* Plain decimal digits. */
static int read_number(const char *text, const char **end, int64_t *out)
{
    char *stop;
    if (text[0] < '0' || text[0] > '9')
        return -1;
    errno = 0;
    long long n = strtoll(text, &stop, 10);
    if (errno)
        return -1;
    *end = stop;
    *out = n;
    return 0;
}

static int put_text(struct cli_args *a, const struct option *o, const char *value,
                    struct err *err)
{
    if (!value[0])
        return refuse(o, value, "a folder", err);
    a->state = value;
    return 0;
}

static int put_weight(struct cli_args *a, const struct option *o, const char *value,
                      struct err *err)
{
    const char *end;
    if (read_number(value, &end, &a->weight) < 0 || *end || a->weight < 1 ||
        a->weight > TENANT_MAX_WEIGHT)
        return refuse(o, value, TENANT_WEIGHTS, err);
    return 0;
}

/* Bytes may carry k, M or G, as in the daemon's own flags. */
static int shift_of(const struct option *o, const char **end)
{
    int shift = 0;
    if (strstr(o->name, "bytes"))
        shift = **end == 'k' || **end == 'K' ? 10
                : **end == 'M'               ? 20
                : **end == 'G'               ? 30
                                             : 0;
    *end += shift > 0;
    return shift;
}

static int refuse_limit(const struct option *o, const char *value, int64_t least,
                        struct err *err)
{
    char accepted[100];
    snprintf(accepted, sizeof accepted, "a number from %" PRId64 " on%s; or default", least,
             strstr(o->name, "bytes") ? ", with k, M or G for KiB, MiB, GiB" : "");
    return refuse(o, value, accepted, err);
}

static int put_limit(struct cli_args *a, const struct option *o, const char *value,
                     struct err *err)
{
    const char *end;
    int64_t n, *field = (void *)((char *)&a->limits + o->offset);
    int64_t least = tenant_least_limit(o->name);
    if (strcmp(value, "default") == 0) {
        *field = -1;
        return 0;
    }
    if (read_number(value, &end, &n) == 0) {
        int shift = shift_of(o, &end);
        if (!*end && n >= least && n <= TENANT_MAX_LIMIT >> shift) {
            *field = n << shift;
            return 0;
        }
    }
    return refuse_limit(o, value, least, err);
}

static int put_scope(struct cli_args *a, const struct option *o, const char *value,
                     struct err *err)
{
    if (key_scope_of(value, &a->scope, NULL) == 0 && a->scope != KEY_ADMIN)
        return 0;
    return refuse(o, value, "infer, manage", err);
}

static int put_expires(struct cli_args *a, const struct option *o, const char *value,
                       struct err *err)
{
    (void)o;
    return cli_args_time(value, time(NULL), &a->expires, err);
}

/* "+30d": that long from now. */
static int read_ahead(const char *text, int64_t now, int64_t *out)
{
    const char *end;
    int64_t n;
    if (text[0] != '+' || read_number(text + 1, &end, &n) < 0 || n > MAX_AHEAD_DAYS)
        return -1;
    int64_t unit = *end == 'd' ? DAY_S : *end == 'h' ? HOUR_S : 0;
    if (!unit || end[1])
        return -1;
    *out = now + n * unit;
    return 0;
}

int cli_args_time(const char *text, int64_t now, int64_t *out, struct err *err)
{
    const char *end;
    bool is_read = (read_number(text, &end, out) == 0 && !*end && *out <= TENANT_MAX_LIMIT) ||
                   read_ahead(text, now, out) == 0 || (*out = date_of(text)) >= 0;
    if (!is_read)
        return err_set(
            err, ERR_INVALID,
            "--expires: \"%.60s\" is not accepted; accepted: Unix seconds, +30d, +12h or "
            "2027-01-31 (UTC)",
            text);
    if (*out <= now)
        return err_set(err, ERR_INVALID,
                       "--expires: \"%.60s\" is past; accepted: a time to come", text);
    return 0;
}

/* ---- the table ----------------------------------------------------------------------- */

static const struct option options[] = {
    {CLI_STATE, "state", "DIR", "the state folder; it must be given", put_text, 0},
    {CLI_WEIGHT, "weight", "N", "share of the compute, " TENANT_WEIGHTS "; 1 unless said",
     put_weight, 0},
#define XX(name, by_default, doc)                                                          \
    {CLI_LIMIT, #name,                                                                     \
     "N",       doc "; " #by_default " unless said",                                       \
     put_limit, offsetof(struct tenant_limits, name)},
    TENANT_LIMITS(XX)
#undef XX
        {CLI_EXPIRES, "expires", "T",
         "Unix seconds, +30d, +12h or 2027-01-31 (UTC); never unless said", put_expires, 0},
    {CLI_SCOPE, "scope", "S",
     "infer: completions; manage: also changes of adapters; manage unless said", put_scope,
     0},
    {CLI_ADMIN, "admin", NULL, "an administrator's key, of no tenant", NULL, 0},
    {CLI_JSON, "json", NULL, "answer in JSON, on one line", NULL, 0},
    {CLI_HELP, "help", NULL, "this text", NULL, 0},
};

enum { N_OPTIONS = sizeof options / sizeof *options };

static bool is_named(const struct option *o, const char *word, size_t len)
{
    if (strlen(o->name) != len)
        return false;
    for (size_t i = 0; i < len; i++)
        if (word[i] != (o->name[i] == '_' ? '-' : o->name[i]))
            return false;
    return true;
}

static const struct option *find(const char *word, size_t len, unsigned allowed)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if ((options[i].bit & allowed) && is_named(&options[i], word, len))
            return &options[i];
    return NULL;
}

void cli_args_help(struct buf *out, unsigned allowed)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        char shown[64];
        const struct option *o = &options[i];
        if (!(o->bit & allowed))
            continue;
        snprintf(shown, sizeof shown, "--%s%s%s", o->name, o->value ? " " : "",
                 o->value ? o->value : "");
        for (char *c = shown; *c; c++)
            if (*c == '_')
                *c = '-';
        buf_printf(out, "  %-28s  %s\n", shown, o->doc);
    }
}

/* ---- the words ----------------------------------------------------------------------- */

/* Takes one option with its value; gives how many words that were, or -1. */
static int take_option(struct cli_args *a, char **words, struct err *err)
{
    const char *word = words[0] + 2;
    size_t len = strcspn(word, "=");
    const struct option *o = find(word, len, a->command->options | CLI_HELP);
    if (!o)
        return err_set(
            err, ERR_INVALID,
            "%s: unknown option \"%.60s\"; accepted: those that prefixd %s --help lists",
            a->command->name, words[0], a->command->name);
    a->given |= o->bit;
    if (!o->value)
        return word[len] ? refuse(o, word + len + 1, "no value", err) : 1;
    const char *value = word[len] ? word + len + 1 : words[1];
    if (!value || (!word[len] && strncmp(value, "--", 2) == 0))
        return err_set(err, ERR_INVALID, "%s: no value is given; accepted: %s", words[0],
                       o->doc);
    if (o->put(a, o, value, err) < 0)
        return -1;
    return word[len] ? 1 : 2;
}

static int take_operand(struct cli_args *a, const char *word, struct err *err)
{
    if (!a->command->operand || a->operand)
        return err_set(err, ERR_INVALID, "%s: \"%.60s\" is one word too many; accepted: %s",
                       a->command->name, word,
                       a->command->operand ? a->command->operand : "options");
    a->operand = word;
    return 0;
}

static int check_needed(const struct cli_args *a, struct err *err)
{
    const struct cli_command *c = a->command;
    if (c->operand && c->operand[0] != '[' && !a->operand)
        return err_set(err, ERR_INVALID,
                       "%s: %s is missing; accepted: prefixd %s %s --state DIR", c->name,
                       c->operand, c->name, c->operand);
    if (!a->state)
        return err_set(err, ERR_INVALID,
                       "%s: --state DIR is missing; accepted: the state folder", c->name);
    return 0;
}

int cli_args_parse(struct cli_args *a, const struct cli_command *command, char **words,
                   struct err *err)
{
    *a = (struct cli_args){.command = command, .scope = KEY_MANAGE};
#define XX(name, by_default, doc) a->limits.name = INT64_MIN;
    TENANT_LIMITS(XX)
#undef XX
    for (char **w = words; *w; w++)
        if (strcmp(*w, "--help") == 0)
            a->given |= CLI_HELP;
    if (a->given & CLI_HELP)
        return 0;
    while (*words) {
        bool is_option = strncmp(*words, "--", 2) == 0;
        int n = is_option ? take_option(a, words, err) : take_operand(a, *words, err);
        if (n < 0)
            return -1;
        words += is_option ? n : 1;
    }
    return check_needed(a, err);
}
