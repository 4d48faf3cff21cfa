#!/usr/bin/python3
"""The long measurements of the daemon through HTTP: soak.py [--only PART] [--list].

Each part prints one line of JSON with its figures. SOAK_SECONDS (60), SOAK_ADAPTERS and SOAK_STREAMS (10000) and
PREFIXD_TEST_SEED set lengths and chance. For a machine that does nothing else.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
import traceback

import load  # noqa: F401  (makes the path to tests/http)
import fair_http
import many_adapters
import prompt_gap
import streams
import swap_latency
from harness import DEMO, GQA, Daemon
from test_13_tenants import Timing
from test_14_adapters_live import swap_under_streams
from test_18_crash import crash_rounds

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
STREAMS = int(os.environ.get("SOAK_STREAMS", "10000"))
ADAPTERS = int(os.environ.get("SOAK_ADAPTERS", "10000"))


def timing():
    """2 000 pairs of another's and a missing name: nothing tells them apart."""
    try:
        Timing.setUpClass()
        found = Timing().measured(2000)
    finally:
        Timing.doClassCleanups()
    wrong = [f"{route}: {auc:.3f}" for route, auc in found.items() if not 0.45 <= auc <= 0.55]
    return {"pairs": 2000, "auc": {k: round(v, 4) for k, v in found.items()}}, wrong


def swaps(*flags):
    """1 000 swaps while 16 streams run."""
    with tempfile.TemporaryDirectory(prefix="prefixd-soak-") as tmp, \
            Daemon(GQA, flags=["--dtype", "f32", "--state", f"{tmp}/state", *flags]) as d:
        began = time.monotonic()
        seen = swap_under_streams(d, 1000, 16)
    return {"swaps": 1000, "streams_by_version": seen,
            "seconds": round(time.monotonic() - began, 1)}, []


def crash():
    """100 random kills."""
    seed = int(os.environ.get("PREFIXD_TEST_SEED") or random.randrange(1 << 30))
    print(f"kills: PREFIXD_TEST_SEED={seed}", file=sys.stderr)
    return {"seed": seed, **crash_rounds(100, seed, lambda text: print(text, file=sys.stderr))}, []


def many():
    """Ten thousand adapters with memory for five hundred."""
    found = many_adapters.measure(ADAPTERS, ADAPTERS // 20)
    return found, many_adapters.out_of_bounds(found)


def fair():
    """Tokens by weight."""
    found = [fair_http.shares(w, seconds=SECONDS) for w in ([1, 3], [1, 1], [1] * 8)]
    wrong = [f"{f['weights']}: {f['off_percent']} %" for f in found
             if f["off_percent"] > (10 if 3 in f["weights"] else 5)]
    return {"seconds": SECONDS, "cases": found}, wrong


def latency():
    """From a PUT to the first token, on the demo model."""
    if not DEMO.exists():
        return {"skipped": "the demo model is not here"}, []
    found = swap_latency.measure()
    return found, swap_latency.out_of_bounds(found)


def gap():
    """Eight streams beside a long prompt, on the demo model."""
    if not DEMO.exists():
        return {"skipped": "the demo model is not here"}, []
    found = prompt_gap.measure()
    return found, prompt_gap.out_of_bounds(found)


def many_streams():
    """Ten thousand streams that wait for a token, and the loop's time with 32 that get some."""
    wanted = STREAMS + streams.FIRST + streams.OWN_FILES
    if (got := streams.raise_file_limit(wanted)) < wanted:
        return {"skipped": f"{wanted} open files are needed; the hard limit is {got}"}, []
    found = {**streams.memory(STREAMS), **streams.loop_time(10, DEMO if DEMO.exists() else None)}
    return found, streams.out_of_bounds(found)


PARTS = {"timing": timing, "swaps": swaps, "swaps_workers": lambda: swaps("--workers", "4"),
         "crash": crash, "many": many, "fair": fair, "latency": latency, "gap": gap,
         "streams": many_streams}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="run one part")
    args = parser.parse_args()
    passed = failed = 0
    for name, part in PARTS.items():
        if args.only not in (None, name):
            continue
        try:
            found, wrong = part()
        except Exception:  # a part that breaks off does not end the others
            traceback.print_exc()
            found, wrong = {}, ["it broke off"]
        print(json.dumps({"soak": name, **found, "wrong": wrong}), flush=True)
        passed, failed = passed + (not wrong), failed + bool(wrong)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
