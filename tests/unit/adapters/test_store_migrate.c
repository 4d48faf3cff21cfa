/* store: state folders of older and newer daemons. */
#define _GNU_SOURCE
#include "adapters/store.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"
#include "tests/unit/adapters/stored.h"

/* ---- state folders of older daemons -------------------------------------------------- */

static void write_blob(const char *dir, int v)
{
    char path[512], version[DIGEST_HEX + 1], *weights = stored_weights(v);
    stored_version(v, version);
    snprintf(path, sizeof path, "%s/blobs", dir);
    adapter_files_make_dir(path, version);
    snprintf(path, sizeof path, "%s/blobs/%s", dir, version);
    adapter_files_write(path, "adapter_config.json", "{}", 2);
    adapter_files_write(path, "adapter_model.safetensors", weights, STORED_BYTES);
    free(weights);
}

static void write_pointer(const char *dir, const char *file, int v)
{
    char path[512], version[DIGEST_HEX + 1], json[200];
    stored_version(v < 0 ? 0 : v, version);
    snprintf(path, sizeof path, "%s/adapters", dir);
    snprintf(json, sizeof json, "{\"version\": \"%s\", \"created\": %d}\n", version, 1000 + v);
    if (v < 0)
        snprintf(json, sizeof json, "{\"deleted\": true}\n");
    adapter_files_write(path, file, json, strlen(json));
}

static char *older_folder(void)
{
    char *dir = adapter_files_tmp_dir();
    adapter_files_make_dir(dir, "adapters");
    adapter_files_make_dir(dir, "blobs");
    for (int v = 0; v < STORED_VERSIONS; v++)
        write_blob(dir, v); /* 3 is nobody's */
    write_pointer(dir, "a.json", 0);
    write_pointer(dir, "b.json.json", 1);
    write_pointer(dir, "c-C_9.json", -1);
    return dir;
}

TEST(store_takes_pointer_files_over_once)
{
    char *dir = older_folder(), adapters[512];
    struct err err = {0};
    snprintf(adapters, sizeof adapters, "%s/adapters", dir);
    adapter_files_write(adapters, ".new-b", "{\"ver", 5);
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s);
    EXPECT(stored_in(s, 1, 0) == 0 && stored_in(s, 1, 1) == 1 && stored_in(s, 1, 2) == -2);
    EXPECT(stored_is_whole(s, 1, 0) && stored_is_whole(s, 1, 1) && !stored_is_whole(s, 1, 3));
    EXPECT(access(adapters, F_OK) != 0);
    EXPECT_EQ(store_delete(s, 1, stored_name(0), false, NULL, &err), 0);
    store_close(s);
    log_init(LOG_TEXT, LOG_ERROR + 1);
    adapter_files_make_dir(dir, "adapters");
    write_pointer(dir, "a.json", 1); /* as a kill between the commit and the removal leaves it */
    s = stored_open(dir, 1, &err);
    log_init(LOG_TEXT, LOG_ERROR);
    ASSERT(s);
    EXPECT(stored_in(s, 1, 0) == -1 && stored_in(s, 1, 1) == 1 && stored_in(s, 1, 2) == -2);
    store_close(s);
    adapter_files_remove_dir(dir);
    free(dir);
}

#define SLASHES "../../../../../../../../../../../../../../../../../../../../../x" /* 64 */

/* A pointer that somebody broke is left aside; no blob goes, since one may be its. */
TEST(store_leaves_damaged_pointers)
{
    static const char *const broken[] = {
        "", "{", "[]", "{\"version\": 7, \"created\": 1}", "{\"version\": \"..\", \"created\": 1}",
        "{\"version\": \"" SLASHES "\", \"created\": 1}", "{\"deleted\": false}"};
    struct err err = {0};
    log_init(LOG_TEXT, LOG_ERROR + 1);
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        char *dir = older_folder(), adapters[512];
        snprintf(adapters, sizeof adapters, "%s/adapters", dir);
        adapter_files_write(adapters, "a.json", broken[i], strlen(broken[i]));
        for (int again = 0; again < 2; again++) {
            struct store *s = stored_open(dir, 1, &err);
            ASSERT(s);
            EXPECT(stored_in(s, 1, 0) == STORED_DAMAGED && stored_in(s, 1, 1) == 1);
            EXPECT(stored_is_whole(s, 1, 0) && stored_is_whole(s, 1, 3));
            if (again && i % 2)
                EXPECT_EQ(stored_put(s, 1, 0, 0, &err), 0);
            else if (again)
                EXPECT_EQ(store_delete(s, 1, stored_name(0), false, NULL, &err), 0);
            store_close(s);
        }
        struct store *s = stored_open(dir, 1, &err);
        ASSERT(s);
        EXPECT_EQ(stored_in(s, 1, 0), i % 2 ? 0 : -1);
        store_close(s);
        EXPECT_EQ(stored_count(dir, "adapters", false), 1);
        adapter_files_remove_dir(dir);
        free(dir);
    }
    log_init(LOG_TEXT, LOG_ERROR);
}


TEST(store_refuses_a_registry_that_it_does_not_understand)
{
    char *dir = adapter_files_tmp_dir(), path[512];
    struct err err = {0};
    struct store *s = stored_open(dir, 1, &err);
    ASSERT(s && stored_put(s, 1, 0, 0, &err) == 0);
    store_close(s);
    snprintf(path, sizeof path, "%s/registry.db", dir);
    FILE *f = fopen(path, "r+b"); /* user_version is at 60, big-endian */
    ASSERT(f && fseek(f, 60, SEEK_SET) == 0 && fwrite("\0\0\3\0", 1, 4, f) == 4 && fclose(f) == 0);
    EXPECT(stored_open(dir, 1, &err) == NULL);
    EXPECT_EQ(err.code, ERR_CONFLICT);
    EXPECT(strstr(err.msg, "newer") != NULL);
    adapter_files_write(dir, "registry.db", "this is no database, however long one looks at it", 49);
    EXPECT(stored_open(dir, 1, &err) == NULL);
    EXPECT_EQ(err.code, ERR_IO);
    EXPECT_EQ(stored_count(dir, "blobs", false), 1);
    adapter_files_remove_dir(dir);
    free(dir);
}
