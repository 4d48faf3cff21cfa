/* peft_files: every row of the table of PEFT formats, with a file made for each. */
#include "adapters/peft_files.h"

#include <stdlib.h>

#include "core/base/mem.h"
#include "tests/support/adapter_files.h"
#include "tests/test.h"

/* L = 3, d = 64, H = 6, G = 2, D = 16: no two widths are equal (H*D = 96, G*D = 32, 2LGD =
 * 192). */
static const struct model_shape shape = {
    .n_layers = 3, .dim = 64, .n_heads = 6, .n_kv_heads = 2, .head_dim = 16, .vocab = 320,
    .max_pos = 256, .weight_dtype = DTYPE_F32, .kv_dtype = DTYPE_F32};

static const struct spec_limits limits = {
    .shape = &shape, .max_virtual_tokens = 200, .max_bytes = 1 << 20, .max_compiled = 1 << 24};

#define PT "\"peft_type\":\"PROMPT_TUNING\""
#define KV "\"peft_type\":\"PREFIX_TUNING\""
#define CART "\"peft_type\":\"CARTRIDGE\""
#define MTL "\"peft_type\":\"MULTITASK_PROMPT_TUNING\""
#define HID "\"peft_type\":\"HIDDEN_PREFIX\""
#define ROWS5 "prompt_embeddings:F32:5,64"
#define KV5 "prompt_embeddings:F32:5,192"
#define MTL5 ROWS5 " prefix_task_cols:F32:3,5,2 prefix_task_rows:F32:3,2,64"

struct row {
    const char *config, *tensors;
    const char *refusal; /* a part of the message, NULL: accepted */
};

static const struct row rows[] = {
    /* peft_type */
    {"{" PT "}", ROWS5, NULL},
    {"{\"peft_type\":\"P_TUNING\"}", ROWS5, NULL},
    {"{\"peft_type\":\"CPT\"}", ROWS5, NULL},
    {"{" KV "}", KV5, NULL},
    {"{" CART "}", KV5, NULL},
    {"{" MTL "}", MTL5, NULL},
    {"{" HID "}", "hidden_prefix:F32:3,5,64", NULL},
    {"{\"peft_type\":\"LORA\"}", ROWS5, "LORA"},
    {"{\"peft_type\":\"ADAPTION_PROMPT\"}", ROWS5, "ADAPTION_PROMPT is refused"},
    {"{\"peft_type\":\"IA3\"}", ROWS5, "IA3 is refused"},
    {"{\"peft_type\":\"prompt_tuning\"}", ROWS5, "prompt_tuning is refused"},
    {"{\"peft_type\":\"text\"}", ROWS5, "text is refused"},
    {"{\"peft_type\":null}", ROWS5, "peft_type is missing"},
    {"{\"peft_type\":[\"CPT\"]}", ROWS5, "peft_type is missing"},
    {"{\"num_virtual_tokens\":5}", ROWS5, "peft_type is missing"},
    {"[]", ROWS5, "must be an object"},
    /* task_type, S, modules_to_save, unexpected tensors */
    {"{" PT ",\"task_type\":\"CAUSAL_LM\"}", ROWS5, NULL},
    {"{" PT ",\"task_type\":null}", ROWS5, NULL},
    {"{" PT ",\"task_type\":\"SEQ_2_SEQ_LM\"}", ROWS5, "task_type"},
    {"{" PT ",\"task_type\":\"SEQ_CLS\"}", ROWS5, "task_type"},
    {"{" PT ",\"task_type\":1}", ROWS5, "task_type"},
    {"{" PT ",\"num_transformer_submodules\":1}", ROWS5, NULL},
    {"{" PT ",\"num_transformer_submodules\":null}", ROWS5, NULL},
    {"{" PT ",\"num_transformer_submodules\":2}", ROWS5, "num_transformer_submodules"},
    {"{" PT ",\"modules_to_save\":null}", ROWS5, NULL},
    {"{" PT ",\"modules_to_save\":[]}", ROWS5, NULL},
    {"{" PT ",\"modules_to_save\":[\"lm_head\"]}", ROWS5, "modules_to_save"},
    {"{" PT ",\"modules_to_save\":\"lm_head\"}", ROWS5, "modules_to_save"},
    {"{" PT "}", ROWS5 " base_model.model.lm_head.weight:F32:2,2", "unexpected tensor"},
    {"{" PT "}", ROWS5 " prefix_task_cols:F32:3,5,2", "unexpected tensor \"prefix_task_cols\""},
    {"{" PT "}", "hidden_prefix:F32:3,5,64", "unexpected tensor \"hidden_prefix\""},
    {"{" HID "}", ROWS5, "unexpected tensor \"prompt_embeddings\""},
    {"{" PT "}", "", "\"prompt_embeddings\" is missing"},
    {"{" MTL "}", ROWS5, "\"prefix_task_cols\" is missing"},
    {"{" MTL "}", ROWS5 " prefix_task_cols:F32:3,5,2", "\"prefix_task_rows\" is missing"},
    /* soft kinds: dimensions */
    {"{" PT "}", "prompt_embeddings:F32:320", "has 1 dimensions, expected 2"},
    {"{" PT "}", "prompt_embeddings:F32:1,5,64", "has 3 dimensions, expected 2"},
    {"{" PT "}", "prompt_embeddings:F32:", "has 0 dimensions, expected 2"},
    {"{" PT "}", "prompt_embeddings:F32:5,96", "dimension 1 is 96, expected 64"},
    {"{" PT "}", "prompt_embeddings:F32:5,32", "dimension 1 is 32, expected 64"},
    {"{" PT "}", "prompt_embeddings:F32:64,5", "dimension 1 is 5, expected 64"},
    {"{" PT ",\"num_virtual_tokens\":5}", ROWS5, NULL},
    {"{" PT ",\"num_virtual_tokens\":4}", ROWS5, "num_virtual_tokens is 4"},
    {"{" PT ",\"num_virtual_tokens\":10}", ROWS5, "num_virtual_tokens is 10"},
    {"{\"peft_type\":\"CPT\",\"cpt_token_ids\":[1,2,3,4,5]}", ROWS5, NULL},
    {"{\"peft_type\":\"CPT\",\"cpt_token_ids\":[1,2,3]}", ROWS5, "cpt_token_ids is 3"},
    {"{\"peft_type\":\"CPT\",\"cpt_token_ids\":7}", ROWS5, "cpt_token_ids must be a list"},
    /* KV kinds: dimensions */
    {"{" KV "}", "prompt_embeddings:F32:5,576", "2 * 3 layers * 2 KV heads * 16 = 192"},
    {"{" KV "}", "prompt_embeddings:F32:5,384", "384 wide"},
    {"{" KV "}", ROWS5, "64 wide"},
    {"{" CART "}", "prompt_embeddings:F32:5,191", "191 wide"},
    {"{" KV "}", "prompt_embeddings:F32:960", "has 1 dimensions, expected 2"},
    {"{" KV "}", "prompt_embeddings:F32:5,6,32", "has 3 dimensions, expected 2"},
    {"{" KV ",\"num_virtual_tokens\":6}", KV5, "num_virtual_tokens is 6"},
    /* hidden prefix: dimensions */
    {"{" HID ",\"num_virtual_tokens\":5,\"num_layers\":3,\"token_dim\":64}",
     "hidden_prefix:F32:3,5,64", NULL},
    {"{" HID "}", "hidden_prefix:F32:2,5,64", "dimension 0 is 2, expected 3"},
    {"{" HID "}", "hidden_prefix:F32:3,5,32", "dimension 2 is 32, expected 64"},
    {"{" HID "}", "hidden_prefix:F32:15,64", "has 2 dimensions, expected 3"},
    {"{" HID "}", "hidden_prefix:F32:3,0,64", "no virtual tokens"},
    /* config against tensor and base */
    {"{" PT ",\"token_dim\":64,\"num_layers\":3,\"num_attention_heads\":6}", ROWS5, NULL},
    {"{" PT ",\"token_dim\":null,\"num_layers\":null,\"num_attention_heads\":null}", ROWS5, NULL},
    {"{" PT ",\"token_dim\":32}", ROWS5, "token_dim is 32"},
    {"{" PT ",\"num_layers\":4}", ROWS5, "num_layers is 4"},
    {"{" PT ",\"num_attention_heads\":2}", ROWS5, "num_attention_heads is 2"},
    {"{" KV ",\"token_dim\":32,\"num_layers\":3,\"num_attention_heads\":2}", KV5, NULL},
    {"{" KV ",\"token_dim\":64}", KV5, "token_dim is 64"}, /* a training config: the hidden size */
    {"{" KV ",\"num_attention_heads\":6}", KV5, "num_attention_heads is 6"},
    {"{" KV ",\"num_layers\":2}", KV5, "num_layers is 2"},
    /* P */
    {"{" PT "}", "prompt_embeddings:F32:0,64", "no virtual tokens"},
    {"{" KV "}", "prompt_embeddings:F32:0,192", "no virtual tokens"},
    {"{" PT ",\"num_virtual_tokens\":0}", ROWS5, "num_virtual_tokens must be an integer"},
    {"{" PT "}", "prompt_embeddings:F32:200,64", NULL},
    {"{" PT "}", "prompt_embeddings:F32:201,64", "201 virtual tokens; at most 200"},
    {"{" KV "}", "prompt_embeddings:BF16:256,192", "256 virtual tokens; at most 200"},
    /* the base's name is a hint */
    {"{" KV ",\"base_model_name_or_path\":\"somebody/else-8B\"}", KV5, NULL},
    {"{" KV ",\"base_model_name_or_path\":null}", KV5, NULL},
    {"{" KV ",\"base_model_name_or_path\":7}", KV5, NULL},
    /* dtype */
    {"{" PT "}", "prompt_embeddings:F16:5,64", NULL},
    {"{" PT "}", "prompt_embeddings:BF16:5,64", NULL},
    {"{" PT "}", "prompt_embeddings:F64:5,64", "is F64; accepted are F32, F16 and BF16"},
    {"{" PT "}", "prompt_embeddings:I32:5,64", "is I32"},
    {"{" PT "}", "prompt_embeddings:BOOL:5,64", "is BOOL"},
    {"{" PT "}", "prompt_embeddings:F8_E4M3:5,64", "unknown dtype"},
    {"{" MTL "}", ROWS5 " prefix_task_cols:I64:3,5,2 prefix_task_rows:F32:3,2,64", "is I64"},
    /* fields of training */
    {"{" KV ",\"prefix_projection\":true,\"encoder_hidden_size\":24,\"init_weights\":\"zero\"}", KV5,
     NULL},
    {"{\"peft_type\":\"P_TUNING\",\"encoder_reparameterization_type\":\"LSTM\",\"encoder_dropout\":"
     "0.5,\"encoder_num_layers\":2,\"encoder_hidden_size\":48}", ROWS5, NULL},
    {"{" MTL ",\"prompt_tuning_init\":\"EXACT_SOURCE_TASK\",\"prompt_tuning_init_state_dict_path\":"
     "\"/etc/passwd\"}", MTL5, NULL},
    {"{" PT ",\"inference_mode\":false,\"auto_mapping\":{\"parent_library\":\"os\"},\"new\":[1.5]}",
     ROWS5, NULL},
    /* tasks */
    {"{" MTL ",\"num_tasks\":3,\"num_ranks\":2}", MTL5, NULL},
    {"{" MTL ",\"num_tasks\":2}", MTL5, "dimension 0 is 3, expected 2"},
    {"{" MTL ",\"num_ranks\":1}", MTL5, "dimension 2 is 2, expected 1"},
    {"{" MTL "}", ROWS5 " prefix_task_cols:F32:3,4,2 prefix_task_rows:F32:3,2,64", "cols\": dim"},
    {"{" MTL "}", ROWS5 " prefix_task_cols:F32:3,5,2 prefix_task_rows:F32:2,2,64", "rows\": dim"},
    {"{" MTL "}", ROWS5 " prefix_task_cols:F32:3,5,2 prefix_task_rows:F32:3,1,64", "rows\": dim"},
    {"{" MTL "}", ROWS5 " prefix_task_cols:F32:3,5,2 prefix_task_rows:F32:3,2,32", "rows\": dim"},
    {"{" MTL "}", ROWS5 " prefix_task_cols:F32:15,2 prefix_task_rows:F32:3,2,64", "2 dimensions"},
    {"{" MTL "}", ROWS5 " prefix_task_cols:F32:0,5,2 prefix_task_rows:F32:0,2,64", "0 tasks"},
    {"{" MTL "}", ROWS5 " prefix_task_cols:F32:3,5,0 prefix_task_rows:F32:3,0,64", "rank 0"},
    {"{" MTL "}", "prompt_embeddings:F32:1,64 prefix_task_cols:F32:1025,1,1 "
     "prefix_task_rows:F32:1025,1,64", "1025 tasks"},
    {"{" MTL "}", "prompt_embeddings:F32:200,64 prefix_task_cols:F32:120,200,1 "
     "prefix_task_rows:F32:120,1,64", "would take more than"},
    /* CARTRIDGE */
    {"{" CART ",\"num_frozen_tokens\":0}", KV5, NULL},
    {"{" CART ",\"num_frozen_tokens\":5}", KV5, NULL},
    {"{" CART ",\"num_frozen_tokens\":6}", KV5, "num_frozen_tokens is 6"},
    {"{" CART ",\"num_frozen_tokens\":-1}", KV5, "num_frozen_tokens must be an integer"},
    /* integers of the config */
    {"{" PT ",\"num_virtual_tokens\":5.5}", ROWS5, "num_virtual_tokens must be an integer"},
    {"{" PT ",\"num_virtual_tokens\":-5}", ROWS5, "num_virtual_tokens must be an integer"},
    {"{" PT ",\"num_virtual_tokens\":\"5\"}", ROWS5, "num_virtual_tokens must be an integer"},
    {"{" PT ",\"num_virtual_tokens\":true}", ROWS5, "num_virtual_tokens must be an integer"},
    {"{" PT ",\"num_virtual_tokens\":1e300}", ROWS5, "num_virtual_tokens must be an integer"},
    {"{" KV ",\"token_dim\":4611686018427387904}", KV5, "token_dim must be an integer"},
    {"{" KV ",\"num_layers\":9007199254740993}", KV5, "num_layers must be an integer"},
    /* the JSON of the config */
    {"{" PT ",\"num_virtual_tokens\":5,\"num_virtual_tokens\":5}", ROWS5, "adapter_config.json: "},
    {"{" PT ",\"peft\\u005ftype\":\"LORA\"}", ROWS5, "adapter_config.json: "},
    {"{" PT ",\"x\":[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}", ROWS5, "adapter_config.json: "},
    {"{" PT ",\"revision\":\"\xff\"}", ROWS5, "adapter_config.json: "},
    {"{" PT ",\"revision\":\"\\u0000\"}", ROWS5, "adapter_config.json: "},
    {"{" PT ",\"encoder_dropout\":NaN}", ROWS5, "adapter_config.json: "},
    {"{" PT "", ROWS5, "adapter_config.json: "},
    {"", ROWS5, "adapter_config.json: "},
    {"\x80\x02}q\x01.", ROWS5, "adapter_config.json: "},
};

static int parse(struct adapter_spec *s, const struct buf *config, const struct buf *weights,
                 struct err *err)
{
    const struct adapter_file files[] = {
        {"adapter_config.json", config->data ? config->data : "", config->len},
        {"adapter_model.safetensors", weights->data ? weights->data : "", weights->len}};
    return spec_parse(s, files, 2, &limits, err);
}

static void expect_outcome(const char *what, int rc, const struct err *err, const char *refusal)
{
    if (refusal ? rc == 0 : rc < 0)
        test_fail(__FILE__, __LINE__, "%s: %s %s", what, refusal ? "accepted" : "refused:",
                  refusal ? "" : err->msg);
    else if (refusal && (err->code != ERR_ADAPTER || !strstr(err->msg, refusal)))
        test_fail(__FILE__, __LINE__, "%s: expected \"%s\", got %s \"%s\"", what, refusal,
                  err_name(err->code), err->msg);
}

TEST(peft_files_rows_of_the_format_table)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf config = {0}, weights = {0};
        struct adapter_spec s;
        struct err err = {0};
        char what[200];
        buf_add_str(&config, rows[i].config);
        adapter_files_tensors(&weights, rows[i].tensors);
        int rc = parse(&s, &config, &weights, &err);
        snprintf(what, sizeof what, "%s with %s", rows[i].config, rows[i].tensors);
        expect_outcome(what, rc, &err, rows[i].refusal);
        spec_fini(&s);
        buf_free(&config);
        buf_free(&weights);
    }
}

/* Section by section of the safetensors format; data of 512 bytes is what [2, 64] F32
 * needs. */
#define T(more) "\"prompt_embeddings\":{\"dtype\":\"F32\",\"shape\":[2,64],\"data_offsets\":" more "}"
#define GOOD T("[0,512]")

static const struct {
    const char *header;
    size_t n_data;
    const char *refusal;
} headers[] = {
    {"{" GOOD "}", 512, NULL},
    {"{" GOOD "}     ", 512, NULL},              /* padding */
    {"{" GOOD "} ", 512, NULL},                  /* data at an odd place */
    {"{\"__metadata__\":{},"GOOD "}", 512, NULL},
    {"{\"__metadata__\":{\"format\":\"np\",\"x\":\"y\"}," GOOD "}", 512, NULL},
    {" {" GOOD "}", 512, "start with '{'"},
    {"[" GOOD "]", 512, "start with '{'"},
    {"{" T("[0,508]") "}", 512, "do not match"},
    {"{" T("[0,508]") "}", 508, "do not match"},
    {"{" T("[4,516]") "}", 516, "gap"},          /* a hole in front */
    {"{" GOOD "}", 513, "after the last tensor"},
    {"{" GOOD "}", 511, "outside the file"},
    {"{" T("[512,0]") "}", 512, "outside the file"},
    {"{" T("[0,9007199254740991]") "}", 512, "outside the file"},
    {"{" GOOD ",\"b\":{\"dtype\":\"F32\",\"shape\":[128],\"data_offsets\":[0,512]}}", 512,
     "overlaps"},                                /* two tensors, one range */
    {"{" GOOD ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[516,524]}}", 524, "gap"},
    {"{\"prompt_embeddings\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,16],"
     "\"data_offsets\":[0,512]}}", 512, "too large"},
    {"{\"prompt_embeddings\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,0],"
     "\"data_offsets\":[0,0]}}", 0, ""},
    {"{\"prompt_embeddings\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4,
     "0 dimensions"},
    {"{" GOOD "," GOOD "}", 512, ""},            /* one name twice, the same range */
    {"{" GOOD ",\"prompt\\u005fembeddings\":{\"dtype\":\"F32\",\"shape\":[2,64],\"data_offsets\":"
     "[0,512]}}", 512, ""},                      /* the same name, escaped */
    {"{\"prompt_embeddings\":{\"dtype\":\"F32\",\"shape\":[2.0,64],\"data_offsets\":[0,512]}}", 512,
     ""},
    {"{\"prompt_embeddings\":{\"dtype\":\"F32\",\"shape\":[2e0,64],\"data_offsets\":[0,512]}}", 512,
     ""},
    {"{\"prompt_embeddings\":{\"dtype\":\"F32\",\"shape\":[-2,64],\"data_offsets\":[0,512]}}", 512,
     ""},
    {"{\"prompt_embeddings\":{\"dtype\":\"F32\",\"shape\":[2,\"64\"],\"data_offsets\":[0,512]}}",
     512, "list of numbers"},
    {"{" T("[0,99999999999999999999]") "}", 512, ""},
    {"{" T("[0,512,512]") "}", 512, "two numbers"},
    {"{" T("[[[[[[[0]]]]]]]") "}", 512, ""},     /* depth */
    {"{\"prompt_embeddings\":{\"dtype\":\"F4\",\"shape\":[2,64],\"data_offsets\":[0,512]}}", 512,
     "unknown dtype"},
    {"{\"prompt_embeddings\":{\"dtype\":\"C64\",\"shape\":[1,64],\"data_offsets\":[0,512]}}", 512,
     "unknown dtype"},
    {"{\"prompt_embeddings\":{\"shape\":[2,64],\"data_offsets\":[0,512]}}", 512, ""},
    {"{\"__metadata__\":{\"format\":1}," GOOD "}", 512, "__metadata__"},
    {"{\"__metadata__\":\"pt\"," GOOD "}", 512, "__metadata__"},
    {"{\"a\xff\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[512,516]}," GOOD "}", 516, ""},
    {"{" GOOD ",\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[512,512]}}", 512,
     "unexpected tensor"},
    {"{" GOOD, 512, ""},
    {"{", 512, ""},
    {"", 512, ""},
};

TEST(peft_files_lying_safetensors)
{
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        struct buf config = {0}, weights = {0};
        struct adapter_spec s;
        struct err err = {0};
        adapter_files_config(&config, "PROMPT_TUNING", 2, "");
        adapter_files_raw(&weights, headers[i].header, strlen(headers[i].header),
                          headers[i].n_data);
        int rc = parse(&s, &config, &weights, &err);
        expect_outcome(headers[i].header, rc, &err, headers[i].refusal);
        spec_fini(&s);
        buf_free(&config);
        buf_free(&weights);
    }
}

static void expect_weights(const char *what, const void *bytes, size_t len, const char *refusal)
{
    struct buf config = {0}, weights = {0};
    struct adapter_spec s;
    struct err err = {0};
    adapter_files_config(&config, "PROMPT_TUNING", 2, "");
    buf_add(&weights, bytes, len);
    int rc = parse(&s, &config, &weights, &err);
    expect_outcome(what, rc, &err, refusal);
    spec_fini(&s);
    buf_free(&config);
    buf_free(&weights);
}

#define EXPECT_PICKLE(what, text) expect_weights(what, text, sizeof text - 1, "safe_serialization")

TEST(peft_files_pickles_are_named)
{
    EXPECT_PICKLE("zip", "PK\3\4\0\0\10\10\0\0\0\0archive/data.pkl");
    EXPECT_PICKLE("pickle 2", "\x80\x02}q\1X\6\0\0\0prompt");
    EXPECT_PICKLE("pickle 4", "\x80\x04\x95\x10\0\0\0\0\0\0\0}");
    EXPECT_PICKLE("two bytes", "PK");
}

/* A header of 128 bytes begins with the byte that pickles begin with. */
TEST(peft_files_header_length_is_no_pickle)
{
    struct buf header = {0}, weights = {0};
    buf_add_str(&header, "{" GOOD "}");
    while (header.len < 0x80)
        buf_add_char(&header, ' ');
    adapter_files_raw(&weights, header.data, header.len, 512);
    EXPECT_EQ((unsigned char)weights.data[0], 0x80);
    expect_weights("header of 128 bytes", weights.data, weights.len, NULL);
    buf_free(&header);
    buf_free(&weights);
}

TEST(peft_files_every_cut_is_refused)
{
    struct buf weights = {0};
    adapter_files_tensors(&weights, "prompt_embeddings:F32:2,64");
    expect_weights("whole", weights.data, weights.len, NULL);
    for (size_t n = 0; n < weights.len; n++) {
        char *exact = xmalloc(n); /* so that a sanitizer sees a read beyond the end */
        memcpy(exact, weights.data, n);
        expect_weights("cut", exact, n, "");
        free(exact);
    }
    buf_free(&weights);
}

TEST(peft_files_header_lengths)
{
    static const unsigned char lengths[][8] = {
        {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {1, 0, 0x10}, {0, 0, 0, 1},
        {0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {200}};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char file[100] = {0};
        memcpy(file, lengths[i], 8);
        file[8] = '{';
        expect_weights("header length", file, sizeof file, "header");
    }
}

TEST(peft_files_more_tensors_than_any_kind_has)
{
    struct buf list = {0}, weights = {0};
    for (int i = 0; i < 9; i++)
        buf_printf(&list, " layer%d.lora_A.weight:F32:1", i);
    adapter_files_tensors(&weights, list.data);
    expect_weights("nine tensors", weights.data, weights.len, "more than 8 tensors");
    buf_free(&list);
    buf_free(&weights);
}

/* The limits that are settings: tokens may be more than positions allow, files larger than
 * wanted. */
TEST(peft_files_positions_bound_virtual_tokens)
{
    struct spec_limits wide = limits;
    struct buf config = {0}, weights = {0};
    struct err err = {0};
    struct adapter_spec s;
    wide.max_virtual_tokens = 100000;
    wide.max_compiled = (size_t)1 << 30;
    adapter_files_config(&config, "PROMPT_TUNING", 256, "");
    adapter_files_tensors(&weights, "prompt_embeddings:F32:256,64");
    struct adapter_file files[] = {{"adapter_model.safetensors", weights.data, weights.len},
                                   {"adapter_config.json", config.data, config.len}};
    EXPECT_EQ(spec_parse(&s, files, 2, &wide, &err), -1);
    EXPECT_EQ(err.code, ERR_ADAPTER);
    EXPECT(strstr(err.msg, "at most 255") != NULL);
    spec_fini(&s);
    wide.max_bytes = weights.len - 1;
    EXPECT_EQ(spec_parse(&s, files, 2, &wide, &err), -1);
    EXPECT_EQ(err.code, ERR_TOO_LARGE);
    spec_fini(&s);
    buf_free(&config);
    buf_free(&weights);
}

TEST(peft_files_config_size)
{
    struct buf config = {0}, weights = {0};
    struct err err = {0};
    struct adapter_spec s;
    adapter_files_config(&config, "PROMPT_TUNING", 5, "");
    while (config.len <= SPEC_MAX_JSON)
        buf_add_char(&config, ' ');
    adapter_files_tensors(&weights, ROWS5);
    EXPECT_EQ(parse(&s, &config, &weights, &err), -1);
    EXPECT_EQ(err.code, ERR_TOO_LARGE);
    spec_fini(&s);
    config.len = SPEC_MAX_JSON;
    EXPECT_EQ(parse(&s, &config, &weights, &err), 0);
    spec_fini(&s);
    buf_free(&config);
    buf_free(&weights);
}
