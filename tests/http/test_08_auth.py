"""Bearer keys: what is open, what is not, and that keys stay out of the log."""

import pathlib
import shutil
import tempfile
import unittest

from harness import GQA, Daemon, HttpCase

KEYS = ["first-key-abcdefgh", "second_KEY.0123456789"]
ADMIN = "operators-key-0123456789"


class Auth(HttpCase):
    @classmethod
    def daemon(cls):
        path, admin = pathlib.Path(cls.tmp, "keys"), pathlib.Path(cls.tmp, "admin-keys")
        path.write_text("\n".join(KEYS) + "\n")
        admin.write_text(f"# of the operator\n{ADMIN}\n")
        return Daemon(GQA, flags=["--api-key-file", path, "--admin-key-file", admin])

    def bearer(self, key):
        return {"Authorization": f"Bearer {key}"}

    def test_open_paths(self):
        for path in ("/health", "/ready", "/version"):
            self.assertEqual(self.d.get(path).status, 200, path)

    def test_all_else_needs_a_key(self):
        wrong = [{}, self.bearer("nope"), self.bearer(""), self.bearer(KEYS[0][:-1]),
                 self.bearer(KEYS[0] + "x"), self.bearer(KEYS[0].upper()),
                 {"Authorization": KEYS[0]}, {"Authorization": f"Basic {KEYS[0]}"},
                 {"Authorization": "Bearer"}, self.bearer(KEYS[0] + "\n".strip() + ","),
                 self.bearer("x" * 7000)]
        paths = [("GET", "/v1/models", None), ("GET", "/v1/adapters", None),
                 ("GET", "/metrics", None), ("GET", "/admin/tenants", None),
                 ("GET", "/v1/usage", None), ("POST", "/tokenize", {"content": "a"}),
                 ("POST", "/detokenize", {"tokens": [1]}),
                 ("POST", "/v1/completions", {"prompt": [1]}),
                 ("PUT", "/v1/adapters/x", {"kind": "text", "text": "a"}),
                 ("DELETE", "/v1/adapters/x", None), ("GET", "/v1/models/x", None)]
        for method, path, body in paths:
            for headers in wrong:
                with self.subTest(path=path, headers=str(headers)[:60]):
                    answer = self.d.request(method, path, body, headers)
                    self.assert_error(answer, 401)

    def test_each_key_works(self):
        for key in KEYS:
            headers = self.bearer(key)
            self.assertEqual(self.d.get("/v1/models", headers=headers).status, 200)
            answer = self.d.complete(prompt=[1], headers=headers)
            self.assertEqual(answer.status, 200)
            for path in ("/metrics", "/admin/tenants", "/admin/keys", "/admin/usage"):
                self.assert_error(self.d.get(path, headers=headers), 403)
            put = self.d.request("PUT", "/v1/adapters/x", {"kind": "text", "text": "a"}, headers)
            self.assertIn(put.status, (200, 201), put)
            flags = self.d.request("PATCH", "/v1/adapters/x", {"pinned": True}, headers)
            self.assert_error(flags, 403)

    def test_the_administrators_key(self):
        headers = self.bearer(ADMIN)
        for path in ("/metrics", "/admin/tenants", "/admin/keys", "/admin/usage", "/v1/models"):
            self.assertEqual(self.d.get(path, headers=headers).status, 200, path)
        put = self.d.request("PUT", "/v1/adapters/y", {"kind": "text", "text": "a"}, headers)
        self.assertEqual(put.status, 201, put)
        for flags in ({"pinned": True}, {"public": True}, {"public": False, "pinned": False}, {}):
            got = self.d.request("PATCH", "/v1/adapters/y", flags, headers)
            self.assertEqual(got.status, 200, got)
            for flag, value in flags.items():
                self.assertIs(got.json[flag], value)
        for bad in ({"public": 1}, {"other": True}, [], "x"):
            got = self.d.request("PATCH", "/v1/adapters/y", bad, headers)
            self.assert_error(got, 400)
        got = self.d.request("PATCH", "/v1/adapters/none", {"public": True}, headers)
        self.assert_error(got, 404)

    def test_keys_are_not_logged(self):
        self.d.get("/v1/models", headers=self.bearer(KEYS[0]))
        self.d.get("/v1/models", headers=self.bearer(ADMIN))
        self.d.get("/v1/models", headers=self.bearer("wrong-key-123"))
        log = self.d.stderr()
        for key in KEYS + [ADMIN, "wrong-key-123"]:
            self.assertNotIn(key, log)

    def test_large_body_without_a_key(self):
        answer = self.d.request("POST", "/v1/completions", b" " * 500_000,
                                {"Content-Type": "application/json"})
        self.assert_error(answer, 401)


class Preflight(unittest.TestCase):
    def test_a_browser_asks_without_a_key(self):
        tmp = tempfile.mkdtemp(prefix="prefixd-case-")
        self.addCleanup(shutil.rmtree, tmp, True)
        path = pathlib.Path(tmp, "keys")
        path.write_text(KEYS[0] + "\r\n\r\n" + KEYS[1])
        origin = "http://app.example"
        with Daemon(GQA, flags=["--api-key-file", path], config={"cors_origin": origin}) as d:
            asked = d.request("OPTIONS", "/v1/completions", headers={
                "Origin": origin, "Access-Control-Request-Method": "POST"})
            self.assertIn(asked.status, (200, 204), asked)
            refused = d.get("/v1/models", headers={"Origin": origin})
            self.assertEqual(refused.status, 401)
            self.assertEqual(refused.headers["Access-Control-Allow-Origin"], origin)
            for key in KEYS:
                allowed = d.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
                self.assertEqual(allowed.status, 200, allowed)


class Remote(unittest.TestCase):
    def test_a_setting_opens_other_addresses(self):
        with Daemon(GQA, flags=["--listen", "0.0.0.0:0"],
                    config={"allow_unauthenticated_remote": True}) as d:
            self.assertEqual(d.get("/health").status, 200)


if __name__ == "__main__":
    unittest.main()
