/* Members of a JSON object and lists of integers in it, read from the text itself: a tree
 * of nodes costs fifty times as much where a list is long.
 *
 * Thread: any. Any bytes may be scanned, and nothing is read beyond their end; but what is
 * found means something only if json_check accepts them too.
 *
 *     struct json_scan s = {.text = body, .len = len};
 *     const char *key;
 *     while ((key = json_scan_next(&s, &key_len)))     the outermost object's, one by one
 *         if (json_scan_is(key, key_len, "tokens") && json_scan_ids(&s, &ids)) ...
 *     json_ids_free(&ids);
 */
#ifndef PREFIXD_JSON_SCAN_H
#define PREFIXD_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_scan {
    const char *text;
    size_t len;
    size_t at; /* after json_scan_next: of the member's value */
    bool is_at_value, is_inside;
};

struct json_ids { /* zeroed = none */
    int32_t *ids; /* of all lists, one behind the other */
    size_t n, cap;
    size_t *ends; /* [n_lists] of a list of lists: where each ends in ids */
    size_t n_lists, cap_lists;
    bool is_nested;
};

/* The next key as it is written between its quotes, NULL at the end. One that is written
 * with escapes stays so, and is best taken for unknown. */
const char *json_scan_next(struct json_scan *s, size_t *key_len);
bool json_scan_is(const char *key, size_t key_len, const char *name);

/* Reads and passes the value at the cursor if it is a list of at least one, or a list of
 * lists, of integers from 0 to 2^31-1 in plain digits; else it is false and stays. */
bool json_scan_ids(struct json_scan *s, struct json_ids *out);
void json_ids_free(struct json_ids *l);

#endif
