/* The kernels in portable C, for any CPU. */
#define VW 4
#define NAME kernels_generic
#define ISA "generic"
#define QUANT quant_generic
#include "core/kernels/body.h"
