/* The table of kinds as data. */
#include "adapters/kind.h"

#include <stddef.h>
#include <string.h>

static const struct {
    const char *name;
    enum kind_class class;
} kinds[] = {
#define XX(id, name, class) {name, KIND_CLASS_##class},
    KIND_MAP(XX)
#undef XX
};

const char *kind_name(enum kind k)
{
    return kinds[k].name;
}

enum kind_class kind_class(enum kind k)
{
    return kinds[k].class;
}

int kind_from_name(const char *name, enum kind *k)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].name, name) == 0) {
            *k = (enum kind)i;
            return 0;
        }
    return -1;
}

int kind_from_peft_type(const char *name, enum kind *k)
{
    return kind_from_name(name, k) == 0 && kinds[*k].class != KIND_CLASS_TEXT ? 0 : -1;
}
