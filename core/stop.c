/* Stop strings in a stream. */
#include "core/stop.h"

#include "core/base/check.h"
#include "core/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Next state after byte c: how many bytes of the string now end the text. */
static uint16_t advance(const struct job_stop *st, const uint16_t *borders, uint16_t state, char c)
{
    while (state && (state == st->len || st->text[state] != c))
        state = borders[state - 1];
    return st->text[state] == c ? (uint16_t)(state + 1) : 0;
}

void stop_init(struct stop *s, const struct job_stop *stops, int n_stops)
{
    *s = (struct stop){.stops = stops, .n_stops = n_stops};
    for (int i = 0; i < n_stops; i++) {
        CHECK(stops[i].len >= 1 && stops[i].len <= STOP_MAX_LEN);
        s->borders[i] = xcalloc(stops[i].len, sizeof *s->borders[i]);
        for (size_t j = 1; j < stops[i].len; j++)
            s->borders[i][j] = advance(&stops[i], s->borders[i], s->borders[i][j - 1], stops[i].text[j]);
    }
}

void stop_fini(struct stop *s)
{
    for (int i = 0; i < s->n_stops; i++)
        free(s->borders[i]);
    buf_free(&s->held);
    *s = (struct stop){0};
}

/* Moves all but the last `keep` held bytes to safe. */
static void release(struct stop *s, size_t keep, struct buf *safe)
{
    size_t n = s->held.len - keep;
    buf_add(safe, s->held.data, n);
    memmove(s->held.data, s->held.data + n, keep);
    s->held.len = keep;
}

/* Feeds one byte to every string; the index of one that is complete, the longest if several. */
static int feed_byte(struct stop *s, char c)
{
    int hit = -1;
    for (int i = 0; i < s->n_stops; i++) {
        s->state[i] = advance(&s->stops[i], s->borders[i], s->state[i], c);
        bool is_hit = s->state[i] == s->stops[i].len;
        if (is_hit && (hit < 0 || s->stops[i].len > s->stops[hit].len))
            hit = i;
    }
    return hit;
}

static size_t longest_begun(const struct stop *s)
{
    size_t keep = 0;
    for (int i = 0; i < s->n_stops; i++)
        keep = s->state[i] > keep ? s->state[i] : keep;
    return keep;
}

int stop_feed(struct stop *s, const char *text, size_t len, struct buf *safe)
{
    if (!len)
        return -1;
    if (!s->n_stops) {
        buf_add(safe, text, len);
        return -1;
    }
    for (size_t i = 0; i < len; i++) {
        buf_add_char(&s->held, text[i]);
        int hit = feed_byte(s, text[i]);
        if (hit >= 0) {
            s->held.len -= s->stops[hit].len;
            release(s, 0, safe);
            return hit;
        }
    }
    release(s, longest_begun(s), safe);
    return -1;
}

void stop_pass(struct stop *s, const char *text, size_t len, struct buf *safe)
{
    for (size_t i = 0; i < len; i++) {
        buf_add_char(&s->held, text[i]);
        feed_byte(s, text[i]);
        for (int k = 0; k < s->n_stops; k++) /* complete: what it ends with may begin another */
            if (s->state[k] == s->stops[k].len)
                s->state[k] = s->borders[k][s->stops[k].len - 1];
    }
    if (len)
        release(s, longest_begun(s), safe);
}

void stop_end(struct stop *s, struct buf *safe)
{
    if (s->held.len)
        release(s, 0, safe);
}
