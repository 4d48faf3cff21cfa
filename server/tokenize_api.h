/* POST /tokenize and /detokenize, in the words of llama-server ("content") and of vLLM
 * ("prompt").
 *
 * Thread: loop; long texts are tokenised on the pool. */
#ifndef PREFIXD_TOKENIZE_API_H
#define PREFIXD_TOKENIZE_API_H

#include "server/exchange.h"

enum exchange_result tokenize_api_tokenize(struct exchange *x);
enum exchange_result tokenize_api_detokenize(struct exchange *x);

#endif
