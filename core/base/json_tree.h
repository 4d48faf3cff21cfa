/* A JSON document as a tree, for small documents that any thread may have to read: cJSON
 * writes a global at every parse, this does not.
 *
 * Thread: any; a tree belongs to one at a time. Bytes are checked by json_check with the
 * limits given, so nothing here is cut, guessed or doubled.
 *
 *     struct json_tree t;
 *     if (json_tree_parse(&t, bytes, len, &limits, err) < 0) return -1;
 *     const char *s = json_string(json_member(t.root, "peft_type"));
 *     json_tree_free(&t);
 */
#ifndef PREFIXD_JSON_TREE_H
#define PREFIXD_JSON_TREE_H

#include "core/base/arena.h"
#include "core/base/json_check.h"

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_node {
    enum json_kind kind;
    const char *key;  /* of a member of an object */
    const char *text; /* JSON_STRING: UTF-8 without NUL bytes inside */
    double number;    /* JSON_NUMBER; 0 or 1 of JSON_BOOL */
    size_t n;         /* values inside an array or object */
    const struct json_node *first, *next; /* inside it, and beside it */
};

struct json_tree {
    const struct json_node *root;
    char *text; /* strings lie in it */
    struct arena arena;
};

/* -1 with what json_check says, or ERR_NO_MEMORY. */
int json_tree_parse(struct json_tree *t, const char *text, size_t len,
                    const struct json_limits *lim, struct err *err);
void json_tree_free(struct json_tree *t);

/* NULL: node is NULL or no object, or has no such member. */
const struct json_node *json_member(const struct json_node *node, const char *key);

/* Whether node, which may be NULL, is one; and what a string says, else NULL. */
bool json_is(const struct json_node *node, enum json_kind kind);
const char *json_string(const struct json_node *node);

#endif
