"""A load of streams over many tenants and adapters, and what clients saw of it."""

import bisect
import json
import pathlib
import random
import socket
import struct
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/http"))
from harness import limit, multipart  # noqa: E402  (the path is made above)
from tenants import ADMIN_KEY, Background, View, add_tenant, raw_request  # noqa: E402

MODEL = ROOT / "demo/tiny/model"
VERSE = ROOT / "demo/tiny/adapters/verse"
PROMPT = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120]


def percentile(values, p):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * p // 100)]


def flags_with_admin(folder, *flags):
    keys = pathlib.Path(folder, "admin-keys")
    keys.write_text(ADMIN_KEY + "\n")
    return ["--admin-key-file", keys, *flags]


class Streamer:
    """One connection that asks for streams."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), limit(60))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, key, model, n_tokens, prompt=None):
        """Seconds to the first event, and to the end."""
        body = json.dumps({"model": model, "prompt": prompt or PROMPT, "max_tokens": n_tokens,
                           "ignore_eos": True, "temperature": 0, "stream": True}).encode()
        began = time.perf_counter()
        self.sock.sendall(raw_request("POST", "/v1/completions", key, body))
        data, first = b"", None
        while not data.endswith(b"\r\n0\r\n\r\n"):
            piece = self.sock.recv(65536)
            data += piece
            if not first and b"data: " in data:
                first = time.perf_counter() - began
            if not piece or (b"\r\n\r\n" in data and not data.startswith(b"HTTP/1.1 200")):
                raise AssertionError(f"{model}: {data[:600]}")
        if b"data: [DONE]" not in data or b'"error"' in data:
            raise AssertionError(f"{model}: {data[-600:]}")
        return first, time.perf_counter() - began


class Adapters:
    """n adapters spread over tenants; each has content of its own."""

    def __init__(self, admin, n, n_tenants):
        self.config = (VERSE / "adapter_config.json").read_bytes()
        self.weights = (VERSE / "adapter_model.safetensors").read_bytes()
        self.tenants = [add_tenant(admin, f"tenant-{i:02}") for i in range(n_tenants)]
        self.all = [(self.tenants[i % n_tenants].key, f"adapter-{i:05}") for i in range(n)]

    def body(self, i):
        weights = self.weights[:-8] + struct.pack("<ff", i / 16384, -i / 16384)
        return multipart([("config", "adapter_config.json", self.config),
                          ("weights", "adapter_model.safetensors", weights)])

    def put_all(self, admin, n_clients=8):
        """Through the API, every client a part; puts a second."""
        began = time.perf_counter()

        def client(part):
            conn = admin.daemon.connect()
            for i in range(part, len(self.all), n_clients):
                key, name = self.all[i]
                body, kind = self.body(i)
                view = View(admin.daemon, key, conn)
                answer = view.request("PUT", f"/v1/adapters/{name}", body, {"Content-Type": kind})
                assert answer.status == 201, answer
            conn.close()

        for task in [Background(lambda p=p: client(p)) for p in range(n_clients)]:
            task.result(3600)
        return len(self.all) / (time.perf_counter() - began)


class Zipf:
    """Chooses of things, the k-th most wanted with weight 1/k; which one that is, chance says."""

    def __init__(self, things, exponent, seed):
        rng = random.Random(seed)
        self.things = rng.sample(things, len(things))
        self.sums, total = [], 0.0
        for k in range(1, len(things) + 1):
            total += k ** -exponent
            self.sums.append(total)

    def choose(self, rng):
        at = bisect.bisect_left(self.sums, rng.random() * self.sums[-1])
        return self.things[min(at, len(self.things) - 1)]


def watch_gaps(port, key, over, gaps):
    """Streams of the base one after another; (end, length) of every gap between two of their events."""
    fields = {"model": "", "prompt": PROMPT, "max_tokens": 1000, "ignore_eos": True,
              "temperature": 0, "stream": True}
    with socket.create_connection(("127.0.0.1", port), limit(60)) as sock:
        while not over.is_set():
            sock.sendall(raw_request("POST", "/v1/completions", key, json.dumps(fields).encode()))
            last, tail = None, b""
            while not tail.endswith(b"\r\n0\r\n\r\n") and not over.is_set():
                piece = sock.recv(65536)
                if not piece:
                    raise AssertionError(f"broken off after {tail!r}")
                now, tail = time.perf_counter(), (tail + piece)[-64:]
                if last:
                    gaps.append((now, now - last))
                last = now


def run_load(port, choice, n_clients, n_requests, n_tokens, seed):
    """First-token seconds of n requests by clients in closed loops. Anything wrong raises."""
    found, lock, left = [], threading.Lock(), [n_requests]

    def client(k):
        rng, streamer = random.Random(seed * 1000 + k), Streamer(port)
        while True:
            with lock:
                left[0] -= 1
                if left[0] < 0:
                    break
            first, _ = streamer.ask(*choice.choose(rng), n_tokens)
            with lock:
                found.append(first)
        streamer.sock.close()

    for task in [Background(lambda k=k: client(k)) for k in range(n_clients)]:
        task.result(3600)
    return found


def touch_all(port, adapters, n_clients=4):
    """One request of each adapter, so that all that fit are resident."""
    def client(part):
        streamer = Streamer(port)
        for key, name in adapters[part::n_clients]:
            streamer.ask(key, name, 1)
        streamer.sock.close()

    for task in [Background(lambda p=p: client(p)) for p in range(n_clients)]:
        task.result(3600)
