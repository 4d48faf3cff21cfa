"""Tokens that tenants with full backlogs get through HTTP, by weight."""

import tempfile
import threading
import time

from load import ADMIN_KEY, MODEL, Background, Streamer, View, add_tenant, flags_with_admin
from harness import Daemon

PLACES, REQUEST = 8, 32


def shares(weights, seconds=None, n_requests=None):
    """Tokens by tenant, counted by the clients between the moment when all have backlogs and the
    end, which is after some seconds or requests in all."""
    with tempfile.TemporaryDirectory(prefix="prefixd-fair-") as tmp, \
            Daemon(MODEL, flags=flags_with_admin(tmp, "--max-batch", PLACES, "--threads", 1)) as d:
        admin = View(d, ADMIN_KEY)
        views = [add_tenant(admin, f"t{i}", weight=w) for i, w in enumerate(weights)]
        over, counting, n_clients = threading.Event(), threading.Event(), 2 * PLACES
        counts = [0] * (len(views) * n_clients)  # one for each client, so that no two add to one

        def client(k):
            streamer = Streamer(d.port)
            while not over.is_set():
                streamer.ask(views[k // n_clients].key, "", REQUEST)
                if counting.is_set() and not over.is_set():
                    counts[k] += 1
            streamer.sock.close()

        tasks = [Background(lambda k=k: client(k)) for k in range(len(counts))]
        d.wait(lambda: admin.metrics().waiting > PLACES * len(views) // 2, 30, "backlogs")
        counting.set()
        began = time.monotonic()
        while all(t.is_running for t in tasks):
            time.sleep(0.01)
            if seconds and time.monotonic() - began > seconds:
                break
            if n_requests and sum(counts) >= n_requests:
                break
        taken = time.monotonic() - began
        over.set()
        for task in tasks:
            task.result(120)
        got = [REQUEST * sum(counts[i * n_clients:(i + 1) * n_clients]) for i in range(len(views))]
    mean = sum(g / w for g, w in zip(got, weights)) / len(weights)
    off = max(abs(g / w / mean - 1) for g, w in zip(got, weights))
    return {"weights": weights, "tokens": got, "tokens_per_s": round(sum(got) / taken, 1),
            "off_percent": round(100 * off, 2)}
