/* Paged keys and values: blocks and their free list. */
#include "core/kv_pool.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/kv_tile.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

size_t kv_pool_block_bytes(const struct model_shape *s)
{
    size_t tiles = (size_t)s->n_layers * (size_t)s->n_kv_heads * 2;
    return tiles * kv_tile_bytes(s->head_dim, s->kv_dtype);
}

size_t kv_pool_default_bytes(const struct model_shape *s, int max_ctx, int n_engines)
{
    enum { CONTEXTS = 8 };
    size_t ram = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGE_SIZE);
    ram /= n_engines > 1 ? (size_t)n_engines : 1;
    size_t blocks = ((size_t)max_ctx + KV_TILE - 1) / KV_TILE;
    size_t want = kv_pool_block_bytes(s) * blocks * CONTEXTS;
    return want < ram / 4 ? want : ram / 4;
}

int kv_pool_init(struct kv_pool *p, const struct model_shape *s, int n_blocks, struct err *err)
{
    *p = (struct kv_pool){
        .n_layers = s->n_layers,
        .n_kv_heads = s->n_kv_heads,
        .head_dim = s->head_dim,
        .dtype = s->kv_dtype,
        .tile_bytes = kv_tile_bytes(s->head_dim, s->kv_dtype),
        .block_bytes = kv_pool_block_bytes(s),
        .n_blocks = n_blocks,
        .n_free = n_blocks,
    };
    CHECK(mem_mul(p->block_bytes, (size_t)n_blocks, &p->memory_len));
    void *m = mmap(NULL, p->memory_len, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED)
        return err_set(err, ERR_NO_MEMORY, "no memory for a KV pool of %zu bytes: lower kv-bytes",
                       p->memory_len);
    p->memory = m;
    p->free_list = xcalloc((size_t)n_blocks, sizeof *p->free_list);
    for (int i = 0; i < n_blocks; i++)
        p->free_list[i] = n_blocks - 1 - i; /* low numbers first: memory stays compact */
    return 0;
}

void kv_pool_fini(struct kv_pool *p)
{
    if (p->memory)
        munmap(p->memory, p->memory_len);
    free(p->free_list);
    *p = (struct kv_pool){0};
}

bool kv_pool_take(struct kv_pool *p, int n, int32_t *out)
{
    if (n > p->n_free)
        return false;
    for (int i = 0; i < n; i++)
        out[i] = p->free_list[--p->n_free];
    return true;
}

void kv_pool_give(struct kv_pool *p, const int32_t *blocks, int n)
{
    CHECK(p->n_free + n <= p->n_blocks);
    for (int i = n; i-- > 0;)
        p->free_list[p->n_free++] = blocks[i];
}
