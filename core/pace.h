/* How many prompt rows a step takes, so that those who decode beside them do not wait for long.
 *
 * Thread: engine. Pure arithmetic over steps that were timed elsewhere: no clock, hence testable alone. No
 * result depends on it: a prompt comes to the same bits in any chunks.
 *
 * A step without decoding rows lets nobody wait and takes max_rows. Beside decoding rows it takes what
 * fits the target: a time that the operator says, or twice what the decoding rows take alone. So two costs
 * are followed: of decoding rows alone, by their number, and of a prompt row beside them. A row's
 * attention grows with its position, so rows are weighed by theirs. Where in doubt both costs err towards
 * fewer rows: of decoding what is cheaper is believed sooner, of prompt rows what is dearer.
 *
 *     int n = pace_rows(&p, &load);     before a step: at most so many prompt rows
 *     pace_learn(&p, &step, us);        after it */
#ifndef PREFIXD_PACE_H
#define PREFIXD_PACE_H

#include <stdint.h>

enum {
    PACE_TELLING = 8, /* prompt rows from which on a step's time says what one of them takes */
    PACE_LEAST = 10, /* prompt rows of a mixed step, or prompts would hardly move */
    PACE_AGE = 64,   /* mixed steps in a row before one of decoding rows alone is timed again, */
    PACE_NEW = 4,    /* or for the first time with about so many */
    PACE_SIZES = 24, /* numbers of decoding rows that are told apart: 1, 2, 3, 4-5, 6-7, 8-11, ... */
};

struct pace {
    int max_rows;
    double target_us;   /* 0: twice the decoding rows alone; below 0: none */
    double context;     /* tokens that make a row twice as dear as one without any */
    double alone_us[PACE_SIZES]; /* of decoding rows alone; 0: never timed */
    double row_us;      /* of a prompt row without context; 0: never timed */
    int n_last;         /* prompt rows of the last mixed step that told something */
    int n_mixed;        /* such steps since decoding rows were alone */
};

struct pace_load { /* what runs */
    int n_decoding;
    int64_t n_left; /* prompt rows that are not computed yet */
    double position; /* where those that come next are expected to stand */
};

struct pace_step { /* what a step had */
    int n_decoding, n_prompt;
    int64_t positions; /* of its prompt rows, added up */
};

/* target_ms as engine_opts.step_target_ms. */
void pace_init(struct pace *p, int max_rows, int target_ms, double context);

/* The most prompt rows of the next step. */
int pace_rows(const struct pace *p, const struct pace_load *load);

void pace_learn(struct pace *p, const struct pace_step *s, double us);

#endif
