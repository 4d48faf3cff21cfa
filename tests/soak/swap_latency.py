"""From a PUT to the first token of the new version, and what the streams of others notice of it."""

import json
import random
import statistics
import tempfile
import threading
import time

from load import Background, Streamer, percentile, watch_gaps
from many_adapters import mean_step
from harness import DEMO, Daemon, f32, multipart, safetensors

ROWS, WIDTH, LAYERS, HEADS = 20, 576, 30, 9
OTHERS, SWAPS = 4, 24


def body(seed):
    """A soft prompt of twenty rows for the demo model, as the two files of a PUT."""
    rng = random.Random(seed)
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": ROWS,
              "token_dim": WIDTH, "num_layers": LAYERS, "num_attention_heads": HEADS,
              "num_transformer_submodules": 1}
    values = f32([rng.gauss(0, 0.1) for _ in range(ROWS * WIDTH)])
    return multipart([("config", "adapter_config.json", json.dumps(config).encode()),
                      ("weights", "adapter_model.safetensors",
                       safetensors({"prompt_embeddings": ("F32", (ROWS, WIDTH), values)}))])


def measure():
    """Milliseconds; steps are those of the time when swaps were made."""
    bodies = [body(i) for i in range(SWAPS + 2)]
    with tempfile.TemporaryDirectory(prefix="prefixd-latency-") as tmp, \
            Daemon(DEMO, flags=["--state", f"{tmp}/state"]) as d:
        conn, streamer = d.connect(), Streamer(d.port)

        def put(i):
            answer = d.request("PUT", "/v1/adapters/new", bodies[i][0],
                               {"Content-Type": bodies[i][1]}, conn)
            assert answer.status in (200, 201), answer

        def swap(i):
            began = time.perf_counter()
            put(i)
            acknowledged = time.perf_counter() - began
            streamer.ask("", "new", 1, [1, 2, 3])
            return began, acknowledged, time.perf_counter() - began

        put(SWAPS)
        alone = [swap(i)[1:] for i in range(SWAPS // 2)]
        over, gaps = threading.Event(), [[] for _ in range(OTHERS)]
        tasks = [Background(lambda g=g: watch_gaps(d.port, "", over, g)) for g in gaps]
        d.wait(lambda: all(len(g) > 20 for g in gaps), 60, "the others' streams")
        quiet_from, before = time.perf_counter(), d.metrics()
        time.sleep(3)
        swaps_from, quiet = time.perf_counter(), d.metrics()
        made = []
        for i in range(SWAPS // 2, SWAPS):
            made.append(swap(i))
            time.sleep(0.1)
        ended, after = time.perf_counter(), d.metrics()
        over.set()
        for task in tasks:
            task.result(120)
        conn.close()
    step, quiet_step = mean_step(quiet, after), mean_step(before, quiet)
    in_quiet = [g for of in gaps for t, g in of if quiet_from < t < swaps_from]
    in_swaps = [g for of in gaps for t, g in of if swaps_from < t < ended]

    def ms(seconds):
        return round(seconds * 1000, 2)

    return {"step_ms": ms(step), "quiet_step_ms": ms(quiet_step),
            "alone_put_ms": ms(statistics.median(a[0] for a in alone)),
            "alone_first_token_ms": ms(statistics.median(a[1] for a in alone)),
            "put_ms": ms(statistics.median(m[1] for m in made)),
            "first_token_ms": ms(statistics.median(m[2] for m in made)),
            "first_token_worst_ms": ms(max(m[2] for m in made)),
            "allowed_ms": ms(3 * step + 0.015),
            "gap_p50_ms": ms(percentile(in_quiet, 50)), "gap_p99_ms": ms(percentile(in_quiet, 99)),
            "gap_longest_ms": ms(max(in_quiet)), "gap_longest_in_swaps_ms": ms(max(in_swaps))}


def out_of_bounds(found):
    """What is not as it should be, in words."""
    wrong = []
    if found["first_token_ms"] > found["allowed_ms"]:
        wrong.append("PUT to first token above 3 steps + 15 ms")
    if found["gap_longest_in_swaps_ms"] > found["gap_longest_ms"] + found["step_ms"]:
        wrong.append("the others' longest gap grew by more than a step")
    return wrong
