/* Every rule about the body of a completion: what is taken, what is refused and under which
 * name. */
#include "server/completion.h"

#include <stdlib.h>

#include "tests/test.h"

struct parsed { /* of the last body; the arena holds what c points to */
    struct completion c;
    struct arena arena;
    struct err err;
    int rc;
};

static void parse_len(struct parsed *p, const char *body, size_t len)
{
    arena_free(&p->arena);
    p->err = (struct err){0};
    p->rc = completion_parse(&p->c, body, len, &p->arena, &p->err);
}

/* The body with single quotes for double ones, to keep the cases readable. */
static void parse(struct parsed *p, const char *body)
{
    char *copy = strdup(body);
    for (char *c = copy; *c; c++)
        if (*c == '\'')
            *c = '"';
    parse_len(p, copy, strlen(copy));
    free(copy);
}

/* A body with a plain prompt and these fields. */
static void parse_fields(struct parsed *p, const char *fields)
{
    char body[8192];
    snprintf(body, sizeof body, "{'prompt':'Hi',%s}", fields);
    parse(p, body);
}

static bool is_taken(const char *fields)
{
    struct parsed p = {0};
    parse_fields(&p, fields);
    arena_free(&p.arena);
    return p.rc == 0;
}

static void expect_taken(const char *const *cases, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_taken(cases[i]))
            test_fail(__FILE__, __LINE__, "refused: %s", cases[i]);
}

static void expect_body_refused(const char *body, const char *param)
{
    struct parsed p = {0};
    parse(&p, body);
    if (p.rc == 0)
        test_fail(__FILE__, __LINE__, "accepted: %s", body);
    else if (strcmp(p.err.param, param) != 0 || !strstr(p.err.msg, param))
        test_fail(__FILE__, __LINE__, "%s: param \"%s\", \"%s\"", body, p.err.param,
                  p.err.msg);
    EXPECT_EQ(err_http_status(p.err.code), 400);
    arena_free(&p.arena);
}

static void expect_refused(const char *fields, const char *param)
{
    char body[8192];
    snprintf(body, sizeof body, "{'prompt':'Hi',%s}", fields);
    expect_body_refused(body, param);
}

/* `name` with each of the values, separated by blanks, is refused under that name. */
static void expect_values_refused(const char *name, const char *values)
{
    char copy[512], fields[600], *rest = copy;
    snprintf(copy, sizeof copy, "%s", values);
    for (char *v; (v = strtok_r(rest, " ", &rest));) {
        snprintf(fields, sizeof fields, "'%s':%s", name, v);
        expect_refused(fields, name);
    }
}

#define EXPECT_TAKEN(...)                                                                  \
    expect_taken((const char *const[]){__VA_ARGS__},                                       \
                 sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* ---- the whole body ------------------------------------------------------------------ */

TEST(completion_defaults)
{
    struct parsed p = {0};
    parse(&p, "{'prompt':'Hi'}");
    ASSERT(p.rc == 0);
    EXPECT_STR(p.c.model, "");
    EXPECT_EQ(p.c.n, 1);
    EXPECT_EQ(p.c.max_tokens, 16);
    EXPECT_EQ(p.c.min_tokens, 0);
    EXPECT(p.c.sampling.temperature == 1.0f && p.c.sampling.top_p == 1.0f);
    EXPECT(p.c.sampling.min_p == 0.0f && p.c.sampling.top_k == 0);
    EXPECT(!p.c.has_seed && !p.c.has_task && p.c.n_stops == 0);
    EXPECT_EQ(p.c.n_logprobs, -1);
    EXPECT(!p.c.is_echo && !p.c.is_stream && !p.c.has_usage_chunk);
    EXPECT(!p.c.ignore_eos && !p.c.wants_token_ids);
    ASSERT(p.c.n_prompts == 1);
    EXPECT_STR(p.c.prompts[0].text, "Hi");
    EXPECT_EQ(p.c.prompts[0].text_len, 2);
    arena_free(&p.arena);
}

TEST(completion_takes_every_field)
{
    struct parsed p = {0};
    parse(&p, "{'model':'base:poet','prompt':'Hi','max_tokens':5,'min_tokens':2,'n':3,"
              "'temperature':0.5,'top_p':0.9,'top_k':40,'min_p':0.05,'seed':7,'logprobs':4,"
              "'stop':['a','bc'],'echo':true,'stream':true,"
              "'stream_options':{'include_usage':true},'ignore_eos':true,"
              "'return_tokens_as_token_ids':true,'user':'u','task_id':2}");
    ASSERT(p.rc == 0);
    EXPECT_STR(p.c.model, "base:poet");
    EXPECT(p.c.max_tokens == 5 && p.c.min_tokens == 2 && p.c.n == 3);
    EXPECT(p.c.sampling.temperature == 0.5f && p.c.sampling.top_p == 0.9f);
    EXPECT(p.c.sampling.top_k == 40 && p.c.sampling.min_p == 0.05f);
    EXPECT(p.c.has_seed && p.c.sampling.seed == 7);
    EXPECT_EQ(p.c.n_logprobs, 4);
    ASSERT(p.c.n_stops == 2);
    EXPECT_STR(p.c.stops[0].text, "a");
    EXPECT(strcmp(p.c.stops[1].text, "bc") == 0 && p.c.stops[1].len == 2);
    EXPECT(p.c.is_echo && p.c.is_stream && p.c.has_usage_chunk && p.c.ignore_eos);
    EXPECT(p.c.wants_token_ids && p.c.has_task && p.c.task_id == 2);
    arena_free(&p.arena);
}

TEST(completion_null_is_the_default)
{
    struct parsed p = {0};
    parse_fields(&p,
                 "'model':null,'max_tokens':null,'min_tokens':null,'n':null,"
                 "'temperature':null,'top_p':null,'top_k':null,'min_p':null,'seed':null,"
                 "'logprobs':null,'stop':null,'echo':null,'stream':null,"
                 "'stream_options':null,'ignore_eos':null,"
                 "'return_tokens_as_token_ids':null,'user':null,'task_id':null");
    ASSERT(p.rc == 0);
    EXPECT_STR(p.c.model, "");
    EXPECT(p.c.n == 1 && p.c.max_tokens == 16 && p.c.n_logprobs == -1);
    EXPECT(p.c.sampling.temperature == 1.0f && !p.c.has_seed && !p.c.has_task);
    arena_free(&p.arena);
}

TEST(completion_ignores_unknown_fields)
{
    EXPECT_TAKEN("'foo':1", "'tools':[{'a':{'b':[]}}]", "'max_completion_tokens':'x'",
                 "'cache_salt':'x','priority':3,'request_id':'r'", "'PROMPT':5", "'':null");
}

TEST(completion_refuses_what_is_no_object)
{
    static const char *const bodies[] = {"",
                                         "  ",
                                         "{",
                                         "[]",
                                         "'x'",
                                         "3",
                                         "null",
                                         "{'prompt':'a'} x",
                                         "{'prompt':'a',}",
                                         "{'prompt':'a','prompt':'b'}",
                                         "{'prompt':'a','n':01}",
                                         "prompt=a"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        expect_body_refused(bodies[i], "");
}

TEST(completion_refuses_nul_and_bad_utf8)
{
    struct parsed p = {0};
    parse(&p, "{'prompt':'a\\u0000b'}");
    EXPECT_EQ(p.rc, -1);
    parse_len(&p, "{\"prompt\":\"a\0b\"}", 16);
    EXPECT_EQ(p.rc, -1);
    parse_len(&p, "{\"prompt\":\"a\"}\0", 15);
    EXPECT_EQ(p.rc, -1);
    parse(&p, "{'prompt':'\xff'}");
    EXPECT_EQ(p.rc, -1);
    parse(&p, "{'prompt':'\\ud800'}");
    EXPECT_EQ(p.rc, -1);
    arena_free(&p.arena);
}

TEST(completion_survives_depth_and_long_numbers)
{
    struct parsed p = {0};
    char body[400] = "{'prompt':'a','x':", *at = body + strlen(body);
    memset(at, '[', 64);
    memset(at + 64, ']', 64);
    strcpy(at + 128, "}");
    parse(&p, body);
    EXPECT_EQ(p.rc, -1);
    strcpy(body, "{'prompt':'a','x':1.");
    at = body + strlen(body);
    memset(at, '1', 100);
    strcpy(at + 100, "}");
    parse(&p, body);
    EXPECT(p.rc == 0 || p.err.msg[0]); /* as far as the JSON library reads */
    arena_free(&p.arena);
}

/* ---- prompt -------------------------------------------------------------------------- */

TEST(completion_prompt_is_text)
{
    struct parsed p = {0};
    parse(&p, "{'prompt':['one','zw\\u00f6lf']}");
    ASSERT(p.rc == 0 && p.c.n_prompts == 2);
    EXPECT_STR(p.c.prompts[0].text, "one");
    EXPECT_STR(p.c.prompts[1].text, "zw\xc3\xb6lf");
    EXPECT_EQ(p.c.prompts[1].text_len, 6);
    arena_free(&p.arena);
}

TEST(completion_prompt_is_ids)
{
    struct parsed p = {0};
    parse(&p, "{'prompt':[5,0,2147483647,7.0]}");
    ASSERT(p.rc == 0 && p.c.n_prompts == 1);
    EXPECT(!p.c.prompts[0].text);
    ASSERT(p.c.prompts[0].n_ids == 4);
    EXPECT(p.c.prompts[0].ids[0] == 5 && p.c.prompts[0].ids[2] == INT32_MAX);
    EXPECT_EQ(p.c.prompts[0].ids[3], 7);
    parse(&p, "{'prompt':[[1],[2,3]]}");
    ASSERT(p.rc == 0 && p.c.n_prompts == 2);
    EXPECT(p.c.prompts[0].n_ids == 1 && p.c.prompts[1].n_ids == 2);
    EXPECT_EQ(p.c.prompts[1].ids[1], 3);
    arena_free(&p.arena);
}

TEST(completion_prompt_is_required_and_not_empty)
{
    expect_body_refused("{}", "prompt");
    expect_body_refused("{'model':'m'}", "prompt");
    expect_body_refused("{'prompt':null}", "prompt");
    expect_body_refused("{'prompt':''}", "prompt");
    expect_body_refused("{'prompt':[]}", "prompt");
    expect_body_refused("{'prompt':['']}", "prompt");
    expect_body_refused("{'prompt':['a','']}", "prompt");
    expect_body_refused("{'prompt':[[]]}", "prompt");
    expect_body_refused("{'prompt':[[1],[]]}", "prompt");
}

TEST(completion_prompt_of_a_wrong_kind)
{
    static const char *const prompts[] = {
        "1",         "true",     "{}",         "[true]",    "[null]",  "[{}]",
        "['a',1]",   "[1,'a']",  "['a',[1]]",  "[[1],'a']", "[[1],2]", "[1,[2]]",
        "[[['a']]]", "[['a']]",  "['a',null]", "[-1]",      "[1.5]",   "[2147483648]",
        "[1e300]",   "[[1,-1]]", "[1,true]",   "[1,null]"};
    char body[64];
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        snprintf(body, sizeof body, "{'prompt':%s}", prompts[i]);
        expect_body_refused(body, "prompt");
    }
}

static void parse_many(struct parsed *p, int n_prompts, int n)
{
    struct buf b = {0};
    buf_printf(&b, "{'n':%d,'prompt':['a'", n);
    for (int i = 1; i < n_prompts; i++)
        buf_add_str(&b, ",'a'");
    buf_add_str(&b, "]}");
    parse(p, b.data);
    buf_free(&b);
}

TEST(completion_makes_at_most_128_sequences)
{
    struct parsed p = {0};
    parse_many(&p, 128, 1);
    EXPECT(p.rc == 0 && p.c.n_prompts == 128);
    parse_many(&p, 1, 128);
    EXPECT(p.rc == 0 && p.c.n == 128);
    parse_many(&p, 64, 2);
    EXPECT_EQ(p.rc, 0);
    parse_many(&p, 129, 1);
    EXPECT(p.rc < 0 && strcmp(p.err.param, "prompt") == 0);
    parse_many(&p, 65, 2);
    EXPECT(p.rc < 0 && strcmp(p.err.param, "n") == 0);
    EXPECT(strstr(p.err.msg, "65") && strstr(p.err.msg, "128"));
    arena_free(&p.arena);
}

/* ---- numbers and switches ------------------------------------------------------------ */

TEST(completion_number_ranges)
{
    EXPECT_TAKEN("'temperature':0", "'temperature':2", "'temperature':2.0", "'top_p':1",
                 "'top_p':1e-9", "'min_p':0", "'min_p':1", "'top_k':-1", "'top_k':0",
                 "'top_k':100000", "'n':1", "'n':128", "'n':2.0", "'max_tokens':1",
                 "'max_tokens':1000000", "'min_tokens':16", "'min_tokens':0",
                 "'logprobs':0", "'logprobs':20", "'logprobs':false", "'logprobs':5.0",
                 "'task_id':0");
    expect_values_refused("temperature", "-0.1 2.01 1e999 -1e999 '1' true [] {}");
    expect_values_refused("top_p", "0 -0.1 1.01 1e-60 '1' true");
    expect_values_refused("min_p", "-0.01 1.01 '0' false");
    expect_values_refused("top_k", "-2 1.5 '1' true 1e12");
    expect_values_refused("n", "0 -1 129 1.5 '1' true []");
    expect_values_refused("max_tokens", "-1 1.5 '16' true 1e12 [16]");
    expect_values_refused("min_tokens", "-1 0.5 '1' false");
    expect_values_refused("logprobs", "-1 21 0.5 '1' true []");
    expect_values_refused("task_id", "-1 0.5 '0' true 1e300");
}

TEST(completion_top_k_minus_one_is_off)
{
    struct parsed p = {0};
    parse_fields(&p, "'top_k':-1");
    EXPECT(p.rc == 0 && p.c.sampling.top_k == 0);
    arena_free(&p.arena);
}

TEST(completion_seed_is_a_64_bit_integer)
{
    struct parsed p = {0};
    parse_fields(&p, "'seed':-1");
    EXPECT(p.rc == 0 && p.c.has_seed && p.c.sampling.seed == UINT64_MAX);
    parse_fields(&p, "'seed':0");
    EXPECT(p.rc == 0 && p.c.has_seed && p.c.sampling.seed == 0);
    parse_fields(&p, "'seed':9007199254740991");
    EXPECT(p.rc == 0 && p.c.sampling.seed == 9007199254740991u);
    parse_fields(&p, "'seed':9223372036854775807");
    EXPECT_EQ(p.rc, 0);
    parse_fields(&p, "'seed':-9223372036854775808");
    EXPECT(p.rc == 0 && p.c.sampling.seed == (uint64_t)INT64_MIN);
    arena_free(&p.arena);
    expect_values_refused("seed", "1.5 '1' true 18446744073709551616 -1e20 1e400 "
                                  "9223372036854775808 -9223372036854775809");
}

TEST(completion_refusal_names_value_and_range)
{
    struct parsed p = {0};
    parse_fields(&p, "'temperature':3.5");
    EXPECT(strstr(p.err.msg, "3.5") && strstr(p.err.msg, "from 0 to 2"));
    parse_fields(&p, "'logprobs':21");
    EXPECT(strstr(p.err.msg, "21") && strstr(p.err.msg, "from 0 to 20"));
    arena_free(&p.arena);
}

TEST(completion_refusal_prints_integers_exactly)
{
    static const struct {
        const char *fields, *says;
    } rows[] = {
        {"'task_id':-1", "task_id: -1 is not accepted; accepted: an integer from 0 to "
                         "9007199254740992"},
        {"'task_id':12345678901234567", "task_id: 12345678901234568 is not accepted"},
        {"'seed':0.5", "seed: 0.5 is not accepted; accepted: an integer from "
                       "-9223372036854775808 to 9223372036854775807"},
        {"'seed':1e300", "seed: 1e+300 is not accepted"},
        {"'n':1000000000000000001", "n: 1000000000000000000 is not accepted"},
        {"'temperature':2.5", "temperature: 2.5 is not accepted; accepted: a number from 0 to 2"},
    };
    struct parsed p = {0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        parse_fields(&p, rows[i].fields);
        if (p.rc == 0 || !strstr(p.err.msg, rows[i].says))
            test_fail(__FILE__, __LINE__, "%s: \"%s\"", rows[i].fields, p.err.msg);
    }
    arena_free(&p.arena);
}

TEST(completion_switches_are_booleans)
{
    static const char *const names[] = {"echo", "stream", "ignore_eos",
                                        "return_tokens_as_token_ids"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        expect_values_refused(names[i], "1 0 'true' [] {}");
}

TEST(completion_strings_are_strings)
{
    expect_values_refused("model", "1 true [] {}");
    expect_values_refused("user", "1 true [] {}");
    EXPECT_TAKEN("'model':''", "'user':''");
}

/* ---- stop ---------------------------------------------------------------------------- */

static bool takes_stop_of(size_t n_strings, size_t len)
{
    struct buf b = {0};
    for (size_t i = 0; i < n_strings; i++) {
        buf_add_str(&b, i ? ",'" : "'stop':['");
        for (size_t k = 0; k < len; k++)
            buf_add_char(&b, 's');
        buf_add_char(&b, '\'');
    }
    buf_add_char(&b, ']');
    bool is_ok = is_taken(b.data);
    buf_free(&b);
    return is_ok;
}

TEST(completion_stop)
{
    struct parsed p = {0};
    EXPECT_TAKEN("'stop':'\\n'", "'stop':[]", "'stop':['a','a']");
    EXPECT(takes_stop_of(16, 1) && !takes_stop_of(17, 1));
    EXPECT(takes_stop_of(1, 1024) && !takes_stop_of(1, 1025));
    expect_values_refused("stop", "'' [''] ['a',''] 1 true [1] ['a',null] [['a']] {}");
    parse_fields(&p, "'stop':'\\u00e9x'");
    ASSERT(p.rc == 0 && p.c.n_stops == 1);
    EXPECT(p.c.stops[0].len == 3 && memcmp(p.c.stops[0].text, "\xc3\xa9x", 3) == 0);
    arena_free(&p.arena);
}

/* ---- rules between fields ------------------------------------------------------------ */

TEST(completion_stop_says_what_is_too_much)
{
    struct parsed p = {0};
    char fields[1200];
    snprintf(fields, sizeof fields, "'stop':'%01025d'", 0);
    parse_fields(&p, fields);
    EXPECT_STR(p.err.msg, "stop: the length of a string in bytes, 1025, is more than 1024");
    parse_fields(&p, "'stop':['a','a','a','a','a','a','a','a','a','a','a','a','a','a','a',"
                     "'a','a']");
    EXPECT_STR(p.err.msg, "stop: the number of strings, 17, is more than 16");
    arena_free(&p.arena);
}

TEST(completion_max_tokens_0_needs_echo)
{
    expect_refused("'max_tokens':0", "max_tokens");
    expect_refused("'max_tokens':0,'logprobs':1", "max_tokens");
    EXPECT_TAKEN("'max_tokens':0,'echo':true", "'echo':true,'max_tokens':0,'logprobs':1");
}

TEST(completion_min_tokens_within_max)
{
    EXPECT_TAKEN("'min_tokens':3,'max_tokens':3", "'max_tokens':20,'min_tokens':17");
    expect_refused("'min_tokens':4,'max_tokens':3", "min_tokens");
    expect_refused("'min_tokens':17", "min_tokens");
}

TEST(completion_stream_options_need_stream)
{
    struct parsed p = {0};
    EXPECT_TAKEN("'stream':true,'stream_options':{}", "'stream_options':null",
                 "'stream_options':{'include_usage':true},'stream':true",
                 "'stream':true,'stream_options':{'include_usage':null}",
                 "'stream':true,'stream_options':{'continuous_usage_stats':true}");
    expect_refused("'stream_options':{'include_usage':true}", "stream_options");
    expect_refused("'stream_options':{}", "stream_options");
    expect_refused("'stream':false,'stream_options':{'include_usage':false}",
                   "stream_options");
    expect_refused("'stream':true,'stream_options':{'include_usage':1}", "stream_options");
    expect_refused("'stream':true,'stream_options':true", "stream_options");
    expect_refused("'stream':true,'stream_options':[]", "stream_options");
    parse_fields(&p, "'stream':true,'stream_options':{'include_usage':false}");
    EXPECT(p.rc == 0 && !p.c.has_usage_chunk);
    arena_free(&p.arena);
}

TEST(completion_best_of_equals_n)
{
    EXPECT_TAKEN("'best_of':null", "'best_of':1", "'best_of':3,'n':3",
                 "'n':2,'best_of':2.0");
    expect_refused("'best_of':2", "best_of");
    expect_refused("'best_of':1,'n':2", "best_of");
    expect_refused("'best_of':0", "best_of");
    expect_refused("'best_of':'1'", "best_of");
}

/* ---- what is not supported ----------------------------------------------------------- */

TEST(completion_unsupported_fields)
{
    static const struct {
        const char *name, *taken, *refused; /* values, separated by blanks */
    } rows[] = {
        {"frequency_penalty", "0 0.0 -0", "0.1 -1 '0' false"},
        {"presence_penalty", "0 0.0", "2 '' true"},
        {"repetition_penalty", "1 1.0", "1.1 0"},
        {"length_penalty", "1", "0 2"},
        {"logit_bias", "{}", "{'50256':-100} 1"},
        {"suffix", "''", "'x' 1"},
        {"use_beam_search", "false", "true"},
        {"stop_token_ids", "[]", "[1]"},
        {"bad_words", "[]", "['x']"},
        {"logits_processors", "[]", "['x']"},
        {"allowed_token_ids", "", "[] [1]"},
        {"include_stop_str_in_output", "false", "true"},
        {"skip_special_tokens", "true", "false"},
        {"add_special_tokens", "true", "false"},
        {"truncate_prompt_tokens", "", "-1 5"},
        {"prompt_logprobs", "", "0 1"},
        {"prompt_embeds", "", "'x'"},
        {"return_token_ids", "false", "true"},
        {"response_format", "{'type':'text'}", "{'type':'json_object'} {} 'text'"},
        {"structured_outputs", "{}", "{'regex':'a'}"},
        {"guided_json", "", "{} '{}'"},
        {"guided_regex", "", "'a'"},
        {"guided_choice", "", "['a']"},
        {"guided_grammar", "", "'a'"},
    };
    char fields[256], copy[128], *rest;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(copy, sizeof copy, "null %s", rows[i].taken);
        rest = copy;
        for (char *v; (v = strtok_r(rest, " ", &rest));) {
            snprintf(fields, sizeof fields, "'%s':%s", rows[i].name, v);
            EXPECT_TAKEN(fields);
        }
        expect_values_refused(rows[i].name, rows[i].refused);
    }
}

/* ---- size ---------------------------------------------------------------------------- */

TEST(completion_long_lists_of_ids_are_no_tree)
{
    struct parsed p = {0};
    struct buf b = {0};
    buf_add_str(&b, "{\"n\":2,\"prompt\":[0");
    for (int i = 1; i < 100000; i++)
        buf_printf(&b, ",%d", i);
    buf_add_str(&b, "],\"seed\":9007199254740993}");
    parse_len(&p, b.data, b.len);
    ASSERT(p.rc == 0 && p.c.n_prompts == 1 && p.c.n == 2);
    EXPECT_EQ(p.c.prompts[0].n_ids, 100000);
    EXPECT_EQ(p.c.prompts[0].ids[99999], 99999);
    EXPECT_EQ(p.c.sampling.seed, 9007199254740993);
    buf_clear(&b);
    buf_add_str(&b, "{\"prompt\":\"a\",\"x\":[0");
    for (int i = 1; i < 10000; i++)
        buf_add_str(&b, ",0");
    buf_add_str(&b, "]}");
    parse_len(&p, b.data, b.len);
    EXPECT(p.rc < 0 && strstr(p.err.msg, "too many values"));
    buf_free(&b);
    arena_free(&p.arena);
}

TEST(completion_ids_are_found_at_the_top_alone)
{
    struct parsed p = {0};
    parse(&p, "{'x':{'prompt':[1,2]},'prompt':'Hi','y':'\\\"prompt\\\":[1]'}");
    ASSERT(p.rc == 0 && p.c.n_prompts == 1);
    EXPECT_STR(p.c.prompts[0].text, "Hi");
    parse(&p, "{'prompt':[1,2],'prompt':[3]}");
    EXPECT(p.rc < 0 && strstr(p.err.msg, "twice"));
    parse(&p, "{'prompt':[1,2],'pro\\u006dpt':[3]}");
    EXPECT(p.rc < 0 && strstr(p.err.msg, "twice"));
    parse(&p, "{'pro\\u006dpt':[3,4]}");
    ASSERT(p.rc == 0 && p.c.prompts[0].n_ids == 2);
    parse(&p, "{'prompt':[1,2]");
    EXPECT(p.rc < 0 && strstr(p.err.msg, "byte 15"));
    arena_free(&p.arena);
}

TEST(completion_seeds_are_exact)
{
    static const struct {
        const char *text;
        int64_t seed;
    } rows[] = {
        {"0", 0},
        {"-0", 0},
        {"9007199254740993", 9007199254740993},
        {"-9007199254740993", -9007199254740993},
        {"9223372036854775807", INT64_MAX},
        {"-9223372036854775808", INT64_MIN},
        {"1e3", 1000},
        {"5.0", 5},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct parsed p = {0};
        char body[100];
        snprintf(body, sizeof body, "{'prompt':'a','seed':%s}", rows[i].text);
        parse(&p, body);
        if (p.rc < 0 || (int64_t)p.c.sampling.seed != rows[i].seed)
            test_fail(__FILE__, __LINE__, "%s gives %lld", rows[i].text,
                      (long long)p.c.sampling.seed);
        arena_free(&p.arena);
    }
}
