/* Paged keys and values: blocks and their free list. */
#include "core/kv_pool.h"

#include "core/base/check.h"
#include "core/base/mem.h"
#include "core/kv_tile.h"

#include <stdlib.h>
#include <sys/mman.h>

size_t kv_pool_block_bytes(const struct model_shape *s)
{
    size_t tiles = (size_t)s->n_layers * (size_t)s->n_kv_heads * 2;
    return tiles * kv_tile_bytes(s->head_dim, s->kv_dtype);
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
