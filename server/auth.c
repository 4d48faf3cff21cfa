/* Bearer keys, kept and compared as digests. */
#include "server/auth.h"

#include "core/base/mem.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_KEYS = 100000, MAX_LINE = 4096 };

#define ACCEPTED "a file of bearer keys, one a line, is accepted"

struct auth {
    unsigned char (*hashes)[KEY_HASH_BYTES];
    int n, cap;
};

static void add_key(struct auth *a, const char *key, size_t len)
{
    if (a->n == a->cap) {
        a->cap = a->cap ? a->cap * 2 : 8;
        a->hashes = xrealloc(a->hashes, (size_t)a->cap * sizeof *a->hashes);
    }
    key_hash(a->hashes[a->n++], key, len);
}

static int add_line(struct auth *a, char *line, int number, struct err *err)
{
    size_t len = strlen(line);
    if (len == MAX_LINE - 1)
        return err_set(err, ERR_INVALID, "line %d is longer than %d bytes", number,
                       MAX_LINE - 2);
    char *start = line + strspn(line, " \t\r\n");
    len = strlen(start);
    while (len && strchr(" \t\r\n", start[len - 1]))
        len--;
    start[len] = '\0';
    if (len == 0 || start[0] == '#')
        return 0;
    if (strpbrk(start, " \t"))
        return err_set(err, ERR_INVALID, "line %d has a space inside its key", number);
    if (a->n == MAX_KEYS)
        return err_set(err, ERR_INVALID, "more than %d keys", MAX_KEYS);
    add_key(a, start, len);
    return 0;
}

static int read_keys(struct auth *a, FILE *f, struct err *err)
{
    char line[MAX_LINE];
    int rc = 0;
    for (int number = 1; rc == 0 && fgets(line, sizeof line, f); number++)
        rc = add_line(a, line, number, err);
    sodium_memzero(line, sizeof line);
    if (rc == 0 && ferror(f))
        rc = err_set(err, ERR_IO, "cannot be read");
    if (rc == 0 && a->n == 0)
        rc = err_set(err, ERR_INVALID, "holds no key");
    return rc;
}

struct auth *auth_open(const char *setting, const char *path, struct err *err)
{
    struct err why = {0};
    FILE *f = fopen(path, "re");
    if (!f) {
        err_set(err, ERR_IO, "%s %.120s: %s; " ACCEPTED, setting, path, strerror(errno));
        return NULL;
    }
    struct auth *a = xcalloc(1, sizeof *a);
    int rc = read_keys(a, f, &why);
    fclose(f);
    if (rc == 0)
        return a;
    err_set(err, why.code, "%s %.120s: %.60s; " ACCEPTED, setting, path, why.msg);
    auth_free(a);
    return NULL;
}

void auth_free(struct auth *a)
{
    if (!a)
        return;
    free(a->hashes);
    free(a);
}

bool auth_hash_header(const char *header, unsigned char hash[KEY_HASH_BYTES])
{
    if (!header || strncasecmp(header, "Bearer ", 7) != 0)
        return false;
    const char *key = header + 7 + strspn(header + 7, " ");
    key_hash(hash, key, strlen(key));
    return true;
}

/* All keys are looked at, whichever fits. */
bool auth_has(const struct auth *a, const unsigned char hash[KEY_HASH_BYTES])
{
    int n_equal = 0;
    for (int i = 0; a && i < a->n; i++)
        n_equal += sodium_memcmp(hash, a->hashes[i], KEY_HASH_BYTES) == 0;
    return n_equal > 0;
}
