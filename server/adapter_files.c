/* Recognising the parts of a form, or the JSON of a text adapter. */
#include "server/adapter_files.h"

#include "server/http.h"
#include "server/upload.h"

#include <string.h>
#include <strings.h>

static const struct {
    const char *field, *file;
} known_parts[] = {
    {"config", "adapter_config.json"},
    {"weights", "adapter_model.safetensors"},
    {"adapter", "adapter.json"},
};

static const char *base_of(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

static bool is_pickle(const char *file)
{
    static const char *const ends[] = {".bin", ".pt", ".pth", ".ckpt", ".pkl"};
    const char *dot = strrchr(base_of(file), '.');
    for (size_t i = 0; dot && i < sizeof ends / sizeof *ends; i++)
        if (strcmp(dot, ends[i]) == 0)
            return true;
    return false;
}

/* The file's own name says what a part is; a field's name does when the file is called
 * otherwise. */
static const char *part_name(const struct upload_part *p)
{
    size_t n = sizeof known_parts / sizeof *known_parts;
    for (size_t i = 0; i < n; i++)
        if (strcmp(base_of(p->file), known_parts[i].file) == 0)
            return known_parts[i].file;
    for (size_t i = 0; i < n; i++)
        if (strcmp(p->field, known_parts[i].field) == 0 ||
            strcmp(p->field, known_parts[i].file) == 0)
            return known_parts[i].file;
    return NULL;
}

static int add_part(struct adapter_file *files, int *n, const struct upload_part *p,
                    struct err *err)
{
    const char *name = part_name(p);
    if (is_pickle(p->file))
        return err_set(err, ERR_ADAPTER,
                       "The file \"%.63s\" is taken for a pickle, which is refused: save "
                       "with safe_serialization=True (safetensors)",
                       base_of(p->file));
    if (!name)
        return err_set(err, ERR_INVALID,
                       "The part \"%.40s\" (file \"%.63s\") is not known; accepted are "
                       "config=@adapter_config.json and weights=@adapter_model.safetensors",
                       p->field, p->file);
    for (int i = 0; i < *n; i++)
        if (strcmp(files[i].name, name) == 0)
            return err_set(err, ERR_INVALID, "The part %s came twice", name);
    if (*n == ADAPTER_MAX_FILES)
        return err_set(err, ERR_INVALID, "More than %d files", ADAPTER_MAX_FILES);
    files[(*n)++] = (struct adapter_file){
        .name = name, .bytes = p->body.data ? p->body.data : "", .len = p->body.len};
    return 0;
}

static int take_parts(struct exchange *x, struct adapter_file *files, int *n, struct err *err)
{
    const struct upload_part *parts;
    int n_parts;
    if (upload_parts(http_body(x->req), &parts, &n_parts, err) < 0)
        return -1;
    for (int i = 0; i < n_parts; i++)
        if (add_part(files, n, &parts[i], err) < 0)
            return -1;
    return 0;
}

static int take_json(struct exchange *x, struct adapter_file *files, int *n, struct err *err)
{
    const char *body;
    size_t len, blank = 0;
    if (upload_bytes(http_body(x->req), &body, &len, err) < 0)
        return -1;
    while (blank < len && strchr(" \t\r\n", body[blank]))
        blank++;
    if (blank == len || body[blank] != '{')
        return err_set(err, ERR_MEDIA_TYPE,
                       "Accepted are the two files of an adapter as multipart/form-data, "
                       "or the JSON of "
                       "a text adapter");
    files[(*n)++] = (struct adapter_file){.name = "adapter.json", .bytes = body, .len = len};
    return 0;
}

static bool is_form(const struct exchange *x)
{
    const char *type = http_header(x->req, "Content-Type");
    return type && strncasecmp(type, "multipart/form-data", 19) == 0;
}

int adapter_files_of(struct exchange *x, struct adapter_file *files, int *n, struct err *err)
{
    return (is_form(x) ? take_parts : take_json)(x, files, n, err);
}
