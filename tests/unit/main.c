/* Runs every registered case, or those whose name contains an argument; the last line counts them. */
#include "tests/test.h"

#include "core/base/log.h"
#include "core/base/mem.h"

#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

static struct test_case *cases;
static bool has_failed, has_skipped;

void test_register(struct test_case *c)
{
    c->next = cases;
    cases = c;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("  %s:%d: ", file, line);
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    has_failed = true;
}

void test_skip(const char *why)
{
    printf("  skipped: %s\n", why);
    has_skipped = true;
}

const char *test_root(void)
{
    const char *root = getenv("PREFIXD_ROOT");
    return root ? root : ".";
}

const char *test_shared(void)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/../shared", test_root());
    return access(path, R_OK) == 0 ? path : NULL;
}

char *test_path(const char *rel)
{
    size_t size = strlen(test_root()) + strlen(rel) + 2;
    char *path = xmalloc(size);
    snprintf(path, size, "%s/%s", test_root(), rel);
    return path;
}

static bool is_wanted(const struct test_case *c, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strstr(c->name, argv[i]) || strstr(c->file, argv[i]))
            return true;
    return argc == 1;
}

int main(int argc, char **argv)
{
    int passed = 0, failed = 0, skipped = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    log_init(LOG_TEXT, LOG_ERROR);
    for (struct test_case *c = cases; c; c = c->next) {
        if (!is_wanted(c, argc, argv))
            continue;
        has_failed = has_skipped = false;
        c->run();
        if (has_failed)
            printf("FAILED %s (%s)\n", c->name, c->file);
        else if (has_skipped)
            printf("skipped %s (%s)\n", c->name, c->file);
        failed += has_failed;
        skipped += !has_failed && has_skipped;
        passed += !has_failed && !has_skipped;
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed ? 1 : 0;
}
