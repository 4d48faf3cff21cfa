/* Products with int8 and int4 weights, written once over vectors of VW outputs; each instruction
 * set's file includes this with its own VW, NAME, TWO and FOUR (columns that up to two and up to
 * four rows take at once) and operations in which u8 times int8 of four neighbours are added to
 * each lane:
 *
 *     add8(sum, w, x)
 *     begin4(start), add4(sum, w, x), end4(sum, start)    for w below 16, with no more than eight
 *                                                         additions in between
 *
 * Sums of whole numbers are exact. An output of int8 is, over its blocks in order, the sum of
 * (weight's scale * row's scale) * whole; one of int4, over its groups, that of scale * part, a part
 * that over the group's halves of row's scale * whole. Each addition is fused with its product: the
 * same bits for any number of rows and on every instruction set. */
#include "core/kernels/kernels.h"
#include "core/kernels/quant_rows.h"
#include "core/kernels/tile.h"

typedef float vf __attribute__((vector_size(VW * 4)));

static inline vi load(const char *p)
{
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* int4: scales of the first or second group of a block. */
static inline vf scales(const char *p, int group)
{
    vi both = load(p);
    return (vf)(group ? both & (int32_t)0xffff0000 : both << 16);
}

static inline int32_t quad(const char *x)
{
    int32_t four;
    memcpy(&four, x, sizeof four);
    return four;
}

/* A row's scale in every lane. */
static inline vf number(const char *x)
{
    return (vf)((vi){0} + quad(x));
}

/* Where a column of VW outputs begins in its panel: scales and codes alike have 4 bytes an output in
 * a line. */
static inline const char *column(const struct panel_args *a, int c)
{
    enum { PER = 16 / VW };
    return (const char *)a->w[0] + (size_t)(c / PER) * a->panel_step + c % PER * VW * 4;
}

/* Pass `pass` of n_passes, before column c. */
static struct ahead ahead_of(const struct panel_args *a, int c, int pass, int n_passes)
{
    size_t part = a->panel_step / (size_t)n_passes;
    const char *at = c < a->n_panels * (16 / VW) ? column(a, c) : a->after ? a->after : a->w[0];
    return (struct ahead){at + (size_t)pass * part, QUANT_LINE / (size_t)n_passes};
}

#define COLUMN(p, N)                                                                               \
    const char *w##p = column(a, c + p),                                                           \
               *next##p = next.at + (size_t)p * VW / 16 * a->panel_step;
#define AHEAD(p)                                                                                   \
    __builtin_prefetch(next##p, 0, 2);                                                             \
    next##p += next.step;
#define STORE(r, p) memcpy(y + (size_t)r * a->ldy + p * VW, &sum[p][r], sizeof sum[p][r]);
#define STORE_COLUMN(p, N) ROWS##N(STORE, p)

#define BEGIN8(r, p) vi s##p##_##r = quad(start + 4 * r) + (vi){0};
#define BEGIN8_COLUMN(p, N) ROWS##N(BEGIN8, p)
#define ADD8(r, p) s##p##_##r = add8(s##p##_##r, code##p, quad(x + 4 * r));
#define ADD8_COLUMN(p, N)                                                                          \
    vi code##p = load(w##p + at);                                                                  \
    AHEAD(p)                                                                                       \
    ROWS##N(ADD8, p)
#define END8(r, p)                                                                                 \
    sum[p][r] = FMADD(__builtin_convertvector(s##p##_##r, vf), scale##p * number(scale_x + 4 * r), \
                      sum[p][r]);
#define END8_COLUMN(p, N)                                                                          \
    vf scale##p = (vf)load(w##p);                                                                  \
    ROWS##N(END8, p)

#define BEGIN4(r, p) vi s##p##_##r = begin4(quad(start + 4 * r));
#define BEGIN4_COLUMN(p, N) ROWS##N(BEGIN4, p)
#define ADD4_LOW(r, p) s##p##_##r = add4(s##p##_##r, low##p, quad(x + 4 * r));
#define ADD4_HIGH(r, p) s##p##_##r = add4(s##p##_##r, high##p, quad(x + 4 * N_ROWS + 4 * r));
#define ADD4_COLUMN(p, N)                                                                          \
    vi code##p = load(w##p + at), low##p = code##p & 0x0f0f0f0f,                                   \
       high##p = code##p >> 4 & 0x0f0f0f0f;                                                        \
    AHEAD(p)                                                                                       \
    ROWS##N(ADD4_LOW, p)                                                                           \
    ROWS##N(ADD4_HIGH, p)
#define END4(r, p)                                                                                 \
    part[p][r] = FMADD(__builtin_convertvector(end4(s##p##_##r, quad(start + 4 * r)), vf),         \
                       number(scale_x + 4 * r), part[p][r]);
#define END4_COLUMN(p, N) ROWS##N(END4, p)
#define ADD_PART(r, p) sum[p][r] = FMADD(part[p][r], scale##p, sum[p][r]);
#define ADD_COLUMN(p, N)                                                                           \
    vf scale##p = scales(w##p, group);                                                             \
    ROWS##N(ADD_PART, p)
#define NEXT_COLUMN(p, N) w##p += block;

/* P columns from c for N rows. */
/* clang-format off */
#define TILE8(N, P)                                                                                \
    static void int8_##N##x##P(const struct panel_args *a, const char *x, int c, float *y,         \
                            struct ahead next)                                                     \
    {                                                                                              \
        enum { N_ROWS = N };                                                                       \
        vf sum[P][N] = {0};                                                                        \
        size_t block = quant_block_bytes(DTYPE_INT8);                                              \
        COLS##P(COLUMN, N)                                                                         \
        for (int k = 0; k < a->K; k += QUANT_BLOCK) {                                              \
            const char *scale_x = x, *start = x + 4 * N_ROWS;                                      \
            x += 8 * N;                                                                            \
            COLS##P(BEGIN8_COLUMN, N)                                                              \
            for (int at = QUANT_LINE; at <= QUANT_BLOCK / 4 * QUANT_LINE; at += QUANT_LINE) {      \
                COLS##P(ADD8_COLUMN, N)                                                            \
                x += 4 * N;                                                                        \
            }                                                                                      \
            COLS##P(END8_COLUMN, N)                                                                \
            COLS##P(NEXT_COLUMN, N)                                                                \
        }                                                                                          \
        COLS##P(STORE_COLUMN, N)                                                                   \
    }

#define TILE4(N, P)                                                                                \
    static void int4_##N##x##P(const struct panel_args *a, const char *x, int c, float *y,         \
                            struct ahead next)                                                     \
    {                                                                                              \
        enum { N_ROWS = N };                                                                       \
        vf sum[P][N] = {0};                                                                        \
        size_t block = quant_block_bytes(DTYPE_INT4);                                              \
        COLS##P(COLUMN, N)                                                                         \
        for (int k = 0; k < a->K; k += QUANT_BLOCK) {                                              \
            int at = QUANT_LINE;                                                                   \
            for (int group = 0; group < 2; group++) {                                              \
                vf part[P][N] = {0};                                                               \
                for (int half = 0; half < 2; half++) {                                             \
                    const char *scale_x = x, *start = x + 4 * N_ROWS;                              \
                    x += 8 * N;                                                                    \
                    COLS##P(BEGIN4_COLUMN, N)                                                      \
                    for (int q = 0; q < QUANT_HALF / 4; q += 2, at += QUANT_LINE, x += 8 * N) {    \
                        COLS##P(ADD4_COLUMN, N)                                                    \
                    }                                                                              \
                    COLS##P(END4_COLUMN, N)                                                        \
                }                                                                                  \
                COLS##P(ADD_COLUMN, N)                                                             \
            }                                                                                      \
            COLS##P(NEXT_COLUMN, N)                                                                \
        }                                                                                          \
        COLS##P(STORE_COLUMN, N)                                                                   \
    }
/* clang-format on */

typedef void (*tile_fn)(const struct panel_args *a, const char *x, int c, float *y,
                        struct ahead next);

struct tile {
    tile_fn many, one; /* n_columns of them, one */
    int n_columns;
};

/* For each number of rows: few take several columns, whose sums hide what one addition waits for the
 * one before; from five rows on the sums of one column, whole and not, fill the registers. */
#define TILES(XX) XX(1, TWO) XX(2, TWO) XX(3, FOUR) XX(4, FOUR) XX(5, 1) XX(6, 1) XX(7, 1) XX(8, 1)
#define WITH(XX, N, P) XX(N, P)
#define BOTH(N, P)                                                                                 \
    TILE8(N, P)                                                                                    \
    TILE4(N, P)
#define DEFINE(N, P) WITH(BOTH, N, P)
#define DEFINE_ONE(N, P) BOTH(N, 1)
#define ROW_OF(KIND, N, P) {KIND##_##N##x##P, KIND##_##N##x1, P},
#define ROW8(N, P) WITH(ROW8_OF, N, P)
#define ROW4(N, P) WITH(ROW4_OF, N, P)
#define ROW8_OF(N, P) ROW_OF(int8, N, P)
#define ROW4_OF(N, P) ROW_OF(int4, N, P)

TILES(DEFINE_ONE)
#if FOUR > 1
DEFINE(3, FOUR)
DEFINE(4, FOUR)
#endif
DEFINE(1, TWO)
DEFINE(2, TWO)

static const struct tile int8_tiles[] = {TILES(ROW8)}, int4_tiles[] = {TILES(ROW4)};

/* Columns first: each meets all rows while it is in the cache. */
static void full_groups(const struct panel_args *a, tile_fn tile, int n_full)
{
    for (int c = 0; c < a->n_panels * (16 / VW); c++)
        for (int r = 0; r < n_full; r += QUANT_ROWS)
            tile(a, (const char *)a->x + (size_t)r * a->ldx, c, a->y + (size_t)r * a->ldy + c * VW,
                 ahead_of(a, c + 1, r / QUANT_ROWS, n_full / QUANT_ROWS));
}

static void last_group(const struct panel_args *a, const struct tile *t, int first)
{
    const char *x = (const char *)a->x + (size_t)first * a->ldx;
    float *y = a->y + (size_t)first * a->ldy;
    int c = 0, n = a->n_panels * (16 / VW), per = t->n_columns;
    for (; c + per <= n; c += per)
        t->many(a, x, c, y + c * VW, ahead_of(a, c + per, 0, 1));
    for (; c < n; c++)
        t->one(a, x, c, y + c * VW, ahead_of(a, c + 1, 0, 1));
}

static void panels(const struct panel_args *a, const struct tile *tiles)
{
    int n_full = a->n_rows / QUANT_ROWS * QUANT_ROWS, left = a->n_rows - n_full;
    if (n_full)
        full_groups(a, tiles[QUANT_ROWS - 1].one, n_full);
    if (left)
        last_group(a, &tiles[left - 1], n_full);
}

static void panels_int8(const struct panel_args *a)
{
    panels(a, int8_tiles);
}

static void panels_int4(const struct panel_args *a)
{
    panels(a, int4_tiles);
}

const struct quant_kernels NAME = {quantise, panels_int8, panels_int4};
