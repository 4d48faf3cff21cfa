"""Tenants for tests: keys, a daemon as the holder of a key sees it, a way to each worker."""

import os
import pathlib
import signal
import socket
import threading
import time

from harness import GQA, SLOW, Daemon, HttpCase, limit

ADMIN_KEY = "an-administrator-of-these-tests-0123456789"


def scaled(n):
    """How often a thing is done, less in slow flavours."""
    return max(1, int(n / SLOW))


def bearer(key):
    return {"Authorization": f"Bearer {key}"} if key else {}


class View(Daemon):
    """A running daemon through a key, and, with a connection, through one of its workers."""

    def __init__(self, daemon, key=None, conn=None, worker=None):
        self.daemon, self.key, self.headers = daemon, key, bearer(key)
        self.conn, self.worker = conn, worker

    port = property(lambda self: self.daemon.port)
    process = property(lambda self: self.daemon.process)

    def stderr(self):
        return self.daemon.stderr()

    def through(self, key):
        """The same way in with another key."""
        return View(self.daemon, key, self.conn, self.worker)

    def request(self, method, path, body=None, headers=None, conn=None, timeout=60):
        answer = super().request(method, path, body, headers, conn or self.conn, timeout)
        seen = answer.headers["X-Prefixd-Worker"]
        assert not self.worker or int(seen) == self.worker, f"{seen} answers for {self.worker}"
        return answer

    def stream(self, conn=None, headers=None, timeout=60, **fields):
        return super().stream(conn or self.conn, headers, timeout, **fields)


def ready_workers(d, n):
    """Waits until n workers are ready; their process ids."""
    d.wait(lambda: len(d.worker_pids()) == n and
           sum(f"worker {p} is ready" in d.stderr() for p in d.worker_pids()) == n,
           20, f"{n} workers")
    return d.worker_pids()


def pin(d, pid, pids, key=None):
    """A view through the worker pid: the others are stopped while the connection is made."""
    for _ in range(20):
        conn = d.connect(timeout=2)
        others = [p for p in pids if p != pid]
        for p in others:
            os.kill(p, signal.SIGSTOP)
        try:
            conn.request("GET", "/health")
            answer = conn.getresponse()
            answer.read()
        except OSError:
            conn.close()
            continue
        finally:
            for p in others:
                os.kill(p, signal.SIGCONT)
        if int(answer.getheader("X-Prefixd-Worker")) == pid:
            conn.sock.settimeout(limit(60))
            return View(d, key, conn, pid)
        conn.close()
    raise AssertionError(f"no connection to worker {pid}")


def pin_each(d, n, key=None):
    """A view through each of n workers."""
    pids = ready_workers(d, n)
    return [pin(d, pid, pids, key) for pid in pids]


class TenantCase(HttpCase):
    """One daemon with a state and an administrator's key; tests make tenants of their own."""

    WORKERS = 1
    FLAGS = ()
    CONFIG = None

    @classmethod
    def model(cls):
        return GQA

    @classmethod
    def daemon(cls):
        keys = pathlib.Path(cls.tmp, "admin-keys")
        keys.write_text(ADMIN_KEY + "\n")
        keys.chmod(0o600)
        cls.state = pathlib.Path(cls.tmp, "state")
        return Daemon(cls.model(), config=cls.CONFIG, flags=[
            "--dtype", "f32", "--name", "base", "--state", cls.state, "--admin-key-file", keys,
            "--workers", cls.WORKERS, *cls.FLAGS])

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.admin = View(cls.d, ADMIN_KEY)

    def tenant(self, name, scope="manage", **fields):
        """A new tenant, seen through a key of its own."""
        return add_tenant(self.admin, name, scope, **fields)

    def pins(self, view):
        """The view through each worker."""
        views = pin_each(self.d, self.WORKERS, view.key)
        for v in views:
            self.addCleanup(v.conn.close)
        return views


def add_tenant(admin, name, scope="manage", **fields):
    made = admin.post("/admin/tenants", {"name": name, **fields})
    assert made.status == 201, made
    return View(admin.daemon, add_key(admin, name, scope)["key"])


def add_key(admin, tenant, scope="manage", **fields):
    body = {"scope": scope, **({"tenant": tenant} if tenant else {}), **fields}
    made = admin.post("/admin/keys", body)
    assert made.status == 201, made
    return made.json


def patch(view, path, body):
    return view.request("PATCH", path, body)


class Background:
    """Calls something in a thread; result() waits and raises what it raised."""

    def __init__(self, task):
        self.value = self.error = None
        self.thread = threading.Thread(target=self._run, args=(task,), daemon=True)
        self.thread.start()

    def _run(self, task):
        try:
            self.value = task()
        except BaseException as error:  # raised in result()
            self.error = error

    @property
    def is_running(self):
        return self.thread.is_alive()

    def result(self, seconds=60):
        self.thread.join(limit(seconds))
        if self.is_running:
            raise AssertionError(f"not done in {limit(seconds)} s")
        if self.error:
            raise self.error
        return self.value


# ---- telling two kinds of requests apart by their times ---------------------------------------


def raw_request(method, path, key, body=b""):
    return (f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


def seconds_of(sock, data):
    """How long the answer to these bytes takes, on an open connection."""
    began = time.perf_counter()
    sock.sendall(data)
    answer = b""
    while True:
        answer += sock.recv(65536)
        head, found, body = answer.partition(b"\r\n\r\n")
        if found:
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            if len(body) >= int(length):
                return time.perf_counter() - began


def auc(a, b):
    """How often a value of a is below one of b, ties counted half: 0.5 if nothing tells them apart."""
    ranked = sorted([(v, 0) for v in a] + [(v, 1) for v in b])
    below = wins = i = 0
    while i < len(ranked):
        j = i
        while j < len(ranked) and ranked[j][0] == ranked[i][0]:
            j += 1
        tied = [kind for _, kind in ranked[i:j]]
        wins += tied.count(1) * (below + tied.count(0) / 2)
        below += tied.count(0)
        i = j
    return wins / (len(a) * len(b))


def compare_times(port, first, second, pairs):
    """The AUC of the times of two requests (a function of i each), sent in turn, each order as often."""
    times = [], []
    with socket.create_connection(("127.0.0.1", port), limit(30)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(-20, pairs):
            order = (0, 1) if i % 2 else (1, 0)
            for which in order:
                taken = seconds_of(sock, (first, second)[which](i))
                if i >= 0:  # the first ones only warm up
                    times[which].append(taken)
    return auc(*times)
