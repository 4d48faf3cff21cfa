/* CHECK: a bug ends the process with the place and a backtrace, in every build.
 *
 * Thread: any. For illegal states, wrong threads and bad magic numbers only; bytes from a network
 * or a file are refused with `struct err`, never checked with this. */
#ifndef PREFIXD_CHECK_H
#define PREFIXD_CHECK_H

#include <pthread.h>
#include <stdbool.h>

#define CHECK(cond)                                                                              \
    do {                                                                                         \
        if (__builtin_expect(!(cond), 0))                                                        \
            check_failed(__FILE__, __LINE__, #cond);                                             \
    } while (0)

/* A field `struct thread_owner owner` names the one thread that may touch the object. */
struct thread_owner {
    pthread_t thread;
    bool is_set;
};

#define CHECK_ON_THREAD(owner) CHECK(thread_owner_is_me(&(owner)))

_Noreturn void check_failed(const char *file, int line, const char *cond);
void thread_owner_set(struct thread_owner *o); /* the caller becomes the owner */
bool thread_owner_is_me(const struct thread_owner *o);

#endif
