/* spec: the digest of an adapter's content, which state folders of older daemons are
 * checked against. */
#include "adapters/spec.h"

#include "tests/test.h"

/* Expected values: Python's hashlib over the tag, names and contents, each after its length
 * as eight bytes, little-endian. */
TEST(spec_digest_is_that_of_older_state_folders)
{
    const struct adapter_file files[] = {{"adapter_config.json", "{}", 2},
                                         {"adapter_model.safetensors", "abc", 3}};
    const struct adapter_file swapped[] = {files[1], files[0]};
    const struct adapter_file text = {"adapter.json", "", 0};
    char hex[DIGEST_HEX + 1];
    spec_digest(files, 2, hex);
    EXPECT_STR(hex, "ee0ed6edd6c09a7c262bb9ebe2f90da08b4f2165d0c32c9b15660d187530524b");
    spec_digest(swapped, 2, hex);
    EXPECT_STR(hex, "ee0ed6edd6c09a7c262bb9ebe2f90da08b4f2165d0c32c9b15660d187530524b");
    spec_digest(&text, 1, hex);
    EXPECT_STR(hex, "cdba030a6e296066718e53dfd7747355ed911dbe6883f202cd64dd716fb66e6f");
}

/* Bytes that move from one file to the next make another version. */
TEST(spec_digest_keeps_files_apart)
{
    const struct adapter_file one[] = {{"adapter_config.json", "ab", 2},
                                       {"adapter_model.safetensors", "c", 1}};
    const struct adapter_file two[] = {{"adapter_config.json", "a", 1},
                                       {"adapter_model.safetensors", "bc", 2}};
    char first[DIGEST_HEX + 1], second[DIGEST_HEX + 1];
    spec_digest(one, 2, first);
    spec_digest(two, 2, second);
    EXPECT(strcmp(first, second) != 0);
}
