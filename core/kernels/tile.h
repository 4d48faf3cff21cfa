/* What tiles are written with: so many rows times so many panels, unrolled.
 *
 * Sums are named variables, because gcc 12 keeps arrays of them in memory: ROWS8(XX, p) is XX(0, p)
 * to XX(7, p), one for each row of panel p, and COLS2(XX, N) is XX(0, N) and XX(1, N), one for each
 * panel of N rows. */
#ifndef PREFIXD_TILE_H
#define PREFIXD_TILE_H

#include <stddef.h>

/* What is read next comes into the second-level cache while these panels are worked on: a line a
 * step, or of all passes over the same panels together, so that reading is spread over the
 * arithmetic. */
struct ahead {
    const char *at;
    size_t step; /* bytes */
};

#define ROWS1(XX, p) XX(0, p)
#define ROWS2(XX, p) ROWS1(XX, p) XX(1, p)
#define ROWS3(XX, p) ROWS2(XX, p) XX(2, p)
#define ROWS4(XX, p) ROWS3(XX, p) XX(3, p)
#define ROWS5(XX, p) ROWS4(XX, p) XX(4, p)
#define ROWS6(XX, p) ROWS5(XX, p) XX(5, p)
#define ROWS7(XX, p) ROWS6(XX, p) XX(6, p)
#define ROWS8(XX, p) ROWS7(XX, p) XX(7, p)
#define ROWS9(XX, p) ROWS8(XX, p) XX(8, p)
#define ROWS10(XX, p) ROWS9(XX, p) XX(9, p)
#define ROWS11(XX, p) ROWS10(XX, p) XX(10, p)
#define ROWS12(XX, p) ROWS11(XX, p) XX(11, p)
#define ROWS13(XX, p) ROWS12(XX, p) XX(12, p)
#define ROWS14(XX, p) ROWS13(XX, p) XX(13, p)
#define ROWS15(XX, p) ROWS14(XX, p) XX(14, p)
#define ROWS16(XX, p) ROWS15(XX, p) XX(15, p)
#define COLS1(XX, N) XX(0, N)
#define COLS2(XX, N) COLS1(XX, N) XX(1, N)
#define COLS4(XX, N) COLS2(XX, N) XX(2, N) XX(3, N)

#endif
