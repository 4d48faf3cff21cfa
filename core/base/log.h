/* One log line per event on stderr: time, level, station, text (or the same as a JSON object).
 *
 * Thread: any; a line is one write(2). Control bytes in the text are escaped, so that what a client
 * sent cannot forge a line. Stations are those of a request's journey ("receive", "admit", "parse",
 * "tokenize", "adapt", "post", "schedule", "compute", "emit", "stream") or "boot", "adapters", "stop".
 *
 *     log_info("boot", "model %s: %d layers", name, n);
 */
#ifndef PREFIXD_LOG_H
#define PREFIXD_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };

void log_init(enum log_format format, enum log_level least);

/* request_id may be NULL. */
void log_write(enum log_level level, const char *station, const char *request_id, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#define log_debug(station, ...) log_write(LOG_DEBUG, station, NULL, __VA_ARGS__)
#define log_info(station, ...) log_write(LOG_INFO, station, NULL, __VA_ARGS__)
#define log_warn(station, ...) log_write(LOG_WARN, station, NULL, __VA_ARGS__)
#define log_error(station, ...) log_write(LOG_ERROR, station, NULL, __VA_ARGS__)

#endif
