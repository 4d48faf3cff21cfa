"""What streams cost the daemon: memory while they wait for a token, the loop's time for each token."""

import json
import pathlib
import resource
import select
import socket
import tempfile
import time

from load import flags_with_admin
from harness import Daemon, limit, long_model, model_copy
from tenants import ADMIN_KEY, View, add_tenant, raw_request

OWN_FILES = 256  # of the test and of the daemon, beside the streams
KEEPALIVE_S = 10  # a stream that waits has got its headers by then
MAX_KIB_EACH = 16
CONNECTION_MEMORY = 8192  # as docs/OPERATIONS.md has it for a crowd
FIRST = 100  # streams that are there before: tables that are shared and the heap's own grow with them
LOOP_TOKENS = 400  # of a stream whose events cost the loop time
MAX_LOOP_SHARE = 0.1  # of a core, at
TOKENS_PER_S = 500


def raise_file_limit(wanted):
    """What the limit of open files came to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft if soft != resource.RLIM_INFINITY else wanted


def resident_kib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def loop_us(pid):
    """Processor time of a worker's first thread, which is the loop's."""
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e3


def ask(sock, key, n_tokens):
    body = {"model": "", "prompt": [10, 20, 30, 40], "max_tokens": n_tokens, "ignore_eos": True,
            "temperature": 0, "stream": True}
    sock.sendall(raw_request("POST", "/v1/completions", key, json.dumps(body).encode()))


def open_stream(port, key, n_tokens):
    """A connection that asked for a stream, and reads nothing yet."""
    sock = socket.create_connection(("127.0.0.1", port), limit(60))
    ask(sock, key, n_tokens)
    return sock


class Crowd:
    """A daemon whose one place is always taken, so that what else is asked for waits."""

    N_TOKENS = 8000  # of an answer: a second or two

    def __init__(self, tmp, n):
        model = model_copy(tmp, lambda c: c.update(max_position_embeddings=self.N_TOKENS + 100))
        self.daemon = Daemon(model, config={"max_queue": n + FIRST + 100,
                                            "max_connections": n + FIRST + 100,
                                            "connection_memory_bytes": CONNECTION_MEMORY},
                             flags=["--dtype", "f32", "--max-batch", 1, "--threads", 1,
                                    # keys and values of earlier text are no stream's memory
                                    "--kv-bytes", "8M", "--text-cache", "false",
                                    "--state", f"{tmp}/state",
                                    *flags_with_admin(tmp)])

    def __enter__(self):
        self.daemon.start()
        limits = {"max_running": 1 << 20, "max_queued": 1 << 20, "requests_per_minute": 1 << 30,
                  "tokens_per_minute": 1 << 40}
        self.admin = View(self.daemon, ADMIN_KEY)
        self.key = add_tenant(self.admin, "crowd", limits=limits).key
        return self

    def __exit__(self, *why):
        self.daemon.__exit__(*why)

    def open(self, n):
        return [open_stream(self.daemon.port, self.key, self.N_TOKENS) for _ in range(n)]

    def run_one(self):
        """What is there once is there after it, and every page of the only place's keys and values."""
        with self.open(1)[0] as sock:
            tail = b""
            while not tail.endswith(b"\r\n0\r\n\r\n"):
                tail = tail[-16:] + sock.recv(65536)

    def waiting(self):
        return int(self.admin.metrics().waiting)


def begun(socks, seconds):
    """How many of these got the beginning of an answer."""
    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLIN)
    deadline, n = time.monotonic() + limit(seconds), 0
    while n < len(socks) and time.monotonic() < deadline:
        n = len(poll.poll(0))
        time.sleep(0.1)
    return n


def memory(n):
    """KiB of resident memory for each of n streams that have their headers and wait for a token."""
    with tempfile.TemporaryDirectory(prefix="prefixd-soak-") as tmp, Crowd(tmp, n) as crowd:
        pid = crowd.daemon.worker_pids()[0]
        crowd.run_one()
        first = crowd.open(FIRST)
        begun(first, 3 * KEEPALIVE_S)
        n_before, before = crowd.waiting(), resident_kib(pid)
        socks = crowd.open(n)
        n_begun = begun(socks, 3 * KEEPALIVE_S)
        n_waiting = crowd.waiting() - n_before
        after = resident_kib(pid)
        for sock in first + socks:
            sock.close()
        crowd.daemon.wait(lambda: crowd.waiting() == 0, 60, "the end of what was given up")
    return {"streams": n, "begun": n_begun, "waiting": n_waiting, "kib_before": before,
            "kib_each": round((after - before) / n_waiting, 1)}


def read_for(socks, seconds):
    """Takes what comes and asks again at an end; how many events that were."""
    deadline, n = time.monotonic() + seconds, 0
    while (left := deadline - time.monotonic()) > 0:
        for sock in select.select(socks, [], [], left)[0]:
            piece = sock.recv(65536)
            n += piece.count(b"data: ")
            if piece.endswith(b"0\r\n\r\n"):
                ask(sock, "none", LOOP_TOKENS)
            elif not piece:
                raise AssertionError("a stream was cut")
    return n


def loop_time(seconds, model=None, n=32):
    """Microseconds of the loop thread for each event of n streams at once. With time enough an event brings
    one token, so that they say what share of its time the loop needs at a number of tokens a second."""
    with tempfile.TemporaryDirectory(prefix="prefixd-soak-") as tmp:
        with Daemon(model or long_model(tmp), flags=["--max-batch", n]) as daemon:
            pid = daemon.worker_pids()[0]
            socks = [open_stream(daemon.port, "none", LOOP_TOKENS) for _ in range(n)]
            read_for(socks, limit(2))
            before = loop_us(pid)
            n_events = read_for(socks, seconds)
            us = (loop_us(pid) - before) / n_events
            for sock in socks:
                sock.close()
    return {"events_per_s": round(n_events / seconds), "loop_us_each": round(us, 1),
            "share_at_500_per_s": round(us * TOKENS_PER_S / 1e6, 4)}


def out_of_bounds(found):
    wrong = []
    if found.get("kib_each", 0) > MAX_KIB_EACH:
        wrong.append(f"{found['kib_each']} KiB for a stream that waits")
    if found.get("share_at_500_per_s", 0) > MAX_LOOP_SHARE:
        wrong.append(f"{found['loop_us_each']} us of the loop for an event")
    return wrong
