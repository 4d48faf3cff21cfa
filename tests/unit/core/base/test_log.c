/* A log line is one line, whatever stands in it. */
#define _GNU_SOURCE
#include "core/base/log.h"

#include <fcntl.h>
#include <unistd.h>

#include "core/base/check.h"
#include "tests/test.h"

/* What one call writes to stderr. */
static void capture(enum log_format format, enum log_level level, const char *id,
                    const char *text, char *out, size_t size)
{
    int pipes[2], saved = dup(STDERR_FILENO);
    CHECK(saved >= 0 && pipe2(pipes, O_NONBLOCK) == 0);
    dup2(pipes[1], STDERR_FILENO);
    log_init(format, LOG_WARN);
    log_write(level, "emit", id, "%s", text);
    log_init(LOG_TEXT, LOG_ERROR); /* as the runner has it */
    dup2(saved, STDERR_FILENO);
    ssize_t n = read(pipes[0], out, size - 1);
    out[n > 0 ? n : 0] = '\0';
    close(saved);
    close(pipes[0]);
    close(pipes[1]);
}

TEST(log_text_line_has_time_level_station_and_text)
{
    char line[4096];
    capture(LOG_TEXT, LOG_WARN, "r-1", "all well", line, sizeof line);
    EXPECT(strlen(line) > 25 && line[4] == '-' && line[10] == 'T' && line[23] == 'Z');
    EXPECT_STR(line + 24, " warn emit [r-1] all well\n");
    capture(LOG_TEXT, LOG_ERROR, NULL, "no id", line, sizeof line);
    EXPECT_STR(line + 24, " error emit no id\n");
}

TEST(log_json_line_is_an_object)
{
    char line[4096];
    capture(LOG_JSON, LOG_WARN, "r\"1", "say \"hi\" \\", line, sizeof line);
    EXPECT(strncmp(line, "{\"time\":\"2", 10) == 0);
    EXPECT(strstr(line,
                  "\",\"level\":\"warn\",\"station\":\"emit\",\"request_id\":\"r\\\"1\","
                  "\"text\":\"say \\\"hi\\\" \\\\\"}\n") != NULL);
}

TEST(log_lines_cannot_be_forged)
{
    char line[4096];
    capture(LOG_TEXT, LOG_WARN, "a\nb", "one\r\ntwo\x1b[0m\x7f", line, sizeof line);
    EXPECT_STR(line + 24, " warn emit [a\\u000ab] one\\u000d\\u000atwo\\u001b[0m\\u007f\n");
    char long_text[3000];
    memset(long_text, 'x', sizeof long_text);
    long_text[2999] = '\0';
    capture(LOG_TEXT, LOG_WARN, NULL, long_text, line, sizeof line);
    EXPECT(strlen(line) < 1100 && strchr(line, '\n') == line + strlen(line) - 1);
}

TEST(log_lines_are_utf8_whatever_they_are_given)
{
    char line[4096];
    capture(LOG_JSON, LOG_WARN, NULL, "path /x\xff and half a \xe2\x82", line, sizeof line);
    EXPECT(strstr(line, "path /x\xef\xbf\xbd and half a \xef\xbf\xbd\"}") != NULL);
}

TEST(log_below_the_level_is_silent)
{
    char line[64];
    capture(LOG_TEXT, LOG_INFO, NULL, "quiet", line, sizeof line);
    EXPECT_STR(line, "");
}
