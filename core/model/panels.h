/* Rows of a matrix laid side by side in panels, whatever a row's elements are.
 *
 * Thread: any; pure functions. */
#ifndef PREFIXD_PANELS_H
#define PREFIXD_PANELS_H

#include <stddef.h>
#include <stdint.h>

/* rows: [PANEL, n_words] -> panel: [n_words, PANEL]. A word is what a kernel's lane reads at once:
 * an f32, or a pair of bf16. */
void panels_interleave(const uint32_t *rows, size_t n_words, uint32_t *panel);

#endif
