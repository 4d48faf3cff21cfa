/* The table of refusals. */
#include "core/base/err.h"

#include "tests/test.h"

TEST(err_set_writes_code_and_message)
{
    struct err err = {.param = "old"};
    EXPECT_EQ(err_set(&err, ERR_CONTEXT, "needs %d of %d", 5, 3), -1);
    EXPECT_EQ(err.code, ERR_CONTEXT);
    EXPECT_STR(err.msg, "needs 5 of 3");
    EXPECT_STR(err.param, "");
    EXPECT_EQ(err_set(NULL, ERR_IO, "nobody listens"), -1);
}

TEST(err_param_names_the_field)
{
    struct err err = {0};
    EXPECT_EQ(err_param(&err, ERR_INVALID, "top_p", "%s", "out of range"), -1);
    EXPECT_STR(err.param, "top_p");
    EXPECT_STR(err.msg, "out of range");
    EXPECT_EQ(err_param(NULL, ERR_INVALID, "top_p", "nobody listens"), -1);
}

TEST(err_cuts_what_is_too_long)
{
    struct err err = {0};
    char name[500];
    memset(name, 'n', sizeof name);
    name[499] = '\0';
    err_param(&err, ERR_INVALID, name, "%s", name);
    EXPECT_EQ(strlen(err.msg), sizeof err.msg - 1);
    EXPECT_EQ(strlen(err.param), sizeof err.param - 1);
}

TEST(err_table_is_what_clients_expect)
{
    EXPECT_EQ(err_http_status(ERR_CONTEXT), 400);
    EXPECT_STR(err_api_code(ERR_CONTEXT), "context_length_exceeded");
    EXPECT_EQ(err_http_status(ERR_MODEL_NOT_FOUND), 404);
    EXPECT_STR(err_api_code(ERR_MODEL_NOT_FOUND), "model_not_found");
    EXPECT_EQ(err_http_status(ERR_QUEUE_FULL), 429);
    EXPECT_STR(err_api_type(ERR_QUEUE_FULL), "rate_limit_error");
    EXPECT(err_api_code(ERR_INVALID) == NULL);
    EXPECT_STR(err_name(ERR_QUEUE_FULL), "QUEUE_FULL");
    EXPECT_STR(err_text(ERR_TOO_LARGE), "the body is too large");
    EXPECT_EQ(err_http_status((enum err_code)9999), 500);
}
