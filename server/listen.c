/* Parsing of "ADDRESS:PORT" and the listening socket made from it. */
#include "server/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 4096 }; /* or as many as the kernel allows: a crowd may come at once */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static int refuse(const char *spec, struct err *err)
{
    return err_set(
        err, ERR_INVALID,
        "--listen %.80s: accepted is ADDRESS:PORT, such as 127.0.0.1:8080, [::1]:8080 or "
        "0.0.0.0:0, port 0 to 65535",
        spec);
}

static bool parse_port(const char *s, int *port)
{
    size_t n = strspn(s, "0123456789");
    if (n == 0 || n > 5 || s[n])
        return false;
    *port = atoi(s);
    return *port <= 65535;
}

static bool parse_host(struct listen_addr *a)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (!a->is_v6 && strcmp(a->host, "localhost") == 0)
        strcpy(a->host, "127.0.0.1");
    if (!a->is_v6 && inet_pton(AF_INET, a->host, &v4) == 1) {
        a->is_loopback = ntohl(v4.s_addr) >> 24 == 127;
        return true;
    }
    if (a->is_v6 && inet_pton(AF_INET6, a->host, &v6) == 1) {
        a->is_loopback = IN6_IS_ADDR_LOOPBACK(&v6);
        return true;
    }
    return false;
}

int listen_parse(struct listen_addr *a, const char *spec, struct err *err)
{
    memset(a, 0, sizeof *a);
    const char *colon = strrchr(spec, ':');
    if (!colon || !parse_port(colon + 1, &a->port))
        return refuse(spec, err);
    size_t len = (size_t)(colon - spec);
    a->is_v6 = len >= 2 && spec[0] == '[' && spec[len - 1] == ']';
    if (a->is_v6) {
        spec++;
        len -= 2;
    }
    if (len >= sizeof a->host)
        return refuse(spec, err);
    memcpy(a->host, spec, len);
    return parse_host(a) ? 0 : refuse(spec, err);
}

static socklen_t fill(const struct listen_addr *a, union address *addr)
{
    memset(addr, 0, sizeof *addr);
    if (a->is_v6) {
        addr->v6.sin6_family = AF_INET6;
        addr->v6.sin6_port = htons((uint16_t)a->port);
        inet_pton(AF_INET6, a->host, &addr->v6.sin6_addr);
        return sizeof addr->v6;
    }
    addr->v4.sin_family = AF_INET;
    addr->v4.sin_port = htons((uint16_t)a->port);
    inet_pton(AF_INET, a->host, &addr->v4.sin_addr);
    return sizeof addr->v4;
}

static int failed(const struct listen_addr *a, struct err *err)
{
    return err_set(err, ERR_IO,
                   a->is_v6 ? "--listen [%s]:%d: %s; an address of this machine and a free port "
                              "are accepted"
                            : "--listen %s:%d: %s; an address of this machine and a free port "
                              "are accepted",
                   a->host, a->port, strerror(errno));
}

int listen_bind(struct listen_addr *a, struct err *err)
{
    union address addr;
    socklen_t len = fill(a, &addr);
    int on = 1;
    int fd = socket(addr.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, &addr.any, len) < 0 || getsockname(fd, &addr.any, &len) < 0) {
        failed(a, err);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    a->port = ntohs(a->is_v6 ? addr.v6.sin6_port : addr.v4.sin_port);
    snprintf(a->url, sizeof a->url, a->is_v6 ? "http://[%s]:%d" : "http://%s:%d", a->host,
             a->port);
    return fd;
}

int listen_start(const struct listen_addr *a, int fd, struct err *err)
{
    return listen(fd, BACKLOG) < 0 ? failed(a, err) : 0;
}
