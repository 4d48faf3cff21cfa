/* Operands and options of the commands, from the words of the command line.
 *
 * Thread: the only one. */
#ifndef PREFIXD_CLI_ARGS_H
#define PREFIXD_CLI_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include "adapters/store_tenants.h"
#include "core/base/buf.h"
#include "core/base/err.h"

enum cli_option { /* bits: which of them a command has, and which were given */
                  CLI_STATE = 1,
                  CLI_JSON = 2,
                  CLI_WEIGHT = 4,
                  CLI_LIMIT = 8, /* each of TENANT_LIMITS */
                  CLI_EXPIRES = 16,
                  CLI_SCOPE = 32,
                  CLI_ADMIN = 64,
                  CLI_HELP = 128,
};

struct cli_command;

struct cli_args { /* strings are those of argv */
    const struct cli_command *command;
    unsigned given;
    const char *operand; /* NULL: none was given */
    const char *state;
    int64_t weight;              /* 0: not given */
    struct tenant_limits limits; /* INT64_MIN: not given; -1: the default */
    int64_t expires;             /* Unix seconds; 0: never */
    enum key_scope scope;
};

struct cli_command {
    const char *name; /* "tenant add" */
    const char
        *operand; /* "NAME", "[TENANT]" if it may be missing, NULL if there is none */
    unsigned options;
    unsigned makes_state; /* given one of these, it makes the state folder; 0: never */
    const char *doc;
    /* What is to be told goes to out. */
    int (*run)(const struct cli_args *args, struct store *s, struct buf *out,
               struct err *err);
};

/* words: what stands behind the command's name, up to NULL. CLI_HELP among what is given
 * asks for nothing else, and then nothing else is checked. */
int cli_args_parse(struct cli_args *a, const struct cli_command *command, char **words,
                   struct err *err);

/* The options of a command, one a line. */
void cli_args_help(struct buf *out, unsigned options);

/* Seconds since 1970 of "1800000000", "+30d", "+12h" or "2027-01-31" (its first second,
 * UTC). */
int cli_args_time(const char *text, int64_t now, int64_t *out, struct err *err);

#endif
