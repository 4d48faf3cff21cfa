/* The compute pool: the engine thread forks a function over numbered tasks and joins them.
 *
 * Thread: one caller at a time (the engine's, or a test's). Which thread runs a task is not defined, so a
 * task writes only what belongs to its number; results then do not depend on the number of threads.
 * Workers spin for a moment after an operation and sleep between steps.
 *
 *     struct par *p = par_new(2);
 *     par_for(p, n_tasks, my_task, &args);     my_task(args, task, thread)
 */
#ifndef PREFIXD_PAR_H
#define PREFIXD_PAR_H

struct par;

typedef void (*par_fn)(void *arg, int task, int thread); /* thread: 0 .. n_threads - 1 */

struct par *par_new(int n_threads); /* the caller counts as one */
void par_free(struct par *p);
int par_n_threads(const struct par *p);
void par_for(struct par *p, int n_tasks, par_fn fn, void *arg);

#endif
