"""Streamed completions: framing, joined equals whole, usage, keep-alive, waiting in the queue."""

import json
import shutil
import socket
import tempfile
import time
import unittest

from harness import GQA_ADAPTERS, Daemon, HttpCase, joined, limit, long_model
from test_03_completions import PROMPT, CompletionCase


class Streaming(CompletionCase):
    def events(self, **fields):
        stream = self.d.stream(prompt=fields.pop("prompt", PROMPT), **fields)
        self.assertEqual(stream.status, 200)
        events = list(stream)
        self.assertTrue(stream.done, "no [DONE]")
        return events

    def test_framing(self):
        stream = self.d.stream(prompt=PROMPT, max_tokens=8, ignore_eos=True)
        self.assertEqual(stream.status, 200)
        self.assertTrue(stream.headers["Content-Type"].startswith("text/event-stream"))
        events = list(stream)
        self.assertTrue(stream.done)
        self.assertEqual(len({e["id"] for e in events}), 1)
        reasons = []
        for event in events:
            self.assertEqual(event["object"], "text_completion")
            self.assertIsInstance(event["created"], int)
            self.assertIsInstance(event["model"], str)
            self.assertIsNone(event.get("usage"))
            reasons += [c["finish_reason"] for c in event["choices"]]
        self.assertEqual(reasons[-1], "length")
        self.assertLessEqual(set(reasons[:-1]), {None})

    def test_joined_equals_whole(self):
        cases = [{"max_tokens": 100, "ignore_eos": True, "temperature": 2.0, "seed": s}
                 for s in range(8)]
        cases += [{"model": "prefix_tuning", "max_tokens": 60},
                  {"prompt": [195], "max_tokens": 30},
                  {"prompt": [240, 159], "max_tokens": 30, "temperature": 2, "seed": 1},
                  {"prompt": "é 😀 x", "echo": True, "max_tokens": 12},
                  {"prompt": "é 😀 x", "echo": True, "max_tokens": 0}]
        for fields in cases:
            with self.subTest(fields=fields):
                whole = self.complete(**fields)["choices"][0]
                events = self.events(**fields)
                self.assertEqual(joined(events), whole["text"])
                last = [c for e in events for c in e["choices"] if c["finish_reason"]]
                self.assertEqual([c["finish_reason"] for c in last], [whole["finish_reason"]])

    def test_stop_over_several_chunks(self):
        text = self.text(max_tokens=80, ignore_eos=True)
        for at in (10, 20, 30):
            stop = text[at:at + 5]
            with self.subTest(stop=stop):
                whole = self.complete(max_tokens=80, ignore_eos=True, stop=stop)["choices"][0]
                events = self.events(max_tokens=80, ignore_eos=True, stop=stop)
                self.assertEqual(joined(events), whole["text"])
                self.assertNotIn(stop, joined(events))

    def test_stop_and_logprobs_of_several_choices(self):
        text = self.text(max_tokens=60, ignore_eos=True)
        for at in range(6, 40, 9):
            fields = {"max_tokens": 60, "ignore_eos": True, "n": 2, "logprobs": 2,
                      "stop": [text[at:at + 2], "never"]}
            whole = self.complete(**fields)
            events = self.events(**fields, stream_options={"include_usage": True})
            self.assertEqual(events[-1]["usage"], whole["usage"])
            for choice in whole["choices"]:
                self.assertEqual(choice["text"], text[:text.index(fields["stop"][0])])
                self.assertEqual(joined(events, choice["index"]), choice["text"])
                tokens = [t for e in events for c in e["choices"]
                          if c["index"] == choice["index"] and c["logprobs"]
                          for t in c["logprobs"]["tokens"]]
                self.assertEqual(tokens, choice["logprobs"]["tokens"])

    def test_logprobs_are_those_of_the_whole(self):
        fields = {"max_tokens": 20, "logprobs": 3, "return_tokens_as_token_ids": True,
                  "ignore_eos": True}
        for more in ({}, {"echo": True}, {"echo": True, "max_tokens": 0}):
            with self.subTest(more=more):
                whole = self.complete(**{**fields, **more})["choices"][0]["logprobs"]
                parts = [c["logprobs"] for e in self.events(**{**fields, **more})
                         for c in e["choices"] if c.get("logprobs")]
                for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                    self.assertEqual([v for p in parts for v in p[key]], whole[key], key)

    def test_usage_chunk(self):
        events = self.events(max_tokens=7, ignore_eos=True, model="cartridge",
                             stream_options={"include_usage": True})
        self.assertEqual(events[-1]["choices"], [])
        usage = events[-1]["usage"]
        self.assertEqual((usage["prompt_tokens"], usage["completion_tokens"]), (len(PROMPT), 7))
        self.assertEqual(usage["prompt_tokens_details"]["virtual_tokens"], 40)
        for event in events[:-1]:
            self.assertIsNone(event.get("usage"))
        without = self.events(max_tokens=7, stream_options={"include_usage": False})
        self.assertTrue(all(e["choices"] for e in without))

    def test_choices_by_index(self):
        fields = {"prompt": ["One", "Two is"], "n": 2, "max_tokens": 12, "temperature": 1.5,
                  "seed": 8, "ignore_eos": True}
        whole = self.complete(**fields)["choices"]
        events = self.events(**fields)
        for choice in whole:
            self.assertEqual(joined(events, choice["index"]), choice["text"])

    def test_connection_is_kept(self):
        conn = self.d.connect()
        for _ in range(3):
            stream = self.d.stream(conn=conn, prompt=PROMPT, max_tokens=5)
            self.assertTrue(list(stream) and stream.done)
            sock = conn.sock
            self.assertIsNotNone(sock, "the daemon closed a keep-alive connection")
            answer = self.d.request("GET", "/health", conn=conn)
            self.assertEqual(answer.status, 200)
            self.assertIs(conn.sock, sock)
        conn.close()

    def test_errors_before_the_first_byte(self):
        for fields, status in (({"model": "nobody"}, 404), ({"temperature": -1}, 400),
                               ({"prompt": []}, 400), ({"max_tokens": 5000}, 400)):
            with self.subTest(fields=fields):
                answer = self.d.complete(**{"prompt": PROMPT, "stream": True, **fields})
                self.assert_error(answer, status)


class LongStreams(HttpCase):
    @classmethod
    def daemon(cls):
        return Daemon(long_model(cls.tmp), GQA_ADAPTERS,
                      ["--dtype", "f32", "--max-batch", "8"])

    def test_tokens_stream_as_they_are_made(self):
        stream = self.d.stream(prompt=[1], max_tokens=50000, ignore_eos=True)
        next(iter(stream))
        self.assertEqual(self.d.metrics().running, 1)
        stream.drop()
        self.d.wait(lambda: self.d.metrics().running == 0, 2, "the dropped stream to end")

    def test_a_slow_reader_holds_nobody(self):
        body = json.dumps({"prompt": [1], "max_tokens": 50000, "ignore_eos": True,
                           "stream": True, "logprobs": 20}).encode()
        slow = []
        for _ in range(3):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", self.d.port))
            sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: "
                         b"application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            slow.append(sock)
        for sock in slow:
            self.assertTrue(sock.recv(64).startswith(b"HTTP/1.1 200"))
        for _ in range(10):
            self.ok(self.d.complete(prompt=[2, 3], max_tokens=20, timeout=15))
        for sock in slow:
            sock.close()
        self.d.wait(lambda: self.d.metrics().running == 0, 3, "the slow readers to end")


class Waiting(unittest.TestCase):
    def test_a_waiting_stream_gets_headers_and_comments(self):
        tmp = tempfile.mkdtemp(prefix="prefixd-case-")
        self.addCleanup(shutil.rmtree, tmp, True)
        with Daemon(long_model(tmp), flags=["--max-batch", "1", "--dtype", "f32"]) as d:
            busy = [d.stream(prompt=[1], max_tokens=60000, ignore_eos=True)]
            next(iter(busy[0]))
            body = b'{"prompt":[1],"stream":true,"max_tokens":60000,"ignore_eos":true}'
            request = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/"
                       b"json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            socks = [socket.create_connection(("127.0.0.1", d.port)) for _ in range(6)]
            for sock in socks:
                sock.sendall(request)
            began = time.monotonic()
            got = b""
            socks[-1].settimeout(limit(14))
            while b"\r\n:" not in got and b"\n:" not in got:
                chunk = socks[-1].recv(4096)
                self.assertTrue(chunk, f"closed after {got!r}")
                got += chunk
                self.assertNotIn(b"data:", got, "it did not wait long enough to tell")
            self.assertTrue(got.startswith(b"HTTP/1.1 200"), got)
            self.assertLess(time.monotonic() - began, limit(13))
            for sock in socks:
                sock.close()
            busy[0].drop()


if __name__ == "__main__":
    unittest.main()
