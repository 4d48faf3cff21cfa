"""Adapters that live: swaps under streams, eviction, races, what every worker sees, damage."""

import pathlib
import random
import re
import shutil
import tempfile
import threading
import time
import unittest

from harness import GQA, Daemon, joined, limit, long_model, run_all
from tenants import ADMIN_KEY, Background, TenantCase, patch, pin, pin_each, scaled
from test_06_adapters import PROMPT, soft_prompt


def signature(d, model, n=24, **more):
    """What a greedy answer is, to the bit: text, tokens, log-probabilities."""
    answer = d.complete(model=model, prompt=PROMPT, max_tokens=n, ignore_eos=True, logprobs=2, **more)
    if answer.status != 200:
        raise AssertionError(f"{model}: {answer}")
    return repr(answer.raw_numbers["choices"])


def streamed(d, model, n, begun=lambda: None):
    """The same of a stream; every way in which it can fail raises. begun is called at its first token."""
    stream = d.stream(model=model, prompt=PROMPT, max_tokens=n, ignore_eos=True, logprobs=0)
    if stream.status != 200:
        raise AssertionError(f"{stream.status} {stream.response.read()}")
    text, tokens, logprobs = "", [], []
    for event in stream:
        if "error" in event:
            raise AssertionError(event)
        if not tokens:
            begun()
        for choice in event["choices"]:
            text += choice["text"]
            tokens += (choice["logprobs"] or {}).get("tokens", [])
            logprobs += (choice["logprobs"] or {}).get("token_logprobs", [])
    stream.conn.close()
    if not stream.done or len(tokens) != n:
        raise AssertionError(f"{len(tokens)} of {n} tokens, done: {stream.done}")
    return text, tokens, logprobs


def must_put(d, name, version, **headers):
    answer = d.put_peft(name, None, *version, headers=headers)
    if answer.status not in (200, 201):
        raise AssertionError(f"PUT {name}: {answer}")
    return answer.json["version"]


def swap_under_streams(d, swaps, streams, n_tokens=80, n_versions=8):
    """Swaps one adapter again and again while streams use it; a count of streams by version.

    A stream that was asked for when swap a was acknowledged, and whose first token came before swap b
    began, has, to the bit, the answer of exactly one of the versions a to b. What is asked for between
    two swaps has that of the first. Anything else raises.
    """
    versions = [soft_prompt(seed=100 + i, rows=4 + i) for i in range(n_versions)]
    answers, shorts = [], []
    for version in versions:
        must_put(d, "swapped", version)
        answers.append(streamed(d, "swapped", n_tokens))
        shorts.append(streamed(d, "swapped", 2))
    assert len(set(map(repr, shorts))) == n_versions, "versions answer alike"
    acknowledged, begun = [n_versions - 1], [n_versions - 1]
    over, seen, lock = threading.Event(), [0] * n_versions, threading.Lock()

    def client():
        while not over.is_set():
            first, last = acknowledged[0], []
            got = streamed(d, "swapped", n_tokens, lambda: last.append(begun[0]))
            which = answers.index(got) if got in answers else None
            allowed = {i % n_versions for i in range(first, min(last[0], first + n_versions) + 1)}
            if which not in allowed:
                over.set()
                raise AssertionError(f"version {which} between swaps {first} and {last}: {got}")
            with lock:
                seen[which] += 1

    clients = [Background(client) for _ in range(streams)]
    try:
        for i in range(n_versions, n_versions + 20 * swaps):
            enough = i >= n_versions + swaps and sum(s > 0 for s in seen) > 1
            if over.is_set() or enough:
                break
            begun[0] = i
            must_put(d, "swapped", versions[i % n_versions])
            acknowledged[0] = i
            got = streamed(d, "swapped", 2)
            assert got == shorts[i % n_versions], f"swap {i} was acknowledged: {got}"
    finally:
        over.set()
        for c in clients:
            c.result(120)
    return seen


class Swaps(unittest.TestCase):
    def check(self, *flags):
        tmp = tempfile.mkdtemp(prefix="prefixd-swaps-")
        self.addCleanup(shutil.rmtree, tmp, True)
        with Daemon(GQA, flags=["--dtype", "f32", "--state", f"{tmp}/state", *flags]) as d:
            seen = swap_under_streams(d, scaled(50), 8)
        self.assertGreater(sum(s > 0 for s in seen), 1, seen)

    def test_swaps_under_streams(self):
        self.check()

    def test_swaps_under_streams_with_several_workers(self):
        self.check("--workers", "2")


class Evicted(TenantCase):
    """Twenty-four adapters, memory for about five."""

    N, ROOM = 24, 5 * 12288 + 6000
    FLAGS = ("--adapter-bytes", ROOM)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.names = [f"a{i:02}" for i in range(cls.N)]
        cls.answers = {}
        with Daemon(GQA, flags=["--dtype", "f32", "--name", "base"]) as roomy:
            for i, name in enumerate(cls.names):
                for d in roomy, cls.admin:
                    must_put(d, name, soft_prompt(seed=i, rows=4 + i % 8))
                cls.answers[name] = signature(roomy, name)

    def resident(self):
        listed = self.ok(self.admin.get("/v1/adapters?limit=1000"))["data"]
        return {a["id"] for a in listed if a["resident"]}

    def test_they_come_back_with_the_same_answers(self):
        self.assertEqual(len(set(self.answers.values())), self.N)

        def client(seed):
            rng = random.Random(seed)
            for _ in range(scaled(40)):
                name = rng.choice(self.names)
                self.assertEqual(signature(self.admin, name), self.answers[name], name)

        run_all([lambda s=s: client(s) for s in range(3)])
        self.assertLess(len(self.resident()), 8)
        self.assertGreater(len(self.resident()), 1)
        text = self.admin.metrics().text
        evictions = re.findall(r"^prefixd_\w*evict\w*(?:\{[^}]*\})? ([0-9.e+]+)$", text, re.M)
        self.assertGreater(sum(map(float, evictions)), 0, "no evictions are counted")
        for adapter in self.ok(self.admin.get("/v1/adapters?limit=1000"))["data"]:
            self.assertEqual((adapter["state"], adapter["why"], adapter["until"]),
                             ("ready", None, None))

    def test_in_use_is_never_evicted(self):
        """A long stream has its version's answer, whatever comes and goes meanwhile."""
        whole = streamed(self.admin, "a03", 200)
        task = Background(lambda: [streamed(self.admin, "a03", 200) for _ in range(scaled(4))])
        while task.is_running:
            for name in self.names[4:10]:
                self.assertEqual(signature(self.admin, name), self.answers[name])
        self.assertTrue(all(got == whole for got in task.result()))

    def test_pinned_ones_stay(self):
        made = self.ok(patch(self.admin, "/v1/adapters/a01", {"pinned": True}))
        self.assertIs(made["pinned"], True)
        self.assertEqual(signature(self.admin, "a01"), self.answers["a01"])
        for name in self.names * 2:
            self.assertEqual(signature(self.admin, name), self.answers[name])
            self.assertIn("a01", self.resident())
        self.assertIs(self.ok(patch(self.admin, "/v1/adapters/a01", {"pinned": False}))["pinned"], False)
        for name in self.names[2:]:
            signature(self.admin, name)
        self.assertNotIn("a01", self.resident())
        self.assertEqual(signature(self.admin, "a01"), self.answers["a01"])

    def test_many_want_one_that_is_away(self):
        for name in self.names[10:16] * scaled(3):
            for away in self.names[16:22]:
                signature(self.admin, away)
            got = run_all([lambda n=name: signature(self.admin, n) for _ in range(8)])
            self.assertEqual(set(got), {self.answers[name]})


class Workers(TenantCase):
    """Four workers on one registry: what one has acknowledged is so in all."""

    WORKERS = 4

    @classmethod
    def model(cls):
        return long_model(cls.tmp)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.views = pin_each(cls.d, cls.WORKERS, ADMIN_KEY)

    @classmethod
    def tearDownClass(cls):
        for view in cls.views:
            view.conn.close()

    def check_all(self, name, version, answer):
        for view in self.views:
            got = self.ok(view.get(f"/v1/adapters/{name}"))
            self.assertEqual((got["version"], got["state"]), (version, "ready"))
            self.assertEqual(view.get(f"/v1/adapters/{name}").headers["ETag"], f'"{version}"')
            self.assertEqual(signature(view, name), answer)

    def check_gone(self, name):
        for view in self.views:
            self.assert_error(view.complete(model=name, prompt=[1]), 404)
            for path in ("/v1/adapters/{}", "/v1/models/{}", "/v1/adapters/{}/versions"):
                self.assert_error(view.get(path.format(name)), 404)
            self.assertNotIn(name, [m["id"] for m in self.ok(view.get("/v1/models"))["data"]])
            self.assertNotIn(name, view.adapter_names())

    def test_changes_are_seen_at_once(self):
        contents = [soft_prompt(seed=s, rows=8) for s in (1, 2)]
        for i in range(scaled(8)):
            name, views = f"seen{i}", self.views[i % 4:] + self.views[:i % 4]
            digests, answers = [], []
            for view, content in zip(views, contents):
                digests.append(must_put(view, name, content))
                answers.append(signature(view, name))
                self.check_all(name, digests[-1], answers[-1])
            self.assertNotEqual(*answers)
            back = views[2].post(f"/v1/adapters/{name}/rollback", {"version": digests[0]})
            self.assertEqual(self.ok(back)["version"], digests[0])
            self.check_all(name, digests[0], answers[0])
            for view in self.views:
                listed = self.ok(view.get(f"/v1/adapters/{name}/versions"))["data"]
                self.assertEqual([(v["version"], v["current"], v["state"]) for v in listed],
                                 [(digests[1], False, "ready"), (digests[0], True, "ready")])
            gone = views[3].request("DELETE", f"/v1/adapters/{name}")
            self.assertEqual((gone.status, gone.body), (204, b""))
            self.check_gone(name)

    def race(self, *changes):
        """Runs changes at the same moment, each through a worker of its own; their statuses."""
        barrier = threading.Barrier(len(changes))

        def run(change, view):
            barrier.wait(limit(20))
            return change(view).status

        return run_all([lambda c=c, v=v: run(c, v) for c, v in zip(changes, self.views)])

    def test_one_of_two_swaps_wins(self):
        must_put(self.admin, "raced", soft_prompt(seed=0))
        for i in range(scaled(20)):
            before = self.admin.get("/v1/adapters/raced").json["version"]
            condition = {"If-Match": f'"{before}"'}
            contents = [soft_prompt(seed=1000 + 10 * i + k) for k in range(2)]
            statuses = self.race(*[lambda v, c=c: v.put_peft("raced", None, *c, headers=condition)
                                   for c in contents])
            self.assertEqual(sorted(statuses), [200, 412])
            winner = contents[statuses.index(200)]
            current = {v.get("/v1/adapters/raced").json["version"] for v in self.views}
            self.assertEqual(len(current), 1)
            self.assertEqual(must_put(self.admin, "raced", winner), current.pop())

    def test_one_of_four_creates(self):
        for i in range(scaled(10)):
            statuses = self.race(*[lambda v, k=k: v.put_peft(f"made{i}", None, *soft_prompt(seed=k),
                                                             headers={"If-None-Match": "*"})
                                   for k in range(4)])
            self.assertEqual(sorted(statuses), [201, 412, 412, 412])
            listed = self.ok(self.admin.get(f"/v1/adapters/made{i}/versions"))["data"]
            self.assertEqual(len(listed), 1)

    def test_one_of_a_put_a_rollback_and_a_delete(self):
        for i in range(scaled(10)):
            name, path = f"three{i}", f"/v1/adapters/three{i}"
            first, second = [must_put(self.admin, name, soft_prompt(seed=s)) for s in (1, 2)]
            condition = {"If-Match": f'"{second}"'}
            statuses = self.race(
                lambda v: v.put_peft(name, None, *soft_prompt(seed=3), headers=condition),
                lambda v: v.request("POST", f"{path}/rollback", {"version": first}, condition),
                lambda v: v.request("DELETE", path, headers=condition))
            won = [s for s in statuses if s < 300]
            self.assertEqual(len(won), 1, statuses)
            self.assertLessEqual({s for s in statuses if s >= 300}, {404, 412}, statuses)
            for view in self.views:
                answer = view.get(path)
                if statuses[2] == 204:
                    self.assertEqual(answer.status, 404)
                else:
                    found = self.ok(answer)["version"]
                    self.assertTrue(found == first if statuses[1] == 200 else found != second)

    def test_a_running_request_finishes_when_its_adapter_goes(self):
        fields = {"model": "leaving", "prompt": PROMPT, "ignore_eos": True, "max_tokens": scaled(3000)}
        must_put(self.admin, "leaving", soft_prompt(seed=5))
        whole = self.ok(self.admin.complete(**fields))["choices"][0]["text"]
        for i, view in enumerate(self.views):
            own = pin(self.d, view.worker, [v.worker for v in self.views], ADMIN_KEY)
            stream = own.stream(**fields)
            events = iter(stream)
            first = [next(events)]
            gone = self.views[i - 1].request("DELETE", "/v1/adapters/leaving")
            self.assertEqual(gone.status, 204)
            self.check_gone("leaving")
            self.assertEqual(joined(first + list(events)), whole)
            self.assertTrue(stream.done)
            own.conn.close()
            must_put(self.admin, "leaving", soft_prompt(seed=5))

    def test_one_tenant_puts_through_all_workers_at_once(self):
        def client(view, seed):
            return {f"many-{seed}-{i}": must_put(view, f"many-{seed}-{i}", soft_prompt(seed=seed))
                    for i in range(scaled(6))}

        made = {}
        for part in run_all([lambda v=v, s=s: client(v, s) for s, v in enumerate(self.views)]):
            made.update(part)
        for view in self.views:
            listed = self.ok(view.get("/v1/adapters?limit=1000"))["data"]
            found = {a["id"]: a["version"] for a in listed if a["id"] in made}
            self.assertEqual(found, made)
        self.assertEqual(len(set(made.values())), 4)


class Lists(TenantCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.names = sorted(f"n{i * 37 % 100:02}" for i in range(25))
        for name in random.Random(1).sample(cls.names, 25):
            answer = cls.admin.request("PUT", f"/v1/adapters/{name}", {"kind": "text", "text": name})
            assert answer.status == 201, answer

    def pages(self, path, limit_, key="id"):
        after, seen = "", []
        for _ in range(100):
            page = self.ok(self.admin.get(f"{path}?limit={limit_}{after}"))
            self.assertEqual(page["object"], "list")
            self.assertLessEqual(len(page["data"]), limit_)
            seen += [x[key] for x in page["data"]]
            if not page["has_more"]:
                return seen
            self.assertEqual(len(page["data"]), limit_)
            after = f"&after={seen[-1]}"
        raise AssertionError("pages without end")

    def test_adapters_and_models(self):
        for size in (1, 7, 25, 1000):
            self.assertEqual(self.pages("/v1/adapters", size), self.names)
        for size in (1, 5, 26):
            seen = self.pages("/v1/models", size)
            self.assertEqual(sorted(seen), sorted(["base", *self.names]))
            self.assertEqual(len(seen), len(set(seen)))
        self.assertIs(self.ok(self.admin.get("/v1/models"))["has_more"], False)
        self.assertEqual(self.ok(self.admin.get("/v1/adapters?after=zzz"))["data"], [])
        for path in "/v1/adapters", "/v1/models":
            for query in "limit=0", "limit=-1", "limit=x", "limit=1001":
                self.assert_error(self.admin.get(f"{path}?{query}"), 400)

    def test_versions(self):
        digests = [must_put(self.admin, "many", soft_prompt(seed=s)) for s in range(7)]
        for size in 1, 3, 7:
            self.assertEqual(self.pages("/v1/adapters/many/versions", size, "version"), digests[::-1])
        self.admin.request("DELETE", "/v1/adapters/many")

    def test_old_versions_go(self):
        """Ten are kept, the current one among them."""
        digests = [must_put(self.admin, "old", soft_prompt(seed=s)) for s in range(13)]
        self.assertEqual(self.pages("/v1/adapters/old/versions", 100, "version"), digests[:2:-1])
        answer = self.admin.post("/v1/adapters/old/rollback", {"version": digests[0]})
        self.assert_error(answer, 404)
        self.admin.request("DELETE", "/v1/adapters/old")
        must_put(self.admin, "next", soft_prompt(seed=20))  # what nobody refers to goes with a change
        self.admin.request("DELETE", "/v1/adapters/next")
        left = [p.name for p in (self.state / "blobs").iterdir()
                if any(digest in p.name for digest in digests)]
        self.assertEqual(left, [])

    def test_dry_run(self):
        before = self.admin.adapter_names()
        dry = self.admin.put_peft("dry?dry_run=1", None, *soft_prompt(seed=4))
        self.assertIn(dry.status, (200, 201), dry)
        self.assertEqual(self.admin.adapter_names(), before)
        self.assert_error(self.admin.get("/v1/adapters/dry"), 404)
        wet = must_put(self.admin, "dry", soft_prompt(seed=4))
        self.assertEqual(dry.json["version"], wet)
        other = self.admin.put_peft("dry?dry_run=1", None, *soft_prompt(seed=5))
        self.assertNotEqual(self.ok(other)["version"], wet)
        self.assertEqual(self.admin.get("/v1/adapters/dry").json["version"], wet)
        self.assertEqual(len(self.admin.get("/v1/adapters/dry/versions").json["data"]), 1)
        bad = self.admin.put_peft("dry?dry_run=1", None, *soft_prompt(width=8))
        self.assert_error(bad, (400, 422))
        refused = self.admin.put_peft("dry?dry_run=1", None, *soft_prompt(seed=5),
                                      headers={"If-Match": '"' + "0" * 64 + '"'})
        self.assert_error(refused, 412)
        self.assertEqual(self.admin.request("DELETE", "/v1/adapters/dry").status, 204)

    def test_flags_are_an_admins(self):
        view = self.tenant("flags")
        must_put(view, "mine", soft_prompt())
        got = self.ok(view.get("/v1/adapters/mine"))
        self.assertEqual((got["public"], got["pinned"]), (False, False))
        for body in {"public": True}, {"pinned": True}, {"public": False}:
            self.assert_error(patch(view, "/v1/adapters/mine", body), 403)
        path = "/v1/adapters/mine?tenant=flags"
        got = self.ok(patch(self.admin, path, {"public": True, "pinned": True}))
        self.assertEqual((got["public"], got["pinned"]), (True, True))
        got = self.ok(patch(self.admin, path, {"pinned": False}))
        self.assertEqual((got["public"], got["pinned"]), (True, False))
        must_put(view, "mine", soft_prompt(seed=9))
        self.assertIs(self.ok(view.get("/v1/adapters/mine"))["public"], True)
        for body in {"public": 1}, {"private": True}, {"public": None}, []:
            self.assert_error(patch(self.admin, path, body), (400, 422))
        self.assert_error(patch(self.admin, "/v1/adapters/nobody", {"public": True}), 404)
        self.assertEqual(view.request("DELETE", "/v1/adapters/mine").status, 204)


class Damaged(unittest.TestCase):
    """Files under the state folder that somebody spoilt."""

    def setUp(self):
        self.tmp = tempfile.mkdtemp(prefix="prefixd-damage-")
        self.addCleanup(shutil.rmtree, self.tmp, True)
        self.state = pathlib.Path(self.tmp, "state")
        self.d = Daemon(GQA, flags=["--dtype", "f32", "--state", self.state, "--workers", "2"])
        self.addCleanup(self.d.close)
        self.d.start()

    def files(self, folder, version):
        """Files of a version in blobs/ or compiled/."""
        found = [p for p in (self.state / folder).rglob("*")
                 if p.is_file() and version in str(p.relative_to(self.state))]
        self.assertTrue(found, f"nothing of {version} in {folder}")
        return found

    def spoil_blob(self, version):
        """Another byte in the weights; what was compiled from them goes."""
        weights, = [p for p in self.files("blobs", version) if p.suffix == ".safetensors"]
        data = bytearray(weights.read_bytes())
        data[-1] ^= 0x40
        weights.write_bytes(data)
        for path in self.files("compiled", version):
            path.unlink()

    def test_a_damaged_adapter_fails_alone(self):
        versions = {}
        for i, name in enumerate(("good", "bad", "fine")):
            versions[name] = must_put(self.d, name, soft_prompt(seed=i))
        before = {name: signature(self.d, name) for name in versions}
        self.d.kill()
        self.spoil_blob(versions["bad"])
        self.d.restart()
        self.assertEqual(self.d.adapter_names(), ["bad", "fine", "good"])

        def ask(name):
            return self.d.complete(model=name, prompt=PROMPT, max_tokens=4)

        for _ in range(3):
            answers = run_all([lambda n=n: ask(n) for n in ("good", "bad", "fine") * 3])
            for i, answer in enumerate(answers):
                if i % 3 != 1:
                    self.assertEqual(answer.status, 200, answer)
                    continue
                self.assertEqual(answer.status, 422, answer)
                message = answer.json["error"]["message"]
                self.assertIn("damaged", message)
                self.assertNotRegex(message, r"/tmp|blobs|0x[0-9a-f]{6}|" + re.escape(self.tmp))
        stream = self.d.stream(model="bad", prompt=[1], max_tokens=2)
        self.assertEqual(stream.status, 422)
        stream.drop()
        for name in "good", "fine":
            self.assertEqual(signature(self.d, name), before[name])
        # Whichever worker is asked knows after it has tried.
        end = time.monotonic() + limit(10)
        while (bad := self.d.get("/v1/adapters/bad").json)["state"] != "broken":
            self.assertLess(time.monotonic(), end)
        self.assertTrue(bad["why"])
        self.assertGreaterEqual(bad["until"], time.time() - 1)
        self.assertEqual(self.d.get("/v1/adapters/good").json["state"], "ready")
        # Put again it is whole again.
        self.assertEqual(must_put(self.d, "bad", soft_prompt(seed=1)), versions["bad"])
        for _ in range(6):
            self.assertEqual(signature(self.d, "bad"), before["bad"])
        self.d.kill()
        self.d.restart()
        self.assertEqual(signature(self.d, "bad"), before["bad"])

    def test_back_from_a_damaged_version(self):
        old, new = [must_put(self.d, "x", soft_prompt(seed=s)) for s in (1, 2)]
        self.d.post("/v1/adapters/x/rollback", {"version": old})
        before = signature(self.d, "x")
        self.d.post("/v1/adapters/x/rollback", {"version": new})
        self.d.kill()
        self.spoil_blob(new)
        self.d.restart()
        self.assertEqual(self.d.complete(model="x", prompt=[1]).status, 422)
        back = self.d.post("/v1/adapters/x/rollback", {"version": old})
        self.assertEqual(back.status, 200, back)
        self.assertEqual(signature(self.d, "x"), before)
        again = self.d.post("/v1/adapters/x/rollback", {"version": new})
        self.assertGreaterEqual(again.status, 400, again)
        self.assertEqual(signature(self.d, "x"), before)

    def test_a_damaged_adapter_can_be_deleted(self):
        version = must_put(self.d, "x", soft_prompt())
        self.d.kill()
        self.spoil_blob(version)
        self.d.restart()
        self.assertEqual(self.d.request("DELETE", "/v1/adapters/x").status, 204)
        self.assertEqual(self.d.get("/v1/adapters/x").status, 404)
        self.assertEqual(self.d.complete(model="x", prompt=[1]).status, 404)

    def test_what_was_compiled_is_checked(self):
        """Damaged or missing compiled files cost time, and never another answer."""
        version = must_put(self.d, "x", soft_prompt(rows=16))
        before = signature(self.d, "x")
        size = sum(p.stat().st_size for p in self.files("compiled", version))
        rng = random.Random(5)
        places = [0, 8, 16, 24, 40, 64, 100, -1, -16, -40] + [rng.randrange(size) for _ in range(6)]
        for place in places[:scaled(len(places))] + ["cut", "empty", "long", "gone"]:
            self.d.kill()
            for path in self.files("compiled", version):
                data = bytearray(path.read_bytes())
                if place == "gone":
                    path.unlink()
                    continue
                if place == "cut":
                    del data[len(data) // 2:]
                elif place == "empty":
                    data.clear()
                elif place == "long":
                    data += b"\0"
                else:
                    data[place if place < 0 else place % len(data)] ^= 1
                path.write_bytes(data)
            self.d.restart()
            with self.subTest(place=place):
                for _ in range(2):
                    self.assertEqual(signature(self.d, "x"), before)
            self.files("compiled", version)

    def test_blobs_without_a_file(self):
        version = must_put(self.d, "x", soft_prompt())
        other = must_put(self.d, "y", soft_prompt(seed=2))
        before = signature(self.d, "y")
        self.d.kill()
        for path in self.files("blobs", version) + self.files("compiled", version):
            path.unlink()
        self.d.restart()
        self.assertEqual(self.d.complete(model="x", prompt=[1]).status, 422)
        self.assertEqual(signature(self.d, "y"), before)
        self.assertEqual(self.d.get("/v1/adapters/y").json["version"], other)


if __name__ == "__main__":
    unittest.main()
