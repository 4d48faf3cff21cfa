/* registry: changes of names: versions, rollback, compare-and-swap, dry runs, limits, the
 * adapters folder, and other processes. */
#define _GNU_SOURCE
#include "adapters/adapters.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "adapters/store_tenants.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/registry_fixture.h"

static const char text_one[] = "{\"kind\":\"text\",\"text\":\"one\"}";
static const char text_two[] = "{\"kind\":\"text\",\"text\":\"two\"}";

static void note_name(const struct adapter_info *info, void *ud)
{
    buf_printf(ud, "%s ", info->name);
}

static int put_when(struct fixture *f, const char *json, const char *match, const char *none_match,
                    struct adapter_info *info, struct err *err)
{
    const struct adapter_file file = {"adapter.json", json, strlen(json)};
    const struct adapter_when when = {match, none_match};
    return carry_out(f, adapters_put_begin(f->a, TENANT, "x", &file, 1, err), &when, info, err);
}

static int roll_back(struct fixture *f, const char *name, const char *version,
                     const struct adapter_when *when, struct adapter_info *info, struct err *err)
{
    return carry_out(f, adapters_rollback_begin(f->a, TENANT, name, version, err), when, info, err);
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
    EXPECT_EQ(adapters_each_version(f->a, TENANT, name, note_version, &seen, NULL), 0);
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
        ASSERT(fixture_restart(&f));
        EXPECT_EQ(adapters_info(f.a, TENANT, "x", &info, &err), 0);
        EXPECT_STR(info.version, first);
        EXPECT_EQ(versions_of(&f, "x").n, 2);
    }
    struct adapter_version *v = acquire(&f, "x", &err);
    ASSERT(v);
    EXPECT_STR(adapter_version_digest(v), first);
    adapters_release(v);
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
    char first[DIGEST_HEX + 1];
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0);
    memcpy(first, info.version, sizeof first);
    char *dir = blob_path(&f, first), *compiled = compiled_path(&f, TENANT, first);
    EXPECT_EQ(put_text(&f, "x", text_two, &info, &err), 0);
    EXPECT_EQ(unlink(compiled), 0);
    adapter_files_write(dir, "adapter.json", "{\"kind\":\"text\",\"text\":\"bad\"}", 28);
    EXPECT(roll_back(&f, "x", first, NULL, &info, &err) < 0 && err.code == ERR_ADAPTER);
    adapter_files_write(dir, "adapter.json", "{", 1);
    EXPECT(roll_back(&f, "x", first, NULL, &info, &err) < 0 && err.code == ERR_ADAPTER);
    adapter_files_remove_dir(dir);
    EXPECT(roll_back(&f, "x", first, NULL, &info, &err) < 0 && err.code == ERR_ADAPTER);
    EXPECT(versions_of(&f, "x").current == 0);
    free(dir);
    free(compiled);
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
    struct adapter_change *c = adapters_delete_begin(f.a, TENANT, "x", &err);
    EXPECT(carry_out(&f, c, &is_second, &info, &err) < 0 && err.code == ERR_PRECONDITION);
    EXPECT(has(&f, "x"));
    c = adapters_delete_begin(f.a, TENANT, "x", &err);
    EXPECT_EQ(carry_out(&f, c, &is_first, &info, &err), 0);
    EXPECT(!has(&f, "x"));
    fixture_close(&f);
}

/* Two that begin from the same version: the second finds out at the moment of its change. */
TEST(registry_one_of_two_that_compare_wins)
{
    const struct adapter_file files[] = {{"adapter.json", text_two, sizeof text_two - 1},
                                         {"adapter.json", text_one, sizeof text_one - 1}};
    for (int is_deleted = 0; is_deleted < 2; is_deleted++) {
        struct fixture f;
        struct err err = {0};
        struct adapter_info info;
        char etag[DIGEST_HEX + 3];
        if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
            return;
        EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0);
        snprintf(etag, sizeof etag, "\"%s\"", info.version);
        const struct adapter_when when = {etag, NULL};
        struct adapter_change *c[2];
        c[0] = is_deleted ? adapters_delete_begin(f.a, TENANT, "x", &err)
                          : adapters_put_begin(f.a, TENANT, "x", &files[0], 1, &err);
        c[1] = adapters_put_begin(f.a, TENANT, "x", &files[1], 1, &err);
        for (int i = 0; i < 2; i++)
            EXPECT_EQ(adapter_change_when(c[i], &when, &err), 0);
        EXPECT_EQ(adapter_change_run(c[0], &err), 0);
        EXPECT_EQ(adapters_commit(f.a, c[0], &info, &err), 0);
        EXPECT_EQ(adapter_change_run(c[1], &err), -1);
        EXPECT_EQ(err.code, ERR_PRECONDITION);
        adapter_change_free(c[0]);
        adapter_change_free(c[1]);
        EXPECT_EQ(has(&f, "x"), !is_deleted);
        if (!is_deleted)
            EXPECT_EQ(versions_of(&f, "x").n, 2);
        fixture_close(&f);
    }
}

static int put_dry(struct fixture *f, const char *json, const char *match,
                   struct adapter_info *info, struct err *err)
{
    const struct adapter_file file = {"adapter.json", json, strlen(json)};
    const struct adapter_when when = {match, NULL};
    struct adapter_change *c = adapters_put_begin(f->a, TENANT, "x", &file, 1, err);
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
    ASSERT(fixture_restart(&f));
    EXPECT_EQ(adapters_info(f.a, TENANT, "x", &would, &err), 0);
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
    EXPECT(adapters_each_after(f.a, TENANT, "", 2, note_name, &seen));
    EXPECT(adapters_each_after(f.a, TENANT, "c", 1, note_name, &seen));
    EXPECT(!adapters_each_after(f.a, TENANT, "f", 2, note_name, &seen)); /* gone meanwhile, or never there */
    EXPECT(!adapters_each_after(f.a, TENANT, "i", 2, note_name, &seen));
    EXPECT(adapters_each_after(f.a, TENANT, "", 0, note_name, &seen));
    EXPECT_STR(seen.data, "a c e g i ");
    buf_free(&seen);
    fixture_close(&f);
}


/* ---- limits -------------------------------------------------------------------------- */

static int put_limited(struct fixture *f, const char *name, const char *json,
                       struct adapters_limits limits, struct err *err)
{
    struct adapter_info info;
    const struct adapter_file file = {"adapter.json", json, strlen(json)};
    struct adapter_change *c = adapters_put_begin(f->a, TENANT, name, &file, 1, err);
    if (c)
        adapter_change_limit(c, &limits);
    return carry_out(f, c, NULL, &info, err);
}

TEST(registry_limits_of_a_tenant)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    const struct adapters_limits tokens = {.max_virtual_tokens = 1};
    EXPECT(put_limited(&f, "x", text_one, tokens, &err) < 0 && err.code == ERR_ADAPTER);
    EXPECT(strstr(err.msg, "at most 1 ") != NULL);
    EXPECT(!has(&f, "x"));
    struct buf weights = {0};
    adapter_files_tensors(&weights, ROWS);
    const struct adapter_file files[] = {
        {"adapter_config.json", "{\"peft_type\":\"CPT\"}", 19},
        {"adapter_model.safetensors", weights.data, weights.len}};
    struct engine_stats before, after;
    engine_stats(f.engine, &before);
    struct adapter_change *c = adapters_put_begin(f.a, TENANT, "x", files, 2, &err);
    ASSERT(c);
    adapter_change_limit(c, &(struct adapters_limits){.max_virtual_tokens = 4});
    EXPECT(carry_out(&f, c, NULL, &info, &err) < 0 && err.code == ERR_ADAPTER);
    EXPECT(strstr(err.msg, "5 virtual tokens; at most 4") != NULL);
    engine_stats(f.engine, &after);
    EXPECT_EQ(after.compile_rows, before.compile_rows); /* refused before it costs anything */
    buf_free(&weights);
    const struct adapters_limits one = {.store.max_adapters = 1};
    EXPECT_EQ(put_limited(&f, "x", text_one, one, &err), 0);
    EXPECT_EQ(put_limited(&f, "x", text_two, one, &err), 0);
    EXPECT(put_limited(&f, "y", text_one, one, &err) < 0 && err.code == ERR_FORBIDDEN);
    const struct adapters_limits small = {.store.max_bytes = 2 * (sizeof text_one - 1)};
    EXPECT_EQ(put_limited(&f, "z", text_one, small, &err), 0);
    EXPECT(put_limited(&f, "z", "{\"kind\":\"text\",\"text\":\"3\"}", small, &err) < 0 &&
           err.code == ERR_TOO_LARGE);
    EXPECT_EQ(adapters_info(f.a, TENANT, "z", &info, &err), 0);
    fixture_close(&f);
}

static uint64_t rows_computed(const struct fixture *f)
{
    struct engine_stats s;
    engine_stats(f->engine, &s);
    return s.compile_rows;
}

/* As a server's: what was asked for, and what it may be in all. */
struct purse {
    int64_t left;
    int n_asked;
};

static int charge(void *ud, int64_t n_tokens, struct err *err)
{
    struct purse *p = ud;
    p->n_asked++;
    if (n_tokens > p->left)
        return err_set(err, ERR_QUEUE_FULL, "%lld tokens", (long long)n_tokens);
    p->left -= n_tokens;
    return 0;
}

/* The put and its dry run are refused alike, with nothing computed and nothing charged. */
static void expect_refused(struct fixture *f, const char *name, const char *json,
                           struct adapters_limits limits, enum err_code code)
{
    const struct adapter_file file = {"adapter.json", json, strlen(json)};
    struct purse purse = {.left = 1000};
    uint64_t rows = rows_computed(f);
    limits.charge = charge;
    limits.ud = &purse;
    for (int is_dry = 1; is_dry >= 0; is_dry--) {
        struct err err = {0};
        struct adapter_info info;
        struct adapter_change *c = adapters_put_begin(f->a, TENANT, name, &file, 1, &err);
        ASSERT(c);
        adapter_change_limit(c, &limits);
        if (is_dry)
            adapter_change_dry(c);
        EXPECT_EQ(carry_out(f, c, NULL, &info, &err), -1);
        EXPECT_EQ(err.code, code);
    }
    EXPECT_EQ(rows_computed(f), rows);
    EXPECT_EQ(purse.n_asked, 0);
}

TEST(registry_refuses_before_it_compiles)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0);
    EXPECT(rows_computed(&f) > 0);
    expect_refused(&f, "x", text_two, (struct adapters_limits){.max_virtual_tokens = 1},
                   ERR_ADAPTER);
    expect_refused(&f, "y", text_two, (struct adapters_limits){.store.max_adapters = 1},
                   ERR_FORBIDDEN);
    expect_refused(&f, "x", text_two,
                   (struct adapters_limits){.store.max_bytes = 2 * (sizeof text_one - 1) - 1},
                   ERR_TOO_LARGE);
    /* What is compiled already is refused by the same limits. */
    expect_refused(&f, "y", text_one, (struct adapters_limits){.max_virtual_tokens = 1},
                   ERR_ADAPTER);
    expect_refused(&f, "y", text_one, (struct adapters_limits){.store.max_adapters = 1},
                   ERR_FORBIDDEN);
    EXPECT_EQ(versions_of(&f, "x").n, 1);
    EXPECT(!has(&f, "y"));
    fixture_close(&f);
}

static int put_charged(struct fixture *f, struct adapter_change *c, struct purse *purse,
                       struct err *err)
{
    struct adapter_info info;
    *err = (struct err){0};
    if (c)
        adapter_change_limit(c, &(struct adapters_limits){.charge = charge, .ud = purse});
    return carry_out(f, c, NULL, &info, err);
}

static int text_charged(struct fixture *f, const char *name, const char *json,
                        struct purse *purse, struct err *err)
{
    const struct adapter_file file = {"adapter.json", json, strlen(json)};
    return put_charged(f, adapters_put_begin(f->a, TENANT, name, &file, 1, err), purse, err);
}

TEST(registry_charges_for_what_it_compiles)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    struct purse purse = {.left = 1000};
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    EXPECT_EQ(text_charged(&f, "x", text_one, &purse, &err), 0);
    ASSERT(adapters_info(f.a, TENANT, "x", &info, &err) == 0);
    char first[DIGEST_HEX + 1];
    snprintf(first, sizeof first, "%s", info.version);
    int64_t n = info.n_virtual_tokens;
    EXPECT(n > 0 && purse.left == 1000 - n && purse.n_asked == 1);
    EXPECT_EQ(text_charged(&f, "x", text_one, &purse, &err), 0); /* it is that already */
    EXPECT_EQ(text_charged(&f, "y", text_one, &purse, &err), 0); /* it is compiled already */
    EXPECT_EQ(purse.n_asked, 1);
    purse.left = n - 1;
    uint64_t rows = rows_computed(&f);
    EXPECT_EQ(text_charged(&f, "x", text_two, &purse, &err), -1);
    EXPECT_EQ(err.code, ERR_QUEUE_FULL);
    EXPECT(rows_computed(&f) == rows && purse.left == n - 1);
    EXPECT_EQ(put_text(&f, "x", text_two, &info, &err), 0); /* nobody is charged */
    purse = (struct purse){.left = 0};
    char *compiled = compiled_path(&f, TENANT, first);
    EXPECT_EQ(unlink(compiled), 0);
    EXPECT_EQ(put_charged(&f, adapters_rollback_begin(f.a, TENANT, "x", first, &err), &purse,
                          &err), 0);
    EXPECT(rows_computed(&f) > rows && purse.n_asked == 0); /* it was paid for */
    free(compiled);
    fixture_close(&f);
}

static int files_charged(struct fixture *f, const char *type, const char *tensors,
                         struct purse *purse, struct err *err)
{
    struct buf weights = {0}, config = {0};
    adapter_files_tensors(&weights, tensors);
    buf_printf(&config, "{\"peft_type\":\"%s\"}", type);
    const struct adapter_file files[] = {
        {"adapter_config.json", config.data, config.len},
        {"adapter_model.safetensors", weights.data, weights.len}};
    int rc = put_charged(f, adapters_put_begin(f->a, TENANT, "x", files, 2, err), purse, err);
    buf_free(&weights);
    buf_free(&config);
    return rc;
}

TEST(registry_charges_for_every_task)
{
    struct fixture f;
    struct err err = {0};
    struct purse purse = {.left = 29};
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    const char tasks[] = ROWS " prefix_task_cols:F32:6,5,2 prefix_task_rows:F32:6,2,64";
    EXPECT_EQ(files_charged(&f, "MULTITASK_PROMPT_TUNING", tasks, &purse, &err), -1);
    EXPECT(purse.left == 29 && err.code == ERR_QUEUE_FULL);
    EXPECT_STR(err.msg, "30 tokens");
    purse.left = 38;
    EXPECT_EQ(files_charged(&f, "MULTITASK_PROMPT_TUNING", tasks, &purse, &err), 0);
    EXPECT_EQ(purse.left, 8);
    EXPECT_EQ(files_charged(&f, "PREFIX_TUNING", KV, &purse, &err), 0);
    EXPECT_EQ(purse.left, 3);
    fixture_close(&f);
}

/* ---- the adapters folder ------------------------------------------------------------- */

/* 1: imported; 0: nothing had to be done; -1. json NULL: it went. */
static int import(struct fixture *f, const char *name, const char *json, struct err *err)
{
    struct adapter_info info;
    const struct adapter_file file = {"adapter.json", json, json ? strlen(json) : 0};
    *err = (struct err){.code = ERR_INTERNAL};
    struct adapter_change *c =
        adapters_import_begin(f->a, TENANT, name, json ? &file : NULL, json ? 1 : 0, err);
    if (!c)
        return err->code == ERR_NONE ? 0 : -1;
    return carry_out(f, c, NULL, &info, err) == 0 ? 1 : -1;
}

static void expect_content(struct fixture *f, const char *name, const char *json)
{
    char *text = read_file(f, name, "adapter.json", NULL);
    if (json)
        EXPECT_STR(text, json);
    else
        EXPECT(!text && !has(f, name));
    free(text);
}

TEST(registry_imports_of_the_folder)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, true))
        return;
    EXPECT_EQ(import(&f, "x", NULL, &err), 0);
    EXPECT_EQ(import(&f, "x", text_one, &err), 1);
    EXPECT_EQ(import(&f, "x", text_one, &err), 0);
    expect_content(&f, "x", text_one);
    EXPECT_EQ(import(&f, "x", text_two, &err), 1); /* replaced */
    expect_content(&f, "x", text_two);
    EXPECT_EQ(import(&f, "x", NULL, &err), 1); /* went */
    expect_content(&f, "x", NULL);
    EXPECT_EQ(import(&f, "x", text_one, &err), 1); /* is back: nobody deleted it by request */
    EXPECT_EQ(put_text(&f, "x", text_two, &info, &err), 0); /* wins */
    EXPECT(import(&f, "x", text_one, &err) < 0 && err.code == ERR_CONFLICT);
    EXPECT(import(&f, "x", NULL, &err) < 0 && err.code == ERR_CONFLICT);
    expect_content(&f, "x", text_two);
    EXPECT_EQ(import(&f, "y", text_one, &err), 1);
    EXPECT_EQ(put_text(&f, "y", text_one, &info, &err), 0); /* the same content, but sent */
    EXPECT(import(&f, "y", text_two, &err) < 0 && err.code == ERR_CONFLICT);
    EXPECT_EQ(import(&f, "z", text_one, &err), 1);
    EXPECT_EQ(delete_name(&f, "z", &err), 0); /* stays so */
    ASSERT(fixture_restart(&f));
    EXPECT(import(&f, "z", text_one, &err) < 0 && err.code == ERR_CONFLICT);
    EXPECT(import(&f, "z", NULL, &err) < 0 && err.code == ERR_CONFLICT);
    EXPECT_EQ(delete_name(&f, "z", &err), -1);
    EXPECT_EQ(err.code, ERR_ADAPTER_NOT_FOUND);
    EXPECT_EQ(put_text(&f, "z", text_two, &info, &err), 0);
    expect_content(&f, "z", text_two);
    EXPECT(import(&f, "gqa", text_one, &err) < 0 && err.code == ERR_INVALID);
    EXPECT(import(&f, "w", "{", &err) < 0 && err.code == ERR_ADAPTER);
    fixture_close(&f);
}

/* A put that comes between the beginning of an import and its run. */
TEST(registry_import_loses_to_a_put_meanwhile)
{
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    const struct adapter_file file = {"adapter.json", text_two, sizeof text_two - 1};
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    EXPECT_EQ(import(&f, "x", text_one, &err), 1);
    struct adapter_change *c[] = {adapters_import_begin(f.a, TENANT, "x", &file, 1, &err),
                                  adapters_import_begin(f.a, TENANT, "x", NULL, 0, &err)};
    EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0);
    for (int i = 0; i < 2; i++) {
        ASSERT(c[i]);
        EXPECT(carry_out(&f, c[i], NULL, &info, &err) < 0 && err.code == ERR_CONFLICT);
    }
    expect_content(&f, "x", text_one);
    fixture_close(&f);
}

/* ---- tenants ------------------------------------------------------------------------- */

TEST(registry_keeps_tenants_apart)
{
    struct fixture f;
    struct err err = {0}, other = {0};
    struct adapter_info info;
    struct adapter_file_look look;
    struct buf seen = {0};
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    int64_t acme = fixture_add_tenant(&f, "acme");
    EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0);
    EXPECT(acquire_of(&f, acme, "x", &err) == NULL && acquire_of(&f, acme, "y", &other) == NULL);
    EXPECT(err.code == ERR_MODEL_NOT_FOUND && other.code == ERR_MODEL_NOT_FOUND);
    err.msg[strlen("The model `")] = 'y';
    EXPECT_STR(err.msg, other.msg);
    EXPECT_EQ(adapters_info(f.a, acme, "x", &info, &err), -1);
    EXPECT_EQ(err.code, ERR_ADAPTER_NOT_FOUND);
    EXPECT(adapters_delete_begin(f.a, acme, "x", &err) == NULL);
    EXPECT_EQ(adapters_find_file(f.a, acme, "x", "adapter.json", &look, &err), -1);
    adapters_each_after(f.a, acme, "", 10, note_name, &seen);
    EXPECT_EQ(seen.len, 0);

    /* Equal content is compiled for each. */
    uint64_t compiles = stats_of(&f).compiles;
    EXPECT_EQ(put_text_of(&f, acme, "x", text_one, &info, &err), 0);
    EXPECT_EQ(stats_of(&f).compiles, compiles + 1);
    EXPECT_EQ(info.tenant, acme);
    struct adapter_version *v = acquire(&f, "x", &err), *w = acquire_of(&f, acme, "x", &err);
    ASSERT(v && w);
    EXPECT(v != w);
    adapters_release(v);
    adapters_release(w);

    /* A public one is everybody's who has no own of its name. */
    EXPECT_EQ(put_text(&f, "p", text_two, &info, &err), 0);
    EXPECT_EQ(adapters_set_flags(f.a, TENANT, "p", 1, -1, &err), 0);
    v = acquire_of(&f, acme, "p", &err);
    w = acquire(&f, "p", &err);
    ASSERT(v && v == w);
    EXPECT_EQ(adapters_info(f.a, acme, "p", &info, &err), 0);
    EXPECT(info.is_public && info.tenant == TENANT && info.n_refs == 2);
    EXPECT(adapters_delete_begin(f.a, acme, "p", &err) == NULL);
    EXPECT_EQ(adapters_find_file(f.a, acme, "p", "adapter.json", &look, &err), -1);
    adapters_each_after(f.a, acme, "", 10, note_name, &seen);
    EXPECT_STR(seen.data, "p x ");
    EXPECT_EQ(put_text_of(&f, acme, "p", text_one, &info, &err), 0);
    EXPECT(!info.is_public && info.tenant == acme);
    adapters_release(v);
    adapters_release(w);
    buf_free(&seen);
    fixture_close(&f);
}

/* ---- other processes ----------------------------------------------------------------- */

/* Two registries with stores of their own on one folder, as two workers have them. */
static bool open_beside(struct fixture *other, const struct fixture *f)
{
    *other = *f;
    other->store = store_open(&(struct store_opts){.dir = f->state, .is_volatile = true}, NULL);
    const struct adapters_opts opts = {
        .engine = f->engine, .base = f->base, .base_name = "gqa", .store = other->store};
    other->a = other->store ? adapters_open(&opts) : NULL;
    return other->a != NULL;
}

TEST(registry_sees_what_others_change)
{
    struct fixture f, g;
    struct err err = {0};
    struct adapter_info info;
    char first[DIGEST_HEX + 1], second[DIGEST_HEX + 1];
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    ASSERT(open_beside(&g, &f));
    for (int i = 0; i < 5; i++) {
        struct fixture *one = i % 2 ? &f : &g, *two = i % 2 ? &g : &f;
        EXPECT_EQ(put_text(one, "x", text_one, &info, &err), 0);
        memcpy(first, info.version, sizeof first);
        struct adapter_version *v = acquire(two, "x", &err);
        ASSERT(v);
        EXPECT_STR(adapter_version_digest(v), first);
        EXPECT_EQ(put_text(one, "x", text_two, &info, &err), 0);
        memcpy(second, info.version, sizeof second);
        struct adapter_version *w = acquire(two, "x", &err);
        ASSERT(w && w != v);
        EXPECT_STR(adapter_version_digest(w), second);
        adapters_release(v);
        EXPECT_EQ(roll_back(two, "x", first, NULL, &info, &err), 0);
        v = acquire(one, "x", &err);
        ASSERT(v);
        EXPECT_STR(adapter_version_digest(v), first);
        adapters_release(v);
        adapters_release(w);
        EXPECT_EQ(delete_name(two, "x", &err), 0);
        EXPECT(!has(one, "x") && !acquire(one, "x", &err) && err.code == ERR_MODEL_NOT_FOUND);
    }
    EXPECT_EQ(stats_of(&f).load_failures + stats_of(&g).load_failures, 0);
    adapters_free(g.a);
    store_close(g.store);
    fixture_close(&f);
}

/* ---- at once ------------------------------------------------------------------------- */

struct runner {
    struct adapter_change *change;
    struct err err;
    int rc;
};

static void *run_on_pool(void *arg)
{
    struct runner *r = arg;
    r->rc = adapter_change_run(r->change, &r->err);
    return NULL;
}

/* Changes of several tenants run beside each other and beside requests and loads here: thread
 * sanitizer looks on. */
TEST(registry_changes_of_tenants_at_once)
{
    enum { TENANTS = 4, ROUNDS = 6 };
    struct fixture f;
    struct err err = {0};
    struct adapter_info info;
    int64_t tenants[TENANTS];
    if (!fixture_open(&f, DTYPE_CHOICE_AUTO, false))
        return;
    for (int t = 0; t < TENANTS; t++)
        tenants[t] = fixture_add_tenant(&f, (const char[]){(char)('a' + t), 0});
    EXPECT_EQ(put_text(&f, "x", text_one, &info, &err), 0);
    for (int i = 0; i < ROUNDS; i++) {
        struct runner runners[TENANTS] = {0};
        pthread_t threads[TENANTS];
        char json[TENANTS][80];
        for (int t = 0; t < TENANTS; t++) {
            snprintf(json[t], sizeof json[t], "{\"kind\":\"text\",\"text\":\"%d of %d\"}", i, t);
            const struct adapter_file file = {"adapter.json", json[t], strlen(json[t])};
            runners[t].change = adapters_put_begin(f.a, tenants[t], "x", &file, 1, &err);
            ASSERT(runners[t].change);
            ASSERT(pthread_create(&threads[t], NULL, run_on_pool, &runners[t]) == 0);
        }
        for (int n = 0; n < 50; n++) {
            struct adapter_version *v = acquire_of(&f, n % 2 ? TENANT : tenants[0], "x", &err);
            EXPECT(v || n % 2 == 0);
            if (v)
                adapters_release(v);
        }
        for (int t = 0; t < TENANTS; t++) {
            pthread_join(threads[t], NULL);
            if (runners[t].rc < 0)
                test_fail(__FILE__, __LINE__, "%s", runners[t].err.msg);
            else
                EXPECT_EQ(adapters_commit(f.a, runners[t].change, &info, &err), 0);
            EXPECT_EQ(info.tenant, tenants[t]);
            adapter_change_free(runners[t].change);
        }
    }
    fixture_close(&f);
}
