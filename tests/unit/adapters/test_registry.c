/* registry: what a put says and refuses, names, references and files. */
#define _GNU_SOURCE
#include "adapters/adapters.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "adapters/folder.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/registry_fixture.h"

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
        EXPECT(adapters_put_begin(f.a, TENANT, bad[i], NULL, 0, &err) == NULL);
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
        EXPECT(adapters_put_begin(f.a, TENANT, "x", files, n, &err) == NULL);
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
    struct adapter_version *v = acquire(&f, "many", &err);
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
    v = acquire(&f, "one", &err);
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
    struct adapter_version *v = acquire(&f, "product", &err);
    struct adapter_version *w = acquire(&f, "tasks", &err);
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
    struct adapter_version *old = acquire(&f, "x", &err);
    ASSERT(old);
    char first[DIGEST_HEX + 1];
    snprintf(first, sizeof first, "%s", info.version);
    EXPECT_EQ(adapters_info(f.a, TENANT, "x", &info, &err), 0);
    EXPECT_EQ(info.n_refs, 1);
    EXPECT_EQ(put_peft(&f, "x", "PREFIX_TUNING", KV, &info, &err), 0);
    EXPECT(strcmp(first, info.version) != 0);
    EXPECT_EQ(info.n_refs, 0);
    struct adapter_version *now = acquire(&f, "x", &err);
    ASSERT(now && now != old);
    EXPECT_STR(adapter_version_digest(old), first);
    EXPECT_STR(adapter_version_digest(now), info.version);
    EXPECT_EQ(adapter_version_prefix(old, false, 0, &err)->n_tokens, 5); /* asan: still there */
    EXPECT_EQ(delete_name(&f, "x", &err), 0);
    EXPECT(!has(&f, "x"));
    EXPECT(acquire(&f, "x", &err) == NULL);
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
    struct adapter_version *v = acquire(&f, "x", &err);
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
    struct adapter_change *queue[] = {adapters_put_begin(f.a, TENANT, "x", &two, 1, &err),
                                      adapters_put_begin(f.a, TENANT, "x", &one, 1, &err),
                                      adapters_delete_begin(f.a, TENANT, "x", &err),
                                      adapters_put_begin(f.a, TENANT, "x", &two, 1, &err),
                                      adapters_delete_begin(f.a, TENANT, "x", &err),
                                      adapters_delete_begin(f.a, TENANT, "x", &err)};
    char version[DIGEST_HEX + 1];
    snprintf(version, sizeof version, "%s", info.version);
    for (int i = 0; i < 6; i++) {
        EXPECT_EQ(adapter_change_run(queue[i], &err), i == 5 ? -1 : 0);
        if (i < 5)
            EXPECT_EQ(adapters_commit(f.a, queue[i], &info, &err), 0);
        EXPECT_EQ(strcmp(info.version, version) == 0, i == 1 || i == 2 || i > 3);
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
    struct adapter_change *c = adapters_put_begin(f.a, TENANT, "x", &one, 1, &err);
    adapter_change_free(c);
    c = adapters_put_begin(f.a, TENANT, "x", &one, 1, &err);
    EXPECT(!has(&f, "x"));
    EXPECT_EQ(adapter_change_run(c, &err), 0);
    adapter_change_free(c);
    EXPECT(has(&f, "x")); /* what has run has happened, for every process */
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
        struct runner r = {.change = i % 2 ? adapters_delete_begin(f.a, TENANT, "y", &err)
                                           : adapters_put_begin(f.a, TENANT, "y", files, 2, &err)};
        pthread_t thread;
        ASSERT(r.change && pthread_create(&thread, NULL, run_on_pool, &r) == 0);
        for (int n = 0; n < 100; n++) {
            struct adapter_version *v = acquire(&f, n % 2 ? "x" : "y", &err);
            EXPECT(v || n % 2 == 0); /* y comes and goes */
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
    adapters_each_after(f.a, TENANT, "", 1000, note_name, &seen);
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

static void put_folder(struct fixture *f, const char *dir)
{
    struct folder folder;
    struct err err = {0};
    ASSERT(folder_scan(dir, &folder, &err) == 0);
    for (size_t i = 0; i < folder.n; i++) {
        struct loaded l = {0};
        struct adapter_info info;
        const struct folder_entry *e = &folder.entries[i];
        if (folder_read(dir, e, 1 << 24, &l, &err) != FOLDER_WHOLE ||
            put_files(f, e->name, l.files, l.n_files, &info, &err) < 0)
            test_fail(__FILE__, __LINE__, "%s: %s", e->name, err.msg);
        loaded_fini(&l);
    }
    folder_fini(&folder);
}

/* Every golden adapter of this model as PEFT saved it. */
TEST(registry_loads_golden_adapters)
{
    struct fixture f;
    struct buf seen = {0};
    char *dir = test_path("tests/golden/adapters/gqa");
    if (access(dir, R_OK) != 0) {
        free(dir);
        SKIP("no golden adapters");
    }
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    put_folder(&f, dir);
    adapters_each_after(f.a, TENANT, "", 1000, note_name, &seen);
    EXPECT_STR(seen.data, "cartridge cpt hidden_prefix multitask p_tuning_lstm p_tuning_mlp "
               "prefix_tuning prefix_tuning_projection prompt_tuning text ");
    buf_free(&seen);
    free(dir);
    fixture_close(&f);
}

/* ---- kill -9 ------------------------------------------------------------------------- */

static _Noreturn void serve_until_killed(char *state, int pipe)
{
    struct fixture f;
    struct adapter_info info;
    struct err err = {0};
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        _exit(2);
    adapter_files_remove_dir(f.state);
    f.state = state;
    if (!fixture_restart(&f))
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
#if defined(__SANITIZE_THREAD__)
    SKIP("the thread sanitizer takes no threads after a fork");
#endif
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
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    adapter_files_remove_dir(f.state);
    free(f.state);
    f.state = state;
    ASSERT(fixture_restart(&f));
    EXPECT_EQ(adapters_info(f.a, TENANT, "x", &info, &err), 0);
    char version[DIGEST_HEX + 1], json[80];
    memcpy(version, info.version, sizeof version);
    char *text = read_file(&f, "x", "adapter.json", &err);
    snprintf(json, sizeof json, "{\"kind\":\"text\",\"text\":\"number %d\"}", n);
    if (strcmp(version, acknowledged) != 0)
        EXPECT_STR(text, json); /* one further than the last answer, and no more */
    free(text);
    struct adapter_version *v = acquire(&f, "x", &err);
    ASSERT(v);
    EXPECT_STR(adapter_version_digest(v), version);
    adapters_release(v);
    fixture_close(&f);
}
