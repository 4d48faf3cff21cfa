/* Answers of the completions API: shapes, escapes, scores that read back, places in the
 * text. */
#include "server/completion.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>

#include "tests/test.h"

static const struct completion_head head = {
    .id = "cmpl-1", .model = "po\"et", .created = 1700};
static const struct completion_usage usage = {
    .prompt_tokens = 5, .completion_tokens = 2, .virtual_tokens = 8, .cached_tokens = 1};

#define HEAD                                                                               \
    "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1700,"                  \
    "\"model\":\"po\\\"et\",\"choices\":["
#define USAGE                                                                              \
    "],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7,"         \
    "\"prompt_tokens_details\":{\"cached_tokens\":1,\"virtual_tokens\":8}}}"

/* A byte-level vocabulary with "<|endoftext|>" as its special token. */
static struct tokenizer *open_tokenizer(void)
{
    struct err err = {0};
    char *path = test_path("tests/golden/models/gqa");
    struct tokenizer *t = tokenizer_open_dir(path, &err);
    if (!t)
        test_fail(__FILE__, __LINE__, "%s: %s", path, err.msg);
    free(path);
    return t;
}

static struct token_score score(const struct tokenizer *t, const char *piece, float logprob)
{
    int32_t id = tokenizer_find(t, piece);
    if (id < 0)
        test_fail(__FILE__, __LINE__, "no token %s", piece);
    return (struct token_score){id, logprob};
}

/* Adds one token without alternatives. */
static void add(struct choice_out *o, const struct tokenizer *t, const char *piece,
                float lp)
{
    struct token_out row = {.token = score(t, piece, lp)};
    choice_out_add_scores(o, t, &row, 1, false);
}

TEST(completion_json_whole_answer)
{
    struct choice_out o[2] = {{.finish_reason = "length"},
                              {.finish_reason = "stop", .stop_reason = "\n"}};
    struct buf out = {0};
    buf_add_str(&o[0].text, "tab\there");
    completion_render(&out, &head, o, 2, false, &usage);
    EXPECT_STR(out.data, HEAD "{\"index\":0,\"text\":\"tab\\there\",\"logprobs\":null,"
                              "\"finish_reason\":\"length\",\"stop_reason\":null},"
                              "{\"index\":1,\"text\":\"\",\"logprobs\":null,"
                              "\"finish_reason\":\"stop\",\"stop_reason\":\"\\n\"}" USAGE);
    choice_out_fini(&o[0]);
    choice_out_fini(&o[1]);
    buf_free(&out);
}

TEST(completion_json_answer_without_scores_yet)
{
    struct choice_out o = {.finish_reason = "length"};
    struct buf out = {0};
    completion_render(&out, &head, &o, 1, true, &usage);
    EXPECT(strstr(out.data, "\"logprobs\":{\"tokens\":[],\"token_logprobs\":[],"
                            "\"top_logprobs\":[],\"text_offset\":[]}") != NULL);
    choice_out_fini(&o);
    buf_free(&out);
}

TEST(completion_json_chunks)
{
    struct choice_out o = {0};
    struct buf out = {0};
    buf_add_str(&o.text, "x");
    completion_render_chunk(&out, &head, 3, &o, false, false);
    EXPECT_STR(out.data, HEAD "{\"index\":3,\"text\":\"x\",\"logprobs\":null,"
                              "\"finish_reason\":null,\"stop_reason\":null}]}");
    buf_clear(&out);
    choice_out_clear(&o);
    o.finish_reason = "stop";
    completion_render_chunk(&out, &head, 0, &o, true, true);
    EXPECT_STR(out.data, HEAD "{\"index\":0,\"text\":\"\",\"logprobs\":null,"
                              "\"finish_reason\":\"stop\",\"stop_reason\":null}],"
                              "\"usage\":null}");
    buf_clear(&out);
    completion_render_usage_chunk(&out, &head, &usage);
    EXPECT_STR(out.data, HEAD USAGE);
    choice_out_fini(&o);
    buf_free(&out);
}

TEST(completion_json_scores)
{
    struct tokenizer *t = open_tokenizer();
    ASSERT(t != NULL);
    struct choice_out o = {0};
    struct token_score top[] = {score(t, "the", -0.25f), score(t, "\"", -1.5f)};
    struct token_out rows[] = {
        {.token = score(t, "th", NAN), .n_top = 0},
        {.token = score(t, "the", -0.25f), .n_top = 2, .top = top},
        {.token = score(t, "ing", -INFINITY), .n_top = 2, .top = top},
    };
    choice_out_add_scores(&o, t, rows, 3, false);
    EXPECT_EQ(o.n_tokens, 3);
    EXPECT_STR(o.tokens.data, "\"th\",\"the\",\"ing\"");
    EXPECT_STR(o.token_logprobs.data, "null,-0.25,-9999.0");
    EXPECT_STR(o.top_logprobs.data, "null,{\"the\":-0.25,\"\\\"\":-1.5},"
                                    "{\"ing\":-9999.0,\"the\":-0.25,\"\\\"\":-1.5}");
    EXPECT_STR(o.text_offset.data, "0,2,5");
    choice_out_fini(&o);
    tokenizer_free(t);
}

/* A prompt's special tokens take room in its text, but for one that the tokenizer put in
 * front; an answer's take none. */
TEST(completion_json_places_of_special_tokens)
{
    struct tokenizer *t = open_tokenizer();
    static const char *const places[2] = {"0,13,16,29", "0,0,3,16"};
    for (int hides = 0; hides < 2; hides++) {
        struct choice_out o = {.is_in_prompt = true, .hides_first = hides};
        add(&o, t, "<|endoftext|>", -1);
        add(&o, t, "the", -1);
        add(&o, t, "<|endoftext|>", -1);
        o.is_in_prompt = false;
        add(&o, t, "<|endoftext|>", -1);
        EXPECT_STR(o.text_offset.data, places[hides]);
        EXPECT_EQ(o.n_offset_chars, hides ? 16 : 29);
        choice_out_fini(&o);
    }
    tokenizer_free(t);
}

/* logprobs 0: the chosen token alone. */
TEST(completion_json_scores_without_alternatives)
{
    struct tokenizer *t = open_tokenizer();
    ASSERT(t != NULL);
    struct choice_out o = {0};
    add(&o, t, "the", -2.0f);
    EXPECT_STR(o.top_logprobs.data, "{\"the\":-2.0}");
    choice_out_fini(&o);
    tokenizer_free(t);
}

TEST(completion_json_scores_by_id)
{
    struct tokenizer *t = open_tokenizer();
    ASSERT(t != NULL);
    struct choice_out o = {0};
    struct token_score top[] = {{3, -0.5f}, {7, -0.75f}};
    struct token_out row = {.token = {7, -0.75f}, .n_top = 2, .top = top};
    choice_out_add_scores(&o, t, &row, 1, true);
    EXPECT_STR(o.tokens.data, "\"token_id:7\"");
    EXPECT_STR(o.top_logprobs.data, "{\"token_id:7\":-0.75,\"token_id:3\":-0.5}");
    choice_out_fini(&o);
    tokenizer_free(t);
}

/* Halves of characters all read U+FFFD: one key, with the value that token_logprobs has. */
TEST(completion_json_keys_are_unique)
{
    struct tokenizer *t = open_tokenizer();
    ASSERT(t != NULL);
    struct choice_out o = {0};
    struct token_score top[] = {score(t, "\xc3\x83", -0.25f), /* byte C3 */
                                score(t, "\xc2\xa9", -1.0f),  /* byte A9 */
                                score(t, "on", -2.0f)};
    struct token_out row = {.token = top[1], .n_top = 3, .top = top};
    choice_out_add_scores(&o, t, &row, 1, false);
    row.token = top[2];
    choice_out_add_scores(&o, t, &row, 1, false);
    EXPECT_STR(o.top_logprobs.data, "{\"\xef\xbf\xbd\":-1.0,\"on\":-2.0},"
                                    "{\"on\":-2.0,\"\xef\xbf\xbd\":-0.25}");
    choice_out_fini(&o);
    tokenizer_free(t);
}

/* Places count code points of the text: both halves of a character stand where it does, a
 * special token takes no room, and a chunk goes on where the last one ended. */
TEST(completion_json_text_offset)
{
    struct tokenizer *t = open_tokenizer();
    ASSERT(t != NULL);
    struct choice_out o = {0};
    add(&o, t, "an", -1);
    add(&o, t, "\xc3\x83", -1); /* C3 A9: one character of two bytes */
    add(&o, t, "\xc2\xa9", -1);
    add(&o, t, "le", -1);
    EXPECT_STR(o.text_offset.data, "0,2,2,3");
    choice_out_clear(&o);
    EXPECT_EQ(o.text_offset.len, 0);
    add(&o, t, "<|endoftext|>", -1);
    add(&o, t, "on", -1);
    EXPECT_STR(o.tokens.data, "\"<|endoftext|>\",\"on\"");
    EXPECT_STR(o.text_offset.data, "5,5");
    EXPECT_EQ(o.n_tokens, 6);
    choice_out_fini(&o);
    tokenizer_free(t);
}

/* A SentencePiece decoder drops a text's first blank; a token's name and place keep it
 * where the answer follows a prompt. */
TEST(completion_json_sentencepiece_blanks)
{
    if (!test_shared())
        SKIP("no ../shared");
    struct err err = {0};
    char dir[4400];
    snprintf(dir, sizeof dir, "%s/assets/tokenizers/llama2", test_shared());
    struct tokenizer *t = tokenizer_open_dir(dir, &err);
    ASSERT(t != NULL);
    struct token_score prompt = score(t,
                                      "\xe2\x96\x81"
                                      "Once",
                                      0);
    struct choice_out o = {.detok = detok_new(t, &prompt.id, 1)}, echo = {0};
    add(&o, t, "\xe2\x96\x81the", -1);
    add(&o, t, "re", -1);
    EXPECT_STR(o.tokens.data, "\" the\",\"re\"");
    EXPECT_STR(o.text_offset.data, "0,4");
    add(&echo, t, "\xe2\x96\x81the", -1);
    add(&echo, t, "re", -1);
    EXPECT_STR(echo.tokens.data, "\" the\",\"re\"");
    EXPECT_STR(echo.text_offset.data, "0,3");
    choice_out_fini(&o);
    choice_out_fini(&echo);
    tokenizer_free(t);
}

/* What clients parse is JSON, and scores are the very f32 that the engine gave. */
TEST(completion_json_reads_back)
{
    struct tokenizer *t = open_tokenizer();
    ASSERT(t != NULL);
    struct choice_out o = {.finish_reason = "length"};
    struct buf out = {0};
    float given[] = {-0.1234567f, -1.17549435e-38f, -13.3333333f, 0.0f};
    for (int i = 0; i < 4; i++)
        add(&o, t, "on", given[i]);
    completion_render(&out, &head, &o, 1, true, &usage);
    cJSON *root = cJSON_Parse(out.data);
    ASSERT(root != NULL);
    cJSON *choice = cJSON_GetArrayItem(cJSON_GetObjectItem(root, "choices"), 0);
    cJSON *scores = cJSON_GetObjectItem(choice, "logprobs");
    for (int i = 0; i < 4; i++) {
        cJSON *v = cJSON_GetArrayItem(cJSON_GetObjectItem(scores, "token_logprobs"), i);
        EXPECT(v && (float)v->valuedouble == given[i]);
    }
    cJSON_Delete(root);
    choice_out_fini(&o);
    buf_free(&out);
    tokenizer_free(t);
}

TEST(completion_json_errors)
{
    struct err err = {0};
    struct buf out = {0};
    err_param(&err, ERR_INVALID, "n", "n: \"x\" is not accepted");
    completion_render_error(&out, &err, "req-1");
    EXPECT_STR(out.data, "{\"error\":{\"message\":\"n: \\\"x\\\" is not accepted\","
                         "\"type\":\"invalid_request_error\",\"param\":\"n\",\"code\":null,"
                         "\"request_id\":\"req-1\"}}");
    buf_clear(&out);
    err = (struct err){.code = ERR_QUEUE_FULL};
    completion_render_error(&out, &err, NULL);
    EXPECT_STR(out.data, "{\"error\":{\"message\":\"too many requests\","
                         "\"type\":\"rate_limit_error\",\"param\":null,"
                         "\"code\":\"rate_limit_exceeded\"}}");
    buf_free(&out);
}
