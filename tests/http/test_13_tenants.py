"""Tenants over HTTP: keys, scopes, what is seen of others, limits over all workers, usage."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest

from harness import BIN, GQA, GQA_ADAPTERS, Daemon, joined, limit, long_model, run_all
from tenants import (ADMIN_KEY, Background, TenantCase, View, add_key, add_tenant, bearer,
                     compare_times, patch, pin_each, raw_request, ready_workers, scaled)
from test_06_adapters import PROMPT, soft_prompt

LONG = {"prompt": [1], "max_tokens": 60000, "ignore_eos": True}
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
        self.put(self.owner, "gnu-1", 5)
        shapes = []
        for name in "gnu-1", "gnu-2":
            for query in "?dry_run=1", "":
                body = {"kind": "text", "text": "The gnu"}
                answer = self.other.request("PUT", f"/v1/adapters/{name}{query}", body,
                                            {"If-None-Match": "*"})
                self.assertEqual(answer.status, 200 if query else 201, answer)
                said = {k: v for k, v in answer.json.items()
                        if k not in ("created", "compile_ms", "updated")}
                shapes.append((sorted(answer.json), json.dumps(said).replace(name, "NAME")))
        self.assertEqual(shapes[:2], shapes[2:])
        self.assertNotEqual(self.text(self.owner, "gnu-1"), self.text(self.other, "gnu-1"))
        for name in "gnu-1", "gnu-2":
            self.assertEqual(self.other.request("DELETE", f"/v1/adapters/{name}").status, 204)
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


class Limits(TenantCase):
    WORKERS = 4

    @classmethod
    def model(cls):
        return long_model(cls.tmp)

    def limited(self, name, **limits):
        view = self.tenant(name, limits=limits)
        return view, self.pins(view)

    def refused(self, answer, *words):
        """A 429 that says when to come again; the seconds."""
        error = self.assert_error(answer, 429, words)
        self.assertEqual(error["code"], "rate_limit_exceeded")
        self.assertRegex(answer.headers["Retry-After"], r"^[1-9]\d*$")
        return int(answer.headers["Retry-After"])

    def spend(self, pins, each, limit_, per_second, **fields):
        """Asks through one worker after another until refused; what was granted fits limit and time."""
        began, granted = time.monotonic(), 0
        while True:
            answer = pins[granted % len(pins)].complete(prompt=[1], ignore_eos=True, **fields)
            if answer.status != 200:
                break
            granted += 1
            top = limit_ + per_second * (time.monotonic() - began) + 1
            self.assertLessEqual(granted * each, top)
        self.assertGreater((granted + 1) * each, limit_)
        return answer

    def test_requests_a_minute(self):
        view, pins = self.limited("rpm", requests_per_minute=120)
        answer = self.spend(pins, 1, 120, 2, max_tokens=1)
        for _ in range(3):
            seconds = self.refused(answer, 120)
            self.assertLessEqual(seconds, 2)
            time.sleep(seconds)
            self.assertEqual(view.complete(prompt=[1], max_tokens=1).status, 200)
            answer = self.spend(pins, 1, 0, 120, max_tokens=1)

    def test_tokens_a_minute(self):
        view, pins = self.limited("tpm", tokens_per_minute=6000)
        answer = self.spend(pins, 600, 6000, 100, max_tokens=599)
        seconds = self.refused(answer, 6000)
        self.assertLessEqual(seconds, 8)
        time.sleep(seconds)
        self.assertEqual(view.complete(prompt=[1], max_tokens=599, ignore_eos=True).status, 200)

    def test_what_is_not_used_is_given_back(self):
        view, pins = self.limited("refund", tokens_per_minute=6000)
        text = view.complete(prompt=[1], max_tokens=30).json["choices"][0]["text"]
        for i in range(12):
            answer = pins[i % 4].complete(prompt=[1], max_tokens=5000, stop=text[5:12])
            self.assertEqual(answer.status, 200, answer)
        stream = view.stream(**{**LONG, "max_tokens": 5000})
        next(iter(stream))
        stream.drop()
        self.d.wait(lambda: view.complete(prompt=[1], max_tokens=3000, stop=text[5:12]).status == 200,
                    5, "what a cancelled request did not use")

    def test_headers(self):
        view, pins = self.limited("headers", requests_per_minute=600, tokens_per_minute=60000)
        answers = [pin.complete(prompt=[1, 2], max_tokens=50, ignore_eos=True) for pin in pins]
        stream = view.stream(prompt=[1, 2], max_tokens=50, ignore_eos=True)
        list(stream)
        for answer in answers + [stream]:
            head = answer.headers
            self.assertEqual(head["x-ratelimit-limit-requests"], "600")
            self.assertEqual(head["x-ratelimit-limit-tokens"], "60000")
            self.assertTrue(580 <= int(head["x-ratelimit-remaining-requests"]) <= 600, head)
            self.assertTrue(59000 <= int(head["x-ratelimit-remaining-tokens"]) <= 60000, head)
            for name in "requests", "tokens":
                reset = head[f"x-ratelimit-reset-{name}"]
                self.assertRegex(reset, r"^(?=.)(\d+h)?(\d+m(?!s))?(\d+(\.\d+)?s)?(\d+(\.\d+)?ms)?$")
        self.assertLess(int(answers[-1].headers["x-ratelimit-remaining-requests"]), 600)

    def test_what_never_fits(self):
        view, _ = self.limited("never", tokens_per_minute=1000, max_running=2)
        answer = view.complete(prompt=[1] * 10, max_tokens=1000)
        self.assert_error(answer, 403, [1000, 1010])
        self.assertNotIn("Retry-After", answer.headers)
        self.assert_error(view.complete(prompt=[1], max_tokens=400, n=3, temperature=1), 403)
        answer = view.complete(prompt=[1], max_tokens=4, n=3, temperature=1)
        self.assert_error(answer, 403, [2, 3])
        self.assertEqual(view.complete(prompt=[1], max_tokens=4, n=2, temperature=1).status, 200)

    def until_refused(self, view):
        """Asks until the queue is full; a question that waits in it is taken back."""
        end = time.monotonic() + limit(20)
        while time.monotonic() < end:
            try:
                answer = view.complete(prompt=[1], max_tokens=1, timeout=0.5)
                if answer.status == 429:
                    return answer
            except OSError:
                pass
        raise AssertionError("the queue is never full")

    def test_running_and_queued(self):
        """Two run, two wait, whichever workers have them, and the fifth is told to come again."""
        view, pins = self.limited("places", max_running=2, max_queued=2)
        streams = [pin.stream(**LONG) for pin in pins[:2]]
        for stream in streams:
            next(iter(stream))
        queued = [Background(lambda p=p: p.complete(prompt=[1], max_tokens=2)) for p in pins[2:]]
        for _ in range(2):
            answer = self.until_refused(view)
            self.refused(answer, 2)
        self.assertTrue(all(q.is_running for q in queued))
        streams[0].drop()
        for q in queued:
            self.assertEqual(q.result().status, 200)
        self.assertEqual(view.complete(prompt=[1], max_tokens=1).status, 200)
        streams[1].drop()

    def test_a_killed_workers_places_are_given_back(self):
        view, pins = self.limited("killed", max_running=1, max_queued=4, tokens_per_minute=70000)
        stream = pins[0].stream(**LONG)
        next(iter(stream))
        queued = [Background(lambda p=p: p.complete(prompt=[1], max_tokens=2)) for p in pins[1:3]]
        answer = pins[3].complete(prompt=[1], max_tokens=30000)
        self.refused(answer, 70000)
        time.sleep(0.2)
        self.assertTrue(all(q.is_running for q in queued))
        os.kill(pins[0].worker, signal.SIGKILL)
        for q in queued:
            self.assertEqual(q.result(20).status, 200)
        text = view.complete(prompt=[1], max_tokens=30).json["choices"][0]["text"]
        began = time.monotonic()
        answer = pins[3].complete(prompt=[1], max_tokens=50000, stop=text[5:12])
        if time.monotonic() - began < 20:
            self.assertEqual(answer.status, 200, answer)
        stream.drop()
        ready_workers(self.d, self.WORKERS)

    def test_limits_change_at_once(self):
        view, pins = self.limited("changing")
        for value, shown in ((300, "300"), (7, "7"), (None, "600000")):
            self.ok(patch(self.admin, "/admin/tenants/changing",
                          {"limits": {"requests_per_minute": value}}))
            for pin in pins:
                answer = pin.complete(prompt=[1], max_tokens=1)
                self.assertEqual(answer.headers["x-ratelimit-limit-requests"], shown)
        self.ok(patch(self.admin, "/admin/tenants/changing", {"limits": {"max_virtual_tokens": 7}}))
        for pin in pins:
            self.assert_error(pin.put_peft("x", None, *soft_prompt(rows=8)), 422, [7, 8])

    def test_adapters(self):
        view, pins = self.limited("few", max_adapters=3)
        made = run_all([lambda i=i: pins[i].put_peft(f"a{i}", None, *soft_prompt(seed=i))
                        for i in range(4)])
        self.assertEqual(sorted(m.status for m in made), [201, 201, 201, 403])
        self.assert_error(next(m for m in made if m.status == 403), 403, [3])
        name = view.adapter_names()[0]
        self.assertEqual(view.put_peft(name, None, *soft_prompt(seed=9)).status, 200)
        self.assertEqual(view.request("DELETE", f"/v1/adapters/{name}").status, 204)
        self.assertEqual(pins[1].put_peft("new", None, *soft_prompt(seed=5)).status, 201)
        self.assert_error(pins[2].put_peft("more", None, *soft_prompt(seed=6)), 403, [3])
        self.assertEqual(len(view.adapter_names()), 3)

    def test_adapter_bytes(self):
        config, weights = soft_prompt(rows=16)
        size = len(config) + len(weights)
        view, pins = self.limited("small", max_adapter_bytes=2 * size + size // 2)
        for i in range(2):
            put = pins[i].put_peft(f"a{i}", None, *soft_prompt(rows=16, seed=i))
            self.assertEqual(put.status, 201, put)
        answer = pins[2].put_peft("a2", None, *soft_prompt(rows=16, seed=2))
        self.assert_error(answer, 413, [2 * size + size // 2])
        self.assert_error(pins[3].put_peft("a0", None, *soft_prompt(rows=16, seed=3)), 413)
        self.assertEqual(view.adapter_names(), ["a0", "a1"])
        self.assertEqual(view.request("DELETE", "/v1/adapters/a0").status, 204)
        self.assertEqual(pins[0].put_peft("a2", None, *soft_prompt(rows=16, seed=2)).status, 201)

    def test_virtual_tokens(self):
        view, pins = self.limited("short", max_virtual_tokens=10)
        self.assertEqual(pins[0].put_peft("ten", None, *soft_prompt(rows=10)).status, 201)
        self.assert_error(pins[1].put_peft("eleven", None, *soft_prompt(rows=11)), 422, [10, 11])
        self.assertEqual(view.adapter_names(), ["ten"])

    def test_compiling_is_charged(self):
        view, _ = self.limited("charged", tokens_per_minute=600)

        def left():
            answer = view.complete(prompt=[1], max_tokens=1)
            return int(answer.headers["x-ratelimit-remaining-tokens"])

        began, before = time.monotonic(), left()
        put = view.put_peft("x", None, *soft_prompt(rows=200))
        self.assertEqual(put.status, 201, put)
        after, seconds = left(), time.monotonic() - began
        if seconds < 10:
            self.assertLessEqual(after, before - 200 + 10 * seconds + 1)

    def test_one_tenants_limits_are_not_anothers(self):
        busy, busy_pins = self.limited("busy", requests_per_minute=5, max_running=1)
        idle = self.tenant("idle", limits={"requests_per_minute": 6000})
        while (answer := busy.complete(prompt=[1], max_tokens=1)).status == 200:
            pass
        self.refused(answer, 5)
        for pin in self.pins(idle):
            self.assertEqual(pin.complete(prompt=[1], max_tokens=1).status, 200)


class UsageCase(TenantCase):
    WORKERS = 2
    FIELDS = ("requests", "prompt_tokens", "virtual_tokens", "generated_tokens")

    @classmethod
    def model(cls):
        return long_model(cls.tmp)

    def used(self, view, path="/v1/usage?group_by=adapter"):
        """{adapter or "": counters}."""
        rows = self.ok(view.get(path))["data"]
        return {r.get("adapter") or "": {f: r[f] for f in self.FIELDS} for r in rows}

    def count(self, counts, model, answer):
        usage = answer["usage"]
        sums = counts.setdefault(model or "", dict.fromkeys(self.FIELDS, 0))
        sums["requests"] += 1
        sums["prompt_tokens"] += usage["prompt_tokens"]
        sums["generated_tokens"] += usage["completion_tokens"]
        sums["virtual_tokens"] += (usage.get("prompt_tokens_details") or {}).get("virtual_tokens", 0)

    def ask(self, view, counts, lock, n, seed):
        for i in range(n):
            model = (None, "soft", "words")[(i + seed) % 3]
            fields = {"model": model, "prompt": list(range(1, 2 + (i + seed) % 7)),
                      "max_tokens": 1 + (3 * i + seed) % 11, "ignore_eos": True}
            if i % 2:
                stream = view.stream(**fields, stream_options={"include_usage": True})
                answer = [e for e in stream if e.get("usage")][-1]
            else:
                answer = self.ok(view.complete(**fields))
            with lock:
                self.count(counts, model, answer)

    def put_both(self, view):
        self.assertEqual(view.put_peft("soft", None, *soft_prompt()).status, 201)
        self.assertEqual(view.request("PUT", "/v1/adapters/words", WORDS).status, 201)

    def load(self, view, n):
        counts, lock = {}, threading.Lock()
        run_all([lambda s=s: self.ask(view, counts, lock, n, s) for s in range(6)])
        return counts

    def wait_for(self, view, counts):
        end = time.monotonic() + limit(10)
        while self.used(view) != counts and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(self.used(view), counts)


class Usage(UsageCase):
    def test_usage_is_what_clients_counted(self):
        view = self.tenant("counted")
        self.put_both(view)
        counts = self.load(view, scaled(12))
        view.complete(model="nobody", prompt=[1])
        view.complete(prompt=5)
        self.wait_for(view, counts)
        total = {f: sum(c[f] for c in counts.values()) for f in self.FIELDS}
        rows = self.ok(view.get("/v1/usage"))["data"]
        self.assertEqual([{f: r[f] for f in self.FIELDS} for r in rows], [total])
        self.assertNotIn("tenant", rows[0])
        rows = self.ok(self.admin.get("/admin/usage?group_by=tenant"))["data"]
        self.assertEqual([{f: r[f] for f in self.FIELDS} for r in rows if r["tenant"] == "counted"],
                         [total])
        rows = self.ok(self.admin.get("/admin/usage?tenant=counted&group_by=adapter"))["data"]
        self.assertEqual({r["adapter"] or "": r["requests"] for r in rows},
                         {a: c["requests"] for a, c in counts.items()})
        now = int(time.time())
        for query, found in ((f"start={now - 86400}", total), (f"end={now - 86400}", None),
                             (f"start={now + 7200}", None), ("start=2001-01-01", total),
                             ("end=2001-01-01T12:00:00Z", None)):
            row, = self.ok(view.get(f"/v1/usage?{query}"))["data"]
            self.assertEqual(row["requests"], found["requests"] if found else 0, query)
        for query in "group_by=colour", "start=yesterday", "start=-5x":
            self.assert_error(view.get(f"/v1/usage?{query}"), 400)

    def test_by_key_and_hour(self):
        view = self.tenant("keyed")
        second = add_key(self.admin, "keyed", "infer")
        first = next(k["id"] for k in self.ok(self.admin.get("/admin/keys?tenant=keyed"))["data"]
                     if k["id"] != second["id"])
        for v, n in (view, 3), (View(self.d, second["key"]), 5):
            for _ in range(n):
                self.ok(v.complete(prompt=[1], max_tokens=1))

        def by_key():
            rows = self.ok(view.get("/v1/usage?group_by=key"))["data"]
            return {r["key"]: r["requests"] for r in rows}

        self.d.wait(lambda: by_key() == {first: 3, second["id"]: 5}, 10, "usage by key")
        rows = self.ok(view.get("/v1/usage?group_by=key,hour"))["data"]
        self.assertTrue(all(r["start"] % 3600 == 0 for r in rows), rows)
        self.assertEqual(sum(r["requests"] for r in rows), 8)
        rows = self.ok(view.get("/v1/usage?group_by=day"))["data"]
        self.assertTrue(all(r["start"] % 86400 == 0 for r in rows), rows)

    def test_of_cancelled_requests_what_was_made(self):
        view = self.tenant("cancelling")
        stream = view.stream(**LONG)
        events = iter(stream)
        for _ in range(20):
            next(events)
        stream.drop()
        self.d.wait(lambda: self.used(view), 10, "usage of a cancelled request")
        row = self.used(view)[""]
        self.assertEqual((row["requests"], row["prompt_tokens"]), (1, 1))
        self.assertTrue(20 <= row["generated_tokens"] < 60000, row)


class UsageAcrossKills(UsageCase):
    def test_kill_9_loses_the_last_second_at_most(self):
        view = self.tenant("killed")
        self.put_both(view)
        counts = self.load(view, scaled(6))
        self.wait_for(view, counts)
        done, over = [], threading.Event()

        def client():
            while not over.is_set():
                try:
                    answer = view.complete(prompt=[1], max_tokens=3, ignore_eos=True)
                except OSError:
                    return
                if answer.status == 200:
                    done.append(time.monotonic())

        clients = [Background(client) for _ in range(3)]
        time.sleep(limit(2))
        died = time.monotonic()
        self.d.kill()
        over.set()
        for c in clients:
            c.result()
        self.d.restart()
        found = self.used(view)
        for adapter in "soft", "words":
            self.assertEqual(found[adapter], counts[adapter])
        late = found[""]["requests"] - counts[""]["requests"]
        self.assertGreaterEqual(late, sum(t < died - 1 - limit(0.5) for t in done))
        self.assertLessEqual(late, len(done) + len(clients))
        self.assertLessEqual(found[""]["generated_tokens"] - counts[""]["generated_tokens"],
                             3 * (len(done) + len(clients)))

    def test_others_count_on_when_a_worker_is_killed(self):
        view = self.tenant("worker-killed")
        pins = self.pins(view)
        for pin in pins:
            for _ in range(10):
                self.ok(pin.complete(prompt=[1], max_tokens=2, ignore_eos=True))
        self.d.wait(lambda: self.used(view).get("", {}).get("requests") == 20, 10, "both to count")
        os.kill(pins[0].worker, signal.SIGKILL)
        for _ in range(5):
            self.ok(pins[1].complete(prompt=[1], max_tokens=2, ignore_eos=True))
        self.d.wait(lambda: self.used(view)[""]["requests"] == 25, 10, "the other to count on")
        self.assertEqual(self.used(view)[""]["generated_tokens"], 50)
        ready_workers(self.d, 2)

    def test_an_orderly_end_loses_nothing(self):
        view = self.tenant("drained")
        for _ in range(7):
            self.ok(view.complete(prompt=[1, 2], max_tokens=2, ignore_eos=True))
        self.assertEqual(self.d.stop(), 0)
        self.d.restart()
        self.assertEqual(self.used(view)[""], {"requests": 7, "prompt_tokens": 14,
                                               "virtual_tokens": 0, "generated_tokens": 14})


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
