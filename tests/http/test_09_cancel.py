"""Clients that go away, deadlines, full queues: blocks come back, others go on."""

import shutil
import socket
import tempfile
import time
import unittest

from harness import GQA, GQA_ADAPTERS, Daemon, HttpCase, limit, long_model

BODY = b'{"prompt":[1],"max_tokens":60000,"ignore_eos":true%s}'


def send(daemon, body):
    """Posts a completion and leaves the answer unread."""
    sock = socket.create_connection(("127.0.0.1", daemon.port), limit(20))
    sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
                 b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return sock


class Cancel(HttpCase):
    @classmethod
    def daemon(cls):
        return Daemon(long_model(cls.tmp), GQA_ADAPTERS,
                      ["--max-batch", "2", "--dtype", "f32"])

    def setUp(self):
        self.d.wait(lambda: self.d.metrics().running == 0, 3, "an idle daemon")

    def send(self, more=b""):
        return send(self.d, BODY % more)

    def until(self, running, waiting, what, seconds=1):
        last = []

        def reached():
            m = self.d.metrics()
            last[:] = [m.running, m.waiting]
            return last == [running, waiting]

        try:
            self.d.wait(reached, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}: running, waiting = {last}") from None

    def test_gone_while_running(self):
        for more in (b"", b',"stream":true', b',"stream":true,"logprobs":5',
                     b',"n":2', b',"model":"cartridge"'):
            with self.subTest(more=more):
                sock = self.send(more)
                self.until(2 if b'"n"' in more else 1, 0, "it to run", 5)
                self.assertGreater(self.d.metrics().kv_usage, 0)
                sock.close()
                self.until(0, 0, "it to be noticed as gone")
                self.assertEqual(self.d.metrics().kv_usage, 0)

    def test_half_closed_is_gone_or_served_but_never_held(self):
        sock = self.send(b',"stream":true')
        self.until(1, 0, "it to run", 5)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        self.until(0, 0, "a reset connection to be noticed")

    def test_gone_while_its_prompt_is_read(self):
        for prompt in (b"[" + b"7," * 40_000 + b"7]", b'"' + b"word " * 6_000 + b'"'):
            with self.subTest(prompt=prompt[:8]):
                sock = send(self.d, b'{"max_tokens":9,"stream":true,"prompt":' + prompt + b"}")
                self.until(1, 0, "it to run", 5)
                sock.close()
                self.until(0, 0, "it to be noticed as gone")
                self.assertEqual(self.d.metrics().kv_usage, 0)

    def test_gone_while_queued(self):
        running = [self.send(b',"stream":true') for _ in range(2)]
        self.until(2, 0, "two to run", 5)
        for more in (b"", b',"stream":true'):
            with self.subTest(more=more):
                queued = self.send(more)
                self.until(2, 1, "one to wait", 5)
                queued.close()
                self.until(2, 0, "the waiting one to be noticed as gone")
        for sock in running:
            sock.close()
        self.until(0, 0, "all to be gone")
        self.assertEqual(self.d.metrics().kv_usage, 0)

    def test_a_waiting_one_runs_when_there_is_room(self):
        running = [self.send(b',"stream":true') for _ in range(2)]
        self.until(2, 0, "two to run", 5)
        waiting = send(self.d, b'{"prompt":[2],"max_tokens":3,"ignore_eos":true}')
        self.until(2, 1, "the third to wait", 5)
        running[0].close()
        self.assertTrue(waiting.recv(4096).startswith(b"HTTP/1.1 200"))
        running[1].close()
        waiting.close()
        self.until(0, 0, "all to be gone")

    def test_many_come_and_go(self):
        for _ in range(5):
            socks = [self.send(b',"stream":true') for _ in range(12)]
            for sock in socks:
                sock.close()
        self.until(0, 0, "all to be gone", 3)
        self.assertEqual(self.d.metrics().kv_usage, 0)
        self.ok(self.d.complete(prompt=[1], max_tokens=3))


class Deadline(HttpCase):
    @classmethod
    def daemon(cls):
        return Daemon(long_model(cls.tmp), flags=["--dtype", "f32"],
                      config={"request_deadline_ms": 300})

    FIELDS = {"prompt": [1], "max_tokens": 60000, "ignore_eos": True}

    def test_waiting_counts_too(self):
        """With every place taken, those that wait end at their own deadline."""
        taken = [send(self.d, BODY % b"") for _ in range(40)]
        self.d.wait(lambda: self.d.metrics().waiting > 0, 5, "a queue")
        for sock in taken:
            self.assertRegex(sock.recv(64), rb"^HTTP/1.1 (408|503|504)")
            sock.close()
        self.d.wait(lambda: self.d.metrics().kv_usage == 0, 2, "all blocks to come back")

    def test_whole_answers_fail_with_a_status(self):
        began = time.monotonic()
        answer = self.d.complete(**self.FIELDS)
        self.assert_error(answer, (408, 503, 504))
        self.assertLess(time.monotonic() - began, limit(3))
        self.d.wait(lambda: self.d.metrics().running == 0, 2, "its blocks to come back")

    def test_streams_end_with_an_error_event(self):
        stream = self.d.stream(**self.FIELDS)
        events = list(stream)
        self.assertIn("message", events[-1]["error"])
        self.assertTrue(stream.done, "the error is followed by [DONE]")
        self.d.wait(lambda: self.d.metrics().running == 0, 2, "its blocks to come back")


class Budget(unittest.TestCase):
    """Paged KV: what can never fit is refused with the numbers, what fits later waits."""

    def test_small_pool(self):
        # One token of gqa in f32: 3 layers, K and V, 2 heads of 16: 768 bytes.
        with Daemon(GQA, flags=["--kv-bytes", str(768 * 128), "--dtype", "f32"]) as d:
            answer = d.complete(prompt=[1] * 20, max_tokens=180)
            self.assertEqual(answer.status, 400, answer)
            for number in ("20", "180"):
                self.assertIn(number, answer.json["error"]["message"])
            streams = [d.stream(prompt=[1] * 10, max_tokens=80, ignore_eos=True)
                       for _ in range(6)]
            for stream in streams:
                self.assertEqual(stream.status, 200)
                self.assertEqual(len([e for e in stream if e["choices"]][-1]["choices"]), 1)
                self.assertTrue(stream.done)
            d.wait(lambda: d.metrics().kv_usage == 0, 2, "all blocks to come back")

    def test_full_queue(self):
        tmp = tempfile.mkdtemp(prefix="prefixd-case-")
        self.addCleanup(shutil.rmtree, tmp, True)
        with Daemon(long_model(tmp), flags=["--max-batch", "1"], config={"max_queue": 2}) as d:
            socks = [send(d, BODY % b"") for _ in range(3)]
            d.wait(lambda: (d.metrics().running, d.metrics().waiting) == (1, 2), 5, "a queue")
            answer = d.complete(prompt=[1], max_tokens=1, timeout=5)
            self.assertIn(answer.status, (429, 503), answer)
            self.assertGreater(int(answer.headers["Retry-After"]), 0)
            for sock in socks:
                sock.close()


if __name__ == "__main__":
    unittest.main()
