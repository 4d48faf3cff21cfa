/* The socket that the daemon listens on.
 *
 * Thread: boot.
 *
 *     struct listen_addr a;
 *     if (listen_parse(&a, "127.0.0.1:8080", &err) < 0) ...      also [::1]:8080, localhost:0
 *     int fd = listen_bind(&a, &err);                            a.url: what to print
 *     ... what takes long; meanwhile connections are refused ...
 *     if (listen_start(&a, fd, &err) < 0) ...
 */
#ifndef PREFIXD_LISTEN_H
#define PREFIXD_LISTEN_H

#include "core/base/err.h"

#include <stdbool.h>

struct listen_addr {
    char host[64];
    int port; /* 0: any free one, until listen_bind */
    bool is_v6, is_loopback;
    char url[96];
};

int listen_parse(struct listen_addr *a, const char *spec, struct err *err);
int listen_bind(struct listen_addr *a, struct err *err); /* the descriptor, or -1 */
int listen_start(const struct listen_addr *a, int fd, struct err *err);

#endif
