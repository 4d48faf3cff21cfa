"""Many more adapters than memory: what a budget for some of them costs.

Two daemons on copies of one state: one has memory for `room` adapters, the other for all. They
take turns under the same load, so that a slow moment of the machine meets both.
"""

import pathlib
import re
import shutil
import statistics
import tempfile
import threading
import time

from load import (ADMIN_KEY, MODEL, Adapters, Background, View, Zipf, flags_with_admin, percentile,
                  run_load, touch_all, watch_gaps)
from harness import Daemon

CLIENTS, TOKENS = 2, 8


def daemon(folder, state, *flags):
    return Daemon(MODEL, flags=flags_with_admin(folder, "--state", state, "--name", "base", *flags))


def sum_of(text, pattern):
    """Of all samples whose name matches."""
    found = re.findall(rf"^(?:{pattern})(?:\{{[^}}]*\}})? ([0-9.e+-]+)$", text, re.M)
    return sum(map(float, found)) if found else None


def step_p99(before, after):
    """Seconds that 99 of 100 steps between two scrapes took at most (the bucket's end), or None."""
    bounds = {}
    for scrape, sign in (before, -1), (after, 1):
        for name, value in scrape.samples.items():
            match = re.fullmatch(r'prefixd_(?:engine_)?step(?:_duration)?_seconds_bucket\{(?:[^}]*,)?'
                                 r'le="([^"]+)"[^}]*\}', name)
            if match:
                bound = float(match[1].replace("+Inf", "inf"))
                bounds[bound] = bounds.get(bound, 0) + sign * value
    if not bounds or not bounds[max(bounds)]:
        return None
    below, start = 0, 0.0
    wanted = 0.99 * bounds[max(bounds)]
    for bound, count in sorted(bounds.items()):
        if count >= wanted:
            share = (wanted - below) / (count - below) if count > below else 1
            return start if bound == float("inf") else start + share * (bound - start)
        below, start = count, bound
    return start


def mean_step(before, after):
    steps = after.sum("prefixd_steps_total") - before.sum("prefixd_steps_total")
    return (after.sum("prefixd_step_seconds_total") - before.sum("prefixd_step_seconds_total")) / steps


class Side:
    """One of the two daemons and what was measured of it."""

    def __init__(self, d):
        self.d, self.admin = d, View(d, ADMIN_KEY)
        self.ttft, self.p99, self.mean, self.misses, self.gaps = {}, {}, {}, {}, {}

    def load(self, kind, choice, n, seed):
        """One turn, with a stream of the base beside it."""
        gaps, over, before = [], threading.Event(), self.admin.metrics()
        watcher = Background(lambda: watch_gaps(self.d.port, ADMIN_KEY, over, gaps))
        self.ttft.setdefault(kind, []).extend(
            run_load(self.d.port, choice, CLIENTS, n, TOKENS, seed))
        after = self.admin.metrics()
        over.set()
        watcher.result()
        self.gaps.setdefault(kind, []).extend(length for _, length in gaps)
        self.mean.setdefault(kind, []).append(mean_step(before, after))
        self.p99.setdefault(kind, []).append(step_p99(before, after))
        gone = [sum_of(m.text, r"prefixd_adapter\w*misses\w*") for m in (before, after)]
        if None not in gone:
            self.misses[kind] = self.misses.get(kind, 0) + gone[1] - gone[0]


def median(values):
    return None if None in values else statistics.median(values)


def ratio(a, b):
    return round(a / b, 3) if a and b else None


def figures(tight, roomy, kind):
    a, b = tight.ttft[kind], roomy.ttft[kind]
    return {"requests": len(a), "misses": tight.misses.get(kind),
            "ttft_p50_ms": [round(percentile(v, 50) * 1000, 3) for v in (a, b)],
            "ttft_p99_ms": [round(percentile(v, 99) * 1000, 3) for v in (a, b)],
            "ttft_p50_ratio": ratio(percentile(a, 50), percentile(b, 50)),
            "gap_p99_ms": [round(percentile(s.gaps[kind], 99) * 1000, 3) for s in (tight, roomy)],
            "gap_p99_ratio": ratio(*[percentile(s.gaps[kind], 99) for s in (tight, roomy)]),
            "step_mean_ratio": ratio(median(tight.mean[kind]), median(roomy.mean[kind])),
            "step_p99_ratio": ratio(median(tight.p99[kind]), median(roomy.p99[kind]))}


def start_seconds(make):
    """From the start of the process to the first answer that it is ready."""
    d = make()
    began = time.perf_counter()
    d.start()
    taken = time.perf_counter() - began
    d.close()
    return taken


def measure(n=10000, room=500, n_tenants=20, n_requests=4000, rounds=20, starts=5):
    """The figures of n adapters with memory for `room`."""
    tmp = pathlib.Path(tempfile.mkdtemp(prefix="prefixd-many-"))
    try:
        state, copy, empty = tmp / "state", tmp / "copy", tmp / "empty"
        with daemon(tmp, state) as d:
            admin = View(d, ADMIN_KEY)
            adapters = Adapters(admin, n, n_tenants)
            found = {"adapters": n, "room": room, "tenants": n_tenants,
                     "puts_per_s": round(adapters.put_all(admin), 1)}
            size = View(d, adapters.all[0][0]).get(f"/v1/adapters/{adapters.all[0][1]}").json["bytes"]
        times = [(start_seconds(lambda: daemon(tmp, state)), start_seconds(lambda: daemon(tmp, empty)))
                 for _ in range(starts)]
        found["start_s"] = [round(statistics.median(t), 3) for t in zip(*times)]
        shutil.copytree(state, copy)
        with daemon(tmp, state, "--adapter-bytes", room * size) as tight_d, \
                daemon(tmp, copy, "--adapter-bytes", 4 * n * size) as roomy_d:
            tight, roomy = Side(tight_d), Side(roomy_d)
            touch_all(roomy_d.port, adapters.all)
            choices = {"zipf": Zipf(adapters.all, 1.0, 1), "uniform": Zipf(adapters.all, 0.0, 2)}
            for kind, choice in choices.items():
                for side in tight, roomy:
                    run_load(side.d.port, choice, CLIENTS, min(2 * room, n_requests), TOKENS, 99)
                for i in range(rounds):
                    for side in (tight, roomy) if i % 2 else (roomy, tight):
                        side.load(kind, choice, n_requests // rounds, i)
                found[kind] = figures(tight, roomy, kind)
            found["resident"] = sum(
                a["resident"] for t in adapters.tenants
                for a in View(tight_d, t.key).get("/v1/adapters?limit=1000").json["data"])
            text = tight.admin.metrics().text
            found["evictions"] = sum_of(text, r"prefixd_\w*evict\w*")
            found["load_ms"] = round(1000 * sum_of(text, "prefixd_adapter_load_seconds_total")
                                     / sum_of(text, "prefixd_adapter_loads_total"), 3)
        return found
    finally:
        shutil.rmtree(tmp, True)


def out_of_bounds(found):
    """What is not as it should be, in words."""
    wrong = []
    if found["zipf"]["ttft_p50_ratio"] > 1.1:
        wrong.append("zipf: p50 of the first token above 1.1 x")
    if found["uniform"]["ttft_p50_ratio"] > 2:
        wrong.append("uniform: p50 of the first token above 2 x")
    for kind in "zipf", "uniform":
        step = found[kind]["step_p99_ratio"] or found[kind]["gap_p99_ratio"]
        if step > 1.1:
            wrong.append(f"{kind}: p99 of a step above 1.1 x")
    if found["start_s"][0] - found["start_s"][1] > 1:
        wrong.append("start takes over a second more with adapters registered")
    return wrong
