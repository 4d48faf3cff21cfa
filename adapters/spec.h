/* From the files of an adapter to a checked description of it, all from untrusted bytes.
 *
 * Thread: any. spec_parse costs little: numbers of tensors are not looked at. A spec borrows
 * the files' bytes.
 *
 *     struct adapter_spec s;
 *     if (spec_parse(&s, files, n_files, &limits, &err) < 0) return -1;
 *     ...
 *     spec_fini(&s);
 */
#ifndef PREFIXD_SPEC_H
#define PREFIXD_SPEC_H

#include <stddef.h>

#include "adapters/adapters.h"
#include "adapters/kind.h"
#include "core/base/safetensors.h"

enum { SPEC_MAX_JSON = 1 << 20, SPEC_MAX_TASKS = 1024 };

#define SPEC_CONFIG_FILE "adapter_config.json"
#define SPEC_WEIGHTS_FILE "adapter_model.safetensors"
#define SPEC_TEXT_FILE "adapter.json"

struct spec_limits {
    const struct model_shape *shape;
    int max_virtual_tokens;
    size_t max_bytes;    /* of the weights file */
    size_t max_compiled; /* bytes of all prefixes of one adapter */
};

struct adapter_spec {
    enum kind kind;
    int n_tokens;             /* virtual tokens; 0 for text until it is tokenised */
    int n_tasks, n_ranks;     /* 1, 0 unless MULTITASK */
    struct safetensors tensors;
    const struct st_tensor *main; /* prompt_embeddings or hidden_prefix */
    const struct st_tensor *cols, *rows; /* MULTITASK */
    char *text;               /* TEXT; owned */
    char *base_hint;          /* owned, or NULL */
};

int spec_parse(struct adapter_spec *s, const struct adapter_file *files, int n_files,
               const struct spec_limits *lim, struct err *err);
int64_t spec_total_tokens(const struct adapter_spec *s); /* of all tasks; of a text about */
void spec_fini(struct adapter_spec *s); /* accepts what spec_parse left on failure */

/* The version of this content: over a type tag, and names and bytes of the files in order
 * of name. */
#define SPEC_DIGEST_TAG "prefixd adapter 1"
void spec_digest(const struct adapter_file *files, int n_files, char hex[DIGEST_HEX + 1]);

#endif
