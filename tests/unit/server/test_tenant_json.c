/* tenant_json: ids of keys, as they are told. */
#include "server/tenant_json.h"

#include "tests/test.h"

TEST(tenant_json_reads_ids_of_keys)
{
    static const char *const none[] = {"",         "12",     "key_",    "key_0",
                                       "key_01",   "key_-1", "key_ 1",  "key_1 ",
                                       "key_0x10", "Key_1",  "key_1_2", "key_9999999999999999999"};
    EXPECT_EQ(tenant_json_key_id("key_1"), 1);
    EXPECT_EQ(tenant_json_key_id("key_120"), 120);
    EXPECT_EQ(tenant_json_key_id("key_999999999999999999"), 999999999999999999);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        EXPECT_EQ(tenant_json_key_id(none[i]), 0);
}
