/* Members and lists of integers in JSON text. */
#include "core/base/json_scan.h"

#include <stdlib.h>

#include "core/base/buf.h"
#include "tests/test.h"

/* The keys of an object, a comma behind each; the ids of the member "ids" in brackets. */
static void scan(const char *text, size_t len, struct buf *out)
{
    struct json_scan s = {.text = text, .len = len};
    const char *key;
    size_t n;
    buf_clear(out);
    buf_add_str(out, "");
    while ((key = json_scan_next(&s, &n))) {
        struct json_ids ids = {0};
        buf_add(out, key, n);
        if (json_scan_is(key, n, "ids") && json_scan_ids(&s, &ids)) {
            buf_add_char(out, '(');
            for (size_t i = 0, list = 0; i < ids.n; i++) {
                for (; list < ids.n_lists && ids.ends[list] == i; list++)
                    buf_add_char(out, '|');
                buf_printf(out, "%d ", ids.ids[i]);
            }
            buf_printf(out, "%zu)", ids.n_lists);
        }
        json_ids_free(&ids);
        buf_add_char(out, ',');
    }
}

TEST(json_scan_finds_members_and_ids)
{
    static const char *const rows[][2] = {
        {"{}", ""},
        {"{\"a\":1,\"b\" : [1,{\"x\":\"}\"}] , \"c\":\"\\\"],\",\"d\":null}", "a,b,c,d,"},
        {"{\"ids\":[1, 22 ,2147483647],\"z\":1}", "ids(1 22 2147483647 0),z,"},
        {"{\"ids\":[ [1,2] , [] , [3] ],\"z\":1}", "ids(1 2 ||3 3),z,"},
        {"{\"ids\":[0]}", "ids(0 0),"},
        {"{\"ids\":[],\"z\":1}", "ids,z,"},
        {"{\"ids\":[1.0],\"z\":1}", "ids,z,"},
        {"{\"ids\":[-1],\"z\":1}", "ids,z,"},
        {"{\"ids\":[01],\"z\":1}", "ids,z,"},
        {"{\"ids\":[2147483648],\"z\":1}", "ids,z,"},
        {"{\"ids\":[99999999999999999999999999],\"z\":1}", "ids,z,"},
        {"{\"ids\":[1,],\"z\":1}", "ids,z,"},
        {"{\"ids\":[1 2],\"z\":1}", "ids,z,"},
        {"{\"ids\":[[1],2],\"z\":1}", "ids,z,"},
        {"{\"ids\":[\"a\"],\"z\":1}", "ids,z,"},
        {"{\"ids\":[1", "ids,"},
        {"{\"ids\":[[1", "ids,"},
        {"{\"ids\":[[1]", "ids,"},
        {"{\"ids\":\"\\", "ids,"},
        {"{\"ids", ""},
        {"{\"", ""},
        {"{\"\":1}", ","},
        {"[1]", ""},
        {"", ""},
        {"{\"a\":]]]],\"b\":1", "a,"},
    };
    struct buf got = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        scan(rows[i][0], strlen(rows[i][0]), &got);
        if (strcmp(got.data, rows[i][1]) != 0)
            test_fail(__FILE__, __LINE__, "%s gives %s", rows[i][0], got.data);
    }
    buf_free(&got);
}

/* The text ends where it ends: every beginning of it lies in memory of exactly its size. */
TEST(json_scan_reads_nothing_beyond_the_end)
{
    static const char text[] = "{\"a\\\"\":{\"b\":[\"\\\\\",1]},\"ids\":[[1,23],[456]]}";
    struct buf got = {0};
    for (size_t len = 0; len < sizeof text; len++) {
        char *copy = malloc(len ? len : 1);
        memcpy(copy, text, len);
        scan(copy, len, &got);
        free(copy);
    }
    EXPECT(strstr(got.data, "ids(1 23 |456 2)"));
    buf_free(&got);
}
