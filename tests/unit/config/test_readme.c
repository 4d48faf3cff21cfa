/* The README's table of settings is the table of settings. */
#include "config/config.h"
#include "core/base/buf.h"
#include "tests/test.h"

#include <stdlib.h>

TEST(readme_holds_the_table_of_settings)
{
    struct buf readme = {0}, table = {0};
    char *path = test_path("README.md"), piece[4096];
    FILE *f = fopen(path, "rb");
    free(path);
    ASSERT(f != NULL);
    for (size_t n; (n = fread(piece, 1, sizeof piece, f));)
        buf_add(&readme, piece, n);
    fclose(f);
    config_markdown(&table);
    if (!strstr(readme.data, table.data))
        test_fail(__FILE__, __LINE__, "README.md should hold this table:\n%s", table.data);
    buf_free(&readme);
    buf_free(&table);
}
