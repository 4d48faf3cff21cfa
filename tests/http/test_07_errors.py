"""Requests that are wrong: routes, methods, sizes, types, JSON, bytes, request ids."""

import json
import re
import socket
import unittest

from harness import GQA, GQA_ADAPTERS, Daemon, HttpCase, limit

GOOD = b'{"prompt":[1,2],"max_tokens":2,"temperature":0}'


class Errors(HttpCase):
    @classmethod
    def daemon(cls):
        return Daemon(GQA, GQA_ADAPTERS, ["--dtype", "f32"])

    def body(self, data, content_type="application/json", **more):
        return self.d.request("POST", "/v1/completions", data, {"Content-Type": content_type},
                              **more)

    def test_unknown_paths(self):
        for path in ("/", "/v1", "/v1/nothing", "/v1/completions/x", "/v1/adapters/a/b/c",
                     "/health/x", "//health", "/../etc/passwd", "/%2e%2e/x", "/v1/models/"):
            with self.subTest(path=path):
                self.assert_error(self.d.get(path), 404)

    def test_wrong_methods_say_which_are_allowed(self):
        cases = {"/v1/completions": ("GET", {"POST"}), "/health": ("POST", {"GET"}),
                 "/v1/models": ("DELETE", {"GET"}), "/tokenize": ("GET", {"POST"}),
                 "/metrics": ("PUT", {"GET"}), "/v1/models/text": ("POST", {"GET"}),
                 "/v1/adapters": ("POST", {"GET"}),
                 "/v1/adapters/text": ("POST", {"GET", "PUT", "DELETE"})}
        for path, (method, allowed) in cases.items():
            with self.subTest(path=path):
                answer = self.d.request(method, path, b"" if method != "GET" else None)
                self.assert_error(answer, 405)
                allow = {m.strip() for m in answer.headers["Allow"].split(",")}
                self.assertLessEqual(allowed, allow)
                self.assertNotIn(method, allow)

    def test_bad_json(self):
        deep = b"[" * 100_000
        bad = [b"", b"   ", b"{", b"nonsense", b"[]", b"5", b'"x"', b"null", GOOD + b"x",
               GOOD + GOOD, b'{"prompt":[1],}', b"{'prompt':[1]}", b'{"prompt":[1] "n":1}',
               b'{"prompt":NaN}', b'{"prompt":"a', b'{"prompt":"\\q"}', b'{"prompt":"\\ud800"}',
               b'{"prompt":[01]}', b'{"prompt":"tab\tin it"}', b'{"prompt":"x\x00y"}',
               b"\x00" + GOOD, GOOD + b"\x00", b'{"prompt":"\xff"}', b'{"prompt":"\xc3"}',
               b'{"prompt":"\xed\xa0\x80"}', b'{"prompt":"\xc0\xaf"}',
               b'{"prompt":"\xf4\x90\x80\x80"}', b'{"\xff":1,"prompt":[1]}',
               b'{"prompt":' + deep, b'{"prompt":' + deep + b"]" * 100_000 + b"}",
               b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
               b'{"prompt":[1],"temperature":1e999}', b'{"prompt":[1],"max_tokens":--1}']
        for data in bad:
            with self.subTest(data=data[:40]):
                self.assert_error(self.body(data), 400)
        self.assert_alive()

    def test_duplicate_keys(self):
        for data in (b'{"prompt":[1],"prompt":[2]}', b'{"prompt":[1],"n":1,"n":2}',
                     b'{"prompt":[1],"model":"text","mode\\u006c":""}'):
            with self.subTest(data=data):
                self.assert_error(self.body(data), 400)

    def test_a_nul_never_cuts(self):
        whole = self.body(b'{"prompt":"ab\\u0000cd","max_tokens":1,"temperature":0}')
        if whole.status == 200:
            alone = self.body(b'{"prompt":"ab","max_tokens":1,"temperature":0}')
            self.assertGreater(whole.json["usage"]["prompt_tokens"],
                               alone.json["usage"]["prompt_tokens"])
        else:
            self.assert_error(whole, 400)
        named = self.body(b'{"model":"text\\u0000x","prompt":[1]}')
        self.assert_error(named, (400, 404))
        stopped = self.body(b'{"prompt":[1],"stop":"\\u0000x","max_tokens":20,"temperature":0,'
                            b'"ignore_eos":true}')
        if stopped.status == 200:
            self.assertEqual(stopped.json["usage"]["completion_tokens"], 20)

    def test_content_types(self):
        for kind in ("application/json", "application/json; charset=utf-8", "APPLICATION/JSON",
                     "application/x-www-form-urlencoded"):
            with self.subTest(kind=kind):
                self.assertEqual(self.body(GOOD, kind).status, 200)
        self.assert_error(self.body(b"prompt=x", "application/x-www-form-urlencoded"), (400, 415))
        for kind in ("text/xml", "image/png", "multipart/form-data; boundary=x",
                     "application/jsonx"):
            with self.subTest(kind=kind):
                self.assert_error(self.body(GOOD, kind), 415)

    def test_too_large(self):
        padding = b" " * (1 << 20)
        self.assert_error(self.body(GOOD + padding), 413)
        fits = b" " * ((1 << 20) - len(GOOD)) + GOOD
        self.assertEqual(self.body(fits).status, 200)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        answer = self.d.raw(head + b"Content-Length: 99999999999\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 413"), answer[:100])
        answer = self.d.raw(head + b"Expect: 100-continue\r\nContent-Length: 1048577\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 413"), answer[:100])
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        answer = self.d.raw(chunked + chunk * 17 + b"0\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 413"), answer[:100])
        self.assert_alive()

    def test_a_body_without_end(self):
        """What is read and thrown away after a 413 is bounded too."""
        with socket.create_connection(("127.0.0.1", self.d.port), limit(10)) as sock:
            sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application"
                         b"/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            try:
                for _ in range(4096):  # 256 MiB
                    sock.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
            except OSError:
                return
        self.fail("it read 256 MiB of a completion's body")

    def test_chunked_body(self):
        head = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        parts = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (GOOD[:7], GOOD[7:]))
        answer = self.d.raw(head + parts + b"0\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 200"), answer[:200])

    def test_expect_continue(self):
        with socket.create_connection(("127.0.0.1", self.d.port), limit(10)) as sock:
            sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: "
                         b"application/json\r\nExpect: 100-continue\r\nConnection: close\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(GOOD))
            first = sock.recv(4096)
            self.assertTrue(first.startswith(b"HTTP/1.1 100"), first)
            sock.sendall(GOOD)
            rest = b""
            while chunk := sock.recv(65536):
                rest += chunk
        self.assertIn(b"HTTP/1.1 200", first + rest)

    def test_garbage_on_the_wire(self):
        for data in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\r\n\r\n\r\n",
                     b"GET /health HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 100_000 + b" HTTP/1.1",
                     b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
                     b"Content-Length: 6\r\n\r\nabcdef"):
            with self.subTest(data=data[:30]):
                self.assertNotIn(b" 200 ", self.d.raw(data, timeout=1)[:20])
                self.assert_alive()

    def test_pipelined_requests(self):
        one = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
               b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD)
        with socket.create_connection(("127.0.0.1", self.d.port), limit(10)) as sock:
            sock.sendall(one * 5)
            answers = b""
            while answers.count(b"HTTP/1.1 200") < 5:
                chunk = sock.recv(65536)
                self.assertTrue(chunk, answers)
                answers += chunk

    def test_http_1_0(self):
        for more, status in ((b"", b"200"), (b',"stream":true', b"400")):
            body = GOOD[:-1] + more + b"}"
            answer = self.d.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json"
                                b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            if not more or b"text/event-stream" not in answer:
                self.assertEqual(answer.split(b" ", 2)[1], status, answer)
            else:  # streaming until the close is HTTP/1.0 too
                self.assertIn(b"data: [DONE]", answer)

    def test_keep_alive_after_errors(self):
        conn = self.d.connect()
        for _ in range(3):
            answer = self.d.request("POST", "/v1/completions", b"{", conn=conn,
                                    headers={"Content-Type": "application/json"})
            self.assert_error(answer, 400)
            sock = conn.sock
            self.assertIsNotNone(sock)
        self.assertEqual(self.d.request("GET", "/health", conn=conn).status, 200)
        self.assertIs(conn.sock, sock)
        conn.close()

    def test_request_ids(self):
        for path in ("/health", "/nothing", "/v1/models", "/v1/models/nobody"):
            with self.subTest(path=path):
                mine = self.d.get(path, headers={"X-Request-Id": "abc-123.X_y"})
                self.assertEqual(mine.headers["X-Request-Id"], "abc-123.X_y")
                made = self.d.get(path).headers["X-Request-Id"]
                self.assertRegex(made, r"^[A-Za-z0-9._-]{8,}$")
                self.assertNotEqual(made, self.d.get(path).headers["X-Request-Id"])
        answer = self.d.complete(prompt=[1], headers={"X-Request-Id": "find-me-7"})
        self.assertEqual(answer.headers["X-Request-Id"], "find-me-7")
        wrong = self.d.complete(prompt=None, headers={"X-Request-Id": "find-me-8"})
        self.assertIn("find-me-8", wrong.body.decode())
        self.assertEqual(wrong.headers["X-Request-Id"], "find-me-8")
        stream = self.d.stream(prompt=[1], headers={"X-Request-Id": "find-me-9"})
        self.assertEqual(stream.headers["X-Request-Id"], "find-me-9")
        list(stream)
        for name in ("find-me-7", "find-me-8", "find-me-9"):
            self.d.wait(lambda name=name: name in self.d.stderr(), 3, f"{name} in the log")

    def test_hostile_request_ids(self):
        for value in ("a" * 5000, "a b", 'x"y', "é".encode("latin-1").decode("latin-1"), "it's"):
            with self.subTest(value=value[:10]):
                answer = self.d.get("/health", headers={"X-Request-Id": value})
                if answer.status == 200:
                    self.assertRegex(answer.headers["X-Request-Id"], r"^[A-Za-z0-9._-]{1,256}$")

    def test_no_paths_or_pointers_in_messages(self):
        for answer in (self.d.complete(model="nobody", prompt=[1]), self.body(b"{"),
                       self.d.get("/v1/adapters/x/files/y")):
            self.assertFalse(re.search(r"/(tmp|work|home|root|usr)/|0x[0-9a-f]{6}",
                                       answer.body.decode()), answer)

    def test_cors_is_off(self):
        answer = self.d.get("/v1/models", headers={"Origin": "http://evil.example"})
        self.assertNotIn("Access-Control-Allow-Origin", answer.headers)


class Settings(unittest.TestCase):
    def test_limits_are_settings(self):
        with Daemon(GQA, config={"max_body_bytes": 2000, "max_upload_bytes": 3000}) as d:
            self.assertEqual(d.post("/v1/completions", GOOD + b" " * 2000, headers={
                "Content-Type": "application/json"}).status, 413)
            self.assertEqual(d.put_peft("x", GQA_ADAPTERS / "prefix_tuning").status, 413)

    def test_cors_origin(self):
        origin = "http://app.example"
        with Daemon(GQA, config={"cors_origin": origin}) as d:
            answer = d.get("/v1/models", headers={"Origin": origin})
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], origin)
            other = d.get("/v1/models", headers={"Origin": "http://evil.example"})
            self.assertIn(other.headers.get("Access-Control-Allow-Origin"), (None, origin))
            asked = d.request("OPTIONS", "/v1/completions", headers={
                "Origin": origin, "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type"})
            self.assertIn(asked.status, (200, 204), asked)
            self.assertEqual(asked.headers["Access-Control-Allow-Origin"], origin)
            self.assertIn("POST", asked.headers["Access-Control-Allow-Methods"])
            self.assertIn("authorization",
                          asked.headers["Access-Control-Allow-Headers"].lower())

    def test_virtual_token_limit(self):
        with Daemon(GQA, config={"max_virtual_tokens": 16}) as d:
            self.assertEqual(d.put_peft("ok", GQA_ADAPTERS / "cpt").status, 201)
            answer = d.put_peft("long", GQA_ADAPTERS / "cartridge")
            self.assertIn(answer.status, (400, 413, 422), answer)
            self.assertRegex(answer.json["error"]["message"], r"\b40\b.*\b16\b")


if __name__ == "__main__":
    unittest.main()
