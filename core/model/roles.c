/* The table of tensors of a Llama model, and lookups in it. */
#include "core/model/roles.h"

#include <stdio.h>
#include <string.h>

#include "core/base/check.h"

static const char *const names_of[2][N_ROLES] = {
#define XX(role, hf, gguf) [ROLE_##role] = hf,
    {ROLES_GLOBAL(XX) ROLES_LAYER(XX)},
#undef XX
#define XX(role, hf, gguf) [ROLE_##role] = gguf,
    {ROLES_GLOBAL(XX) ROLES_LAYER(XX)},
#undef XX
};

static const char *const layer_prefix[2] = {"model.layers.", "blk."};

size_t roles_n_slots(const struct model_desc *d)
{
    return N_GLOBAL_ROLES + (size_t)d->n_layers * N_LAYER_ROLES;
}

size_t roles_slot(enum role role, int layer)
{
    if (role < N_GLOBAL_ROLES)
        return role;
    return N_GLOBAL_ROLES + (size_t)layer * N_LAYER_ROLES + (role - N_GLOBAL_ROLES);
}

enum role roles_of_slot(size_t slot, int *layer)
{
    *layer = -1;
    if (slot < N_GLOBAL_ROLES)
        return (enum role)slot;
    *layer = (int)((slot - N_GLOBAL_ROLES) / N_LAYER_ROLES);
    return (enum role)(N_GLOBAL_ROLES + (slot - N_GLOBAL_ROLES) % N_LAYER_ROLES);
}

bool roles_is_expected(const struct model_desc *d, enum role role)
{
    if (role == ROLE_HEAD)
        return !d->is_tied;
    if (role >= ROLE_Q_BIAS && role <= ROLE_O_BIAS)
        return d->has_attn_bias;
    if (role >= ROLE_GATE_BIAS && role <= ROLE_DOWN_BIAS)
        return d->has_mlp_bias;
    return true;
}

bool roles_is_matrix(enum role role)
{
    return role == ROLE_EMBED || role == ROLE_HEAD || (role >= ROLE_Q && role <= ROLE_DOWN);
}

struct role_shape roles_shape(const struct model_desc *d, enum role role)
{
    int q = d->n_heads * d->head_dim, kv = d->n_kv_heads * d->head_dim;
    switch (role) {
    case ROLE_EMBED:
    case ROLE_HEAD: return (struct role_shape){d->vocab, d->dim};
    case ROLE_INV_FREQ: return (struct role_shape){d->head_dim / 2, 0};
    case ROLE_Q: return (struct role_shape){q, d->dim};
    case ROLE_K:
    case ROLE_V: return (struct role_shape){kv, d->dim};
    case ROLE_O: return (struct role_shape){d->dim, q};
    case ROLE_GATE:
    case ROLE_UP: return (struct role_shape){d->ffn, d->dim};
    case ROLE_DOWN: return (struct role_shape){d->dim, d->ffn};
    case ROLE_Q_BIAS: return (struct role_shape){q, 0};
    case ROLE_K_BIAS:
    case ROLE_V_BIAS: return (struct role_shape){kv, 0};
    case ROLE_GATE_BIAS:
    case ROLE_UP_BIAS: return (struct role_shape){d->ffn, 0};
    case ROLE_FINAL_NORM:
    case ROLE_ATTN_NORM:
    case ROLE_FFN_NORM:
    case ROLE_O_BIAS:
    case ROLE_DOWN_BIAS: return (struct role_shape){d->dim, 0};
    case N_ROLES: break;
    }
    CHECK(!"a role without a shape");
    return (struct role_shape){0, 0};
}

void roles_name(enum role_names names, size_t slot, char *out, size_t size)
{
    int layer;
    enum role role = roles_of_slot(slot, &layer);
    const char *pattern = names_of[names][role], *hole = strstr(pattern, "%d");
    if (hole)
        snprintf(out, size, "%.*s%d%s", (int)(hole - pattern), pattern, layer, hole + 2);
    else
        snprintf(out, size, "%s", pattern);
}

/* "12.rest" -> 12 and "rest"; only the spelling that roles_name writes. */
static const char *read_layer(const char *s, int n_layers, int *layer)
{
    int n = 0;
    if (*s < '0' || *s > '9' || (s[0] == '0' && s[1] != '.'))
        return NULL;
    for (; *s >= '0' && *s <= '9'; s++) {
        n = n * 10 + (*s - '0');
        if (n >= n_layers)
            return NULL;
    }
    *layer = n;
    return *s == '.' ? s + 1 : NULL;
}

bool roles_find(enum role_names names, const char *name, int n_layers, size_t *slot)
{
    const char *prefix = layer_prefix[names], *rest = name;
    int role = 0, end = N_GLOBAL_ROLES, layer = -1;
    size_t skip = 0;
    if (strncmp(name, prefix, strlen(prefix)) == 0) {
        rest = read_layer(name + strlen(prefix), n_layers, &layer);
        skip = strlen(prefix) + strlen("%d.");
        role = N_GLOBAL_ROLES;
        end = N_ROLES;
    }
    if (!rest || !*rest)
        return false;
    for (; role < end; role++)
        if (strcmp(names_of[names][role] + skip, rest) == 0) {
            *slot = roles_slot((enum role)role, layer);
            return true;
        }
    return false;
}
