/* folder: what is found in a folder of adapters, in which order, and when a file counts as
 * whole. */
#include "adapters/folder.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"

enum { MAX_BYTES = 1 << 20 };

static const char text[] = "{\"kind\":\"text\",\"text\":\"hello\"}";

static void write_peft(const char *dir, const char *name)
{
    char path[600];
    struct buf config = {0}, weights = {0};
    adapter_files_make_dir(dir, name);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    adapter_files_config(&config, "PROMPT_TUNING", 5, "");
    adapter_files_tensors(&weights, "prompt_embeddings:F32:5,64");
    adapter_files_write(path, "adapter_config.json", config.data, config.len);
    adapter_files_write(path, "adapter_model.safetensors", weights.data, weights.len);
    buf_free(&config);
    buf_free(&weights);
}

static void write_text(const char *dir, const char *name)
{
    adapter_files_write(dir, name, text, sizeof text - 1);
}

/* "tenant/name=path kind" of every entry. */
static void expect_scan(const char *dir, const char *wanted)
{
    static const char *const kinds[] = {"tenant", "peft", "text"};
    struct folder f;
    struct buf seen = {0};
    struct err err = {0};
    EXPECT_EQ(folder_scan(dir, &f, &err), 0);
    for (size_t i = 0; i < f.n; i++)
        buf_printf(&seen, "%s/%s=%s %s\n", f.entries[i].tenant, f.entries[i].name,
                   f.entries[i].path, kinds[f.entries[i].kind]);
    EXPECT_STR(seen.data ? seen.data : "", wanted);
    buf_free(&seen);
    folder_fini(&f);
}

TEST(folder_scan_knows_tenants_from_adapters)
{
    char *dir = adapter_files_tmp_dir();
    expect_scan(dir, "");
    write_peft(dir, "sql");
    write_text(dir, "chef.json");
    write_text(dir, "sql.json");
    write_text(dir, "README.md");
    write_text(dir, ".hidden.json");
    write_peft(dir, ".git");
    adapter_files_make_dir(dir, "acme");
    write_peft(dir, "acme/sql");
    write_text(dir, "acme/pirate.json");
    adapter_files_make_dir(dir,
                           "acme/half"); /* below a tenant every folder is an adapter */
    adapter_files_make_dir(dir, "default");
    write_text(dir, "default/chef.json");
    write_text(dir, "default/own.json");
    adapter_files_make_dir(dir, "empty");
    expect_scan(dir, "acme/=acme tenant\n"
                     "acme/half=acme/half peft\n"
                     "acme/pirate=acme/pirate.json text\n"
                     "acme/sql=acme/sql peft\n"
                     "default/=default tenant\n"
                     "default/chef=chef.json text\n"
                     "default/chef=default/chef.json text\n"
                     "default/own=default/own.json text\n"
                     "default/sql=sql peft\n"
                     "default/sql=sql.json text\n"
                     "empty/=empty tenant\n");
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(folder_check_says_what_is_no_folder)
{
    struct err err = {0};
    struct folder f;
    char *dir = adapter_files_tmp_dir();
    char path[600];
    write_text(dir, "file");
    snprintf(path, sizeof path, "%s/file", dir);
    EXPECT_EQ(folder_check(dir, &err), 0);
    EXPECT_EQ(folder_check(path, &err), -1);
    EXPECT_EQ(err.code, ERR_INVALID);
    EXPECT_EQ(folder_check("/nowhere/at/all", &err), -1);
    EXPECT_EQ(folder_scan("/nowhere/at/all", &f, &err), -1);
    EXPECT_EQ(err.code, ERR_INVALID);
    folder_fini(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* Scans again and tells whether the only entry is as it was. */
static bool is_same_now(const char *dir, struct folder *before)
{
    struct folder now;
    struct err err = {0};
    EXPECT_EQ(folder_scan(dir, &now, &err), 0);
    bool is_same = now.n == 1 && folder_is_same(&now.entries[0], &before->entries[0]);
    folder_fini(before);
    *before = now;
    return is_same;
}

TEST(folder_stamps_tell_every_change)
{
    struct folder f;
    struct err err = {0};
    char *dir = adapter_files_tmp_dir(), from[600], to[600];
    struct timespec times[2] = {{.tv_sec = 1700000000}, {.tv_sec = 1700000000}};
    write_peft(dir, "sql");
    EXPECT_EQ(folder_scan(dir, &f, &err), 0);
    EXPECT(f.entries[0].changed_ns > 1700000000LL * 1000000000);
    EXPECT(is_same_now(dir, &f));
    snprintf(to, sizeof to, "%s/sql/adapter_model.safetensors", dir);
    EXPECT_EQ(utimensat(AT_FDCWD, to, times, 0), 0); /* the time alone */
    EXPECT(!is_same_now(dir, &f));
    EXPECT_EQ(truncate(to, 100), 0);
    EXPECT_EQ(utimensat(AT_FDCWD, to, times, 0), 0); /* the size alone */
    EXPECT(!is_same_now(dir, &f));
    EXPECT(is_same_now(dir, &f));
    snprintf(from, sizeof from, "%s/sql/.new", dir);
    write_text(dir, "sql/.new");
    EXPECT_EQ(truncate(from, 100), 0);
    EXPECT_EQ(utimensat(AT_FDCWD, from, times, 0), 0);
    EXPECT_EQ(rename(from, to), 0); /* another file of the same size and time */
    EXPECT(!is_same_now(dir, &f));
    EXPECT_EQ(unlink(to), 0);
    EXPECT(!is_same_now(dir, &f));
    folder_fini(&f);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* As volumes of Kubernetes are swapped: one link in between turns to other folders. */
TEST(folder_sees_through_links)
{
    struct folder f;
    struct err err = {0};
    char *dir = adapter_files_tmp_dir(), path[600], next[600];
    adapter_files_make_dir(dir, "..one");
    adapter_files_make_dir(dir, "..two");
    write_text(dir, "..one/chef.json");
    write_text(dir, "..two/chef.json");
    snprintf(path, sizeof path, "%s/..data", dir);
    EXPECT_EQ(symlink("..one", path), 0);
    snprintf(path, sizeof path, "%s/chef.json", dir);
    EXPECT_EQ(symlink("..data/chef.json", path), 0);
    EXPECT_EQ(folder_scan(dir, &f, &err), 0);
    EXPECT(f.has_links && !f.is_partial);
    EXPECT(is_same_now(dir, &f));
    snprintf(next, sizeof next, "%s/..next", dir);
    snprintf(path, sizeof path, "%s/..data", dir);
    EXPECT_EQ(symlink("..two", next), 0);
    EXPECT_EQ(rename(next, path), 0);
    EXPECT(!is_same_now(dir, &f));
    folder_fini(&f);
    snprintf(path, sizeof path, "%s/gone.json", dir);
    EXPECT_EQ(symlink("..data/nothing.json", path), 0); /* leads nowhere: not there */
    expect_scan(dir, "default/chef=chef.json text\n");
    adapter_files_remove_dir(dir);
    free(dir);
}

enum { NOBODY = 65534 };

/* What cannot be looked at may still be there. Nobody but root may look everywhere, so root
 * is somebody else for a moment. */
TEST(folder_scan_is_partial_where_it_must_not_look)
{
    struct folder f;
    struct err err = {0};
    char *dir = adapter_files_tmp_dir(), path[600];
    bool is_root = geteuid() == 0;
    adapter_files_make_dir(dir, "acme");
    snprintf(path, sizeof path, "%s/acme", dir);
    EXPECT_EQ(chmod(path, 0), 0);
    EXPECT_EQ(chmod(dir, 0755), 0);
    if (is_root && seteuid(NOBODY) < 0)
        SKIP("this root cannot be anybody else");
    EXPECT_EQ(folder_scan(dir, &f, &err), 0);
    EXPECT(f.is_partial);
    folder_fini(&f);
    EXPECT(!is_root || seteuid(0) == 0);
    EXPECT_EQ(chmod(path, 0700), 0);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* ---- reading ------------------------------------------------------------------------- */

/* Of the only entry, as it is now. */
static enum folder_state read_now(const char *dir, struct loaded *out, struct err *err)
{
    struct folder f;
    *err = (struct err){0};
    EXPECT_EQ(folder_scan(dir, &f, err), 0);
    EXPECT_EQ(f.n, 1);
    enum folder_state state = folder_read(dir, &f.entries[0], MAX_BYTES, out, err);
    EXPECT((state == FOLDER_WHOLE) == (err->code == ERR_NONE));
    EXPECT(!strstr(err->msg, dir));
    folder_fini(&f);
    return state;
}

static void expect_state(const char *dir, enum folder_state wanted, const char *says)
{
    struct loaded l;
    struct err err;
    EXPECT_EQ(read_now(dir, &l, &err), wanted);
    EXPECT(strstr(err.msg, says) != NULL);
    if (!strstr(err.msg, says))
        printf("  it says: %s\n", err.msg);
    loaded_fini(&l);
}

TEST(folder_reads_files_by_the_names_of_an_adapter)
{
    struct loaded l;
    struct err err;
    char *dir = adapter_files_tmp_dir();
    write_peft(dir, "sql");
    EXPECT_EQ(read_now(dir, &l, &err), FOLDER_WHOLE);
    ASSERT(l.n_files == 2);
    EXPECT_STR(l.files[0].name, "adapter_config.json");
    EXPECT_STR(l.files[1].name, "adapter_model.safetensors");
    EXPECT(l.files[1].len > 5 * 64 * 4);
    loaded_fini(&l);
    adapter_files_remove_dir(dir);
    free(dir);
    dir = adapter_files_tmp_dir();
    write_text(dir, "chef.json");
    EXPECT_EQ(read_now(dir, &l, &err), FOLDER_WHOLE);
    ASSERT(l.n_files == 1);
    EXPECT_STR(l.files[0].name, "adapter.json");
    EXPECT_EQ(l.files[0].len, sizeof text - 1);
    loaded_fini(&l);
    adapter_files_remove_dir(dir);
    free(dir);
}

/* Every length but the whole one. */
TEST(folder_half_written_weights_are_unfinished)
{
    char *dir = adapter_files_tmp_dir(), path[600];
    struct stat st;
    write_peft(dir, "sql");
    snprintf(path, sizeof path, "%s/sql/adapter_model.safetensors", dir);
    EXPECT_EQ(stat(path, &st), 0);
    expect_state(dir, FOLDER_WHOLE, "");
    EXPECT_EQ(truncate(path, st.st_size + 1), 0);
    expect_state(dir, FOLDER_UNFINISHED, "adapter_model.safetensors");
    for (off_t len = st.st_size - 1; len > 0; len -= len > 120 ? 97 : 1) {
        EXPECT_EQ(truncate(path, len), 0);
        expect_state(dir, FOLDER_UNFINISHED, "adapter_model.safetensors");
    }
    EXPECT_EQ(truncate(path, 0), 0);
    expect_state(dir, FOLDER_UNFINISHED, "adapter_model.safetensors");
    EXPECT_EQ(unlink(path), 0);
    expect_state(dir, FOLDER_UNFINISHED, "adapter_model.safetensors is missing");
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(folder_half_written_json_is_unfinished)
{
    char *dir = adapter_files_tmp_dir();
    for (size_t len = 0; len < sizeof text - 1; len++) {
        adapter_files_write(dir, "chef.json", text, len);
        expect_state(dir, FOLDER_UNFINISHED, "adapter.json");
    }
    write_text(dir, "chef.json");
    expect_state(dir, FOLDER_WHOLE, "");
    adapter_files_remove_dir(dir);
    free(dir);
}

TEST(folder_refuses_pickles_and_what_is_no_file)
{
    char *dir = adapter_files_tmp_dir(), path[600];
    struct folder f;
    struct loaded l;
    struct err err = {0};
    write_peft(dir, "sql");
    EXPECT_EQ(folder_scan(dir, &f, &err), 0);
    EXPECT_EQ(folder_read(dir, &f.entries[0], 1000, &l, &err), FOLDER_REFUSED);
    EXPECT_EQ(err.code, ERR_TOO_LARGE);
    loaded_fini(&l);
    folder_fini(&f);
    snprintf(path, sizeof path, "%s/sql/adapter_model.safetensors", dir);
    EXPECT_EQ(unlink(path), 0);
    EXPECT_EQ(mkfifo(path, 0600), 0);
    expect_state(dir, FOLDER_REFUSED,
                 "not a regular file"); /* and does not wait for a writer */
    EXPECT_EQ(unlink(path), 0);
    adapter_files_write(dir, "sql/adapter_model.bin", "PK", 2);
    expect_state(dir, FOLDER_REFUSED, "safetensors");
    adapter_files_remove_dir(dir);
    free(dir);
}

/* Another content than that of the scan is left to the next scan. */
TEST(folder_reads_only_what_the_scan_saw)
{
    char *dir = adapter_files_tmp_dir();
    struct folder f;
    struct loaded l;
    struct err err = {0};
    write_text(dir, "chef.json");
    EXPECT_EQ(folder_scan(dir, &f, &err), 0);
    adapter_files_write(dir, "chef.json", "{\"kind\":\"text\",\"text\":\"other words\"}",
                        36);
    EXPECT_EQ(folder_read(dir, &f.entries[0], MAX_BYTES, &l, &err), FOLDER_UNFINISHED);
    EXPECT_EQ(err.code, ERR_CONFLICT);
    loaded_fini(&l);
    adapter_files_remove_dir(dir);
    EXPECT_EQ(folder_read(dir, &f.entries[0], MAX_BYTES, &l, &err), FOLDER_UNFINISHED);
    loaded_fini(&l);
    folder_fini(&f);
    free(dir);
}
