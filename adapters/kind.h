/* The kinds of adapters, in one table.
 *
 * Thread: any. The name is the peft_type of PEFT's configs; the class says how a kind
 * compiles: ROWS at the embedding layer, one such prompt per task (TASKS), keys and values
 * as they are (KV), hidden vectors before every layer (HIDDEN), a string (TEXT). */
#ifndef PREFIXD_KIND_H
#define PREFIXD_KIND_H

#define KIND_MAP(XX)                                                                             \
    XX(PROMPT_TUNING, "PROMPT_TUNING", ROWS)                                                     \
    XX(P_TUNING, "P_TUNING", ROWS)                                                               \
    XX(CPT, "CPT", ROWS)                                                                         \
    XX(MULTITASK, "MULTITASK_PROMPT_TUNING", TASKS)                                              \
    XX(PREFIX_TUNING, "PREFIX_TUNING", KV)                                                       \
    XX(CARTRIDGE, "CARTRIDGE", KV)                                                               \
    XX(HIDDEN, "HIDDEN_PREFIX", HIDDEN)                                                          \
    XX(TEXT, "text", TEXT)

enum kind {
#define XX(id, name, class) KIND_##id,
    KIND_MAP(XX)
#undef XX
};

enum kind_class {
    KIND_CLASS_ROWS,
    KIND_CLASS_TASKS,
    KIND_CLASS_KV,
    KIND_CLASS_HIDDEN,
    KIND_CLASS_TEXT,
};

const char *kind_name(enum kind k);
enum kind_class kind_class(enum kind k);

/* 0 and *k if name is a peft_type that is served; "text" is none. */
int kind_from_peft_type(const char *name, enum kind *k);

int kind_from_name(const char *name, enum kind *k); /* of kind_name */

#endif
