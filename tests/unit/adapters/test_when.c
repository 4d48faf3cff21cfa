/* when: conditions of a change as If-Match and If-None-Match state them. */
#include "adapters/when.h"

#include "tests/test.h"

#define ABSENT NULL

TEST(when_conditions)
{
    static const struct {
        const char *match, *none_match, *current;
        enum err_code code;
    } cases[] = {
        {NULL, NULL, "a1", ERR_NONE},
        {NULL, NULL, ABSENT, ERR_NONE},
        {"\"a1\"", NULL, "a1", ERR_NONE},
        {"\"a1\"", NULL, "a", ERR_PRECONDITION},
        {"\"a\"", NULL, "a1", ERR_PRECONDITION},
        {"\"a1\"", NULL, ABSENT, ERR_PRECONDITION},
        {"\"b\" , \"a1\"", NULL, "a1", ERR_NONE},
        {",\"b\",,\"c\",", NULL, "a1", ERR_PRECONDITION},
        {"W/\"a1\"", NULL, "a1", ERR_PRECONDITION}, /* a weak one proves nothing */
        {"*", NULL, "a1", ERR_NONE},
        {" * ", NULL, "a1", ERR_NONE},
        {"*", NULL, ABSENT, ERR_PRECONDITION},
        {NULL, "*", ABSENT, ERR_NONE},
        {NULL, "*", "a1", ERR_PRECONDITION},
        {NULL, "\"a1\"", "a1", ERR_PRECONDITION},
        {NULL, "W/\"a1\"", "a1", ERR_PRECONDITION},
        {NULL, "\"b\", \"c\"", "a1", ERR_NONE},
        {NULL, "\"a1\"", ABSENT, ERR_NONE},
        {"*", "\"a1\"", "a1", ERR_PRECONDITION},
        {"*", "\"b\"", "a1", ERR_NONE},
        {"a1", NULL, "a1", ERR_INVALID},
        {"", NULL, "a1", ERR_INVALID},
        {"\"a1", NULL, "a1", ERR_INVALID},
        {"\"a1\" \"b\"", NULL, "a1", ERR_INVALID},
        {"\"a1\"x", NULL, "a1", ERR_INVALID},
        {"*, \"a1\"", NULL, "a1", ERR_INVALID},
        {"\"b\", *", NULL, "a1", ERR_INVALID},
        {"W/", NULL, "a1", ERR_INVALID},
        {"W", NULL, "a1", ERR_INVALID},
        {NULL, "a1", ABSENT, ERR_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct err err = {0};
        const struct adapter_when when = {cases[i].match, cases[i].none_match};
        int rc = when_check(&when, cases[i].current, &err);
        if (err.code != cases[i].code || (rc == 0) != (cases[i].code == ERR_NONE))
            test_fail(__FILE__, __LINE__, "case %zu: %s", i, err_name(err.code));
    }
}
