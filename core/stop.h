/* Finds stop strings in text that arrives in pieces, and holds back what may be the start of one.
 *
 * Thread: one at a time (the engine). Cost is constant per byte and stop string, whatever the text
 * (Knuth, Morris and Pratt, 1977). The strings are borrowed.
 *
 *     stop_init(&s, stops, n);
 *     hit = stop_feed(&s, text, len, &safe);    appends to safe what is certain
 *     if (hit < 0) stop_end(&s, &safe);         the text is over: nothing more to wait for
 */
#ifndef PREFIXD_STOP_H
#define PREFIXD_STOP_H

#include "core/base/buf.h"
#include "core/engine.h"

struct stop {
    const struct job_stop *stops;
    int n_stops;
    uint16_t *borders[JOB_MAX_STOPS]; /* longest proper border of every prefix of the string */
    uint16_t state[JOB_MAX_STOPS];    /* bytes of the string that end the text so far */
    struct buf held;
};

enum { STOP_MAX_LEN = 1024 };

void stop_init(struct stop *s, const struct job_stop *stops, int n_stops);
void stop_fini(struct stop *s);

/* Index of the stop string completed first, or -1. On a hit the text before it is appended to safe and
 * everything after is dropped. */
int stop_feed(struct stop *s, const char *text, size_t len, struct buf *safe);

/* Text in which no stop string may be complete (before min_tokens); one that begins in it and ends later
 * counts. */
void stop_pass(struct stop *s, const char *text, size_t len, struct buf *safe);
void stop_end(struct stop *s, struct buf *safe);

#endif
