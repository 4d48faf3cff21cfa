/* Time that only goes forward.
 *
 * Thread: any. All processes of a machine read the same clock.
 *
 *     int64_t since = clock_us();
 *     ... clock_us() - since
 */
#ifndef PREFIXD_CLOCK_H
#define PREFIXD_CLOCK_H

#include <stdint.h>

int64_t clock_us(void);

#endif
