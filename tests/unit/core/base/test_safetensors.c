/* Every rule of the safetensors reader, one hostile file each, beside files that must
 * pass. */
#include "core/base/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/mem.h"
#include "tests/test.h"

static const struct st_limits limits = {.max_header = 4096, .max_tensors = 4};

/* Header length, header, n_data bytes 0, 1, 2... Exactly as long as said, so that a
 * sanitizer sees a read beyond the end. */
static char *make_file(const char *header, size_t header_len, size_t n_data, size_t *len)
{
    *len = 8 + header_len + n_data;
    char *file = xmalloc(*len);
    for (int i = 0; i < 8; i++)
        file[i] = (char)((uint64_t)header_len >> (8 * i));
    memcpy(file + 8, header, header_len);
    for (size_t i = 0; i < n_data; i++)
        file[8 + header_len + i] = (char)i;
    return file;
}

static int parse_with(const char *header, size_t n_data, struct safetensors *st,
                      char **file, struct err *err)
{
    size_t len;
    *file = make_file(header, strlen(header), n_data, &len);
    return safetensors_parse(st, *file, len, &limits, err);
}

TEST(safetensors_reads_tensors_in_data_order)
{
    struct safetensors st;
    struct err err = {0};
    char *file;
    ASSERT(
        parse_with("{\"__metadata__\":{\"format\":\"pt\"},"
                   "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[16,22]},"
                   "\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
                   "\"n\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[22,30]}}     ",
                   30, &st, &file, &err) == 0);
    ASSERT(st.n_tensors == 3);
    EXPECT_STR(st.tensors[0].name, "a");
    EXPECT_EQ(st.tensors[0].n_dims, 2);
    EXPECT_EQ(st.tensors[0].n_elems, 4);
    EXPECT_EQ(st.tensors[0].dtype, DTYPE_F32);
    const struct st_tensor *b = safetensors_find(&st, "b");
    ASSERT(b != NULL);
    EXPECT(b->is_float && b->dtype == DTYPE_BF16 && b->len == 6);
    EXPECT_EQ(b->data[0], 16);
    EXPECT(!st.tensors[2].is_float);
    EXPECT_STR(st.tensors[2].dtype_text, "I64");
    EXPECT_EQ(st.tensors[2].n_elems, 1);
    EXPECT(safetensors_find(&st, "c") == NULL);
    safetensors_fini(&st);
    EXPECT_EQ(st.n_tensors, 0);
    free(file);
}

TEST(safetensors_takes_empty_tensors_and_no_tensors)
{
    struct safetensors st;
    struct err err = {0};
    char *file;
    ASSERT(parse_with("{\"a\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,0]},"
                      "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
                      4, &st, &file, &err) == 0);
    EXPECT_EQ(st.n_tensors, 2);
    safetensors_fini(&st);
    free(file);
    ASSERT(parse_with("{}", 0, &st, &file, &err) == 0);
    EXPECT_EQ(st.n_tensors, 0);
    safetensors_fini(&st);
    free(file);
}

static const struct reject {
    const char *header;
    size_t n_data;
    const char *says;
} rejects[] = {
    {"", 0, "must start with '{'"},
    {" {}", 0, "must start with '{'"},
    {"[]", 0, "must start with '{'"},
    {"{\"a\":", 0, "header"},
    {"{}x", 0, "header"},
    {"{\"a\xff\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "header"},
    {"{}", 1, "1 bytes after the last tensor"},
    /* holes, overlaps, many tensors over the same bytes */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "gap"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
     12, "gap"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
     8, "overlaps"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     4, "overlaps"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 5,
     "1 bytes after"},
    /* offsets that lie */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3,
     "outside the file"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4,
     "outside the file"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,9007199254740990]}}", 4,
     "outside"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "two numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4,
     "two numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,\"4\"]}}", 4,
     "two numbers"},
    /* numbers that are no plain non-negative integers below 2^53 */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]}}", 4, "header"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "header"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1e0],\"data_offsets\":[0,4]}}", 4, "header"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551617],\"data_offsets\":[0,4]}}",
     4, "header"},
    /* shapes */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "do not match"},
    {"{\"a\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "do not match"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
     0, "too large"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4503599627370496,1024],\"data_offsets\":[0,0]}}",
     0, "do not match"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
     "more than 8"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4,
     "list of numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]}}", 4,
     "list of numbers"},
    /* dtypes without a meaning here */
    {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
     "unknown dtype"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[8],\"data_offsets\":[0,4]}}", 4, "unknown dtype"},
    {"{\"a\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8,
     "unknown dtype"},
    {"{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "unknown dtype"},
    {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype"},
    /* entries */
    {"{\"a\":[]}", 0, "must be an object"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "only"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "only"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"offsets\":[0,4]}}", 4, "two numbers"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
    {"{\"__metadata__\":[\"a\"]}", 0, "__metadata__"},
    /* duplicates, also when spelled with an escape */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     4, "header"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
     8, "header"},
    {"{\"a\\u0000\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "header"},
    /* counts and depth */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]},"
     "\"c\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]},"
     "\"d\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]},"
     "\"e\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[16,20]}}",
     20, "more than 4 tensors"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[[[[1]]]],\"data_offsets\":[0,4]}}", 4, "header"},
};

TEST(safetensors_refuses_each_broken_rule)
{
    for (size_t i = 0; i < sizeof rejects / sizeof rejects[0]; i++) {
        struct safetensors st;
        struct err err = {0};
        char *file;
        int rc = parse_with(rejects[i].header, rejects[i].n_data, &st, &file, &err);
        if (rc == 0)
            safetensors_fini(&st);
        if (rc == 0 || err.code != ERR_INVALID || !strstr(err.msg, rejects[i].says))
            test_fail(__FILE__, __LINE__, "%s: got \"%s\", expected \"%s\"",
                      rejects[i].header, rc == 0 ? "accepted" : err.msg, rejects[i].says);
        EXPECT(st.tensors == NULL && st.n_tensors == 0);
        free(file);
    }
}

TEST(safetensors_refuses_lying_header_lengths)
{
    static const struct {
        unsigned char bytes[10];
        size_t len;
    } files[] = {
        {{0}, 0},
        {{2, 0, 0, 0, 0, 0, 0}, 7},
        {{3, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10}, /* beyond the file */
        {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'},
         10}, /* would wrap in a sum */
        {{0xfa, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'}, 10},
        {{0, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10},
        {{1, 0x10, 0, 0, 0, 0, 0, 0, '{', '}'}, 10}, /* above max_header */
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct safetensors st;
        struct err err = {0};
        unsigned char *exact = xmalloc(files[i].len);
        memcpy(exact, files[i].bytes, files[i].len);
        EXPECT_EQ(safetensors_parse(&st, exact, files[i].len, &limits, &err), -1);
        EXPECT(err.code == ERR_INVALID && err.msg[0]);
        free(exact);
    }
}

TEST(safetensors_refuses_every_cut_of_a_file)
{
    const char *header =
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}";
    size_t len;
    char *file = make_file(header, strlen(header), 16, &len);
    for (size_t cut = 0; cut < len; cut++) {
        struct safetensors st;
        char *part = xmalloc(cut);
        memcpy(part, file, cut);
        EXPECT_EQ(safetensors_parse(&st, part, cut, &limits, NULL), -1);
        free(part);
    }
    free(file);
}

TEST(safetensors_refuses_long_names)
{
    struct buf header = {0};
    buf_add_str(&header, "{\"");
    for (int i = 0; i < 257; i++)
        buf_add_char(&header, 'n');
    buf_add_str(&header, "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}");
    struct safetensors st;
    struct err err = {0};
    char *file;
    EXPECT_EQ(parse_with(header.data, 4, &st, &file, &err), -1);
    EXPECT(strstr(err.msg, "longer than 256") != NULL);
    free(file);
    buf_free(&header);
}
