/* compiled_file: what comes back is bitwise what was compiled, and damage anywhere is found. */
#define _GNU_SOURCE
#include "adapters/compiled_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/file_read.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/registry_fixture.h"

enum { HEADER_BYTES = 200, ENTRY_BYTES = 16, SUM_BYTES = 32 };

struct compiled_fixture {
    struct fixture f;
    struct compiled_file file;
    struct compiled compiled;
    enum kind kind;
    char version[DIGEST_HEX + 1];
    char *path;
};

static int compile(struct compiled_fixture *c, const char *type, const char *tensors)
{
    struct buf config = {0}, weights = {0};
    struct adapter_spec spec;
    struct err err = {0};
    const struct spec_limits limits = {base_model_shape(c->f.base), 255, 1 << 24, 1 << 24};
    const struct compile_with with = {
        .engine = c->f.engine, .base = c->f.base, .max_virtual_tokens = 255, .domain = 1};
    buf_printf(&config, "{\"peft_type\": \"%s\"}", type);
    adapter_files_tensors(&weights, tensors);
    const struct adapter_file files[] = {{"adapter_config.json", config.data, config.len},
                                         {"adapter_model.safetensors", weights.data, weights.len}};
    int rc = spec_parse(&spec, files, 2, &limits, &err);
    if (rc == 0)
        rc = compile_spec(&spec, &with, &c->compiled, &err);
    spec_digest(files, 2, c->version);
    c->kind = spec.kind;
    spec_fini(&spec);
    buf_free(&config);
    buf_free(&weights);
    return rc;
}

static bool compiled_open(struct compiled_fixture *c, enum dtype_choice dtype, const char *type,
                          const char *tensors)
{
    if (!fixture_open(&c->f, dtype, false))
        return false;
    EXPECT_EQ(compile(c, type, tensors), 0);
    c->file = (struct compiled_file){store_folder(c->f.store), c->f.base, 1, c->version};
    c->path = compiled_path(&c->f, 1, c->version);
    return true;
}

static void compiled_close(struct compiled_fixture *c)
{
    compile_fini(&c->compiled);
    free(c->path);
    fixture_close(&c->f);
}

static bool is_same(const struct compiled *a, const struct compiled *b)
{
    bool is = a->n_prefixes == b->n_prefixes && a->n_tokens == b->n_tokens &&
              a->bytes == b->bytes && a->ms == b->ms;
    for (int i = 0; is && i < a->n_prefixes; i++) {
        const struct kv_prefix *p = a->prefixes[i], *q = b->prefixes[i];
        is = p->n_tokens == q->n_tokens && p->n_tiles == q->n_tiles &&
             p->first_pos == q->first_pos && p->dtype == q->dtype && p->bytes == q->bytes &&
             memcmp(p->k, q->k, p->bytes / 2) == 0 && memcmp(p->v, q->v, p->bytes / 2) == 0;
    }
    return is;
}

/* 1 if it was found and is bitwise right, 0 if it was not found, -1 if it is wrong. */
static int read_back(const struct compiled_fixture *c)
{
    struct compiled got;
    enum kind kind;
    struct err err = {0};
    int rc = compiled_file_read(&c->file, &got, &kind, &err);
    if (rc == 1 && (kind != c->kind || !is_same(&got, &c->compiled)))
        rc = -1;
    compile_fini(&got);
    return rc;
}

static void expect_round_trip(enum dtype_choice dtype, const char *type, const char *tensors)
{
    struct compiled_fixture c;
    if (!compiled_open(&c, dtype, type, tensors))
        return;
    EXPECT_EQ(read_back(&c), 0);
    compiled_file_write(&c.file, &c.compiled, c.kind);
    EXPECT_EQ(read_back(&c), 1);
    compiled_file_write(&c.file, &c.compiled, c.kind); /* over it */
    EXPECT_EQ(read_back(&c), 1);
    compiled_file_remove(&c.file);
    EXPECT_EQ(read_back(&c), 0);
    compiled_close(&c);
}

TEST(compiled_file_is_bitwise_what_was_compiled)
{
    expect_round_trip(DTYPE_CHOICE_F32, "PROMPT_TUNING", ROWS);
    expect_round_trip(DTYPE_CHOICE_BF16, "PROMPT_TUNING", ROWS);
    expect_round_trip(DTYPE_CHOICE_BF16, "PREFIX_TUNING", "prompt_embeddings:F32:37,192");
    expect_round_trip(DTYPE_CHOICE_F32, "HIDDEN_PREFIX", "hidden_prefix:F32:3,16,64");
    expect_round_trip(DTYPE_CHOICE_F32, "MULTITASK_PROMPT_TUNING", ROWS
                      " prefix_task_cols:F32:3,5,2 prefix_task_rows:F32:3,2,64");
}

/* The file with one byte flipped, cut or added is never used, and does not stay. */
static void expect_damage_found(struct compiled_fixture *c, const char *bytes, size_t len,
                                size_t at)
{
    char *damaged = xmalloc(len);
    memcpy(damaged, bytes, len);
    damaged[at] ^= (char)(1 + at % 255);
    adapter_files_write(c->f.state, c->path + strlen(c->f.state) + 1, damaged, len);
    if (read_back(c) != 0 || access(c->path, F_OK) == 0)
        test_fail(__FILE__, __LINE__, "damage of byte %zu was not found", at);
    free(damaged);
}

TEST(compiled_file_damage_is_found)
{
    struct compiled_fixture c;
    struct err err = {0};
    size_t len;
    if (!compiled_open(&c, DTYPE_CHOICE_F32, "MULTITASK_PROMPT_TUNING", ROWS
                       " prefix_task_cols:F32:2,5,2 prefix_task_rows:F32:2,2,64"))
        return;
    compiled_file_write(&c.file, &c.compiled, c.kind);
    char *bytes = file_read(AT_FDCWD, c.path, 1 << 24, &len, NULL, &err);
    ASSERT(bytes);
    const char *name = c.path + strlen(c.f.state) + 1;
    EXPECT_EQ(len, HEADER_BYTES + 2 * (ENTRY_BYTES + TILE_BYTES) + SUM_BYTES);
    log_init(LOG_TEXT, LOG_ERROR);
    for (size_t at = 0; at < HEADER_BYTES + 2 * ENTRY_BYTES; at++)
        expect_damage_found(&c, bytes, len, at);
    for (size_t at = HEADER_BYTES + 2 * ENTRY_BYTES; at < len; at += 97)
        expect_damage_found(&c, bytes, len, at);
    for (size_t at = len - SUM_BYTES; at < len; at++)
        expect_damage_found(&c, bytes, len, at);
    const size_t lengths[] = {0, 1, 7, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + ENTRY_BYTES,
                              len - SUM_BYTES, len - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        adapter_files_write(c.f.state, name, bytes, lengths[i]);
        EXPECT_EQ(read_back(&c), 0);
        EXPECT(access(c.path, F_OK) != 0);
    }
    char *longer = xcalloc(len + 1, 1);
    memcpy(longer, bytes, len);
    adapter_files_write(c.f.state, name, longer, len + 1);
    EXPECT_EQ(read_back(&c), 0);
    adapter_files_write(c.f.state, name, bytes, len); /* and undamaged it is right again */
    EXPECT_EQ(read_back(&c), 1);
    free(longer);
    free(bytes);
    compiled_close(&c);
}

/* 1 if it was had at once and is bitwise right. */
static int read_now(const struct compiled_fixture *c, size_t max_bytes)
{
    struct compiled got;
    enum kind kind;
    int rc = compiled_file_read_now(&c->file, max_bytes, &got, &kind);
    if (rc == 1 && (kind != c->kind || !is_same(&got, &c->compiled)))
        rc = -1;
    compile_fini(&got);
    return rc;
}

/* Out of the page cache, as far as the file system can. */
static void put_out(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(fsync(fd), 0);
    EXPECT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
}

static bool is_cached(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    unsigned char is = 0;
    void *m = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
    EXPECT(m != MAP_FAILED && mincore(m, 1, &is) == 0);
    munmap(m, 1);
    close(fd);
    return is & 1;
}

TEST(compiled_file_read_now_never_waits)
{
    struct compiled_fixture c;
    if (!compiled_open(&c, DTYPE_CHOICE_F32, "PROMPT_TUNING", ROWS))
        return;
    enum { BYTES = TILE_BYTES };
    const char *name = c.path + strlen(c.f.state) + 1;
    EXPECT_EQ(read_now(&c, BYTES), 0);
    compiled_file_write(&c.file, &c.compiled, c.kind);
    EXPECT_EQ(read_now(&c, BYTES), 1);
    EXPECT_EQ(read_now(&c, BYTES - 1), 0);
    put_out(c.path);
    if (!is_cached(c.path))
        EXPECT_EQ(read_now(&c, BYTES), 0);
    EXPECT_EQ(read_back(&c), 1); /* which brings it back */
    EXPECT_EQ(read_now(&c, BYTES), 1);
    adapter_files_write(c.f.state, name, "damaged", 7);
    EXPECT_EQ(read_now(&c, BYTES), 0);
    EXPECT_EQ(access(c.path, F_OK), 0);
    compiled_close(&c);
}

/* Writes value over the file's bytes from at on, and the checksum that is then right. */
static void forge(const struct compiled_fixture *c, const char *bytes, size_t len, size_t at,
                  const void *value, size_t size)
{
    unsigned char *forged = xmalloc(len);
    memcpy(forged, bytes, len);
    memcpy(forged + at, value, size);
    crypto_generichash(forged + len - SUM_BYTES, SUM_BYTES, forged, len - SUM_BYTES, NULL, 0);
    adapter_files_write(c->f.state, c->path + strlen(c->f.state) + 1, forged, len);
    free(forged);
}

/* Sizes that would be allocated or overflow if they were believed. */
TEST(compiled_file_believes_no_size)
{
    static const struct {
        size_t at, size;
        uint64_t value;
    } lies[] = {
        {8, 4, 2},            {12, 4, KV_LAYOUT + 1}, {184, 4, DTYPE_BF16},
        {188, 4, 0},          {188, 4, 2},            {188, 4, SPEC_MAX_TASKS + 1},
        {188, 4, UINT32_MAX}, {192, 8, 0x7ff8000000000000}, /* NaN ms */
        {200, 4, 0},          {200, 4, UINT32_MAX},   {200, 4, INT32_MAX},
        {200, 4, 17},         {204, 4, UINT32_MAX},   {204, 4, INT32_MAX},
        {208, 8, 0},          {208, 8, UINT64_MAX},   {208, 8, (uint64_t)1 << 63},
        {208, 8, TILE_BYTES - 1},
    };
    struct compiled_fixture c;
    size_t len;
    if (!compiled_open(&c, DTYPE_CHOICE_F32, "PROMPT_TUNING", ROWS))
        return;
    log_init(LOG_TEXT, LOG_ERROR);
    compiled_file_write(&c.file, &c.compiled, c.kind);
    char *bytes = file_read(AT_FDCWD, c.path, 1 << 24, &len, NULL, NULL);
    ASSERT(bytes);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        forge(&c, bytes, len, lies[i].at, &lies[i].value, lies[i].size);
        if (read_back(&c) != 0)
            test_fail(__FILE__, __LINE__, "lie %zu was believed", i);
    }
    forge(&c, bytes, len, 0, bytes, 8); /* no lie: the forger is not what was found out */
    EXPECT_EQ(read_back(&c), 1);
    const uint32_t nan = 0x7fc00000;
    forge(&c, bytes, len, HEADER_BYTES + ENTRY_BYTES, &nan, 4);
    EXPECT_EQ(read_back(&c), 0);
    free(bytes);
    compiled_close(&c);
}

TEST(compiled_file_of_another_is_not_used)
{
    struct compiled_fixture c;
    char other[DIGEST_HEX + 1];
    if (!compiled_open(&c, DTYPE_CHOICE_F32, "PROMPT_TUNING", ROWS))
        return;
    compiled_file_write(&c.file, &c.compiled, c.kind);
    memcpy(other, c.version, sizeof other);
    other[5] = other[5] == '0' ? '1' : '0';
    struct compiled_file of_other = c.file, of_tenant = c.file;
    of_other.digest = other;
    of_tenant.tenant = 2;
    char *paths[] = {compiled_path(&c.f, 1, other), compiled_path(&c.f, 2, c.version)};
    const struct compiled_file *files[] = {&of_other, &of_tenant};
    for (int i = 0; i < 2; i++) {
        struct compiled got;
        enum kind kind;
        EXPECT_EQ(link(c.path, paths[i]), 0);
        EXPECT_EQ(compiled_file_read(files[i], &got, &kind, NULL), 0);
        EXPECT(access(paths[i], F_OK) != 0);
        free(paths[i]);
    }
    EXPECT_EQ(read_back(&c), 1);
    EXPECT(unlink(c.path) == 0 && mkfifo(c.path, 0600) == 0);
    EXPECT_EQ(read_back(&c), 0); /* and does not hang */
    compiled_close(&c);
}

/* Nothing depends on there being room for it. */
TEST(compiled_file_that_cannot_be_written_is_left_out)
{
    struct compiled_fixture c;
    char path[512];
    if (!compiled_open(&c, DTYPE_CHOICE_F32, "PROMPT_TUNING", ROWS))
        return;
    log_init(LOG_TEXT, LOG_ERROR);
    adapter_files_write(c.f.state, "compiled", "x", 1);
    compiled_file_write(&c.file, &c.compiled, c.kind);
    EXPECT_EQ(read_back(&c), 0);
    snprintf(path, sizeof path, "%s/compiled", c.f.state);
    EXPECT(unlink(path) == 0 && mkdir(path, 0700) == 0);
    struct rlimit old, small;
    ASSERT(getrlimit(RLIMIT_FSIZE, &old) == 0);
    small = (struct rlimit){1000, old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    ASSERT(setrlimit(RLIMIT_FSIZE, &small) == 0); /* as a full disk: a write gets short */
    compiled_file_write(&c.file, &c.compiled, c.kind);
    ASSERT(setrlimit(RLIMIT_FSIZE, &old) == 0);
    signal(SIGXFSZ, SIG_DFL);
    EXPECT_EQ(rmdir(path), 0); /* nothing half-done is left */
    adapter_files_write(c.f.state, "compiled", "x", 1);
    EXPECT_EQ(unlink(path), 0);
    compiled_file_write(&c.file, &c.compiled, c.kind);
    EXPECT_EQ(read_back(&c), 1);
    compiled_close(&c);
}
