/* Flags, the JSON file and defaults; every refusal names the thing, the value and what is
 * accepted. */
#include "config/config.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/test.h"

enum { MAX_ARGS = 16 };

/* Runs config_from_args over words separated by blanks; "--model m" comes first unless
 * bare. */
static enum config_action run_words(struct config *cfg, const char *words, bool bare,
                                    struct err *err)
{
    static char copy[1024];
    char *argv[MAX_ARGS + 1] = {0}, *rest = copy;
    int argc = 0;
    snprintf(copy, sizeof copy, "prefixd %s %s", bare ? "" : "--model m", words);
    for (char *w; argc < MAX_ARGS && (w = strtok_r(rest, " ", &rest));)
        argv[argc++] = w;
    *err = (struct err){0};
    return config_from_args(cfg, argc, argv, err);
}

static void expect_refused(const char *words, const char *thing, const char *value,
                           const char *accepted)
{
    struct config cfg;
    struct err err;
    if (run_words(&cfg, words, false, &err) != CONFIG_BAD) {
        test_fail(__FILE__, __LINE__, "accepted: %s", words);
        config_fini(&cfg);
        return;
    }
    EXPECT_EQ(err.code, ERR_INVALID);
    EXPECT(!strchr(err.msg, '\n'));
    if (!strstr(err.msg, thing) || !strstr(err.msg, value) || !strstr(err.msg, accepted))
        test_fail(__FILE__, __LINE__, "\"%s\" does not name %s, %s and %s", err.msg, thing,
                  value, accepted);
}

static void expect_int(const char *words, size_t offset, int64_t want)
{
    struct config cfg;
    struct err err;
    if (run_words(&cfg, words, false, &err) != CONFIG_RUN) {
        test_fail(__FILE__, __LINE__, "%s: %s", words, err.msg);
        return;
    }
    EXPECT_EQ(*(int64_t *)(void *)((char *)&cfg + offset), want);
    config_fini(&cfg);
}

#define EXPECT_INT(words, field, want)                                                     \
    expect_int(words, offsetof(struct config, field), want)

/* A temporary JSON file; free and unlink with drop_file. */
static char *write_file(const void *text, size_t len)
{
    char *path = strdup("/tmp/prefixd-test-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, text, len) != (ssize_t)len)
        test_fail(__FILE__, __LINE__, "cannot write %s", path);
    close(fd);
    return path;
}

static void drop_file(char *path)
{
    unlink(path);
    free(path);
}

static void expect_file_refused(const char *json, const char *thing, const char *value,
                                const char *accepted)
{
    char words[256], *path = write_file(json, strlen(json));
    snprintf(words, sizeof words, "--config %s", path);
    expect_refused(words, thing, value, accepted);
    drop_file(path);
}

TEST(config_defaults)
{
    struct config cfg;
    struct err err;
    ASSERT(run_words(&cfg, "", false, &err) == CONFIG_RUN);
    EXPECT_STR(cfg.model, "m");
#define SAME_STR(field, flag, key, def, ...)                                               \
    if (strcmp(#field, "model") != 0)                                                      \
        EXPECT_STR(cfg.field, def);
#define SAME_INT(field, flag, key, def, ...) EXPECT_EQ(cfg.field, def);
#define SAME_BOOL(field, flag, key, def, ...) EXPECT_EQ(cfg.field, def);
    CONFIG_KEYS(SAME_STR, SAME_INT, SAME_BOOL)
    config_fini(&cfg);
}

TEST(config_flags_as_word_or_with_equals)
{
    struct config cfg;
    struct err err;
    ASSERT(run_words(&cfg,
                     "--name=base --adapters dir --listen=0.0.0.0:0 --dtype bf16 "
                     "--log-format=json --api-key-file= --state a=b",
                     false, &err) == CONFIG_RUN);
    EXPECT_STR(cfg.name, "base");
    EXPECT_STR(cfg.adapters, "dir");
    EXPECT_STR(cfg.listen, "0.0.0.0:0");
    EXPECT_STR(cfg.dtype, "bf16");
    EXPECT_STR(cfg.log_format, "json");
    EXPECT_STR(cfg.api_key_file, "");
    EXPECT_STR(cfg.state, "a=b");
    config_fini(&cfg);
    EXPECT_INT("--threads 3", threads, 3);
    EXPECT_INT("--ctx=2048", ctx, 2048);
    EXPECT_INT("--max-batch 1024", max_batch, 1024);
    EXPECT_INT("--threads 3 --threads=4", threads, 4);
}

TEST(config_bytes_take_suffixes)
{
    EXPECT_INT("--kv-bytes 12345", kv_bytes, 12345);
    EXPECT_INT("--kv-bytes 3k", kv_bytes, 3 << 10);
    EXPECT_INT("--kv-bytes 3K", kv_bytes, 3 << 10);
    EXPECT_INT("--kv-bytes 512M", kv_bytes, 512 << 20);
    EXPECT_INT("--kv-bytes=2G", kv_bytes, (int64_t)2 << 30);
    EXPECT_INT("--kv-bytes 9223372036854775807", kv_bytes, INT64_MAX);
    expect_refused("--kv-bytes 9223372036854775808", "--kv-bytes", "9223372036854775808",
                   "0 or more bytes");
    expect_refused("--kv-bytes 20000000000G", "--kv-bytes", "20000000000G", "0 or more");
    expect_refused("--kv-bytes 1T", "--kv-bytes", "1T", "k, M or G");
    expect_refused("--kv-bytes 1KB", "--kv-bytes", "1KB", "k, M or G");
    expect_refused("--ctx 2k", "--ctx", "2k", "tokens");
}

TEST(config_refuses_by_name_and_value)
{
    expect_refused("--threads 1025", "--threads", "\"1025\"", "0 to 1024 threads");
    expect_refused("--threads -1", "--threads", "\"-1\"", "0 to 1024");
    expect_refused("--max-batch 0", "--max-batch", "\"0\"", "1 to 1024");
    expect_refused("--threads two", "--threads", "\"two\"", "0 to 1024");
    expect_refused("--threads 1.5", "--threads", "\"1.5\"", "0 to 1024");
    expect_refused("--threads 0x10", "--threads", "\"0x10\"", "0 to 1024");
    expect_refused("--threads=", "--threads", "\"\"", "0 to 1024");
    expect_refused("--threads 99999999999999999999", "--threads", "999", "0 to 1024");
    expect_refused("--dtype f16", "--dtype", "\"f16\"", "auto|f32|bf16|int8|int4");
    expect_refused("--dtype=", "--dtype", "\"\"", "auto|f32|bf16|int8|int4");
    expect_refused("--dtype auto|f32", "--dtype", "\"auto|f32\"", "auto|f32|bf16|int8|int4");
    expect_refused("--log-format xml", "--log-format", "\"xml\"", "text|json");
    expect_refused("--thread 1", "unknown flag", "\"--thread\"", "--help");
    expect_refused("--max-queue 1", "unknown flag", "\"--max-queue\"", "--help");
    expect_refused("stray", "unknown flag", "\"stray\"", "--help");
    expect_refused("-m x", "unknown flag", "\"-m\"", "--help");
    expect_refused("--threads", "--threads: no value is given", "compute threads", "0 to 1024");
    expect_refused("--name --threads 2", "--name: no value is given", "name in the API", "text");
}

TEST(config_needs_a_model)
{
    struct config cfg;
    struct err err;
    EXPECT_EQ(run_words(&cfg, "", true, &err), CONFIG_BAD);
    EXPECT(strstr(err.msg, "--model") && strstr(err.msg, "GGUF"));
    EXPECT_EQ(run_words(&cfg, "--model=", true, &err), CONFIG_BAD);
}

TEST(config_message_stays_one_line)
{
    char name[] = "prefixd", flag[] = "--threads", value[] = "a\nb\x1b[31m";
    char *argv[] = {name, flag, value, NULL};
    struct config cfg;
    struct err err = {0};
    EXPECT_EQ(config_from_args(&cfg, 3, argv, &err), CONFIG_BAD);
    EXPECT(strstr(err.msg, "\"a?b?[31m\"") != NULL);
}

static void expect_in_both(const char *help, const char *table, const char *flag,
                           const char *key)
{
    char name[64];
    snprintf(name, sizeof name, flag ? "  --%s " : "  %s ", flag ? flag : key);
    if (!strstr(help, name))
        test_fail(__FILE__, __LINE__, "the help lacks %s", name);
    snprintf(name, sizeof name, "| `%s%s` |", key ? "" : "--", key ? key : flag);
    if (!strstr(table, name))
        test_fail(__FILE__, __LINE__, "the table lacks %s", name);
}

TEST(config_help_and_version)
{
    struct config cfg;
    struct err err;
    struct buf help = {0}, table = {0};
    EXPECT_EQ(run_words(&cfg, "--help", true, &err), CONFIG_HELP);
    EXPECT_EQ(run_words(&cfg, "--version", true, &err), CONFIG_VERSION);
    EXPECT_EQ(run_words(&cfg, "--threads 2 --help", true, &err), CONFIG_HELP);
    config_help(&help);
    config_markdown(&table);
#define IN_BOTH(field, flag, key, ...) expect_in_both(help.data, table.data, flag, key);
    CONFIG_KEYS(IN_BOTH, IN_BOTH, IN_BOTH)
    EXPECT(strstr(help.data, "k, M or G") != NULL);
    EXPECT(strstr(help.data, "1 to 1024 sequences; default 32") != NULL);
    EXPECT(strstr(table.data, "| `--dtype` | `dtype` | auto | auto\\|f32\\|bf16\\|int8\\|int4 |") !=
           NULL);
    EXPECT(strstr(table.data, "|  | `drain_ms` | 30000 | 0 to 3600000 ms |") != NULL);
    buf_free(&help);
    buf_free(&table);
}

TEST(config_flags_win_over_the_file)
{
    static const char json[] = "{\"model\":\"f\",\"threads\":2,\"ctx\":99,"
                               "\"allow_unauthenticated_remote\":true,\"dtype\":\"f32\"}";
    char words[256], *path = write_file(json, strlen(json));
    struct config cfg;
    struct err err;
    snprintf(words, sizeof words, "--threads 5 --config=%s", path);
    ASSERT(run_words(&cfg, words, true, &err) == CONFIG_RUN);
    EXPECT_STR(cfg.model, "f");
    EXPECT_EQ(cfg.threads, 5);
    EXPECT_EQ(cfg.ctx, 99);
    EXPECT(cfg.allow_open);
    EXPECT_STR(cfg.dtype, "f32");
    EXPECT_STR(cfg.config, path);
    EXPECT_EQ(cfg.max_queue, 1024);
    config_fini(&cfg);
    drop_file(path);
}

TEST(config_file_is_strict)
{
    expect_file_refused("{\"treads\":2}", "unknown key", "\"treads\"", "--help");
    expect_file_refused("{\"kv-bytes\":2}", "unknown key", "\"kv-bytes\"", "--help");
    expect_file_refused("{\"config\":\"x\"}", "unknown key", "\"config\"", "--help");
    expect_file_refused("{\"threads\":1025}", "threads: 1025 is", "prefixd-test", "0 to 1024 threads");
    expect_file_refused("{\"threads\":\"2\"}", "threads", ": \"2\" is", "0 to 1024");
    expect_file_refused("{\"threads\":true}", "threads", "true", "0 to 1024");
    expect_file_refused("{\"threads\":null}", "threads", "null", "0 to 1024");
    expect_file_refused("{\"threads\":1.5}", "--config", "byte", "integers");
    expect_file_refused("{\"threads\":-1}", "--config", "byte", "integers");
    expect_file_refused("{\"model\":7}", "model: 7 is", "prefixd-test", "text");
    expect_file_refused("{\"dtype\":\"f16\"}", "dtype: \"f16\" is", "prefixd-test", "auto|f32|bf16|int8|int4");
    expect_file_refused("{\"allow_unauthenticated_remote\":1}",
                        "allow_unauthenticated_remote: 1 is", "prefixd-test", "true or false");
    expect_file_refused("{\"drain_ms\":3600001}", "drain_ms", "3600001", "0 to 3600000 ms");
    expect_file_refused("{\"threads\":1,\"threads\":2}", "--config", "byte", "twice");
    expect_file_refused("[]", "--config", "prefixd-test", "object");
    expect_file_refused("", "--config", "prefixd-test", "byte 0");
    expect_file_refused("{\"model\":\"a\\u0000b\"}", "--config", "byte", "U+0000");
}

/* They would stand in headers and log lines. */
TEST(config_text_has_no_control_characters)
{
    char name[] = "prefixd", model[] = "--model=m", flag[] = "--name", value[] = "a\nb";
    char *argv[] = {name, model, flag, value, NULL};
    struct config cfg;
    struct err err = {0};
    EXPECT_EQ(config_from_args(&cfg, 4, argv, &err), CONFIG_BAD);
    EXPECT_STR(err.msg, "--name: \"a?b\" is not accepted; accepted: text without control "
                        "characters");
    expect_file_refused("{\"cors_origin\":\"http://a\\r\\nX: y\"}", "cors_origin: ",
                        "\"http://a\\r\\nX: y\" is", "without control characters");
    expect_file_refused("{\"cors_origin\":\"\\u007f\"}", "cors_origin: ", "prefixd-test",
                        "without control characters");
}

TEST(config_tells_who_reads_its_refusals)
{
    static const struct {
        const char *words[3];
        bool wants;
    } rows[] = {
        {{"--log-format", "json", "--frob"}, true},
        {{"--frob", "--log-format=json"}, true},
        {{"--log-format=json", "--log-format", "text"}, false},
        {{"--log-format", "xml"}, false},
        {{"--name", "--log-format"}, false},
        {{"json"}, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *argv[4] = {strdup("prefixd")};
        int argc = 1;
        for (; argc < 4 && rows[i].words[argc - 1]; argc++)
            argv[argc] = strdup(rows[i].words[argc - 1]);
        EXPECT_EQ(config_wants_json(argc, argv), rows[i].wants);
        while (argc)
            free(argv[--argc]);
    }
}

TEST(config_file_must_be_readable)
{
    expect_refused("--config /nonexistent/x.json", "--config", "/nonexistent/x.json",
                   "JSON");
    expect_refused("--config /", "--config", " /:", "JSON");
}

/* The example holds every key with its default, so that it documents and changes nothing.
 */
TEST(config_example_matches_the_table)
{
    struct config cfg, plain;
    struct err err;
    char words[4400], *path = test_path("config/prefixd.example.json");
    snprintf(words, sizeof words, "--config %s", path);
    ASSERT(run_words(&plain, "", false, &err) == CONFIG_RUN);
    ASSERT(run_words(&cfg, words, false, &err) == CONFIG_RUN);
#define EQUAL_STR(field, flag, key, ...)                                                   \
    if ((key) != NULL)                                                                     \
        EXPECT_STR(cfg.field, plain.field);
#define EQUAL_INT(field, ...) EXPECT_EQ(cfg.field, plain.field);
    CONFIG_KEYS(EQUAL_STR, EQUAL_INT, EQUAL_INT)
    config_fini(&cfg);
    config_fini(&plain);
    free(path);
}

static char *read_all(const char *rel)
{
    char *path = test_path(rel), *text = calloc(1, 1 << 16);
    FILE *f = fopen(path, "rb");
    if (f) {
        if (!fread(text, 1, (1 << 16) - 1, f))
            test_fail(__FILE__, __LINE__, "cannot read %s", path);
        fclose(f);
    }
    free(path);
    return text;
}

TEST(config_example_has_every_key)
{
    char *text = read_all("config/prefixd.example.json");
    cJSON *root = cJSON_Parse(text);
    int n_keys = 0;
    ASSERT(root != NULL);
#define HAS_KEY(field, flag, key, ...)                                                     \
    if ((key) != NULL) {                                                                   \
        n_keys++;                                                                          \
        if (!cJSON_GetObjectItemCaseSensitive(root, (key) ? (key) : ""))                   \
            test_fail(__FILE__, __LINE__, "the example lacks %s", #field);                 \
    }
    CONFIG_KEYS(HAS_KEY, HAS_KEY, HAS_KEY)
    EXPECT_EQ(cJSON_GetArraySize(root), n_keys);
    cJSON_Delete(root);
    free(text);
}
