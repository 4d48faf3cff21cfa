/* One log line per event on stderr, as text or JSON. */
#include "core/base/log.h"

#include "core/base/buf.h"
#include "core/base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static enum log_format log_format = LOG_TEXT;
static enum log_level log_least = LOG_INFO;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_init(enum log_format format, enum log_level least)
{
    log_format = format;
    log_least = least;
}

static void add_time(struct buf *b)
{
    struct timespec now;
    struct tm tm;
    char text[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    buf_printf(b, "%s.%03ldZ", text, now.tv_nsec / 1000000);
}

static void add_escaped(struct buf *b, const char *s)
{
    struct buf whole = {0};
    utf8_add_lossy(&whole, s, strlen(s)); /* a cut or foreign byte must not spoil the line */
    for (size_t i = 0; i < whole.len; i++) {
        unsigned char c = (unsigned char)whole.data[i];
        if (c < 0x20 || c == 0x7f)
            buf_printf(b, "\\u%04x", c);
        else if (log_format == LOG_JSON && (c == '"' || c == '\\'))
            buf_printf(b, "\\%c", c);
        else
            buf_add_char(b, (char)c);
    }
    buf_free(&whole);
}

static void add_line(struct buf *b, const char *level, const char *station, const char *id,
                     const char *text)
{
    if (log_format == LOG_TEXT) {
        add_time(b);
        buf_printf(b, " %s %s ", level, station);
        if (id) {
            buf_add_char(b, '[');
            add_escaped(b, id);
            buf_add_str(b, "] ");
        }
        add_escaped(b, text);
        buf_add_char(b, '\n');
        return;
    }
    buf_add_str(b, "{\"time\":\"");
    add_time(b);
    buf_printf(b, "\",\"level\":\"%s\",\"station\":\"%s\"", level, station);
    if (id) {
        buf_add_str(b, ",\"request_id\":\"");
        add_escaped(b, id);
        buf_add_char(b, '"');
    }
    buf_add_str(b, ",\"text\":\"");
    add_escaped(b, text);
    buf_add_str(b, "\"}\n");
}

void log_write(enum log_level level, const char *station, const char *request_id, const char *fmt, ...)
{
    if (level < log_least)
        return;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct buf b = {0};
    add_line(&b, level_names[level], station, request_id, text);
    ssize_t done = write(STDERR_FILENO, b.data, b.len);
    (void)done; /* nobody left to tell */
    buf_free(&b);
}
