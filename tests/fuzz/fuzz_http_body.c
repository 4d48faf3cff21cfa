/* Any bytes as the body of a completion: refused with a reason, or taken within every
 * promised bound. */
#include "server/completion.h"

#include <string.h>

#include "core/base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_prompt(const struct completion_prompt *p)
{
    if (p->text) {
        CHECK(p->text_len > 0 && strlen(p->text) == p->text_len);
        return;
    }
    CHECK(p->n_ids > 0);
    for (int i = 0; i < p->n_ids; i++)
        CHECK(p->ids[i] >= 0);
}

static void check_taken(const struct completion *c)
{
    CHECK(c->n >= 1 && c->n_prompts >= 1 && c->n * c->n_prompts <= JOB_MAX_CHOICES);
    CHECK(c->max_tokens > 0 || (c->is_echo && c->max_tokens == 0));
    CHECK(c->min_tokens >= 0 && c->min_tokens <= c->max_tokens);
    CHECK(c->n_logprobs >= -1 && c->n_logprobs <= JOB_MAX_LOGPROBS);
    CHECK(c->sampling.temperature >= 0 && c->sampling.temperature <= 2);
    CHECK(c->sampling.top_p > 0 && c->sampling.top_p <= 1);
    CHECK(c->sampling.min_p >= 0 && c->sampling.min_p <= 1 && c->sampling.top_k >= 0);
    CHECK(!c->has_usage_chunk || c->is_stream);
    CHECK(c->task_id >= 0 && strlen(c->model) < SIZE_MAX);
    for (int i = 0; i < c->n_prompts; i++)
        check_prompt(&c->prompts[i]);
    for (int i = 0; i < c->n_stops; i++)
        CHECK(c->stops[i].len > 0 && strlen(c->stops[i].text) == c->stops[i].len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct completion c;
    struct arena arena = {0};
    struct buf out = {0};
    struct err err = {0};
    if (completion_parse(&c, size ? (const char *)data : "", size, &arena, &err) == 0)
        check_taken(&c);
    else
        CHECK(err.msg[0] && err_http_status(err.code) == 400);
    completion_render_error(&out, &err, "id");
    buf_free(&out);
    arena_free(&arena);
    return 0;
}
