"""Starts a daemon of its own for a test, talks HTTP to it, and ends it by its process id.

Environment:
  PREFIXD_BIN        the daemon to test (default build/prefixd)
  PREFIXD_MODEL      model of the themes that need no golden one (default demo/tiny/model)
  PREFIXD_ADAPTERS   its adapters (default demo/tiny/adapters)
  PREFIXD_TEST_SLOW  factor for every time limit (sanitizers are slow)
"""

import http.client
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = os.environ.get("PREFIXD_BIN", str(ROOT / "build/prefixd"))
SLOW = float(os.environ.get("PREFIXD_TEST_SLOW", "1"))
GOLDEN = ROOT / "tests/golden"
GQA = GOLDEN / "models/gqa"
GQA_ADAPTERS = GOLDEN / "adapters/gqa"
CACHE = pathlib.Path(os.environ.get("PREFIXD_CACHE")
                     or os.path.join(os.environ.get("XDG_CACHE_HOME")
                                     or os.path.expanduser("~/.cache"), "prefixd"))
DEMO = CACHE / "SmolLM2-135M-Instruct.Q4_1.gguf"
MID = CACHE / "mid"  # 0.8 GB in bf16
SANITIZER = re.compile(r"(ERROR|WARNING): \w+Sanitizer|runtime error:|CHECK failed")


def limit(seconds):
    """A time limit, stretched for slow flavours."""
    return seconds * SLOW


def demo_model():
    """(model, adapters): what the environment says, else the trained tiny one, else gqa."""
    model = os.environ.get("PREFIXD_MODEL")
    if model:
        return pathlib.Path(model), os.environ.get("PREFIXD_ADAPTERS")
    tiny = ROOT / "demo/tiny"
    if (tiny / "model/config.json").exists():
        return tiny / "model", tiny / "adapters"
    return GQA, GQA_ADAPTERS


def model_copy(parent, change=None, name="model", source=GQA):
    """A copy of a model directory whose config.json went through `change`."""
    target = pathlib.Path(parent) / name
    shutil.copytree(source, target)
    for path in [target, *target.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    config = json.loads((target / "config.json").read_text())
    if change:
        change(config)
    (target / "config.json").write_text(json.dumps(config))
    return target


def long_model(parent):
    """The gqa model with a context long enough for requests that last seconds."""
    return model_copy(parent, lambda c: c.update(max_position_embeddings=65536), "long")


class Answer:
    """One HTTP answer, read whole."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def raw_numbers(self):
        """The JSON with every number as the text that was sent."""
        return json.loads(self.body, parse_float=str, parse_int=str)

    def __repr__(self):
        return f"<{self.status} {self.body[:400]!r}>"


class Stream:
    """An answer of server-sent events, read event by event."""

    def __init__(self, conn, response):
        self.conn, self.response = conn, response
        self.status, self.headers = response.status, response.headers
        self.comments, self.done = 0, False

    def __iter__(self):
        """Yields each event's JSON; sets done at [DONE]. Bad framing raises AssertionError."""
        while True:
            line = self.response.readline()
            if not line:
                return
            if line.startswith(b":"):
                self.comments += 1
                blank = self.response.readline()
                assert blank == b"\n", f"a comment is followed by {blank!r}"
                continue
            is_error = line == b"event: error\n"
            if is_error:
                line = self.response.readline()
            assert line.startswith(b"data: "), f"not an SSE data line: {line!r}"
            blank = self.response.readline()
            assert blank == b"\n", f"an event is followed by {blank!r}"
            assert not self.done, f"an event after [DONE]: {line!r}"
            if line == b"data: [DONE]\n":
                self.done = True
                continue
            event = json.loads(line[6:].decode("utf-8", errors="strict"))
            assert ("error" in event) == is_error, f"named otherwise: {line!r}"
            yield event

    def drop(self):
        """Goes away without reading on, as a client that was killed."""
        sock = self.conn.sock or self.response.fp.raw._sock
        self.response.close()
        if sock:
            sock.close()
        self.conn.close()


def joined(events, index=0):
    """The text of one choice over all chunks."""
    return "".join(c["text"] for e in events for c in e.get("choices", []) if c["index"] == index)


class Daemon:
    """A running daemon. Use as a context manager, or start() and stop()."""

    def __init__(self, model=GQA, adapters=None, flags=(), config=None, wait_ready=True,
                 binary=None):
        self.scratch = tempfile.mkdtemp(prefix="prefixd-test-")
        self.args = [binary or BIN, "--model", str(model)]
        if adapters:
            self.args += ["--adapters", str(adapters)]
        if "--listen" not in flags:
            self.args += ["--listen", "127.0.0.1:0"]
        if config is not None:
            path = os.path.join(self.scratch, "config.json")
            pathlib.Path(path).write_text(json.dumps(config))
            self.args += ["--config", path]
        self.args += [str(f) for f in flags]
        self.wait_ready = wait_ready
        self.process, self.port, self.base, self.headers = None, None, None, {}
        self.any_exit = False  # set by a test that ends the daemon in its own way

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        self.close(clean=kind is None)

    def start(self):
        self.stderr_path = os.path.join(self.scratch, "stderr")
        with open(self.stderr_path, "ab") as err:
            self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=err)
        self.stdout_lines = queue.Queue()
        threading.Thread(target=read_lines, args=(self.process.stdout, self.stdout_lines),
                         daemon=True).start()
        try:
            line = self.stdout_lines.get(timeout=limit(20))
        except queue.Empty:
            self.kill()
            raise AssertionError(f"no `listening on` line; stderr:\n{self.stderr()}") from None
        match = line and re.fullmatch(r"listening on (http://[^ ]*:(\d+))\n", line)
        if not match:
            self.kill()
            raise AssertionError(f"stdout says {line!r}; stderr:\n{self.stderr()}")
        self.url, self.port = match[1], int(match[2])
        if self.wait_ready:
            self.wait(lambda: self.get("/ready").status == 200, 20, "/ready")
            models = self.get("/v1/models")
            if models.status == 200:
                self.base = next(m["id"] for m in models.json["data"] if not m.get("parent"))
        return self

    def stderr(self):
        return pathlib.Path(self.stderr_path).read_text(errors="replace")

    def more_stdout(self):
        """Lines after the first one; call once the daemon has ended."""
        lines = []
        while (line := self.stdout_lines.get(timeout=limit(5))) is not None:
            lines.append(line)
        return lines

    def signal(self, number=signal.SIGTERM):
        os.kill(self.process.pid, number)

    def wait_exit(self, seconds=35):
        return self.process.wait(limit(seconds))

    def stop(self):
        """SIGTERM; returns the exit status."""
        self.signal()
        return self.wait_exit()

    def worker_pids(self):
        """Processes that the supervisor started and that are still there."""
        pid = self.process.pid
        try:
            return [int(p) for p in
                    pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def kill(self):
        """kill -9 of the whole daemon: the supervisor and its workers."""
        if self.process and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGSTOP)  # or it would start new ones
            for pid in self.worker_pids():
                kill_9(pid)
            self.process.kill()
            self.process.wait(limit(10))

    def restart(self):
        return self.start()

    def close(self, clean=True):
        """Ends the daemon if it runs, and insists on a clean end when nothing else failed."""
        status, died = None, False
        try:
            if self.process and self.process.poll() is None:
                status = self.stop()
            elif self.process:
                died = self.process.returncode not in (0, -signal.SIGKILL)
        except subprocess.TimeoutExpired:
            status = "hangs after SIGTERM"
        finally:
            self.kill()
            log = self.stderr()
            shutil.rmtree(self.scratch, ignore_errors=True)
        assert not SANITIZER.search(log), f"sanitizer or check:\n{log[-6000:]}"
        code = self.process and self.process.returncode
        assert not died or self.any_exit, f"the daemon died ({code}):\n{log[-4000:]}"
        if clean and status not in (0, None):
            raise AssertionError(f"exit {status} after SIGTERM:\n{log[-4000:]}")

    def wait(self, condition, seconds, what):
        """Polls until the condition holds; never sleeps for a fixed time."""
        deadline = time.monotonic() + limit(seconds)
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"ended ({self.process.returncode}) before {what}:\n"
                                     + self.stderr()[-4000:])
            if condition():
                return
            time.sleep(0.01)
        raise AssertionError(f"waited {limit(seconds)} s for {what}")

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit(timeout))

    def request(self, method, path, body=None, headers=None, conn=None, timeout=60):
        """One request on a connection of its own, or on `conn` (keep-alive)."""
        own = conn is None
        conn = conn or self.connect(timeout)
        sent = {**self.headers, **(headers or {})}
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            conn.request(method, path, body=body, headers=sent)
            response = conn.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            if own:
                conn.close()

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, body, **more):
        return self.request("POST", path, body, **more)

    def complete(self, timeout=60, headers=None, **fields):
        """POST /v1/completions with greedy decoding unless said otherwise."""
        fields.setdefault("temperature", 0)
        return self.post("/v1/completions", fields, timeout=timeout, headers=headers)

    def stream(self, conn=None, headers=None, timeout=60, **fields):
        fields.setdefault("temperature", 0)
        conn = conn or self.connect(timeout)
        conn.request("POST", "/v1/completions", json.dumps({**fields, "stream": True}),
                     {"Content-Type": "application/json", **self.headers, **(headers or {})})
        return Stream(conn, conn.getresponse())

    def put_peft(self, name, folder, config=None, weights=None, headers=None):
        """PUT of PEFT's two files as multipart, parts named as in the documented curl line."""
        folder = pathlib.Path(folder) if folder else None
        if config is None:
            config = (folder / "adapter_config.json").read_bytes()
        if weights is None:
            weights = (folder / "adapter_model.safetensors").read_bytes()
        parts = [("config", "adapter_config.json", config),
                 ("weights", "adapter_model.safetensors", weights)]
        return self.put_parts(name, parts, headers)

    def put_parts(self, name, parts, headers=None):
        body, content_type = multipart(parts)
        return self.request("PUT", f"/v1/adapters/{name}", body,
                            {"Content-Type": content_type, **(headers or {})})

    def adapter_names(self):
        return sorted(a.get("id") or a["name"] for a in self.get("/v1/adapters").json["data"])

    def raw(self, data, timeout=20):
        """Sends bytes as they are; reads until an answer is whole, a close, or silence."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self.port), limit(timeout)) as sock:
            try:
                sock.sendall(data)
                while not whole_answer(answer) and (chunk := sock.recv(65536)):
                    answer += chunk
            except OSError:
                pass  # the daemon may close on what it will not read
        return answer

    def metrics(self):
        return Metrics(self.get("/metrics").body.decode())


def kill_9(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def read_lines(pipe, lines):
    """Puts each line into a queue, then None."""
    for line in pipe:
        lines.put(line.decode())
    lines.put(None)


def whole_answer(data):
    """Whether the bytes hold a whole answer that says its length."""
    head, found, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(found and length and len(body) >= int(length[1]))


class Metrics:
    """The samples of one Prometheus scrape."""

    SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})? (-?[0-9.eE+-]+|NaN|[+-]Inf)')

    def __init__(self, text):
        self.text, self.samples, self.bad_lines = text, {}, []
        for line in text.splitlines():
            if line.startswith("#") or not line:
                continue
            match = self.SAMPLE.fullmatch(line)
            if match:
                self.samples[match[1] + (match[2] or "")] = float(match[3])
            else:
                self.bad_lines.append(line)

    def sum(self, name):
        """All samples of one metric together, over its labels."""
        found = [v for k, v in self.samples.items() if k.split("{")[0] == name]
        if not found:
            raise AssertionError(f"no metric {name} in:\n{self.text[:4000]}")
        return sum(found)

    @property
    def running(self):
        return self.sum("prefixd_num_requests_running")

    @property
    def waiting(self):
        return self.sum("prefixd_num_requests_waiting")

    @property
    def kv_usage(self):
        return self.sum("prefixd_kv_cache_usage_perc")


def multipart(parts):
    """(body, content type) of [(field name, file name or None, bytes)]."""
    boundary = "----prefixd-test-boundary-7f3a"
    out = b""
    for field, filename, data in parts:
        name = f'; filename="{filename}"' if filename else ""
        out += (f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"{name}\r\n'
                "Content-Type: application/octet-stream\r\n\r\n").encode() + data + b"\r\n"
    return out + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def safetensors(tensors, metadata=None):
    """Bytes of a file of {name: (dtype, shape, raw bytes)}."""
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return safetensors_raw(json.dumps(header).encode(), data)


def safetensors_raw(header, data, length=None):
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def f32(values):
    return struct.pack(f"<{len(values)}f", *values)


def run_all(tasks):
    """Runs callables each in a thread of its own; returns their results in order."""
    results = [None] * len(tasks)

    def call(i, task):
        try:
            results[i] = task()
        except BaseException as error:  # handed to the caller below
            results[i] = error

    threads = [threading.Thread(target=call, args=(i, t)) for i, t in enumerate(tasks)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(limit(120))
        if t.is_alive():
            raise AssertionError("a client did not end")
    for r in results:
        if isinstance(r, BaseException):
            raise r
    return results


class HttpCase(unittest.TestCase):
    """A theme: one daemon for all its tests, made by the class method `daemon`."""

    maxDiff = 4000

    @classmethod
    def daemon(cls):
        return Daemon(GQA, GQA_ADAPTERS, ["--dtype", "f32"])

    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.mkdtemp(prefix="prefixd-case-")
        cls.addClassCleanup(shutil.rmtree, cls.tmp, True)
        cls.d = cls.daemon()
        cls.addClassCleanup(cls.d.close)
        cls.d.start()

    def assert_error(self, answer, status, names=()):
        """The OpenAI error shape, a status (or one of several), and words in the message."""
        wanted = status if isinstance(status, (tuple, list, set)) else (status,)
        self.assertIn(answer.status, wanted, answer)
        self.assertIn("application/json", answer.headers.get("Content-Type", ""), answer)
        error = answer.json["error"]
        for key in ("message", "type", "param", "code"):
            self.assertIn(key, error, answer)
        self.assertIsInstance(error["message"], str)
        self.assertTrue(error["message"], answer)
        for word in names:
            self.assertIn(str(word), error["message"] + " " + str(error["param"]), answer)
        return error

    def ok(self, answer, status=200):
        self.assertEqual(answer.status, status, answer)
        return answer.json

    def assert_alive(self, daemon=None):
        self.assertEqual((daemon or self.d).get("/health").status, 200)


def token_ids(choice):
    """The ids of an answer made with return_tokens_as_token_ids and logprobs."""
    return [int(t.removeprefix("token_id:")) for t in choice["logprobs"]["tokens"]]
