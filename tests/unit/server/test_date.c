/* date: days and times that exist. */
#include "server/date.h"

#include "tests/test.h"

TEST(date_reads_days_and_times)
{
    EXPECT_EQ(date_of("1970-01-01"), 0);
    EXPECT_EQ(date_of("2000-02-29"), 951782400);
    EXPECT_EQ(date_of("2027-01-31"), 1801353600);
    EXPECT_EQ(date_of("2027-01-31T00:00:00Z"), 1801353600);
    EXPECT_EQ(date_of("2027-01-31T23:59:59Z"), 1801353600 + 86399);
    EXPECT_EQ(date_of("9999-12-31"), 253402214400);
}

TEST(date_refuses_what_does_not_exist)
{
    static const char *const none[] = {
        "",           "2027",        "2027-01-31 ",          "2027-1-31",
        "2027-02-30", "2100-02-29",  "2027-13-01",           "2027-00-10",
        "2027-01-00", "1969-12-31",  "2027-01-31T24:00:00Z", "2027-01-31T00:60:00Z",
        "0000-00-00", "27-01-31",    "2027-01-31T00:00:60Z", "2027-01-31T00:00:00",
        "2027/01/31", "+027-01-31",  "2027-01-31T00:00:00z", "2027-01-3a",
    };
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        if (date_of(none[i]) != -1)
            test_fail(__FILE__, __LINE__, "\"%s\" was taken", none[i]);
}
