/* Writes adapters that tests need, good and bad. */
#define _GNU_SOURCE
#include "tests/support/adapter_files.h"

#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/dtype.h"
#include "core/base/mem.h"

struct described {
    char name[64], dtype[8], dims[64]; /* dims as written: "5,64" */
    size_t n_elems;
};

static size_t size_of(const char *dtype)
{
    if (strstr(dtype, "64"))
        return 8;
    if (strstr(dtype, "16"))
        return 2;
    return strcmp(dtype, "BOOL") == 0 || strstr(dtype, "8") ? 1 : 4;
}

static size_t product_of(const char *dims)
{
    size_t n = 1;
    while (*dims) {
        char *end;
        n *= strtoull(dims, &end, 10);
        dims = *end ? end + 1 : end;
    }
    return n;
}

static float element(size_t i)
{
    return 0.001f * (float)(i % 97) - 0.05f;
}

static void add_data(struct buf *out, const struct described *d)
{
    for (size_t i = 0; i < d->n_elems; i++) {
        float f = element(i);
        uint16_t h = strcmp(d->dtype, "BF16") == 0 ? f32_to_bf16(f) : 0x2c00; /* f16: 0.0625 */
        unsigned char zero[8] = {0};
        if (strcmp(d->dtype, "F32") == 0)
            buf_add(out, &f, sizeof f);
        else if (strcmp(d->dtype, "BF16") == 0 || strcmp(d->dtype, "F16") == 0)
            buf_add(out, &h, sizeof h);
        else
            buf_add(out, zero, size_of(d->dtype));
    }
}

static void add_length(struct buf *out, size_t n)
{
    for (int i = 0; i < 8; i++)
        buf_add_char(out, (char)(unsigned char)((uint64_t)n >> (8 * i)));
}

void adapter_files_raw(struct buf *out, const char *header, size_t header_len, size_t n_data)
{
    add_length(out, header_len);
    buf_add(out, header, header_len);
    for (size_t i = 0; i < n_data; i++)
        buf_add_char(out, 0);
}

void adapter_files_tensors(struct buf *out, const char *tensors)
{
    struct buf header = {0}, data = {0};
    int used = 0, n = 0;
    struct described d;
    buf_add_str(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    while (memset(&d, 0, sizeof d), (n = sscanf(tensors, " %63[^:]:%7[^:]:%63[0-9,]%n", d.name,
                                                d.dtype, d.dims, &used)) >= 2) {
        if (n == 2) /* no dimensions: rank 0, and %n was not reached */
            used = (int)strcspn(tensors + 1, " ") + 1;
        d.n_elems = product_of(d.dims);
        size_t begin = data.len;
        add_data(&data, &d);
        buf_printf(&header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                   d.name, d.dtype, d.dims, begin, data.len);
        tensors += used;
    }
    buf_add_str(&header, "}");
    add_length(out, header.len);
    buf_add(out, header.data, header.len);
    buf_add(out, data.data ? data.data : "", data.len);
    buf_free(&header);
    buf_free(&data);
}

void adapter_files_config(struct buf *out, const char *peft_type, int n_tokens, const char *more)
{
    buf_printf(out, "{\"peft_type\": \"%s\", \"task_type\": \"CAUSAL_LM\", "
               "\"num_virtual_tokens\": %d%s}", peft_type, n_tokens, more);
}

char *adapter_files_tmp_dir(void)
{
    char path[] = "/tmp/prefixd-test-XXXXXX";
    CHECK(mkdtemp(path) != NULL);
    return xstrdup(path);
}

void adapter_files_write(const char *dir, const char *name, const void *bytes, size_t len)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    CHECK(f != NULL);
    CHECK(fwrite(bytes, 1, len, f) == len);
    CHECK(fclose(f) == 0);
}

void adapter_files_make_dir(const char *dir, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    CHECK(mkdir(path, 0700) == 0);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

void adapter_files_remove_dir(const char *dir)
{
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
