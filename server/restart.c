/* A ring of the latest deaths, and a wait that doubles. */
#include "server/restart.h"

int64_t restart_delay_us(struct restart *r, int64_t now_us)
{
    int64_t now = now_us - r->waited_us;
    int64_t *oldest = &r->deaths[r->n_deaths % RESTART_FREE];
    int is_often = r->n_deaths >= RESTART_FREE && now - *oldest < RESTART_WINDOW_US;
    *oldest = now;
    r->n_deaths++;
    if (!is_often)
        r->last_us = 0;
    else if (r->last_us == 0)
        r->last_us = RESTART_MIN_US;
    else
        r->last_us = r->last_us < RESTART_MAX_US / 2 ? r->last_us * 2 : RESTART_MAX_US;
    r->waited_us += r->last_us;
    return r->last_us;
}
