/* Digests against published values, and parts that cannot be shifted. */
#include "core/base/digest.h"

#include "tests/test.h"

static void hex_of(const char *bytes, size_t len, size_t cut, char hex[DIGEST_HEX + 1])
{
    struct digest d;
    digest_init(&d);
    digest_add(&d, bytes, cut);
    digest_add(&d, bytes + cut, len - cut);
    digest_hex(&d, hex);
}

/* FIPS 180-4 examples. */
TEST(digest_is_sha256)
{
    char hex[DIGEST_HEX + 1];
    const char *two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    hex_of("abc", 3, 0, hex);
    EXPECT_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hex_of("", 0, 0, hex);
    EXPECT_STR(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (size_t cut = 0; cut <= 56; cut += 7) {
        hex_of(two, 56, cut, hex);
        EXPECT_STR(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    }
}

TEST(digest_parts_are_told_apart)
{
    char a[DIGEST_HEX + 1], b[DIGEST_HEX + 1];
    struct digest d;
    digest_init(&d);
    digest_part(&d, "ab", 2);
    digest_part(&d, "c", 1);
    digest_hex(&d, a);
    digest_init(&d);
    digest_part(&d, "a", 1);
    digest_part(&d, "bc", 2);
    digest_hex(&d, b);
    EXPECT(strcmp(a, b) != 0);
    digest_init(&d);
    digest_part(&d, "abc", 3);
    digest_hex(&d, a);
    hex_of("\3\0\0\0\0\0\0\0abc", 11, 0, b); /* the length is eight bytes, low first */
    EXPECT_STR(a, b);
}
