"""Tenants over HTTP: keys, scopes, what is seen of others and what time tells of them."""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

from harness import BIN, GQA, Daemon, limit, run_all
from tenants import (ADMIN_KEY, TenantCase, View, add_key, add_tenant, bearer, compare_times, patch,
                     pin_each, raw_request, scaled)
from test_06_adapters import PROMPT, soft_prompt

WORDS = {"kind": "text", "text": "Hi"}


def of_adapter(name, version):
    """Every request that names an adapter and changes nothing of its owner's: method, path, body, headers."""
    path, prompt = f"/v1/adapters/{name}", {"prompt": [1, 2], "max_tokens": 2}
    condition = {"If-Match": f'"{version}"'}
    return [
        ("GET", path, None, {}),
        ("GET", f"/v1/adapters/base:{name}", None, {}),
        ("GET", f"{path}/versions", None, {}),
        ("GET", f"{path}/versions?limit=1&after={version}", None, {}),
        ("GET", f"{path}/files/adapter_config.json", None, {}),
        ("GET", f"{path}/files/adapter_model.safetensors", None, {}),
        ("DELETE", path, None, {}),
        ("DELETE", path, None, condition),
        ("POST", f"{path}/rollback", {"version": version}, {}),
        ("POST", f"{path}/rollback", {"version": version}, condition),
        ("POST", f"{path}/rollback", {"version": "0" * 64}, {}),
        ("PUT", path, WORDS, condition),
        ("PUT", f"{path}?dry_run=1", WORDS, condition),
        ("PUT", path, {"kind": "text", "text": ""}, {}),
        ("PATCH", path, {"public": True}, {}),
        ("PATCH", path, {"pinned": True}, {}),
        ("GET", f"/v1/models/{name}", None, {}),
        ("GET", f"/v1/models/base:{name}", None, {}),
        ("GET", f"/v1/adapters?after={name}", None, {}),
        ("GET", f"/v1/models?after={name}", None, {}),
        ("GET", f"/v1/usage?group_by=adapter&adapter={name}", None, {}),
        ("GET", f"{path}?tenant=owner", None, {}),
        ("POST", "/v1/completions", {"model": name, **prompt}, {}),
        ("POST", "/v1/completions", {"model": name, **prompt, "stream": True}, {}),
        ("POST", "/v1/completions", {"model": f"base:{name}", **prompt}, {}),
        ("POST", "/v1/completions", {"model": name, **prompt, "n": 3, "temperature": 1}, {}),
        ("POST", "/v1/completions", {"model": name, "prompt": [[1], [2]], "echo": True}, {}),
        ("POST", "/v1/completions", {"model": name, **prompt, "task_id": 1}, {}),
        ("POST", "/v1/completions", {"model": name, "prompt": [1] * 300}, {}),
        ("POST", "/v1/completions", {"model": name}, {}),
        ("POST", "/v1/completions?tenant=owner", {"model": name, **prompt}, {}),
        ("POST", "/tokenize", {"model": name, "content": "a"}, {}),
        ("POST", "/detokenize", {"model": name, "tokens": [1]}, {}),
        ("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": name}, {}),
        ("POST", "/v1/unload_lora_adapter", {"lora_name": name}, {}),
    ]


VARIES = ("date", "x-request-id", "x-prefixd-worker")


def told(answer, name):
    """What an answer tells, without what differs from request to request, and the name that was sent."""
    headers = []
    for key, value in answer.headers.items():
        if key.lower() in VARIES or re.match("x-ratelimit-(remaining|reset)", key.lower()):
            value = ""
        headers.append((key, value.replace(name, "NAME")))
    body = answer.body.replace(name.encode(), b"NAME")
    if answer.headers["X-Request-Id"]:
        body = body.replace(answer.headers["X-Request-Id"].encode(), b"ID")
    return answer.status, headers, body


class Keys(TenantCase):
    WORKERS = 4
    PATHS = [("GET", "/v1/models", None), ("GET", "/v1/adapters", None), ("GET", "/metrics", None),
             ("POST", "/tokenize", {"content": "a"}), ("POST", "/detokenize", {"tokens": [1]}),
             ("POST", "/v1/completions", {"prompt": [1]}), ("GET", "/v1/usage", None),
             ("PUT", "/v1/adapters/x", WORDS), ("DELETE", "/v1/adapters/x", None),
             ("PATCH", "/v1/adapters/x", {"public": True}), ("GET", "/v1/models/x", None),
             ("GET", "/v1/adapters/x", None), ("GET", "/v1/adapters/x/versions", None),
             ("POST", "/v1/adapters/x/rollback", {"version": "0" * 64}),
             ("GET", "/v1/adapters/x/files/adapter_config.json", None)]
    ADMIN = [("GET", "/metrics", None), ("GET", "/admin/tenants", None),
             ("POST", "/admin/tenants", {"name": "sneaked"}),
             ("GET", "/admin/tenants/default", None),
             ("PATCH", "/admin/tenants/default", {"weight": 5}),
             ("DELETE", "/admin/tenants/default", None),
             ("POST", "/admin/tenants/default/suspend", None),
             ("POST", "/admin/tenants/default/resume", None),
             ("GET", "/admin/keys", None), ("POST", "/admin/keys", {"scope": "admin"}),
             ("DELETE", "/admin/keys/key_1", None), ("GET", "/admin/usage", None),
             ("GET", "/admin/requests", None)]

    def test_without_or_with_a_wrong_key(self):
        self.tenant("locked")
        for method, path, body in self.PATHS + self.ADMIN:
            for key in (None, "wrong", "pfx_" + "A" * 43, ADMIN_KEY[:-1], ADMIN_KEY + "0"):
                with self.subTest(path=path, key=key):
                    error = self.assert_error(self.d.request(method, path, body, bearer(key)), 401)
                    if key:
                        self.assertEqual(error["code"], "invalid_api_key")
        for path in ("/health", "/ready", "/version"):
            self.assertEqual(self.d.get(path).status, 200, path)

    def test_scope_infer_changes_nothing(self):
        manage = self.tenant("scopes")
        infer = View(self.d, add_key(self.admin, "scopes", "infer")["key"])
        put = manage.request("PUT", "/v1/adapters/words", WORDS)
        self.assertEqual(put.status, 201, put)
        for method, path, body in [
                ("PUT", "/v1/adapters/words", {"kind": "text", "text": "Ho"}),
                ("PUT", "/v1/adapters/new", WORDS), ("PUT", "/v1/adapters/new?dry_run=1", WORDS),
                ("DELETE", "/v1/adapters/words", None), ("DELETE", "/v1/adapters/none", None),
                ("PATCH", "/v1/adapters/words", {"pinned": True}),
                ("POST", "/v1/adapters/words/rollback", {"version": put.json["version"]})]:
            with self.subTest(method=method, path=path):
                error = self.assert_error(infer.request(method, path, body), 403)
                self.assertEqual(error["type"], "permission_error")
        self.assertEqual(infer.adapter_names(), ["words"])
        self.assertEqual(infer.get("/v1/adapters/words").json["version"], put.json["version"])
        for view in infer, manage:
            self.assertEqual(view.complete(model="words", prompt=[1]).status, 200)
            self.assertEqual(view.get("/v1/usage").status, 200)
        self.assertEqual(manage.request("DELETE", "/v1/adapters/words").status, 204)

    def test_admin_routes_need_an_admin(self):
        for scope in "infer", "manage":
            view = self.tenant(f"no-admin-{scope}", scope)
            for method, path, body in self.ADMIN:
                with self.subTest(scope=scope, method=method, path=path):
                    error = self.assert_error(view.request(method, path, body), 403)
                    self.assertEqual(error["type"], "permission_error")
            self.assert_error(view.get("/v1/adapters?tenant=default"), 403)
            answer = view.post("/v1/completions?tenant=default", {"prompt": [1]})
            self.assert_error(answer, 403)
        self.assertEqual(self.admin.get("/admin/tenants/sneaked").status, 404)
        self.assertEqual(self.ok(self.admin.get("/admin/tenants/default"))["weight"], 1)
        for path in ("/metrics", "/admin/tenants", "/admin/keys", "/admin/usage", "/admin/requests"):
            self.assertEqual(self.admin.get(path).status, 200, path)

    def test_an_admin_acts_for_a_tenant(self):
        view = self.tenant("helped")
        put = self.admin.request("PUT", "/v1/adapters/words?tenant=helped", WORDS)
        self.assertEqual(put.status, 201, put)
        self.assertEqual(view.adapter_names(), ["words"])
        self.assertEqual(self.admin.get("/v1/adapters/words").status, 404)
        self.assertEqual(self.admin.get("/v1/adapters/words?tenant=helped").status, 200)
        answer = self.admin.post("/v1/completions?tenant=helped", {"model": "words", "prompt": [1]})
        self.assertEqual(answer.status, 200, answer)
        self.assert_error(self.admin.get("/v1/adapters?tenant=nobody"), 404)
        gone = self.admin.request("DELETE", "/v1/adapters/words?tenant=helped")
        self.assertEqual((gone.status, view.adapter_names()), (204, []))

    def test_further_admin_keys(self):
        made = add_key(self.admin, None, "admin")
        self.assertIsNone(made["tenant"])
        other = View(self.d, made["key"])
        self.assertEqual(other.get("/admin/tenants").status, 200)
        self.assertEqual(self.admin.request("DELETE", f"/admin/keys/{made['id']}").status, 204)
        self.assert_error(other.get("/admin/tenants"), 401)

    def test_expiry(self):
        self.tenant("expiring")
        expires = int(time.time()) + 2
        made = add_key(self.admin, "expiring", "infer", expires=expires)
        self.assertEqual(made["expires"], expires)
        view = View(self.d, made["key"])
        answer = view.get("/v1/models")
        if time.time() < expires:
            self.assertEqual(answer.status, 200, answer)
        time.sleep(max(0, expires + 0.1 - time.time()))
        for _ in range(8):
            error = self.assert_error(view.get("/v1/models"), 401)
            self.assertEqual(error["code"], "invalid_api_key")

    def test_revocation_at_once_in_every_worker(self):
        self.tenant("revoking")
        pins = self.pins(self.admin)
        for i in range(8):
            made = add_key(pins[i % 4], "revoking")
            for pin in pins:
                self.assertEqual(pin.through(made["key"]).get("/v1/models").status, 200)
            gone = pins[(i + 1) % 4].request("DELETE", f"/admin/keys/{made['id']}")
            self.assertEqual((gone.status, gone.body), (204, b""))
            for pin in pins:
                error = self.assert_error(pin.through(made["key"]).get("/v1/models"), 401)
                self.assertEqual(error["code"], "invalid_api_key")
        listed = self.ok(self.admin.get("/admin/keys?tenant=revoking"))["data"]
        self.assertEqual(sum(k["revoked"] is not None for k in listed), 8)
        self.assert_error(self.admin.request("DELETE", "/admin/keys/key_999999"), 404)

    def test_suspension_at_once_in_every_worker(self):
        view = self.tenant("suspended")
        pins, admins = self.pins(view), self.pins(self.admin)
        for i in range(3):
            answer = admins[i].post("/admin/tenants/suspended/suspend", None)
            self.assertIs(self.ok(answer)["suspended"], True)
            for pin in pins:
                for path in "/v1/models", "/v1/adapters/x":
                    error = self.assert_error(pin.get(path), 403)
                    self.assertEqual(error["code"], "tenant_suspended")
                error = self.assert_error(pin.complete(prompt=[1]), 403)
                self.assertEqual(error["code"], "tenant_suspended")
            answer = admins[i + 1].post("/admin/tenants/suspended/resume", None)
            self.assertIs(self.ok(answer)["suspended"], False)
            for pin in pins:
                self.assertEqual(pin.complete(prompt=[1], max_tokens=1).status, 200)

    def test_a_removed_tenant(self):
        view = self.tenant("removed")
        view.request("PUT", "/v1/adapters/words", WORDS)
        pins = self.pins(view)
        self.assertEqual(self.admin.request("DELETE", "/admin/tenants/removed").status, 204)
        for pin in pins:
            self.assert_error(pin.get("/v1/models"), 401)
        self.assert_error(self.admin.get("/admin/tenants/removed"), 404)
        self.assertNotEqual(self.admin.request("DELETE", "/admin/tenants/default").status, 204)
        again = self.tenant("removed")
        self.assertEqual(again.adapter_names(), [])

    def test_a_key_is_told_once(self):
        self.tenant("secretive")
        made = add_key(self.admin, "secretive")
        self.assertRegex(made["key"], r"^pfx_[A-Za-z0-9_-]{43}$")
        self.assertRegex(made["id"], r"^key_\d+$")
        self.assertEqual((made["object"], made["scope"], made["tenant"], made["revoked"]),
                         ("key", "manage", "secretive", None))
        View(self.d, made["key"]).get("/v1/models")
        listed = self.admin.get("/admin/keys?limit=1000")
        self.assertIn(made["id"], [k["id"] for k in listed.json["data"]])
        self.assertNotIn(b"pfx_", listed.body)
        for path in [p for p in self.state.rglob("*") if p.is_file()]:
            self.assertNotIn(made["key"].encode(), path.read_bytes(), path.name)
        self.assertNotIn(made["key"], self.d.stderr())
        self.assertNotIn(ADMIN_KEY, self.d.stderr())

    def test_tenants_over_http(self):
        made = self.admin.post("/admin/tenants", {"name": "made", "weight": 7,
                                                  "limits": {"max_queued": 3}})
        self.assertEqual(made.status, 201, made)
        tenant = made.json
        self.assertEqual((tenant["id"], tenant["object"], tenant["weight"], tenant["suspended"]),
                         ("made", "tenant", 7, False))
        self.assertEqual(tenant["limits"]["max_queued"], 3)
        self.assertEqual(self.ok(self.admin.get("/admin/tenants/made")), tenant)
        self.assert_error(self.admin.post("/admin/tenants", {"name": "made"}), 409)
        for body in ({}, {"name": ""}, {"name": ".x"}, {"name": "a/b"}, {"name": "x" * 65},
                     {"name": 5}, {"name": "n1", "wait": 1}, {"name": "n1", "weight": 0},
                     {"name": "n1", "weight": 1001}, {"name": "n1", "weight": 1.5}, [],
                     {"name": "n1", "limits": {"max_fun": 1}},
                     {"name": "n1", "limits": {"max_queued": -5}},
                     {"name": "n1", "limits": {"max_queued": "3"}}):
            with self.subTest(body=body):
                self.assert_error(self.admin.post("/admin/tenants", body), (400, 422))
        self.assert_error(self.admin.get("/admin/tenants/n1"), 404)
        changed = self.ok(patch(self.admin, "/admin/tenants/made",
                                {"weight": 2, "limits": {"max_queued": None, "max_running": 9}}))
        self.assertEqual(changed["weight"], 2)
        self.assertEqual((changed["limits"]["max_queued"], changed["limits"]["max_running"]), (1024, 9))
        self.assert_error(patch(self.admin, "/admin/tenants/made", {"name": "other"}), 400)
        self.assert_error(patch(self.admin, "/admin/tenants/nobody", {"weight": 2}), 404)
        for body in ({"tenant": "nobody"}, {"tenant": "made", "scope": "admin"},
                     {"tenant": "made", "scope": "all"}, {"scope": "manage"}, {},
                     {"tenant": "made", "more": 1}, {"tenant": "made", "expires": "soon"}):
            with self.subTest(body=body):
                self.assert_error(self.admin.post("/admin/keys", body), (400, 404, 422))

    def test_tenants_in_pages(self):
        names = [f"page-{i:02}" for i in range(12)]
        for name in names:
            self.admin.post("/admin/tenants", {"name": name})
        seen, after = [], ""
        while True:
            page = self.ok(self.admin.get(f"/admin/tenants?limit=5{after}"))
            self.assertEqual(page["object"], "list")
            self.assertLessEqual(len(page["data"]), 5)
            seen += [t["id"] for t in page["data"]]
            if not page["has_more"]:
                break
            after = f"&after={seen[-1]}"
        self.assertEqual(len(seen), len(set(seen)))
        self.assertLessEqual({*names, "default"}, set(seen))


class Isolation(TenantCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.owner = add_tenant(cls.admin, "owner")
        cls.other = add_tenant(cls.admin, "other")

    def put(self, view, name, seed=1, **more):
        answer = view.put_peft(name, None, *soft_prompt(seed=seed), **more)
        self.assertIn(answer.status, (200, 201), answer)
        return answer.json

    def text(self, view, name):
        answer = self.ok(view.complete(model=name, prompt=PROMPT, max_tokens=24, ignore_eos=True,
                                       logprobs=2))
        return answer["choices"][0]

    def test_another_tenants_name_is_a_missing_one(self):
        version = self.put(self.owner, "quagga", 3)["version"]
        newer = self.put(self.owner, "quagga", 4)["version"]
        self.put(self.other, "mine-too")
        kinds = set()
        for theirs, missing in zip(of_adapter("quagga", version), of_adapter("qwagga", version)):
            with self.subTest(method=theirs[0], path=theirs[1], body=str(theirs[2])[:80]):
                answers = [told(self.other.request(*r[:3], headers=r[3]), name)
                           for r, name in ((theirs, "quagga"), (missing, "qwagga"))]
                self.assertEqual(answers[0], answers[1])
                self.assertNotIn(b"owner", answers[0][2])
                self.assertNotIn(newer.encode(), answers[0][2])
                kinds.add(answers[0][0])
        self.assertLessEqual({200, 400, 403, 404, 412}, kinds)
        self.assertEqual(self.owner.get("/v1/adapters/quagga").json["version"], newer)
        self.assertEqual(self.other.adapter_names(), ["mine-too"])
        self.other.request("DELETE", "/v1/adapters/mine-too")

    def test_a_put_of_anothers_name_is_a_new_adapter(self):
        """A new adapter's answers are the same, whether others have its name or not."""
        self.put(self.owner, "gnu-1", 5)
        for query, status in ("?dry_run=1", 200), ("", 201):
            shapes = []
            for name in "gnu-1", "gnu-2":
                path = f"/v1/adapters/{name}"
                answer = self.other.request("PUT", path + query, {"kind": "text", "text": "The gnu"},
                                            {"If-None-Match": "*"})
                self.assertEqual(answer.status, status, answer)
                if not query:
                    self.assertNotEqual(self.text(self.owner, "gnu-1"), self.text(self.other, name))
                    self.assertEqual(self.other.request("DELETE", path).status, 204)
                self.assertEqual(self.other.adapter_names(), [])
                said = {**answer.json, "created": 0, "compile_ms": 0}
                shapes.append(json.dumps(said).replace(name, "NAME"))
            self.assertEqual(*shapes)
        self.assertEqual(self.owner.get("/v1/adapters/gnu-1").status, 200)

    def test_nothing_tells_of_anothers(self):
        """What the other sees in every route that lists or refuses, while the owner's stream runs."""
        version = self.put(self.owner, "okapi", 6)["version"]
        stream = self.owner.stream(model="okapi", prompt=[1], max_tokens=200, ignore_eos=True)
        events = iter(stream)
        next(events)
        day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86400))
        seen = []
        for method, path, body in [
                ("GET", "/v1/models", None), ("GET", "/v1/models?limit=1", None),
                ("GET", "/v1/adapters", None), ("GET", "/v1/adapters?limit=1000", None),
                ("GET", "/v1/usage", None), ("GET", f"/v1/usage?start={day}", None),
                ("GET", "/v1/usage?group_by=adapter", None), ("GET", "/v1/usage?group_by=key", None),
                ("GET", "/v1/usage?group_by=adapter,key,hour", None),
                ("GET", "/v1/usage?group_by=tenant", None), ("GET", "/v1/usage?tenant=owner", None),
                ("GET", "/metrics", None), ("GET", "/admin/requests", None),
                ("GET", "/admin/usage", None), ("GET", "/admin/tenants", None),
                ("GET", "/admin/keys", None), ("GET", "/admin/tenants/owner", None),
                ("GET", "/health", None), ("GET", "/ready", None), ("GET", "/version", None),
                ("GET", "/v1/nothing", None), ("GET", "/v1/adapters/okap", None),
                ("GET", "/v1/models/okap", None), ("PUT", "/v1/adapters/bad", {"kind": "x"}),
                ("POST", "/v1/completions", {"model": "okap", "prompt": [1]}),
                ("POST", "/v1/completions", {"prompt": [1]}), ("POST", "/tokenize", {"content": "a"}),
                ("POST", "/v1/adapters/okap/rollback", {"version": version[:8]})]:
            answer = self.other.request(method, path, body)
            said = (str(answer.headers) + answer.body.decode()).replace(path, "")
            for secret in "okapi", version, '"owner"', "'owner'":
                self.assertNotIn(secret, said, path)
            seen.append(answer.status)
        self.assertIn(200, seen)
        list(events)
        self.owner.request("DELETE", "/v1/adapters/okapi")

    def test_one_name_in_two_tenants(self):
        self.put(self.owner, "twin", 1)
        self.put(self.other, "twin", 2)
        first, second = self.text(self.owner, "twin"), self.text(self.other, "twin")
        self.assertNotEqual(first["text"], second["text"])
        together = run_all([lambda v=v: self.text(v, "twin") for v in (self.owner, self.other) * 6])
        self.assertEqual(together, [first, second] * 6)
        self.assertNotEqual(self.owner.get("/v1/adapters/twin").json["version"],
                            self.other.get("/v1/adapters/twin").json["version"])
        self.assertEqual(self.other.request("DELETE", "/v1/adapters/twin").status, 204)
        self.assertEqual(self.text(self.owner, "twin"), first)
        self.assert_error(self.other.complete(model="twin", prompt=[1]), 404)

    def test_public_adapters(self):
        self.put(self.owner, "shared", 8)
        mine = self.text(self.owner, "shared")
        for body in {"public": True}, {"pinned": True}:
            for view in self.owner, self.other:
                self.assert_error(patch(view, "/v1/adapters/shared", body), 403)
        self.assert_error(self.other.complete(model="shared", prompt=[1]), 404)
        made = self.ok(patch(self.admin, "/v1/adapters/shared?tenant=owner", {"public": True}))
        self.assertIs(made["public"], True)
        self.assertEqual(self.text(self.other, "shared"), mine)
        self.assertIn("shared", [m["id"] for m in self.other.get("/v1/models").json["data"]])
        for answer in (self.other.get("/v1/adapters/shared"), self.other.get("/v1/adapters"),
                       self.other.get("/v1/models"), self.other.get("/v1/models/shared"),
                       self.other.complete(model="shared", prompt=[1])):
            self.assertEqual(answer.status, 200, answer)
            self.assertNotIn(b'"owner"', answer.body)
        # Others use it, and change nothing of it.
        for method, path, body in [("DELETE", "", None),
                                   ("POST", "/rollback", {"version": made["version"]})]:
            answer = self.other.request(method, f"/v1/adapters/shared{path}", body)
            self.assert_error(answer, (403, 404))
        self.assertEqual(self.text(self.owner, "shared"), mine)
        # One's own name wins over a public one, and gives way again.
        self.put(self.other, "shared", 9)
        own = self.text(self.other, "shared")
        self.assertNotEqual(own, mine)
        self.assertEqual(self.text(self.owner, "shared"), mine)
        listed = [a["id"] for a in self.other.get("/v1/adapters").json["data"]]
        self.assertEqual(listed.count("shared"), 1, listed)
        self.assert_error(patch(self.admin, "/v1/adapters/shared?tenant=other", {"public": True}), 409)
        self.assertEqual(self.other.request("DELETE", "/v1/adapters/shared").status, 204)
        self.assertEqual(self.text(self.other, "shared"), mine)
        made = self.ok(patch(self.admin, "/v1/adapters/shared?tenant=owner", {"public": False}))
        self.assertIs(made["public"], False)
        self.assert_error(self.other.complete(model="shared", prompt=[1]), 404)
        self.assert_error(self.other.get("/v1/adapters/shared"), 404)

    def blobs(self, version):
        return [p for p in (self.state / "blobs").iterdir() if version in p.name]

    def test_equal_content_is_shared_within_a_tenant_only(self):
        first = self.put(self.owner, "same", 77)
        second = self.put(self.other, "same", 77)
        for made in first, second:
            self.assertGreater(made["compile_ms"], 0)
        self.assertEqual(self.text(self.owner, "same"), self.text(self.other, "same"))
        if first["version"] == second["version"]:
            self.assertEqual(len(self.blobs(first["version"])), 2)
        else:
            self.assertEqual([len(self.blobs(v["version"])) for v in (first, second)], [1, 1])
        again = self.put(self.owner, "same-again", 77)
        self.assertEqual(again["version"], first["version"])
        self.assertEqual(len(self.blobs(first["version"])),
                         2 if first["version"] == second["version"] else 1)
        self.owner.request("DELETE", "/v1/adapters/same")
        self.owner.request("DELETE", "/v1/adapters/same-again")
        self.assertEqual(self.text(self.other, "same")["finish_reason"], "length")


class Timing(TenantCase):
    """Whether times tell another's name from a missing one. The soak has the hard bound."""

    PAIRS = 300

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.owner = add_tenant(cls.admin, "owner")
        cls.other = add_tenant(cls.admin, "other")
        for i in range(10):
            for view, name in (cls.owner, f"theirs-{i}"), (cls.other, f"myself-{i}"):
                put = view.put_peft(name, None, *soft_prompt(seed=i))
                assert put.status == 201, put

    def completion(self, kind, key, **more):
        def request(i):
            fields = {"model": f"{kind}-{i % 10}", "prompt": [1, 2, 3], "max_tokens": 1, **more}
            return raw_request("POST", "/v1/completions", key, json.dumps(fields).encode())
        return request

    def measured(self, pairs):
        """{route: AUC of another's and a missing name}."""
        key, port = self.other.key, self.d.port

        def get(path, kind):
            return lambda i: raw_request("GET", path.format(f"{kind}-{i % 10}"), key)

        made = {"completions": [self.completion(k, key) for k in ("theirs", "nobody")],
                "streams": [self.completion(k, key, stream=True) for k in ("theirs", "nobody")],
                "rollback": [lambda i, k=k: raw_request(
                    "POST", f"/v1/adapters/{k}-{i % 10}/rollback", key, b'{"version": "%s"}' % (b"0" * 64))
                    for k in ("theirs", "nobody")]}
        for path in "/v1/adapters/{}", "/v1/adapters/{}/versions", "/v1/models/{}":
            made[path] = [get(path, k) for k in ("theirs", "nobody")]
        return {route: compare_times(port, *pair, pairs) for route, pair in made.items()}

    def test_times_do_not_tell(self):
        for route, found in self.measured(scaled(self.PAIRS)).items():
            with self.subTest(route=route):
                self.assertGreater(found, 0.3)
                self.assertLess(found, 0.7)

    def test_the_measure_sees_a_difference(self):
        found = compare_times(self.d.port, self.completion("nobody", self.other.key),
                              self.completion("myself", self.other.key), scaled(self.PAIRS))
        self.assertGreater(found, 0.8)


class Open(unittest.TestCase):
    """Without any key."""

    def setUp(self):
        self.tmp = tempfile.mkdtemp(prefix="prefixd-open-")
        self.addCleanup(shutil.rmtree, self.tmp, True)
        self.state = pathlib.Path(self.tmp, "state")

    def daemon(self, *flags, **more):
        d = Daemon(GQA, flags=["--dtype", "f32", *flags], **more)
        self.addCleanup(d.close)
        return d

    def test_everybody_is_the_default_tenant_until_there_is_a_key(self):
        d = self.daemon("--state", self.state, "--workers", "2").start()
        pins = pin_each(d, 2)
        for pin in pins:
            self.addCleanup(pin.conn.close)
            for path in ("/v1/models", "/metrics", "/admin/tenants", "/admin/keys",
                         "/admin/requests", "/v1/usage", "/admin/usage"):
                self.assertEqual(pin.get(path).status, 200, path)
        self.assertEqual([t["id"] for t in d.get("/admin/tenants").json["data"]], ["default"])
        self.assertEqual(d.request("PUT", "/v1/adapters/words", WORDS).status, 201)
        made = pins[0].post("/admin/keys", {"scope": "admin"})
        self.assertEqual(made.status, 201, made)
        for pin in pins:
            for path in "/v1/models", "/metrics", "/admin/tenants":
                self.assertEqual(pin.get(path).status, 401, path)
                self.assertEqual(pin.through(made.json["key"]).get(path).status, 200, path)
        admin = View(d, made.json["key"])
        self.assertEqual(admin.adapter_names(), ["words"])
        key = View(d, add_key(admin, "default", "infer")["key"])
        self.assertEqual(key.adapter_names(), ["words"])

    def test_a_key_of_the_file_is_the_default_tenants(self):
        path = pathlib.Path(self.tmp, "keys")
        path.write_text("a-key-of-the-file-01\n")
        d = self.daemon("--api-key-file", path, "--state", self.state).start()
        view = View(d, "a-key-of-the-file-01")
        self.assertEqual(view.request("PUT", "/v1/adapters/words", WORDS).status, 201)
        self.assertEqual(d.get("/v1/models").status, 401)
        for path in "/metrics", "/admin/tenants":
            self.assertEqual(view.get(path).status, 403)
        self.assertEqual(d.stop(), 0)
        d = self.daemon("--state", self.state).start()
        self.assertEqual(d.adapter_names(), ["words"])

    def refused_elsewhere(self, *flags):
        args = [BIN, "--model", str(GQA), "--listen", "0.0.0.0:0", *map(str, flags)]
        done = subprocess.run(args, capture_output=True, timeout=limit(20), check=False)
        self.assertEqual((done.returncode, done.stdout), (1, b""), done.stderr)
        return done.stderr.decode()

    def test_other_addresses_need_a_key(self):
        self.refused_elsewhere()
        self.assertRegex(self.refused_elsewhere("--state", self.state), "key")
        d = self.daemon("--state", self.state).start()
        made = d.post("/admin/keys", {"tenant": "default", "scope": "infer"})
        self.assertEqual(made.status, 201, made)
        self.assertEqual(d.stop(), 0)
        remote = self.daemon("--state", self.state, "--listen", "0.0.0.0:0").start()
        self.assertEqual(remote.get("/v1/models").status, 401)
        self.assertEqual(View(remote, made.json["key"]).get("/v1/models").status, 200)


if __name__ == "__main__":
    unittest.main()
