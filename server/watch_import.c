/* One name of the adapters folder on its way into the registry. */
#include "server/watch_import.h"

#include "adapters/store.h"
#include "core/base/log.h"

#include <string.h>

/* "acme/sql", or "sql" of the tenant everybody is who has no other. */
static const char *prefix_of(const struct watch_import *i)
{
    return strcmp(i->tenant_name, STORE_DEFAULT_TENANT_NAME) == 0 ? "" : i->tenant_name;
}

static void skipped(const struct watch_import *i, const char *why)
{
    const char *prefix = prefix_of(i);
    log_warn("adapters", "adapter %s%s%s skipped: %s", prefix, prefix[0] ? "/" : "",
             i->name, why);
}

static void told(const struct watch_import *i, const char *what)
{
    const char *prefix = prefix_of(i);
    log_info("adapters", "adapter %s%s%s: %s", prefix, prefix[0] ? "/" : "", i->name, what);
}

bool watch_import_more(const struct watch_import *i)
{
    return !i->is_over;
}

void watch_import_read(struct watch_import *i)
{
    i->err = (struct err){0};
    memset(&i->loaded, 0, sizeof i->loaded);
    i->is_changed = false;
    i->state = FOLDER_WHOLE;
    if (i->entries)
        i->state =
            folder_read(i->dir, &i->entries[i->at], i->max_bytes, &i->loaded, &i->err);
}

struct adapter_change *watch_import_begin(struct watch_import *i)
{
    const struct adapter_file *files = i->entries ? i->loaded.files : NULL;
    if (i->state != FOLDER_WHOLE || adapters_check_name(i->adapters, i->name, &i->err) < 0)
        return NULL;
    struct adapter_change *c = adapters_import_begin(i->adapters, i->tenant, i->name, files,
                                                     i->loaded.n_files, &i->err);
    if (c)
        adapter_change_limit(c, &i->limits);
    i->is_changed = c != NULL;
    return c;
}

/* Another content, or another tenant's limits, is needed for these. */
static bool is_final(enum err_code code)
{
    return code == ERR_ADAPTER || code == ERR_INVALID || code == ERR_TOO_LARGE ||
           code == ERR_CONFLICT || code == ERR_CONTEXT || code == ERR_ADAPTER_NOT_FOUND;
}

static void end_well(struct watch_import *i)
{
    i->outcome = WATCH_DONE;
    i->is_over = true;
    if (i->is_changed && !i->is_boot)
        told(i, i->entries ? "as the adapters folder has it now"
                           : "gone from the adapters folder");
    for (size_t k = i->at + 1; k < i->n_entries; k++)
        if (!i->is_told)
            log_warn("adapters",
                     "adapter %s skipped: %s of the folder has this name and is "
                     "served instead of %s",
                     i->name, i->entries[i->at].path, i->entries[k].path);
}

/* Somebody's PUT or DELETE goes before all that the folder has of the name. */
static void end_taken(struct watch_import *i)
{
    i->outcome = WATCH_DONE;
    i->is_over = true;
    i->refusal = (struct err){0};
    if (i->entries && !i->is_told)
        told(i, "that of the adapters folder is skipped: a PUT or DELETE of this name was "
                "kept in the state, which wins");
}

static void end_badly(struct watch_import *i)
{
    bool is_unfinished = i->state == FOLDER_UNFINISHED;
    bool is_last = i->at + 1 >= i->n_entries;
    if ((!is_unfinished || i->is_boot) && !i->is_told)
        skipped(i, i->err.msg);
    if (i->refusal.code == ERR_NONE)
        i->refusal = i->err;
    if (is_unfinished && !i->is_boot)
        i->outcome = WATCH_CHANGES;
    else if (i->state == FOLDER_WHOLE && !is_final(i->err.code) && i->outcome == WATCH_DONE)
        i->outcome = WATCH_FAILED;
    i->is_over = is_last;
    i->at += !is_last;
}

void watch_import_end(struct watch_import *i)
{
    loaded_fini(&i->loaded);
    if (i->err.code == ERR_NONE)
        end_well(i);
    else if (i->state == FOLDER_WHOLE && i->err.code == ERR_CONFLICT)
        end_taken(i);
    else
        end_badly(i);
}

void watch_import_give_up(const struct watch_import *i)
{
    skipped(i, i->err.msg);
}

static struct adapter_refusal refusal_of(const struct watch_import *i)
{
    return (struct adapter_refusal){
        .why = i->refusal.code ? i->refusal.msg : NULL,
        .until = i->outcome == WATCH_FAILED ? i->retry_s : 0,
    };
}

/* A name that is none is told in the log alone: nobody can ask for it. */
bool watch_import_has_news(const struct watch_import *i)
{
    const struct adapter_refusal r = refusal_of(i);
    return adapters_check_name(i->adapters, i->name, NULL) == 0 &&
           !adapters_has_refusal(i->adapters, i->tenant, i->name, &r);
}

void watch_import_tell(const struct watch_import *i)
{
    const struct adapter_refusal r = refusal_of(i);
    struct err err = {0};
    if (adapters_note_refusal(i->adapters, i->tenant, i->name, &r, &err) < 0)
        log_warn("adapters", "adapter %s: what is amiss of it is not told to requests: %s", i->name,
                 err.msg);
}
