/* Reads what json_check accepted into nodes; strings are unescaped where they lie. */
#include "core/base/json_tree.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

/* The text ends with a NUL, which no value contains, and is known to be valid: every byte
 * is what the grammar says. */
struct reader {
    char *at;
    struct arena *arena;
};

static char after_space(struct reader *r)
{
    r->at += strspn(r->at, " \t\r\n");
    return *r->at;
}

static uint32_t hex4(const char *s)
{
    char digits[5] = {s[0], s[1], s[2], s[3], 0};
    return (uint32_t)strtoul(digits, NULL, 16);
}

static char *put_utf8(char *to, uint32_t c)
{
    if (c < 0x80) {
        *to++ = (char)c;
        return to;
    }
    if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 0x3f));
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
    }
    *to++ = (char)(0x80 | (c & 0x3f));
    return to;
}

/* From behind the u of an escape: one code point, of two escapes if it is a surrogate. */
static const char *read_code_point(const char *s, uint32_t *c)
{
    *c = hex4(s);
    s += 4;
    if (*c < 0xd800 || *c > 0xdbff)
        return s;
    *c = 0x10000 + ((*c - 0xd800) << 10) + (hex4(s + 2) - 0xdc00);
    return s + 6;
}

static const char *unescape(const char *s, char **to)
{
    static const char letters[] = "bfnrt", bytes[] = "\b\f\n\r\t";
    uint32_t c = (unsigned char)*s++;
    const char *letter = strchr(letters, (int)c);
    if (c == 'u')
        s = read_code_point(s, &c);
    else if (letter)
        c = (unsigned char)bytes[letter - letters];
    *to = put_utf8(*to, c);
    return s;
}

/* An escape is never shorter than what it stands for, so the string fits where it was. */
static const char *read_string(struct reader *r)
{
    char *start = r->at + 1, *to = start;
    const char *s = start;
    while (*s != '"') {
        if (*s == '\\')
            s = unescape(s + 1, &to);
        else
            *to++ = *s++;
    }
    r->at = start + (s - start) + 1;
    *to = '\0';
    return start;
}

static struct json_node *read_value(struct reader *r);

static void read_inside(struct reader *r, struct json_node *node, char end)
{
    const struct json_node **place = &node->first;
    r->at++;
    while (after_space(r) != end) {
        const char *key = NULL;
        if (end == '}') {
            key = read_string(r);
            after_space(r); /* at the colon */
            r->at++;
        }
        struct json_node *value = read_value(r);
        value->key = key;
        *place = value;
        place = &value->next;
        node->n++;
        if (after_space(r) == ',')
            r->at++;
    }
    r->at++;
}

/* Depth was bounded by json_check. */
static struct json_node *read_value(struct reader *r)
{
    struct json_node *node = arena_alloc(r->arena, sizeof *node);
    switch (after_space(r)) {
    case '{':
        node->kind = JSON_OBJECT;
        read_inside(r, node, '}');
        break;
    case '[':
        node->kind = JSON_ARRAY;
        read_inside(r, node, ']');
        break;
    case '"':
        node->kind = JSON_STRING;
        node->text = read_string(r);
        break;
    case 'n':
        r->at += 4;
        break;
    case 't':
    case 'f':
        node->kind = JSON_BOOL;
        node->number = *r->at == 't';
        r->at += *r->at == 't' ? 4 : 5;
        break;
    default:
        node->kind = JSON_NUMBER;
        node->number = strtod(r->at, &r->at);
    }
    return node;
}

int json_tree_parse(struct json_tree *t, const char *text, size_t len,
                    const struct json_limits *lim, struct err *err)
{
    memset(t, 0, sizeof *t);
    if (json_check(text, len, lim, err) < 0)
        return -1;
    t->text = mem_try_calloc(len + 1, 1);
    if (!t->text)
        return err_set(err, ERR_NO_MEMORY, "not enough memory for %zu bytes of JSON", len);
    memcpy(t->text, text, len);
    struct reader r = {.at = t->text, .arena = &t->arena};
    t->root = read_value(&r);
    return 0;
}

void json_tree_free(struct json_tree *t)
{
    arena_free(&t->arena);
    free(t->text);
    memset(t, 0, sizeof *t);
}

bool json_is(const struct json_node *node, enum json_kind kind)
{
    return node && node->kind == kind;
}

const char *json_string(const struct json_node *node)
{
    return json_is(node, JSON_STRING) ? node->text : NULL;
}

const struct json_node *json_member(const struct json_node *node, const char *key)
{
    const struct json_node *m = json_is(node, JSON_OBJECT) ? node->first : NULL;
    while (m && strcmp(m->key, key) != 0)
        m = m->next;
    return m;
}
