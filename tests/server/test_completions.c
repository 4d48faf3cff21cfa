/* Completions: what reaches the engine, and what its events become. */
#include "tests/server/fixture.h"
#include "tests/support/fake_engine.h"
#include "tests/test.h"

#include <string.h>
#include <unistd.h>

static const struct fake_plan plain = {0};

/* Starts a server, asks once and expects status and a part of the body. */
static void ask_once(const struct fake_plan *plan, const char *json, int status,
                     const char *part)
{
    struct fixture f = {0};
    fake_engine_plan(plan);
    fixture_start(&f);
    struct reply r = fixture_complete(&f, json);
    EXPECT_EQ(r.status, status);
    if (!reply_has(&r, part))
        test_fail(__FILE__, __LINE__, "%s: no %s in %s", json, part,
                  r.body.data ? r.body.data : "");
    reply_free(&r);
    fixture_stop(&f);
}

TEST(completions_answer_whole)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = fixture_complete(&f, "{\"prompt\":[7,8],\"max_tokens\":3}");
    EXPECT_EQ(r.status, 200);
    EXPECT(reply_has(&r, "\"object\":\"text_completion\""));
    EXPECT(reply_has(&r, "\"model\":\"gqa\""));
    EXPECT(reply_has(&r, "\"text\":\" w0 w1 w2\""));
    EXPECT(reply_has(&r, "\"logprobs\":null"));
    EXPECT(r.body.len && r.body.data[r.body.len - 1] == '\n');
    EXPECT(reply_has(&r, "\"finish_reason\":\"length\""));
    EXPECT(reply_has(&r, "\"prompt_tokens\":2,\"completion_tokens\":3,\"total_tokens\":5"));
    reply_free(&r);
    fixture_stop(&f);
}

TEST(completions_pass_everything_to_the_engine)
{
    struct fixture f = {0};
    struct fake_seen seen;
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = fixture_complete(
        &f, "{\"prompt\":[[7,8,9],[10]],\"n\":2,\"max_tokens\":4,\"min_tokens\":2,"
            "\"temperature\":0.5,"
            "\"top_p\":0.25,\"top_k\":3,\"min_p\":0.125,\"seed\":77,\"stop\":[\"a\",\"b\"],"
            "\"logprobs\":2,\"ignore_eos\":true}");
    fake_engine_seen(&seen);
    EXPECT_EQ(r.status, 200);
    EXPECT_EQ(seen.n_prompts, 2);
    EXPECT_EQ(seen.n, 2);
    EXPECT_EQ(seen.n_ids, 3);
    EXPECT_EQ(seen.ids[2], 9);
    EXPECT_EQ(seen.max_tokens, 4);
    EXPECT_EQ(seen.min_tokens, 2);
    EXPECT(seen.sampling.temperature == 0.5f && seen.sampling.top_p == 0.25f);
    EXPECT(seen.sampling.top_k == 3 && seen.sampling.min_p == 0.125f);
    EXPECT_EQ(seen.sampling.seed, 77);
    EXPECT_EQ(seen.n_stops, 2);
    EXPECT_EQ(seen.n_logprobs, 2);
    EXPECT(seen.ignore_eos && !seen.is_echo && !seen.has_prefix);
    EXPECT(reply_has(&r, "\"index\":3"));
    EXPECT(!reply_has(&r, "\"index\":4"));
    EXPECT(reply_has(&r, "\"prompt_tokens\":4,\"completion_tokens\":16,"));
    reply_free(&r);
    fixture_stop(&f);
}

TEST(completions_without_a_seed_differ)
{
    struct fixture f = {0};
    struct fake_seen one, two;
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = fixture_complete(&f, "{\"prompt\":\"a\",\"max_tokens\":1}");
    fake_engine_seen(&one);
    reply_free(&r);
    r = fixture_complete(&f, "{\"prompt\":\"a\",\"max_tokens\":1}");
    fake_engine_seen(&two);
    reply_free(&r);
    EXPECT(one.sampling.seed != two.sampling.seed);
    fixture_stop(&f);
}

TEST(completions_eos_counts_but_has_no_text)
{
    static const struct fake_plan plan = {.eos_after = 2};
    ask_once(&plan, "{\"prompt\":\"a\",\"max_tokens\":9}", 200, "\"text\":\" w0 w1\"");
    ask_once(&plan, "{\"prompt\":\"a\",\"max_tokens\":9}", 200,
             "\"finish_reason\":\"stop\"");
    ask_once(&plan, "{\"prompt\":[3],\"max_tokens\":9}", 200, "\"completion_tokens\":3");
}

TEST(completions_refuse_what_is_wrong)
{
    ask_once(&plain, "{\"prompt\":\"\"}", 400, "\"param\":\"prompt\"");
    ask_once(&plain, "{\"prompt\":[999999]}", 400, "\"param\":\"prompt\"");
    ask_once(&plain, "{\"prompt\":\"a\",\"max_tokens\":100000}", 400,
             "context_length_exceeded");
    ask_once(&plain, "{\"model\":\"nope\",\"prompt\":\"a\"}", 404, "model_not_found");
    ask_once(&plain, "{\"model\":\"gqa:nope\",\"prompt\":\"a\"}", 404, "model_not_found");
    ask_once(&plain, "{\"model\":\"gqa:\",\"prompt\":\"a\"}", 404, "model_not_found");
    ask_once(&plain, "{\"model\":\"gqax\",\"prompt\":\"a\"}", 404, "model_not_found");
    ask_once(&plain, "{\"model\":\"gqa\",\"prompt\":\"a\"}", 200, "\"model\":\"gqa\"");
    ask_once(&(struct fake_plan){.post_code = ERR_QUEUE_FULL}, "{\"prompt\":\"a\"}", 429,
             "rate_limit_exceeded");
    ask_once(&(struct fake_plan){.fail_code = ERR_NO_MEMORY}, "{\"prompt\":\"a\"}", 503,
             "out_of_memory");
}

TEST(completions_long_texts_go_through_the_pool)
{
    struct fixture f = {0};
    struct fake_seen seen;
    struct buf body = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    buf_add_str(&body, "{\"max_tokens\":1,\"prompt\":\"");
    for (int i = 0; i < 5000; i++)
        buf_add_str(&body, "ab cd ");
    buf_add_str(&body, "\"}");
    struct reply r = fixture_complete(&f, body.data);
    EXPECT_EQ(r.status, 400); /* too long for the context, which only the tokens tell */
    EXPECT(reply_has(&r, "context_length_exceeded"));
    reply_free(&r);
    buf_clear(&body);
    buf_add_str(&body, "{\"max_tokens\":1,\"prompt\":[\"x\",\"");
    for (int i = 0; i < 9000; i++)
        buf_add_char(&body, ' ');
    buf_add_str(&body, "\"]}");
    r = fixture_complete(&f, body.data);
    fake_engine_seen(&seen);
    EXPECT(r.status == 200 || reply_has(&r, "context_length_exceeded"));
    reply_free(&r);
    buf_free(&body);
    fixture_stop(&f);
}

TEST(completions_echo_starts_with_the_prompt)
{
    ask_once(&plain, "{\"prompt\":\"hello\",\"echo\":true,\"max_tokens\":2}", 200,
             "\"text\":\"hello w0 w1\"");
    ask_once(&plain, "{\"prompt\":\"hello\",\"echo\":true,\"max_tokens\":0,\"logprobs\":1}",
             200, "\"text\":\"hello\"");
    ask_once(&plain, "{\"prompt\":\"hello\",\"echo\":true,\"max_tokens\":0,\"logprobs\":1}",
             200, "\"token_logprobs\":[null,");
    ask_once(&plain,
             "{\"prompt\":[7,8],\"echo\":true,\"max_tokens\":1,\"logprobs\":0,"
             "\"return_tokens_as_token_ids\":true}",
             200, "\"tokens\":[\"token_id:7\",\"token_id:8\",\"token_id:5\"]");
}

TEST(completions_answers_have_a_ceiling)
{
    /* 128 choices of 900 tokens with 20 scores each: over 100 MiB. */
    ask_once(&plain, "{\"prompt\":[7],\"n\":128,\"max_tokens\":900,\"logprobs\":20}", 400,
             "\"param\":\"max_tokens\"");
    ask_once(&plain, "{\"prompt\":[7],\"n\":128,\"max_tokens\":9000,\"logprobs\":20}", 400,
             "context_length_exceeded");
}

TEST(completions_answers_have_a_ceiling_together)
{
    struct fixture f = {.max_answers = 1000};
    struct reply r;
    fake_engine_plan(&(struct fake_plan){.is_held = true});
    fixture_start(&f);
    int fd = client_open(&f);
    client_post(fd, "{\"prompt\":[7],\"max_tokens\":15}"); /* 720 bytes */
    fixture_wait_metric(&f, "answer_bytes", 720);
    r = fixture_complete(&f, "{\"prompt\":[7],\"max_tokens\":15}");
    EXPECT_EQ(r.status, 503);
    EXPECT(reply_header(&r, "Retry-After") != NULL);
    reply_free(&r);
    close(fd);
    fixture_wait_metric(&f, "answer_bytes", 0);
    fixture_stop(&f);
}

/* ---- streams ------------------------------------------------------------------------- */

TEST(streams_join_to_the_whole)
{
    struct fixture f = {0};
    fake_engine_plan(&(struct fake_plan){.step_us = 2000});
    fixture_start(&f);
    struct reply r =
        fixture_complete(&f, "{\"prompt\":[7,8],\"max_tokens\":3,\"stream\":true,"
                             "\"stream_options\":{\"include_usage\":true}}");
    EXPECT_EQ(r.status, 200);
    EXPECT_STR(reply_header(&r, "Content-Type"), "text/event-stream; charset=utf-8");
    ASSERT(r.body.data);
    EXPECT(strncmp(r.body.data, "data: {\"id\":\"cmpl-", 18) == 0);
    const char *last =
        strstr(r.body.data, "\"choices\":[],\"usage\":{\"prompt_tokens\":2,");
    EXPECT(last && strstr(last, "}\n\ndata: [DONE]\n\n"));
    EXPECT(reply_has(&r, "\"usage\":null"));
    const char *w0 = strstr(r.body.data, " w0"), *w2 = strstr(r.body.data, " w2");
    EXPECT(w0 && w2 && w0 < w2);
    EXPECT(reply_has(&r, "\"finish_reason\":\"length\""));
    reply_free(&r);
    fixture_stop(&f);
}

TEST(streams_bring_tokens_as_they_are_made)
{
    struct fixture f = {0};
    struct buf got = {0};
    fake_engine_plan(&(struct fake_plan){.hold_after = 2});
    fixture_start(&f);
    int fd = client_open(&f);
    client_post(fd, "{\"prompt\":\"a\",\"max_tokens\":9,\"stream\":true}");
    EXPECT(client_wait_for(fd, &got, " w1", 5000));
    EXPECT(!strstr(got.data, " w2"));
    fake_engine_plan(&plain);
    EXPECT(client_wait_for(fd, &got, "[DONE]", 5000));
    close(fd);
    buf_free(&got);
    fixture_stop(&f);
}

TEST(streams_with_echo_and_scores)
{
    struct fixture f = {0};
    fake_engine_plan(&plain);
    fixture_start(&f);
    struct reply r = fixture_complete(&f, "{\"prompt\":\"hi\",\"echo\":true,\"logprobs\":1,"
                                          "\"max_tokens\":1,\"stream\":true}");
    EXPECT(reply_has(&r, "\"text\":\"hi w0\"") || reply_has(&r, "\"text\":\"hi\""));
    EXPECT(reply_has(&r, "\"token_logprobs\":[null"));
    EXPECT(reply_has(&r, "[DONE]"));
    reply_free(&r);
    fixture_stop(&f);
}

TEST(streams_fail_with_a_status_before_the_first_byte)
{
    struct fixture f = {0};
    fake_engine_plan(&(struct fake_plan){.fail_code = ERR_NO_MEMORY});
    fixture_start(&f);
    struct reply r = fixture_complete(&f, "{\"prompt\":\"a\",\"stream\":true}");
    EXPECT_EQ(r.status, 503);
    EXPECT_STR(reply_header(&r, "Content-Type"), "application/json");
    EXPECT_STR(reply_header(&r, "Retry-After"), "1");
    reply_free(&r);
    fixture_stop(&f);
}

TEST(streams_fail_with_an_event_after_the_first_byte)
{
    struct fixture f = {0};
    fake_engine_plan(
        &(struct fake_plan){.fail_code = ERR_NO_MEMORY, .fail_after = 2, .step_us = 20000});
    fixture_start(&f);
    struct reply r = fixture_complete(&f, "{\"prompt\":\"a\",\"stream\":true}");
    EXPECT_EQ(r.status, 200);
    EXPECT(reply_has(&r, " w0"));
    const char *text = r.body.data ? r.body.data : "";
    const char *event = strstr(text, "event: error\ndata: {\"error\":{");
    EXPECT(event && strstr(event, "\n\ndata: [DONE]\n\n"));
    reply_free(&r);
    fixture_stop(&f);
}
