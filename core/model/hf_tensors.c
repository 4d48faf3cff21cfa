/* Opening of a Hugging Face checkpoint: one safetensors file, or shards listed in an
 * index. */
#include "core/model/hf_tensors.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/json_check.h"
#include "core/base/mem.h"
#include "core/base/safetensors.h"
#include "core/model/hf_config.h"
#include "core/model/source.h"

enum { MAX_SHARDS = 1024, MAX_TENSORS = 1 << 17 };

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

static char *join(const char *dir, const char *name)
{
    size_t size = strlen(dir) + strlen(name) + 2;
    char *path = xmalloc(size);
    snprintf(path, size, "%s/%s", dir, name);
    return path;
}

static int map_in(struct mapped_file *f, const char *dir, const char *name, struct err *err)
{
    char *path = join(dir, name);
    int rc = mapped_file_open(f, path, err);
    free(path);
    return rc;
}

static bool is_there(const char *dir, const char *name)
{
    char *path = join(dir, name);
    bool found = access(path, F_OK) == 0;
    free(path);
    return found;
}

static int read_config(const char *dir, struct model_desc *d, struct err *err)
{
    struct mapped_file f = {0};
    if (map_in(&f, dir, "config.json", err) < 0)
        return -1;
    int rc = hf_config_parse((const char *)f.data, f.len, d, err);
    mapped_file_close(&f);
    if (rc < 0 || !is_there(dir, "generation_config.json"))
        return rc;
    if (map_in(&f, dir, "generation_config.json", err) < 0)
        return -1;
    rc = hf_config_add_generation((const char *)f.data, f.len, d, err);
    mapped_file_close(&f);
    return rc;
}

/* Old checkpoints carry the rotary frequencies, which follow from the configuration. */
static bool is_ignored(const char *name)
{
    static const char suffix[] = ".rotary_emb.inv_freq";
    size_t len = strlen(name), n = sizeof suffix - 1;
    return len > n && strcmp(name + len - n, suffix) == 0;
}

static int claim(struct source *src, const struct st_tensor *st, struct err *err)
{
    static const enum tensor_format formats[] = {
        [DTYPE_F32] = FORMAT_F32, [DTYPE_BF16] = FORMAT_BF16, [DTYPE_F16] = FORMAT_F16};
    if (is_ignored(st->name))
        return 0;
    if (!st->is_float)
        return err_set(err, ERR_INVALID,
                       "tensor \"%.100s\" has dtype %s; accepted: F32, F16, BF16", st->name,
                       st->dtype_text);
    if (st->n_dims < 1 || st->n_dims > 2 || st->n_elems == 0)
        return err_set(err, ERR_INVALID, "tensor \"%.100s\" has %d dimensions or is empty",
                       st->name, st->n_dims);
    struct source_tensor t = {
        .data = st->data,
        .format = formats[st->dtype],
        .n_out = st->dims[0],
        .n_in = st->n_dims == 2 ? st->dims[1] : 0,
    };
    return source_claim(src, st->name, &t, err);
}

static int parse_shard(const struct mapped_file *f, const char *name,
                       struct safetensors *st, struct err *err)
{
    struct st_limits lim = {.max_header = 64 << 20, .max_tensors = MAX_TENSORS};
    struct err why = {0};
    if (safetensors_parse(st, f->data, f->len, &lim, &why) < 0)
        return err_set(err, why.code, "%.80s: %.200s", name, why.msg);
    return 0;
}

static int claim_all(struct source *src, const struct safetensors *st, struct err *err)
{
    for (size_t i = 0; i < st->n_tensors; i++)
        if (claim(src, &st->tensors[i], err) < 0)
            return -1;
    return 0;
}

static int load_single(struct source *src, const char *dir, struct err *err)
{
    struct safetensors st;
    src->files = xcalloc(1, sizeof *src->files);
    if (map_in(&src->files[0], dir, single_name, err) < 0)
        return -1;
    src->n_files = 1;
    if (parse_shard(&src->files[0], single_name, &st, err) < 0)
        return -1;
    int rc = claim_all(src, &st, err);
    safetensors_fini(&st);
    return rc;
}

/* The shards of an index, each with the number of tensors that the index puts there. */
struct shard_list {
    const char *names[MAX_SHARDS]; /* the JSON tree's */
    int n;
};

static int add_shard(struct shard_list *l, const cJSON *entry, struct err *err)
{
    const char *file = cJSON_IsString(entry) ? entry->valuestring : "";
    if (!*file || strchr(file, '/') || file[0] == '.')
        return err_set(err, ERR_INVALID,
                       "%s: the file of \"%.80s\" must be a plain file name", index_name,
                       entry->string);
    for (int i = 0; i < l->n; i++)
        if (strcmp(l->names[i], file) == 0)
            return 0;
    if (l->n == MAX_SHARDS)
        return err_set(err, ERR_INVALID, "%s: more than %d files", index_name, MAX_SHARDS);
    l->names[l->n++] = file;
    return 0;
}

/* Index and shard must agree: what the map puts here is here, and nothing else is. */
static int check_shard(const cJSON *map, const struct safetensors *st, const char *name,
                       struct err *err)
{
    const cJSON *entry;
    size_t n_mapped = 0;
    cJSON_ArrayForEach(entry, map)
    {
        if (strcmp(entry->valuestring, name) != 0)
            continue;
        if (!safetensors_find(st, entry->string))
            return err_set(err, ERR_INVALID, "tensor \"%.100s\" is missing from %.80s",
                           entry->string, name);
        n_mapped++;
    }
    if (n_mapped != st->n_tensors)
        return err_set(err, ERR_INVALID, "%.80s holds %zu tensors, but the index lists %zu",
                       name, st->n_tensors, n_mapped);
    return 0;
}

static int load_shard(struct source *src, const char *dir, const cJSON *map,
                      const char *name, struct err *err)
{
    struct mapped_file *f = &src->files[src->n_files];
    struct safetensors st;
    if (map_in(f, dir, name, err) < 0)
        return -1;
    src->n_files++;
    if (parse_shard(f, name, &st, err) < 0)
        return -1;
    int rc = check_shard(map, &st, name, err);
    if (rc == 0)
        rc = claim_all(src, &st, err);
    safetensors_fini(&st);
    return rc;
}

static int load_mapped(struct source *src, const char *dir, const cJSON *map,
                       struct err *err)
{
    if (!cJSON_IsObject(map))
        return err_set(err, ERR_INVALID, "%s: weight_map must be an object", index_name);
    struct shard_list shards = {.n = 0};
    const cJSON *entry;
    cJSON_ArrayForEach(entry, map)
        if (add_shard(&shards, entry, err) < 0)
            return -1;
    src->files = xcalloc((size_t)shards.n, sizeof *src->files);
    for (int i = 0; i < shards.n; i++)
        if (load_shard(src, dir, map, shards.names[i], err) < 0)
            return -1;
    return 0;
}

static int load_index(struct source *src, const char *dir, struct err *err)
{
    struct json_limits lim = {
        .max_len = 64 << 20, .max_depth = 8, .max_items = 2 * MAX_TENSORS};
    struct mapped_file f = {0};
    struct err why = {0};
    if (map_in(&f, dir, index_name, err) < 0)
        return -1;
    cJSON *root = NULL;
    int rc = json_check((const char *)f.data, f.len, &lim, &why);
    if (rc < 0)
        err_set(err, ERR_INVALID, "%s: %s", index_name, why.msg);
    else
        root = cJSON_ParseWithLength((const char *)f.data, f.len);
    mapped_file_close(&f);
    if (rc == 0)
        rc = load_mapped(src, dir, cJSON_GetObjectItemCaseSensitive(root, "weight_map"),
                         err);
    cJSON_Delete(root);
    return rc;
}

static int load(struct source *src, const char *dir, struct err *err)
{
    if (is_there(dir, single_name))
        return load_single(src, dir, err);
    if (is_there(dir, index_name))
        return load_index(src, dir, err);
    return err_set(
        err, ERR_NOT_FOUND,
        "the directory has no %s and no %s (pickles such as pytorch_model.bin are not "
        "read)",
        single_name, index_name);
}

struct source *hf_tensors_open(const char *dir, struct err *err)
{
    struct model_desc desc;
    if (!is_there(dir, "config.json")) {
        err_set(err, ERR_NOT_FOUND, "it has no config.json; " SOURCE_ACCEPTED);
        return NULL;
    }
    if (read_config(dir, &desc, err) < 0)
        return NULL;
    struct source *src = source_new(&desc, ROLE_NAMES_HF);
    if (load(src, dir, err) == 0 && source_complete(src, err) == 0)
        return src;
    source_free(src);
    return NULL;
}
