/* registry: names, versions, references and the two folders, over a real tiny model. */
#define _GNU_SOURCE
#include "adapters/adapters.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "adapters/store.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"

/* The shape of the golden model "gqa": L = 3, d = 64, G = 2, D = 16, 256 positions. */
#define ROWS "prompt_embeddings:F32:5,64"
#define KV "prompt_embeddings:F32:5,192"

struct fixture {
    struct base_model *base;
    struct engine *engine;
    struct adapters *a;
    char *state; /* folder; NULL: none */
};

static bool open_registry(struct fixture *f)
{
    struct err err = {0};
    const struct adapters_opts opts = {
        .engine = f->engine, .base = f->base, .base_name = "gqa", .state_dir = f->state};
    f->a = adapters_open(&opts, &err);
    if (!f->a)
        test_fail(__FILE__, __LINE__, "adapters_open: %s", err.msg);
    return f->a != NULL;
}

static bool fixture_open_model(struct fixture *f, const char *path, enum dtype_choice dtype,
                               bool has_state)
{
    struct err err = {0};
    const struct engine_opts opts = {.n_threads = 1, .max_batch = 2};
    memset(f, 0, sizeof *f);
    f->base = base_model_open(path, dtype, &err);
    f->engine = f->base ? engine_open(f->base, &opts, &err) : NULL;
    if (!f->engine) {
        test_fail(__FILE__, __LINE__, "the model or engine did not open: %s", err.msg);
        base_model_free(f->base);
        return false;
    }
    f->state = has_state ? adapter_files_tmp_dir() : NULL;
    return open_registry(f);
}

static bool fixture_open(struct fixture *f, enum dtype_choice dtype, bool has_state)
{
    char *path = test_path("tests/golden/models/gqa");
    bool ok = fixture_open_model(f, path, dtype, has_state);
    free(path);
    return ok;
}

static void fixture_close(struct fixture *f)
{
    adapters_free(f->a);
    if (f->engine)
        engine_close(f->engine);
    engine_free(f->engine);
    base_model_free(f->base);
    if (f->state)
        adapter_files_remove_dir(f->state);
    free(f->state);
}

static bool restart(struct fixture *f, const char *folder)
{
    struct err err = {0};
    adapters_free(f->a);
    return open_registry(f) && adapters_load_all(f->a, folder, &err) == 0;
}

/* Begin, run and commit in one go. */
static int put_files(struct fixture *f, const char *name, const struct adapter_file *files, int n,
                     struct adapter_info *info, struct err *err)
{
    struct adapter_change *c = adapters_put_begin(f->a, name, files, n, err);
    int rc = c ? adapter_change_run(c, err) : -1;
    if (rc == 0)
        rc = adapters_commit(f->a, c, info, err);
    adapter_change_free(c);
    return rc;
}

static int put_text(struct fixture *f, const char *name, const char *json,
                    struct adapter_info *info, struct err *err)
{
    const struct adapter_file file = {"adapter.json", json, strlen(json)};
    return put_files(f, name, &file, 1, info, err);
}

static int put_bytes(struct fixture *f, const char *name, const char *type,
                     const struct buf *weights, struct adapter_info *info, struct err *err)
{
    struct buf config = {0};
    buf_printf(&config, "{\"peft_type\": \"%s\"}", type);
    const struct adapter_file files[] = {{"adapter_config.json", config.data, config.len},
                                         {"adapter_model.safetensors", weights->data, weights->len}};
    int rc = put_files(f, name, files, 2, info, err);
    buf_free(&config);
    return rc;
}

static int put_peft(struct fixture *f, const char *name, const char *type, const char *tensors,
                    struct adapter_info *info, struct err *err)
{
    struct buf weights = {0};
    adapter_files_tensors(&weights, tensors);
    int rc = put_bytes(f, name, type, &weights, info, err);
    buf_free(&weights);
    return rc;
}

static int delete_name(struct fixture *f, const char *name, struct err *err)
{
    struct adapter_info info;
    struct adapter_change *c = adapters_delete_begin(f->a, name, err);
    int rc = c ? adapter_change_run(c, err) : -1;
    if (rc == 0)
        rc = adapters_commit(f->a, c, &info, err);
    if (rc == 0)
        EXPECT_STR(info.name, name);
    adapter_change_free(c);
    return rc;
}

static bool has(struct fixture *f, const char *name)
{
    struct adapter_info info;
    return adapters_info(f->a, name, &info, NULL) == 0;
}

static char *read_file(struct fixture *f, const char *name, const char *file, struct err *err)
{
    char *text = xcalloc(1, 1000);
    int fd = adapters_open_file(f->a, name, file, err);
    ssize_t n = fd < 0 ? -1 : read(fd, text, 999);
    if (fd >= 0)
        close(fd);
    if (n >= 0)
        return text;
    free(text);
    return NULL;
}

TEST(registry_put_says_what_it_made)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    EXPECT_EQ(put_peft(&f, "soft", "PROMPT_TUNING", ROWS, &info, &err), 0);
    EXPECT_STR(info.name, "soft");
    EXPECT_STR(info.kind, "PROMPT_TUNING");
    EXPECT_EQ(strlen(info.version), DIGEST_HEX);
    EXPECT_EQ(info.n_virtual_tokens, 5);
    EXPECT_EQ(info.n_tasks, 1);
    EXPECT_EQ(info.bytes, 2 * 3 * 2 * 16 * 16 * 4);
    EXPECT(info.compile_ms >= 0 && info.created > 1600000000);
    EXPECT(!info.is_durable && info.n_refs == 0 && !info.base_hint);
    EXPECT_EQ(put_text(&f, "text", "{\"kind\":\"text\",\"text\":\"Hello\"}", &info, &err), 0);
    EXPECT_STR(info.kind, "text");
    EXPECT(info.n_virtual_tokens > 0);
    EXPECT_EQ(put_peft(&f, "kv", "CARTRIDGE", KV, &info, &err), 0);
    EXPECT_EQ(put_peft(&f, "hidden", "HIDDEN_PREFIX", "hidden_prefix:BF16:3,5,64", &info, &err), 0);
    EXPECT_STR(info.kind, "HIDDEN_PREFIX");
    fixture_close(&f);
}

#define NAME_16 "aaaaaaaaaaaaaaaa"
#define NAME_64 NAME_16 NAME_16 NAME_16 NAME_16

TEST(registry_refuses_names)
{
    static const char *const bad[] = {"", ".", "..", ".a", "-a", "_a", "a/b", "a b", "a\n", "a%",
                                      "\xc3\xa9", "a:b", "gqa",
                                      NAME_64 "a"};
    static const char *const good[] = {"a", "0", "a.b-c_D", "gqa2", "a..b", "x.json",
                                       NAME_64};
    struct fixture f;
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err err = {0};
        if (adapters_check_name(f.a, bad[i], &err) == 0 || err.code != ERR_INVALID)
            test_fail(__FILE__, __LINE__, "name \"%s\" was accepted", bad[i]);
        EXPECT(adapters_put_begin(f.a, bad[i], NULL, 0, &err) == NULL);
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        EXPECT_EQ(adapters_check_name(f.a, good[i], NULL), 0);
    fixture_close(&f);
}

TEST(registry_refuses_sets_of_files)
{
    static const struct {
        const char *files[3];
        int code;
        const char *say;
    } sets[] = {
        {{"adapter_config.json"}, ERR_INVALID, "adapter_model.safetensors is missing"},
        {{"adapter_model.safetensors"}, ERR_INVALID, "adapter_config.json is missing"},
        {{"adapter_config.json", "adapter.json"}, ERR_INVALID, "not both"},
        {{"adapter.json", "adapter.json"}, ERR_INVALID, "twice"},
        {{"adapter_config.json", "README.md"}, ERR_INVALID, "\"README.md\" is not accepted"},
        {{"adapter_config.json", "../adapter.json"}, ERR_INVALID, "is not accepted"},
        {{"adapter_config.json", "adapter_model.bin"}, ERR_ADAPTER, "safe_serialization=True"},
        {{"adapter_config.json", "decoder.pt"}, ERR_ADAPTER, "safe_serialization=True"},
        {{NULL}, ERR_INVALID, "0 files"},
        {{"adapter_config.json", "adapter_model.safetensors", "adapter.json"}, ERR_INVALID,
         "3 files"},
    };
    struct fixture f;
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        struct adapter_file files[3];
        struct err err = {0};
        int n = 0;
        for (; n < 3 && sets[i].files[n]; n++)
            files[n] = (struct adapter_file){sets[i].files[n], "{}", 2};
        EXPECT(adapters_put_begin(f.a, "x", files, n, &err) == NULL);
        if ((int)err.code != sets[i].code || !strstr(err.msg, sets[i].say))
            test_fail(__FILE__, __LINE__, "set %zu: %s \"%s\"", i, err_name(err.code), err.msg);
    }
    fixture_close(&f);
}

TEST(registry_refuses_text_adapters)
{
    static const char *const bad[] = {
        "", "[]", "\"text\"", "{}", "{\"kind\":\"text\"}", "{\"text\":\"x\"}",
        "{\"kind\":\"text\",\"text\":\"\"}", "{\"kind\":\"text\",\"text\":7}",
        "{\"kind\":\"TEXT\",\"text\":\"x\"}", "{\"kind\":\"text\",\"text\":\"x\",\"more\":1}",
        "{\"kind\":\"text\",\"text\":\"a\\u0000b\"}", "{\"kind\":\"text\",\"text\":\"\xff\"}",
        "{\"kind\":\"text\",\"text\":\"x\",\"text\":\"y\"}", "{\"kind\":\"text\",\"text\":\"x\"",
    };
    struct fixture f;
    struct adapter_info info;
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err err = {0};
        if (put_text(&f, "x", bad[i], &info, &err) == 0 || err.code != ERR_ADAPTER)
            test_fail(__FILE__, __LINE__, "%s: %s", bad[i], err_name(err.code));
    }
    struct buf longer = {0};
    struct err err = {0};
    buf_add_str(&longer, "{\"kind\":\"text\",\"text\":\"");
    for (int i = 0; i < 3000; i++)
        buf_printf(&longer, "%d ", i);
    buf_add_str(&longer, "\"}");
    EXPECT_EQ(put_text(&f, "x", longer.data, &info, &err), -1);
    EXPECT_EQ(err.code, ERR_ADAPTER);
    EXPECT(strstr(err.msg, "at most 255") != NULL);
    EXPECT(!has(&f, "x"));
    buf_free(&longer);
    fixture_close(&f);
}

/* The model, but with a tokenizer that knows one token more than there are embeddings. */
static void make_larger_tokenizer(const char *dir)
{
    static const char *const files[] = {"config.json", "generation_config.json",
                                        "model.safetensors"};
    char *golden = test_path("tests/golden/models/gqa"), from[512], to[512];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(from, sizeof from, "%s/%s", golden, files[i]);
        snprintf(to, sizeof to, "%s/%s", dir, files[i]);
        char *real = realpath(from, NULL);
        EXPECT(real && symlink(real, to) == 0);
        free(real);
    }
    struct buf json = {0};
    char *text = xcalloc(1, 1 << 20);
    snprintf(from, sizeof from, "%s/tokenizer.json", golden);
    FILE *f = fopen(from, "rb");
    size_t n = f ? fread(text, 1, (1 << 20) - 1, f) : 0;
    char *list = n ? strstr(text, "\"added_tokens\"") : NULL;
    list = list ? strchr(list, '[') : NULL;
    EXPECT(list != NULL);
    if (list) {
        buf_add(&json, text, (size_t)(list + 1 - text));
        buf_add_str(&json, "{\"id\":320,\"content\":\"<|new|>\",\"single_word\":false,"
                           "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
                           "\"special\":true},");
        buf_add_str(&json, list + 1);
        adapter_files_write(dir, "tokenizer.json", json.data, json.len);
    }
    if (f)
        fclose(f);
    buf_free(&json);
    free(text);
    free(golden);
}

TEST(registry_refuses_tokens_without_embedding)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    char *dir = adapter_files_tmp_dir();
    make_larger_tokenizer(dir);
    if (!fixture_open_model(&f, dir, DTYPE_CHOICE_AUTO, false))
        return;
    EXPECT_EQ(put_text(&f, "x", "{\"kind\":\"text\",\"text\":\"a<|new|>b\"}", &info, &err), -1);
    EXPECT_EQ(err.code, ERR_ADAPTER);
    EXPECT(strstr(err.msg, "token 320") != NULL);
    EXPECT_EQ(put_text(&f, "x", "{\"kind\":\"text\",\"text\":\"a<|endoftext|>b\"}", &info, &err),
              0);
    fixture_close(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- numbers ------------------------------------------------------------------------- */

/* Element i of the only tensor, which has n, becomes x. */
static int put_with_number(struct fixture *f, const char *type, const char *tensors, size_t n,
                           size_t i, float x, struct err *err)
{
    struct buf weights = {0};
    struct adapter_info info;
    adapter_files_tensors(&weights, tensors);
    memcpy(weights.data + weights.len - (n - i) * 4, &x, 4);
    int rc = put_bytes(f, "x", type, &weights, &info, err);
    buf_free(&weights);
    return rc;
}

static void expect_numbers(enum dtype_choice dtype, const char *type, const char *tensors,
                           size_t n, float largest)
{
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    struct fixture f;
    struct err err = {0};
    if (!fixture_open(&f, dtype, false))
        return;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        EXPECT_EQ(put_with_number(&f, type, tensors, n, i % 2 ? n - 1 : 0, bad[i], &err), -1);
        EXPECT_EQ(err.code, ERR_ADAPTER);
        EXPECT(strstr(err.msg, "element") != NULL); /* found in the file, with its place */
        EXPECT(!has(&f, "x"));
    }
    EXPECT_EQ(put_with_number(&f, type, tensors, n, n / 2, largest, &err), 0);
    fixture_close(&f);
}

TEST(registry_refuses_numbers_that_are_not_finite)
{
    expect_numbers(DTYPE_CHOICE_F32, "PREFIX_TUNING", KV, 960, 3.4028e38f);
    expect_numbers(DTYPE_CHOICE_F32, "PROMPT_TUNING", ROWS, 320, 1e5f);
    expect_numbers(DTYPE_CHOICE_F32, "HIDDEN_PREFIX", "hidden_prefix:F32:3,5,64", 960, 1e5f);
    expect_numbers(DTYPE_CHOICE_BF16, "PREFIX_TUNING", KV, 960, 3.38e38f);
}

/* Finite as f32, infinite as bf16: only the look after the cast can find it. */
TEST(registry_refuses_what_overflows_in_the_cast)
{
    struct fixture f;
    struct err err = {0};
    if (!fixture_open(&f, DTYPE_CHOICE_BF16, false))
        return;
    EXPECT_EQ(put_with_number(&f, "PREFIX_TUNING", KV, 960, 7, 3.4028e38f, &err), -1);
    EXPECT_EQ(err.code, ERR_ADAPTER);
    EXPECT(strstr(err.msg, "bf16") != NULL);
    EXPECT_EQ(put_with_number(&f, "CARTRIDGE", KV, 960, 959, -3.4028e38f, &err), -1);
    fixture_close(&f);
}

/* ---- tasks --------------------------------------------------------------------------- */

TEST(registry_tasks)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    EXPECT_EQ(put_peft(&f, "many", "MULTITASK_PROMPT_TUNING", ROWS
                       " prefix_task_cols:F32:3,5,2 prefix_task_rows:F32:3,2,64", &info, &err), 0);
    EXPECT_EQ(info.n_tasks, 3);
    struct adapter_version *v = adapters_acquire(f.a, "many", &err);
    ASSERT(v);
    EXPECT(adapter_version_prefix(v, false, 0, &err) == NULL);
    EXPECT_EQ(err.code, ERR_INVALID);
    EXPECT_STR(err.param, "task_id");
    EXPECT(adapter_version_prefix(v, true, 3, &err) == NULL);
    EXPECT(adapter_version_prefix(v, true, -1, &err) == NULL);
    EXPECT(adapter_version_prefix(v, true, INT64_MAX, &err) == NULL);
    EXPECT(adapter_version_prefix(v, true, 0, &err) != adapter_version_prefix(v, true, 2, &err));
    EXPECT_EQ(adapter_version_prefix(v, true, 2, &err)->n_tokens, 5);
    adapters_release(v);
    EXPECT_EQ(put_peft(&f, "one", "MULTITASK_PROMPT_TUNING", ROWS
                       " prefix_task_cols:F32:1,5,2 prefix_task_rows:F32:1,2,64", &info, &err), 0);
    v = adapters_acquire(f.a, "one", &err);
    ASSERT(v);
    EXPECT(adapter_version_prefix(v, false, 0, &err) != NULL);
    EXPECT(adapter_version_prefix(v, true, 0, &err) != NULL);
    EXPECT(adapter_version_prefix(v, true, 1, &err) == NULL);
    adapters_release(v);
    fixture_close(&f);
}

static float element(size_t i) /* of adapter_files_tensors */
{
    return 0.001f * (float)(i % 97) - 0.05f;
}

/* Task 1 of E, cols, rows is the soft prompt E * (cols[1] . rows[1]), worked out here in
 * doubles. */
TEST(registry_task_is_the_product_of_its_factors)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    float product[5][64];
    if (!fixture_open(&f, DTYPE_CHOICE_F32, false))
        return;
    for (size_t p = 0; p < 5; p++)
        for (size_t i = 0; i < 64; i++) {
            double sum = 0;
            for (size_t r = 0; r < 2; r++)
                sum += (double)element((5 + p) * 2 + r) * (double)element((2 + r) * 64 + i);
            product[p][i] = (float)(sum * (double)element(p * 64 + i));
        }
    struct buf weights = {0};
    adapter_files_tensors(&weights, ROWS);
    memcpy(weights.data + weights.len - sizeof product, product, sizeof product);
    EXPECT_EQ(put_bytes(&f, "product", "PROMPT_TUNING", &weights, &info, &err), 0);
    EXPECT_EQ(put_peft(&f, "tasks", "MULTITASK_PROMPT_TUNING", ROWS
                       " prefix_task_cols:F32:2,5,2 prefix_task_rows:F32:2,2,64", &info, &err), 0);
    struct adapter_version *v = adapters_acquire(f.a, "product", &err);
    struct adapter_version *w = adapters_acquire(f.a, "tasks", &err);
    ASSERT(v && w);
    const float *expected = adapter_version_prefix(v, false, 0, &err)->v;
    const float *task = adapter_version_prefix(w, true, 1, &err)->v;
    const float *other = adapter_version_prefix(w, true, 0, &err)->v;
    double worst = 0, apart = 0, size = 0;
    for (size_t i = 0; i < 3 * 2 * 16 * 16; i++) {
        worst = fmax(worst, fabs((double)(task[i] - expected[i])));
        apart = fmax(apart, fabs((double)(other[i] - expected[i])));
        size = fmax(size, fabs((double)expected[i]));
    }
    EXPECT(worst <= 1e-4 * size && apart > 1e-2 * size);
    adapters_release(v);
    adapters_release(w);
    buf_free(&weights);
    fixture_close(&f);
}

/* ---- versions ------------------------------------------------------------------------ */

TEST(registry_swap_keeps_the_running_version)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    EXPECT_EQ(put_peft(&f, "x", "PROMPT_TUNING", ROWS, &info, &err), 0);
    struct adapter_version *old = adapters_acquire(f.a, "x", &err);
    ASSERT(old);
    char first[DIGEST_HEX + 1];
    snprintf(first, sizeof first, "%s", info.version);
    EXPECT_EQ(adapters_info(f.a, "x", &info, &err), 0);
    EXPECT_EQ(info.n_refs, 1);
    EXPECT_EQ(put_peft(&f, "x", "PREFIX_TUNING", KV, &info, &err), 0);
    EXPECT(strcmp(first, info.version) != 0);
    EXPECT_EQ(info.n_refs, 0);
    struct adapter_version *now = adapters_acquire(f.a, "x", &err);
    ASSERT(now && now != old);
    EXPECT_STR(adapter_version_digest(old), first);
    EXPECT_STR(adapter_version_digest(now), info.version);
    EXPECT_EQ(adapter_version_prefix(old, false, 0, &err)->n_tokens, 5); /* asan: still there */
    EXPECT_EQ(delete_name(&f, "x", &err), 0);
    EXPECT(!has(&f, "x"));
    EXPECT(adapters_acquire(f.a, "x", &err) == NULL);
    EXPECT_EQ(err.code, ERR_MODEL_NOT_FOUND);
    EXPECT_STR(err.msg, "The model `x` does not exist");
    EXPECT_EQ(adapter_version_prefix(now, false, 0, &err)->n_tokens, 5);
    adapters_release(now);
    adapters_release(old);
    EXPECT_EQ(delete_name(&f, "x", &err), -1);
    EXPECT_EQ(err.code, ERR_ADAPTER_NOT_FOUND);
    fixture_close(&f);
}

TEST(registry_same_content_is_the_same_version)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info first, again;
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT_EQ(put_peft(&f, "x", "PROMPT_TUNING", ROWS, &first, &err), 0);
    struct adapter_version *v = adapters_acquire(f.a, "x", &err);
    EXPECT_EQ(put_peft(&f, "x", "PROMPT_TUNING", ROWS, &again, &err), 0);
    EXPECT_STR(again.version, first.version);
    EXPECT_EQ(again.n_refs, 1); /* the very same version, the request on it included */
    EXPECT_EQ(again.created, first.created);
    adapters_release(v);
    EXPECT_EQ(put_peft(&f, "y", "PROMPT_TUNING", ROWS, &again, &err), 0);
    EXPECT_STR(again.version, first.version);
    EXPECT_EQ(put_peft(&f, "y", "P_TUNING", ROWS, &again, &err), 0);
    EXPECT(strcmp(again.version, first.version) != 0);
    fixture_close(&f);
}

/* Two changes of one name begun before either ran. */
TEST(registry_changes_in_a_queue)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    static const char text[] = "{\"kind\":\"text\",\"text\":\"one\"}";
    static const char other[] = "{\"kind\":\"text\",\"text\":\"two\"}";
    const struct adapter_file one = {"adapter.json", text, sizeof text - 1};
    const struct adapter_file two = {"adapter.json", other, sizeof other - 1};
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT_EQ(put_text(&f, "x", text, &info, &err), 0);
    struct adapter_change *queue[] = {adapters_put_begin(f.a, "x", &two, 1, &err),
                                      adapters_put_begin(f.a, "x", &one, 1, &err),
                                      adapters_delete_begin(f.a, "x", &err),
                                      adapters_put_begin(f.a, "x", &two, 1, &err),
                                      adapters_delete_begin(f.a, "x", &err),
                                      adapters_delete_begin(f.a, "x", &err)};
    char version[DIGEST_HEX + 1];
    snprintf(version, sizeof version, "%s", info.version);
    for (int i = 0; i < 6; i++) {
        EXPECT_EQ(adapter_change_run(queue[i], &err), 0);
        EXPECT_EQ(adapters_commit(f.a, queue[i], &info, &err), i == 5 ? -1 : 0);
        EXPECT_EQ(strcmp(info.version, version) == 0, i == 1 || i == 2);
        adapter_change_free(queue[i]);
        char *read = read_file(&f, "x", "adapter.json", &err);
        EXPECT((read != NULL) == (i != 2 && i < 4));
        free(read);
    }
    EXPECT_EQ(err.code, ERR_ADAPTER_NOT_FOUND);
    fixture_close(&f);
}

TEST(registry_change_that_is_given_up)
{
    struct fixture f;
    struct err err = {0};
    static const char text[] = "{\"kind\":\"text\",\"text\":\"one\"}";
    const struct adapter_file one = {"adapter.json", text, sizeof text - 1};
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    struct adapter_change *c = adapters_put_begin(f.a, "x", &one, 1, &err);
    adapter_change_free(c);
    c = adapters_put_begin(f.a, "x", &one, 1, &err);
    EXPECT_EQ(adapter_change_run(c, &err), 0);
    adapter_change_free(c);
    EXPECT(!has(&f, "x"));
    adapter_change_free(NULL);
    fixture_close(&f);
}

struct runner {
    struct adapter_change *change;
    int rc;
};

static void *run_on_pool(void *arg)
{
    struct runner *r = arg;
    r->rc = adapter_change_run(r->change, NULL);
    return NULL;
}

/* The run is another thread's, while requests come and go here: thread sanitizer looks
 * on. */
TEST(registry_runs_beside_requests)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    struct buf config = {0}, weights = {0};
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    adapter_files_config(&config, "PROMPT_TUNING", 5, "");
    adapter_files_tensors(&weights, ROWS);
    const struct adapter_file files[] = {{"adapter_config.json", config.data, config.len},
                                         {"adapter_model.safetensors", weights.data, weights.len}};
    EXPECT_EQ(put_text(&f, "x", "{\"kind\":\"text\",\"text\":\"one\"}", &info, &err), 0);
    for (int i = 0; i < 10; i++) {
        struct runner r = {.change = i % 2 ? adapters_delete_begin(f.a, "y", &err)
                                           : adapters_put_begin(f.a, "y", files, 2, &err)};
        pthread_t thread;
        ASSERT(r.change && pthread_create(&thread, NULL, run_on_pool, &r) == 0);
        for (int n = 0; n < 100; n++) {
            struct adapter_version *v = adapters_acquire(f.a, n % 2 ? "x" : "y", &err);
            EXPECT((v != NULL) == (n % 2 || i % 2));
            if (v)
                adapters_release(v);
        }
        pthread_join(thread, NULL);
        EXPECT_EQ(r.rc, 0);
        EXPECT_EQ(adapters_commit(f.a, r.change, &info, &err), 0);
        adapter_change_free(r.change);
    }
    buf_free(&config);
    buf_free(&weights);
    fixture_close(&f);
}

static void note_name(const struct adapter_info *info, void *ud)
{
    buf_printf(ud, "%s ", info->name);
}

TEST(registry_lists_in_order_of_name)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    struct buf seen = {0};
    static const char text[] = "{\"kind\":\"text\",\"text\":\"one\"}";
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    EXPECT_EQ(put_text(&f, "m", text, &info, &err), 0);
    EXPECT_EQ(put_text(&f, "a", text, &info, &err), 0);
    EXPECT_EQ(put_text(&f, "z", text, &info, &err), 0);
    EXPECT_EQ(put_text(&f, "B", text, &info, &err), 0);
    EXPECT_EQ(delete_name(&f, "m", &err), 0);
    adapters_each(f.a, note_name, &seen);
    EXPECT_STR(seen.data, "B a z ");
    buf_free(&seen);
    fixture_close(&f);
}

/* ---- files --------------------------------------------------------------------------- */

static void expect_files(bool has_state)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    static const char text[] = "{ \"kind\": \"text\", \"text\": \"spaces kept\" }\n";
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, has_state))
        return;
    EXPECT_EQ(put_text(&f, "t", text, &info, &err), 0);
    EXPECT_EQ(info.is_durable, has_state);
    for (int i = 0; i < 2; i++) { /* twice: every reader starts at the beginning */
        char *read = read_file(&f, "t", "adapter.json", &err);
        EXPECT_STR(read, text);
        free(read);
    }
    EXPECT(read_file(&f, "t", "adapter_config.json", &err) == NULL);
    EXPECT_EQ(err.code, ERR_NOT_FOUND);
    EXPECT(read_file(&f, "t", "../../lock", &err) == NULL);
    EXPECT_EQ(err.code, ERR_NOT_FOUND);
    EXPECT(read_file(&f, "u", "adapter.json", &err) == NULL);
    EXPECT_EQ(err.code, ERR_ADAPTER_NOT_FOUND);
    EXPECT_EQ(put_peft(&f, "p", "PROMPT_TUNING", ROWS, &info, &err), 0);
    char *config = read_file(&f, "p", "adapter_config.json", &err);
    EXPECT_STR(config, "{\"peft_type\": \"PROMPT_TUNING\"}");
    free(config);
    fixture_close(&f);
}

TEST(registry_gives_files_back)
{
    expect_files(false);
    expect_files(true);
}

/* ---- restarts ------------------------------------------------------------------------ */

/* A version's time is that of its first commit, so what is put anew gets the one of e. */
static void become_older(struct fixture *f, const char *name, const char *version)
{
    struct err err = {0};
    struct buf config = {0}, weights = {0};
    struct store *s = store_open(&(struct store_opts){f->state, 0}, &err);
    ASSERT(s);
    buf_add_str(&config, "{\"peft_type\": \"PREFIX_TUNING\"}");
    adapter_files_tensors(&weights, KV);
    const struct blob_file files[] = {{"adapter_config.json", config.data, config.len},
                                      {"adapter_model.safetensors", weights.data, weights.len}};
    const struct store_entry e = {.name = name, .version = version, .kind = "PREFIX_TUNING",
                                  .created = 12345};
    EXPECT_EQ(store_delete(s, name, false, NULL, &err), 0);
    EXPECT_EQ(store_put(s, &e, files, 2, NULL, &err), 0);
    store_close(s);
    buf_free(&config);
    buf_free(&weights);
}

TEST(registry_state_survives)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info before, after;
    static const char text[] = "{\"kind\":\"text\",\"text\":\"one\"}";
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT_EQ(put_text(&f, "t", text, &before, &err), 0);
    EXPECT_EQ(put_peft(&f, "x", "PREFIX_TUNING", KV, &before, &err), 0);
    EXPECT_EQ(put_peft(&f, "gone", "PREFIX_TUNING", KV, &before, &err), 0);
    EXPECT_EQ(delete_name(&f, "gone", &err), 0);
    EXPECT_EQ(adapters_info(f.a, "x", &before, &err), 0);
    char version[DIGEST_HEX + 1];
    snprintf(version, sizeof version, "%s", before.version);
    adapters_free(f.a);
    become_older(&f, "x", version);
    ASSERT(open_registry(&f) && adapters_load_all(f.a, NULL, &err) == 0);
    EXPECT(has(&f, "t") && has(&f, "x") && !has(&f, "gone"));
    EXPECT_EQ(adapters_info(f.a, "x", &after, &err), 0);
    EXPECT_STR(after.version, version);
    EXPECT_EQ(after.created, 12345);
    EXPECT(after.is_durable);
    fixture_close(&f);
}

TEST(registry_damaged_blob_is_not_served)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    char dir[512];
    static const char text[] = "{\"kind\":\"text\",\"text\":\"one\"}";
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT_EQ(put_text(&f, "t", text, &info, &err), 0);
    snprintf(dir, sizeof dir, "%s/blobs/%s", f.state, info.version);
    adapter_files_write(dir, "adapter.json", "{\"kind\":\"text\",\"text\":\"two\"}",
                        sizeof text - 1);
    ASSERT(restart(&f, NULL));
    EXPECT(!has(&f, "t"));
    fixture_close(&f);
}

static void write_peft(const char *dir, const char *name, const char *type, const char *tensors)
{
    char path[512];
    struct buf config = {0}, weights = {0};
    adapter_files_make_dir(dir, name);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    buf_printf(&config, "{\"peft_type\": \"%s\"}", type);
    adapter_files_tensors(&weights, tensors);
    adapter_files_write(path, "adapter_config.json", config.data, config.len);
    adapter_files_write(path, "adapter_model.safetensors", weights.data, weights.len);
    adapter_files_write(path, "README.md", "# card", 6);
    buf_free(&config);
    buf_free(&weights);
}

static void make_folder(const char *dir)
{
    char path[512];
    static const char text[] = "{\"kind\":\"text\",\"text\":\"from the folder\"}";
    write_peft(dir, "good", "PROMPT_TUNING", ROWS);
    write_peft(dir, "lora", "LORA", ROWS);
    write_peft(dir, "wide", "PROMPT_TUNING", "prompt_embeddings:F32:5,32");
    write_peft(dir, "no good name", "PROMPT_TUNING", ROWS);
    write_peft(dir, "gqa", "PROMPT_TUNING", ROWS);
    write_peft(dir, ".hidden", "PROMPT_TUNING", ROWS);
    adapter_files_make_dir(dir, "pickled");
    adapter_files_write(dir, "pickled/adapter_config.json", "{}", 2);
    adapter_files_write(dir, "pickled/adapter_model.bin", "PK", 2);
    adapter_files_make_dir(dir, "empty");
    adapter_files_make_dir(dir, "fifo");
    adapter_files_write(dir, "fifo/adapter_config.json", "{\"peft_type\": \"CPT\"}", 20);
    snprintf(path, sizeof path, "%s/fifo/adapter_model.safetensors", dir);
    EXPECT_EQ(mkfifo(path, 0600), 0);
    adapter_files_write(dir, "words.json", text, sizeof text - 1);
    adapter_files_write(dir, "good.json", text, sizeof text - 1); /* the name is taken */
    adapter_files_write(dir, "broken.json", "{", 1);
    adapter_files_write(dir, "README.md", "# adapters", 10);
}

TEST(registry_folder_serves_what_is_whole)
{
    struct fixture f;
    struct err err = {0};
    struct buf seen = {0};
    struct adapter_info info;
    char *dir = adapter_files_tmp_dir();
    make_folder(dir);
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    EXPECT_EQ(adapters_load_all(f.a, dir, &err), 0);
    adapters_each(f.a, note_name, &seen);
    EXPECT_STR(seen.data, "good words ");
    EXPECT_EQ(adapters_info(f.a, "good", &info, &err), 0);
    EXPECT_STR(info.kind, "PROMPT_TUNING");
    EXPECT(!info.is_durable);
    char *read = read_file(&f, "words", "adapter.json", &err);
    EXPECT_STR(read, "{\"kind\":\"text\",\"text\":\"from the folder\"}");
    free(read);
    /* Other bytes than the version's are never handed out as its own. */
    adapter_files_write(dir, "words.json", "{\"kind\":\"text\",\"text\":\"changed\"}", 32);
    EXPECT(read_file(&f, "words", "adapter.json", &err) == NULL);
    EXPECT_EQ(err.code, ERR_CONFLICT);
    EXPECT_EQ(adapters_load_all(f.a, "/nowhere/at/all", &err), -1);
    buf_free(&seen);
    fixture_close(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(registry_state_wins_over_the_folder)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    char *dir = adapter_files_tmp_dir();
    make_folder(dir);
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT_EQ(adapters_load_all(f.a, dir, &err), 0);
    EXPECT_EQ(put_peft(&f, "good", "PREFIX_TUNING", KV, &info, &err), 0);
    EXPECT_EQ(delete_name(&f, "words", &err), 0);
    ASSERT(restart(&f, dir));
    EXPECT_EQ(adapters_info(f.a, "good", &info, &err), 0);
    EXPECT_STR(info.kind, "PREFIX_TUNING");
    EXPECT(!has(&f, "words")); /* deleted is deleted */
    EXPECT_EQ(delete_name(&f, "good", &err), 0);
    ASSERT(restart(&f, dir));
    EXPECT(!has(&f, "good"));
    EXPECT_EQ(put_text(&f, "words", "{\"kind\":\"text\",\"text\":\"back\"}", &info, &err), 0);
    ASSERT(restart(&f, dir));
    EXPECT(has(&f, "words"));
    fixture_close(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* The same content as in the folder, but sent: now it must be kept. */
TEST(registry_put_of_folder_content_is_durable)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    char *dir = adapter_files_tmp_dir();
    static const char text[] = "{\"kind\":\"text\",\"text\":\"one\"}";
    adapter_files_write(dir, "x.json", text, sizeof text - 1);
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT_EQ(adapters_load_all(f.a, dir, &err), 0);
    EXPECT_EQ(adapters_info(f.a, "x", &info, &err), 0);
    EXPECT(!info.is_durable);
    EXPECT_EQ(put_text(&f, "x", text, &info, &err), 0);
    EXPECT(info.is_durable);
    adapter_files_remove_dir(dir);
    char *read = read_file(&f, "x", "adapter.json", &err);
    EXPECT_STR(read, text);
    free(read);
    ASSERT(restart(&f, NULL));
    EXPECT(has(&f, "x"));
    fixture_close(&f);
    free(dir);
}

/* Without a state folder too: the bytes that were sent, not a path to others. */
TEST(registry_put_of_folder_content_is_kept)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    char *dir = adapter_files_tmp_dir();
    static const char text[] = "{\"kind\":\"text\",\"text\":\"one\"}";
    adapter_files_write(dir, "x.json", text, sizeof text - 1);
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    EXPECT_EQ(adapters_load_all(f.a, dir, &err), 0);
    EXPECT_EQ(put_text(&f, "x", text, &info, &err), 0);
    EXPECT(!info.is_durable);
    adapter_files_write(dir, "x.json", "{\"kind\":\"text\",\"text\":\"other\"}", 30);
    for (int i = 0; i < 2; i++) {
        char *read = read_file(&f, "x", "adapter.json", &err);
        EXPECT_STR(read, text);
        free(read);
        EXPECT_EQ(put_text(&f, "x", text, &info, &err), 0);
    }
    fixture_close(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- stored versions that do not load ------------------------------------------------ */

static const char text_one[] = "{\"kind\":\"text\",\"text\":\"one\"}";

/* Puts "t", then damages what is kept of it. */
static bool open_with_damaged(struct fixture *f)
{
    struct err err = {0};
    struct adapter_info info;
    char dir[512];
    if (!fixture_open(f, DTYPE_CHOICE_AUTO, true))
        return false;
    EXPECT_EQ(put_text(f, "t", text_one, &info, &err), 0);
    snprintf(dir, sizeof dir, "%s/blobs/%s", f->state, info.version);
    adapter_files_write(dir, "adapter.json", "{", 1);
    return true;
}

TEST(registry_damaged_blob_can_be_deleted)
{
    struct fixture f;
    struct err err = {0};
    if (!open_with_damaged(&f) || !restart(&f, NULL))
        return;
    EXPECT(!has(&f, "t"));
    EXPECT_EQ(delete_name(&f, "t", &err), 0);
    EXPECT_EQ(delete_name(&f, "t", &err), -1);
    EXPECT_EQ(err.code, ERR_ADAPTER_NOT_FOUND);
    ASSERT(restart(&f, NULL));
    EXPECT_EQ(delete_name(&f, "t", &err), -1);
    fixture_close(&f);
}

/* Of the pointer files that older daemons kept. */
static void expect_damaged_pointer(const char *folder)
{
    struct fixture f;
    struct err err = {0};
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    f.state = adapter_files_tmp_dir();
    adapter_files_make_dir(f.state, "adapters");
    adapter_files_write(f.state, "adapters/t.json", "{\"ver", 5);
    ASSERT(restart(&f, folder));
    EXPECT_EQ(has(&f, "t"), folder != NULL);
    EXPECT_EQ(delete_name(&f, "t", &err), 0);
    ASSERT(restart(&f, NULL));
    EXPECT_EQ(delete_name(&f, "t", &err), -1);
    EXPECT_EQ(err.code, ERR_ADAPTER_NOT_FOUND);
    fixture_close(&f);
}

TEST(registry_damaged_pointer_can_be_deleted)
{
    char *folder = adapter_files_tmp_dir();
    write_peft(folder, "t", "PREFIX_TUNING", KV);
    log_init(LOG_TEXT, LOG_ERROR + 1);
    expect_damaged_pointer(NULL);
    expect_damaged_pointer(folder);
    log_init(LOG_TEXT, LOG_ERROR);
    adapter_files_remove_dir(folder);
    free(folder);
}

TEST(registry_damaged_blob_is_mended_by_a_put)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    if (!open_with_damaged(&f) || !restart(&f, NULL))
        return;
    EXPECT_EQ(put_text(&f, "t", text_one, &info, &err), 0);
    EXPECT(info.is_durable);
    ASSERT(restart(&f, NULL));
    EXPECT(has(&f, "t"));
    char *read = read_file(&f, "t", "adapter.json", &err);
    EXPECT_STR(read, text_one);
    free(read);
    EXPECT_EQ(delete_name(&f, "t", &err), 0);
    EXPECT_EQ(delete_name(&f, "t", &err), -1);
    fixture_close(&f);
}

TEST(registry_folder_serves_where_the_state_is_damaged)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    char *dir = adapter_files_tmp_dir();
    make_folder(dir);
    write_peft(dir, "t", "PREFIX_TUNING", KV);
    if (!open_with_damaged(&f) || !restart(&f, dir))
        return;
    EXPECT_EQ(adapters_info(f.a, "t", &info, &err), 0);
    EXPECT_STR(info.kind, "PREFIX_TUNING");
    EXPECT(!info.is_durable);
    EXPECT_EQ(delete_name(&f, "t", &err), 0);
    EXPECT(!has(&f, "t"));
    ASSERT(restart(&f, dir));
    EXPECT(!has(&f, "t")); /* deleted is deleted, in both folders */
    EXPECT_EQ(delete_name(&f, "t", &err), -1);
    fixture_close(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* Of two of one name the first that loads is served, whichever is the broken one. */
TEST(registry_folder_serves_the_good_one_of_two)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    char *dir = adapter_files_tmp_dir();
    write_peft(dir, "t", "LORA", ROWS);
    adapter_files_write(dir, "t.json", text_one, sizeof text_one - 1);
    write_peft(dir, "u", "PROMPT_TUNING", ROWS);
    adapter_files_write(dir, "u.json", "{", 1);
    write_peft(dir, "v", "LORA", ROWS);
    adapter_files_write(dir, "v.json", "{", 1);
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    for (int i = 0; i < 2; i++) {
        EXPECT_EQ(adapters_info(f.a, "t", &info, &err), i - 1);
        EXPECT_EQ(adapters_info(f.a, "u", &info, &err), i - 1);
        EXPECT(!has(&f, "v"));
        ASSERT(restart(&f, dir));
    }
    EXPECT_EQ(adapters_info(f.a, "t", &info, &err), 0);
    EXPECT_STR(info.kind, "text");
    EXPECT_EQ(delete_name(&f, "t", &err), 0);
    ASSERT(restart(&f, dir));
    EXPECT(!has(&f, "t") && has(&f, "u"));
    fixture_close(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* Every golden adapter of this model as PEFT saved it. */
TEST(registry_loads_golden_adapters)
{
    struct fixture f;
    struct err err = {0};
    struct buf seen = {0};
    char *dir = test_path("tests/golden/adapters/gqa");
    if (access(dir, R_OK) != 0) {
        free(dir);
        SKIP("no golden adapters");
    }
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    EXPECT_EQ(adapters_load_all(f.a, dir, &err), 0);
    adapters_each(f.a, note_name, &seen);
    EXPECT_STR(seen.data, "cartridge cpt hidden_prefix multitask p_tuning_lstm p_tuning_mlp "
               "prefix_tuning prefix_tuning_projection prompt_tuning text ");
    buf_free(&seen);
    free(dir);
    fixture_close(&f);
}

/* ---- versions ------------------------------------------------------------------------ */

/* As the server does it: run again for as long as the change says so. */
static int carry_out(struct fixture *f, struct adapter_change *c, const struct adapter_when *when,
                     struct adapter_info *info, struct err *err)
{
    int rc = c ? 0 : -1, more = 1;
    if (rc == 0 && when)
        rc = adapter_change_when(c, when, err);
    while (rc == 0 && more > 0) {
        rc = adapter_change_run(c, err);
        more = rc == 0 ? adapter_change_next(c, err) : 0;
        rc = more < 0 ? -1 : rc;
    }
    if (rc == 0)
        rc = adapters_commit(f->a, c, info, err);
    adapter_change_free(c);
    return rc;
}

static int put_when(struct fixture *f, const char *json, const char *match, const char *none_match,
                    struct adapter_info *info, struct err *err)
{
    const struct adapter_file file = {"adapter.json", json, strlen(json)};
    const struct adapter_when when = {match, none_match};
    return carry_out(f, adapters_put_begin(f->a, "x", &file, 1, err), &when, info, err);
}

static int roll_back(struct fixture *f, const char *name, const char *version,
                     const struct adapter_when *when, struct adapter_info *info, struct err *err)
{
    return carry_out(f, adapters_rollback_begin(f->a, name, version, err), when, info, err);
}

struct versions {
    char digest[4][DIGEST_HEX + 1];
    int n, current;
};

static void note_version(const struct adapter_version_info *v, void *ud)
{
    struct versions *seen = ud;
    if (v->is_current)
        seen->current = seen->n;
    if (seen->n < 4)
        snprintf(seen->digest[seen->n], DIGEST_HEX + 1, "%s", v->version);
    seen->n++;
}

static struct versions versions_of(struct fixture *f, const char *name)
{
    struct versions seen = {.current = -1};
    EXPECT_EQ(adapters_each_version(f->a, name, note_version, &seen, NULL), 0);
    return seen;
}

static void expect_rollbacks(bool has_state)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info text, kv, info;
    char first[DIGEST_HEX + 1], second[DIGEST_HEX + 1];
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, has_state))
        return;
    EXPECT_EQ(put_text(&f, "x", "{\"kind\":\"text\",\"text\":\"one\"}", &text, &err), 0);
    memcpy(first, text.version, sizeof first);
    EXPECT_EQ(put_peft(&f, "x", "PREFIX_TUNING", KV, &kv, &err), 0);
    memcpy(second, kv.version, sizeof second);
    struct versions seen = versions_of(&f, "x");
    EXPECT(seen.n == 2 && seen.current == 0 && strcmp(seen.digest[1], first) == 0);
    EXPECT_EQ(roll_back(&f, "x", first, NULL, &info, &err), 0);
    EXPECT_STR(info.kind, "text");
    EXPECT_STR(info.version, first);
    EXPECT_EQ(info.created, text.created);
    EXPECT_EQ(info.is_durable, has_state);
    seen = versions_of(&f, "x");
    EXPECT(seen.n == 2 && seen.current == 1 && strcmp(seen.digest[1], first) == 0);
    char *read = read_file(&f, "x", "adapter.json", &err);
    EXPECT_STR(read, "{\"kind\":\"text\",\"text\":\"one\"}");
    free(read);
    EXPECT_EQ(roll_back(&f, "x", first, NULL, &info, &err), 0); /* to what it is */
    EXPECT_EQ(roll_back(&f, "x", second, NULL, &info, &err), 0); /* and forward */
    EXPECT_STR(info.kind, "PREFIX_TUNING");
    EXPECT_EQ(roll_back(&f, "x", first, NULL, &info, &err), 0);
    if (has_state) {
        ASSERT(restart(&f, NULL));
        EXPECT_EQ(adapters_info(f.a, "x", &info, &err), 0);
        EXPECT_STR(info.version, first);
        EXPECT_EQ(versions_of(&f, "x").n, 2);
    }
    EXPECT(roll_back(&f, "y", first, NULL, &info, &err) < 0 && err.code == ERR_ADAPTER_NOT_FOUND);
    EXPECT(roll_back(&f, "x", "../x", NULL, &info, &err) < 0 && err.code == ERR_INVALID);
    first[0] = first[0] == '0' ? '1' : '0';
    EXPECT(roll_back(&f, "x", first, NULL, &info, &err) < 0 && err.code == ERR_NOT_FOUND);
    fixture_close(&f);
}

TEST(registry_rolls_back)
{
    expect_rollbacks(false);
    expect_rollbacks(true);
}

/* Damage that came after a version was stored is found before it is served. */
TEST(registry_does_not_roll_back_to_damage)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    char dir[512], first[DIGEST_HEX + 1];
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT_EQ(put_text(&f, "x", "{\"kind\":\"text\",\"text\":\"one\"}", &info, &err), 0);
    memcpy(first, info.version, sizeof first);
    snprintf(dir, sizeof dir, "%s/blobs/%s", f.state, first);
    EXPECT_EQ(put_text(&f, "x", "{\"kind\":\"text\",\"text\":\"two\"}", &info, &err), 0);
    adapter_files_write(dir, "adapter.json", "{\"kind\":\"text\",\"text\":\"bad\"}", 28);
    EXPECT(roll_back(&f, "x", first, NULL, &info, &err) < 0 && err.code == ERR_ADAPTER);
    adapter_files_write(dir, "adapter.json", "{", 1);
    EXPECT(roll_back(&f, "x", first, NULL, &info, &err) < 0 && err.code == ERR_ADAPTER);
    EXPECT(versions_of(&f, "x").current == 0);
    fixture_close(&f);
}

TEST(registry_compares_and_swaps)
{
    static const char one[] = "{\"kind\":\"text\",\"text\":\"one\"}";
    static const char two[] = "{\"kind\":\"text\",\"text\":\"two\"}";
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    char first[DIGEST_HEX + 3], second[DIGEST_HEX + 3];
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT(put_when(&f, one, "*", NULL, &info, &err) < 0 && err.code == ERR_PRECONDITION);
    EXPECT_EQ(put_when(&f, one, NULL, "*", &info, &err), 0);
    snprintf(first, sizeof first, "\"%s\"", info.version);
    EXPECT(put_when(&f, two, NULL, "*", &info, &err) < 0 && err.code == ERR_PRECONDITION);
    EXPECT_EQ(put_when(&f, two, first, NULL, &info, &err), 0);
    snprintf(second, sizeof second, "\"%s\"", info.version);
    EXPECT(put_when(&f, two, first, NULL, &info, &err) < 0 && err.code == ERR_PRECONDITION);
    EXPECT(put_when(&f, two, "nonsense", NULL, &info, &err) < 0 && err.code == ERR_INVALID);
    const struct adapter_when is_first = {first, NULL}, is_second = {second, NULL};
    char version[DIGEST_HEX + 1];
    snprintf(version, sizeof version, "%.64s", first + 1);
    EXPECT(roll_back(&f, "x", version, &is_first, &info, &err) < 0 && err.code == ERR_PRECONDITION);
    EXPECT_EQ(roll_back(&f, "x", version, &is_second, &info, &err), 0);
    struct adapter_change *c = adapters_delete_begin(f.a, "x", &err);
    EXPECT(carry_out(&f, c, &is_second, &info, &err) < 0 && err.code == ERR_PRECONDITION);
    EXPECT(has(&f, "x"));
    c = adapters_delete_begin(f.a, "x", &err);
    EXPECT_EQ(carry_out(&f, c, &is_first, &info, &err), 0);
    EXPECT(!has(&f, "x"));
    fixture_close(&f);
}

/* Two that begin from the same version: the second finds out at the moment of its change. */
static void expect_one_winner(const char *folder, bool stays_deleted)
{
    static const char two[] = "{\"kind\":\"text\",\"text\":\"two\"}";
    static const char three[] = "{\"kind\":\"text\",\"text\":\"three\"}";
    const struct adapter_file files[] = {{"adapter.json", two, sizeof two - 1},
                                         {"adapter.json", three, sizeof three - 1}};
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    char etag[DIGEST_HEX + 3];
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT_EQ(adapters_load_all(f.a, folder, &err), 0);
    if (!folder)
        EXPECT_EQ(put_text(&f, "x", "{\"kind\":\"text\",\"text\":\"one\"}", &info, &err), 0);
    ASSERT(adapters_info(f.a, "x", &info, &err) == 0);
    snprintf(etag, sizeof etag, "\"%s\"", info.version);
    const struct adapter_when when = {etag, NULL};
    struct adapter_change *c[2];
    c[0] = stays_deleted ? adapters_delete_begin(f.a, "x", &err)
                         : adapters_put_begin(f.a, "x", &files[0], 1, &err);
    c[1] = adapters_put_begin(f.a, "x", &files[1], 1, &err);
    for (int i = 0; i < 2; i++)
        EXPECT_EQ(adapter_change_when(c[i], &when, &err), 0);
    EXPECT_EQ(adapter_change_run(c[0], &err), 0);
    EXPECT_EQ(adapters_commit(f.a, c[0], &info, &err), 0);
    EXPECT_EQ(adapter_change_run(c[1], &err), -1);
    EXPECT_EQ(err.code, ERR_PRECONDITION);
    adapter_change_free(c[0]);
    adapter_change_free(c[1]);
    EXPECT_EQ(has(&f, "x"), !stays_deleted);
    if (!stays_deleted)
        EXPECT_EQ(versions_of(&f, "x").n, folder ? 1 : 2);
    fixture_close(&f);
}

TEST(registry_one_of_two_that_compare_wins)
{
    static const char text[] = "{\"kind\":\"text\",\"text\":\"one\"}";
    char *dir = adapter_files_tmp_dir();
    adapter_files_write(dir, "x.json", text, sizeof text - 1);
    for (int stays_deleted = 0; stays_deleted < 2; stays_deleted++) {
        expect_one_winner(NULL, stays_deleted);
        expect_one_winner(dir, stays_deleted); /* which the store has not */
    }
    adapter_files_remove_dir(dir);
    free(dir);
}

static int put_dry(struct fixture *f, const char *json, const char *match,
                   struct adapter_info *info, struct err *err)
{
    const struct adapter_file file = {"adapter.json", json, strlen(json)};
    const struct adapter_when when = {match, NULL};
    struct adapter_change *c = adapters_put_begin(f->a, "x", &file, 1, err);
    if (c)
        adapter_change_dry(c);
    return carry_out(f, c, &when, info, err);
}

TEST(registry_dry_puts_change_nothing)
{
    static const char one[] = "{\"kind\":\"text\",\"text\":\"one\"}";
    static const char two[] = "{\"kind\":\"text\",\"text\":\"two\"}";
    struct fixture f;
    struct err err = {0};
    struct adapter_info would, info;
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT_EQ(put_dry(&f, one, NULL, &would, &err), 0);
    EXPECT(would.n_virtual_tokens > 0 && would.bytes > 0 && !has(&f, "x"));
    EXPECT(put_dry(&f, one, "*", &would, &err) < 0 && err.code == ERR_PRECONDITION);
    EXPECT(put_dry(&f, "{", NULL, &would, &err) < 0 && err.code == ERR_ADAPTER);
    EXPECT_EQ(put_text(&f, "x", one, &info, &err), 0);
    EXPECT_STR(info.version, would.version);
    EXPECT_EQ(put_dry(&f, two, "*", &would, &err), 0);
    EXPECT(strcmp(info.version, would.version) != 0);
    EXPECT_EQ(versions_of(&f, "x").n, 1);
    ASSERT(restart(&f, NULL));
    EXPECT_EQ(adapters_info(f.a, "x", &would, &err), 0);
    EXPECT_STR(would.version, info.version);
    fixture_close(&f);
}

TEST(registry_lists_in_pages)
{
    static const char text[] = "{\"kind\":\"text\",\"text\":\"one\"}";
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    struct buf seen = {0};
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    for (int i = 0; i < 5; i++)
        EXPECT_EQ(put_text(&f, (const char[]){(char)('a' + 2 * i), 0}, text, &info, &err), 0);
    EXPECT(adapters_each_after(f.a, "", 2, note_name, &seen));
    EXPECT(adapters_each_after(f.a, "c", 1, note_name, &seen));
    EXPECT(!adapters_each_after(f.a, "f", 2, note_name, &seen)); /* gone meanwhile, or never there */
    EXPECT(!adapters_each_after(f.a, "i", 2, note_name, &seen));
    EXPECT(adapters_each_after(f.a, "", 0, note_name, &seen));
    EXPECT_STR(seen.data, "a c e g i ");
    buf_free(&seen);
    fixture_close(&f);
}

/* ---- kill -9 ------------------------------------------------------------------------- */

static _Noreturn void serve_until_killed(const char *state, int pipe)
{
    struct fixture f;
    struct adapter_info info;
    struct err err = {0};
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        _exit(2);
    adapters_free(f.a);
    f.state = xstrdup(state);
    if (!open_registry(&f))
        _exit(3);
    for (int i = 0;; i++) {
        char json[80];
        snprintf(json, sizeof json, "{\"kind\":\"text\",\"text\":\"number %d\"}", i);
        if (put_text(&f, "x", json, &info, &err) < 0 ||
            write(pipe, info.version, DIGEST_HEX) != DIGEST_HEX)
            _exit(4);
    }
}

/* What the last answer named, or the change that was running, is what a new process
 * serves. */
TEST(registry_answers_survive_kill_9)
{
    struct fixture f;
    char *state = adapter_files_tmp_dir(), acknowledged[DIGEST_HEX + 1] = "";
    struct adapter_info info;
    struct err err = {0};
    int fds[2], n = 0;
    ASSERT(pipe(fds) == 0);
    pid_t child = fork();
    if (child == 0)
        serve_until_killed(state, fds[1]);
    close(fds[1]);
    while (n < 20 && read(fds[0], acknowledged, DIGEST_HEX) == DIGEST_HEX)
        n++;
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    while (read(fds[0], acknowledged, DIGEST_HEX) == DIGEST_HEX)
        n++;
    close(fds[0]);
    EXPECT(n >= 20);
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    f.state = state;
    ASSERT(restart(&f, NULL));
    EXPECT_EQ(adapters_info(f.a, "x", &info, &err), 0);
    char json[80], *read = read_file(&f, "x", "adapter.json", &err);
    snprintf(json, sizeof json, "{\"kind\":\"text\",\"text\":\"number %d\"}", n);
    if (strcmp(info.version, acknowledged) != 0)
        EXPECT_STR(read, json); /* one further than the last answer, and no more */
    free(read);
    fixture_close(&f);
}
