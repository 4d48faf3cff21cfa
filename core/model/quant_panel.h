/* Weights as whole numbers: sixteen rows to a panel, and back (core/kernels/quant.h has the
 * layout).
 *
 * Thread: any; pure functions.
 *
 * int8: of the rotated weights of a block, scale = largest magnitude / 127, codes from -127 to 127.
 * int4: of a group, scale = the largest weight / -8 or / 7, rounded to bf16, codes from -8 to 7.
 * A code is the nearest to w / scale that there is. A block or group with a weight that is not
 * finite has a scale that is NaN, and so have its products. */
#ifndef PREFIXD_QUANT_PANEL_H
#define PREFIXD_QUANT_PANEL_H

#include "core/base/dtype.h"

/* rows: [16, n_in]; panel: quant_panel_bytes(t, n_in) */
void quant_panel_pack(enum dtype t, const float *rows, size_t n_in, void *panel);

/* What output `lane` of a panel has become: out[n_in]. */
void quant_panel_row(enum dtype t, const void *panel, size_t lane, size_t n_in, float *out);

#endif
