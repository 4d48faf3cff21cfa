"""What eight streams notice of a prompt of two thousand tokens that enters beside them."""

import random
import statistics
import threading
import time

from load import Background, Streamer, percentile, watch_gaps
from harness import DEMO, Daemon

STREAMS, PROMPT, PROMPTS = 8, 2048, 4
BOUND = 2.5


def measure(config=None):
    """Milliseconds. Quiet times and prompts take turns, so that a slow moment of the machine meets both."""
    rng = random.Random(1)
    prompts = [[rng.randrange(1000, 40000) for _ in range(PROMPT)] for _ in range(PROMPTS + 1)]
    with Daemon(DEMO, config=config) as d:
        streamer, over = Streamer(d.port), threading.Event()
        alone, _ = streamer.ask("", "", 1, prompts[PROMPTS])
        gaps = [[] for _ in range(STREAMS)]
        tasks = [Background(lambda g=g: watch_gaps(d.port, "", over, g)) for g in gaps]
        d.wait(lambda: all(len(g) > 20 for g in gaps), 60, "the streams")
        spans, firsts = [], []
        for prompt in prompts[:PROMPTS]:
            quiet_from = time.perf_counter()
            time.sleep(2)
            began = time.perf_counter()
            firsts.append(streamer.ask("", "", 1, prompt)[0])
            spans.append((quiet_from, began, began + firsts[-1]))
        over.set()
        for task in tasks:
            task.result(120)
    quiet = [g for of in gaps for t, g in of if any(a < t < b for a, b, _ in spans)]
    beside = [g for of in gaps for t, g in of if any(b < t < c for _, b, c in spans)]

    def ms(seconds):
        return round(seconds * 1000, 2)

    return {"streams": STREAMS, "prompt": PROMPT, "gaps": [len(quiet), len(beside)],
            "quiet_p50_ms": ms(percentile(quiet, 50)), "quiet_p99_ms": ms(percentile(quiet, 99)),
            "beside_p50_ms": ms(percentile(beside, 50)), "beside_p99_ms": ms(percentile(beside, 99)),
            "beside_longest_ms": ms(max(beside)),
            "p99_ratio": round(percentile(beside, 99) / percentile(quiet, 99), 2),
            "p99_over_quiet_p50": round(percentile(beside, 99) / percentile(quiet, 50), 2),
            "first_token_alone_ms": ms(alone), "first_token_ms": ms(statistics.median(firsts))}


def out_of_bounds(found):
    """What is not as it should be, in words."""
    if found["p99_ratio"] > BOUND:
        return [f"p99 of the streams' gaps above {BOUND} x while a prompt enters"]
    return []
