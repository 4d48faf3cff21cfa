/* A registry over a real store in a temporary folder and a real tiny model. */
#ifndef PREFIXD_TEST_REGISTRY_FIXTURE_H
#define PREFIXD_TEST_REGISTRY_FIXTURE_H

#include "adapters/adapters.h"
#include "core/base/buf.h"

/* The shape of the golden model "gqa": L = 3, d = 64, G = 2, D = 16, 256 positions. */
#define ROWS "prompt_embeddings:F32:5,64"
#define KV "prompt_embeddings:F32:5,192"

enum { TENANT = STORE_DEFAULT_TENANT };
enum { TILE_BYTES = 2 * 3 * 2 * 16 * 16 * 4 }; /* of up to 16 virtual tokens, compiled as f32 */

struct fixture {
    struct base_model *base;
    struct engine *engine;
    struct store *store;
    struct adapters *a;
    char *state;   /* folder */
    size_t memory; /* for adapters_open; 0: the default */
    size_t at_once_bytes;
    bool is_durable;
};

bool fixture_open(struct fixture *f, enum dtype_choice dtype, bool is_durable);
bool fixture_open_model(struct fixture *f, const char *path, enum dtype_choice dtype,
                        bool is_durable);
void fixture_close(struct fixture *f);
bool fixture_restart(struct fixture *f); /* store and registry; with f->memory and f->at_once_bytes */
int64_t fixture_add_tenant(struct fixture *f, const char *name);

/* As the server does it: run, then commit. c may be NULL; it is freed. */
int carry_out(struct fixture *f, struct adapter_change *c, const struct adapter_when *when,
              struct adapter_info *info, struct err *err);

int put_files(struct fixture *f, const char *name, const struct adapter_file *files, int n,
              struct adapter_info *info, struct err *err);
int put_text_of(struct fixture *f, int64_t tenant, const char *name, const char *json,
                struct adapter_info *info, struct err *err);
int put_text(struct fixture *f, const char *name, const char *json, struct adapter_info *info,
             struct err *err);
int put_bytes(struct fixture *f, const char *name, const char *type, const struct buf *weights,
              struct adapter_info *info, struct err *err);
int put_peft(struct fixture *f, const char *name, const char *type, const char *tensors,
             struct adapter_info *info, struct err *err);
int delete_name(struct fixture *f, const char *name, struct err *err);

/* Pins what the name means, after loading it here and now if need be. */
struct adapter_version *acquire_of(struct fixture *f, int64_t tenant, const char *name,
                                   struct err *err);
struct adapter_version *acquire(struct fixture *f, const char *name, struct err *err);
void run_loads(struct fixture *f); /* all that are in the queue */

bool has(struct fixture *f, const char *name);
bool is_resident(struct fixture *f, const char *name);
char *read_file(struct fixture *f, const char *name, const char *file, struct err *err);
struct adapters_stats stats_of(const struct fixture *f);

/* The folder of a version's files, and the name of its compiled file; caller frees. */
char *blob_path(const struct fixture *f, const char *version);
char *compiled_path(const struct fixture *f, int64_t tenant, const char *version);

#endif
