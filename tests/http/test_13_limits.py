"""What a tenant may have and has used: limits over all workers together, usage across kills."""

import os
import pathlib
import signal
import threading
import time
import unittest

from harness import limit, long_model, run_all
from tenants import Background, TenantCase, View, add_key, patch, ready_workers, scaled
from test_06_adapters import soft_prompt

LONG = {"prompt": [1], "max_tokens": 60000, "ignore_eos": True}
WORDS = {"kind": "text", "text": "Hi"}


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

    def waiting(self, pins):
        """Requests that wait for a place, one through each; they come again if the queue is full."""
        refusals = []

        def ask(pin):
            while (answer := pin.complete(prompt=[1], max_tokens=2)).status == 429:
                refusals.append(answer)
                time.sleep(0.05)
            return answer

        return [Background(lambda p=p: ask(p)) for p in pins], refusals

    def until_all_wait(self, waiting, refusals):
        """Until nobody was told for a while that the queue is full: all of them are in it."""
        end = time.monotonic() + limit(20)
        while time.monotonic() < end:
            before = len(refusals)
            time.sleep(limit(0.5))
            self.assertTrue(all(w.is_running for w in waiting), [w.value for w in waiting])
            if len(refusals) == before:
                return
        raise AssertionError("the queue has no room for all of them")

    def test_running_and_queued(self):
        """Two run, two wait, whichever workers have them, and the fifth is told to come again."""
        view, pins = self.limited("places", max_running=2, max_queued=2)
        streams = [pin.stream(**LONG) for pin in pins[:2]]
        for stream in streams:
            next(iter(stream))
        waiting, refusals = self.waiting(pins[2:])
        for _ in range(2):
            self.until_all_wait(waiting, refusals)
            self.refused(self.until_refused(view), 2)
        streams[0].drop()
        for w in waiting:
            self.assertEqual(w.result().status, 200)
        self.assertEqual(view.complete(prompt=[1], max_tokens=1).status, 200)
        streams[1].drop()

    def test_a_killed_workers_places_are_given_back(self):
        view, pins = self.limited("killed", max_running=1, max_queued=4, tokens_per_minute=70000)
        text = view.complete(prompt=[1], max_tokens=30).json["choices"][0]["text"]
        stream = pins[0].stream(**LONG)
        next(iter(stream))
        waiting, refusals = self.waiting(pins[1:3])
        self.refused(pins[3].complete(prompt=[1], max_tokens=30000), 70000)
        self.until_all_wait(waiting, refusals)
        os.kill(pins[0].worker, signal.SIGKILL)
        for w in waiting:
            self.assertEqual(w.result(20).status, 200)
        answer = pins[3].complete(prompt=[1], max_tokens=50000, stop=text[5:12])
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

    def compile_rows(self):
        return self.admin.metrics().sum("prefixd_compile_rows_total")

    def left(self, view):
        answer = self.ok_answer(view.complete(prompt=[1], max_tokens=1))
        return int(answer.headers["x-ratelimit-remaining-tokens"])

    def ok_answer(self, answer):
        self.assertEqual(answer.status, 200, answer)
        return answer

    def text(self, view, name, text, query=""):
        return view.request("PUT", f"/v1/adapters/{name}{query}", {"kind": "text", "text": text})

    def test_puts_at_once_stay_within_the_minute(self):
        view, pins = self.limited("burst", tokens_per_minute=1000)
        began = time.monotonic()
        made = run_all([lambda i=i: pins[i].put_peft(
            f"a{i}", None, *soft_prompt(rows=200, seed=i)) for i in range(4)])
        made += [pins[i % 4].put_peft(f"a{i}", None, *soft_prompt(rows=200, seed=i))
                 for i in range(4, 12)]
        granted = [m for m in made if m.status == 201]
        seconds = time.monotonic() - began
        self.assertGreaterEqual(len(granted), 5)
        self.assertLessEqual(200 * len(granted), 1000 + seconds * 1000 / 60 + 1)
        refused = [m for m in made if m.status != 201]
        self.assertTrue(refused, "the machine is too slow for this test")
        wait = self.refused(refused[-1], 1000)
        self.assertLessEqual(wait, 13)
        self.assertEqual(refused[-1].headers["x-ratelimit-limit-tokens"], "1000")
        self.assertLess(int(refused[-1].headers["x-ratelimit-remaining-tokens"]), 200)
        self.assertEqual(len(view.adapter_names()), len(granted))
        time.sleep(wait)
        self.assertEqual(view.put_peft("late", None, *soft_prompt(rows=200)).status, 201)

    def test_many_puts_of_one_worker(self):
        """All of them wait in one queue: what each takes is asked when its turn has come."""
        view, pins = self.limited("queue", tokens_per_minute=1000)
        began = time.monotonic()
        made = run_all([lambda i=i: view.put_peft(f"a{i}", None, *soft_prompt(rows=200, seed=i))
                        for i in range(16)])
        seconds = time.monotonic() - began
        granted = sum(m.status == 201 for m in made)
        self.assertEqual({m.status for m in made}, {201, 429})
        self.assertLessEqual(200 * granted, 1000 + seconds * 1000 / 60 + 1)

    def test_an_adapter_of_more_than_a_minute(self):
        view, _ = self.limited("large", tokens_per_minute=100)
        for answer in (view.put_peft("x", None, *soft_prompt(rows=101)),
                       view.put_peft("x?dry_run=1", None, *soft_prompt(rows=101))):
            error = self.assert_error(answer, 403, [100, 101])
            self.assertEqual(error["type"], "permission_error")
            self.assertNotIn("Retry-After", answer.headers)
        self.assertEqual(view.put_peft("x", None, *soft_prompt(rows=100)).status, 201)

    def test_known_content_costs_nothing(self):
        view, pins = self.limited("again", tokens_per_minute=600)
        files = soft_prompt(rows=500, seed=77)
        self.assertEqual(view.put_peft("x", None, *files).status, 201)
        began = time.monotonic()
        before = self.left(view)
        for pin in pins:
            self.assertEqual(pin.put_peft("x", None, *files).status, 200)
        self.assertEqual(view.put_peft("y", None, *files).status, 201)
        self.assertEqual(view.put_peft("y?dry_run=1", None, *files).status, 200)
        if time.monotonic() - began < 20:
            self.assertGreaterEqual(self.left(view), before - 3)  # what looking costs

    def refused_for_nothing(self, view, status, put):
        """The PUT and its dry run are refused alike, and neither computes anything."""
        rows, before = self.compile_rows(), self.left(view)
        for query in "?dry_run=1", "":
            self.assert_error(put(query), status)
        self.assertEqual(self.compile_rows(), rows)
        self.assertGreaterEqual(self.left(view), before - 3)  # what looking costs

    def test_what_is_refused_is_not_compiled(self):
        config, weights = soft_prompt(rows=16)
        text = "a b c d e f g h i j k l m n o p " * 8
        size = len(config) + len(weights)
        view, pins = self.limited("refused", tokens_per_minute=100000, max_adapters=2,
                                  max_adapter_bytes=2 * size + size // 2, max_virtual_tokens=16)
        rows = self.compile_rows()
        for i in range(2):
            put = pins[i].put_peft(f"a{i}", None, *soft_prompt(rows=16, seed=i))
            self.assertEqual(put.status, 201, put)
        self.d.wait(lambda: self.compile_rows() >= rows + 32, 10, "the rows of both")
        self.refused_for_nothing(view, 403, lambda q: self.text(view, "more", "the letter", q))
        self.refused_for_nothing(view, 422, lambda q: self.text(view, "a0", text, q))
        self.refused_for_nothing(view, 413, lambda q: view.put_peft(
            f"a0{q}", None, *soft_prompt(rows=16, seed=9)))
        self.refused_for_nothing(view, 412, lambda q: view.put_peft(
            f"a0{q}", None, *soft_prompt(rows=16, seed=9), headers={"If-None-Match": "*"}))
        self.assertEqual(self.ok(self.text(view, "a0", "Hi", "?dry_run=1"))["would"], "replace")

    def test_one_tenants_limits_are_not_anothers(self):
        busy, busy_pins = self.limited("busy", requests_per_minute=5, max_running=1)
        idle = self.tenant("idle", limits={"requests_per_minute": 6000})
        while (answer := busy.complete(prompt=[1], max_tokens=1)).status == 200:
            pass
        self.refused(answer, 5)
        for pin in self.pins(idle):
            self.assertEqual(pin.complete(prompt=[1], max_tokens=1).status, 200)


class Lora(TenantCase):
    """The names by which vLLM's operators load: a tenant's limits hold for them as for a PUT."""

    @classmethod
    def daemon(cls):
        cls.root = pathlib.Path(cls.tmp, "root")
        cls.root.mkdir()
        cls.FLAGS = ("--lora-root", cls.root)
        return super().daemon()

    def load(self, view, path, name=None):
        return view.post("/v1/load_lora_adapter", {"lora_name": name or path, "lora_path": path,
                                                   "load_inplace": True})

    def unload(self, view, name):
        return view.post("/v1/unload_lora_adapter", {"lora_name": name})

    def write(self, tenant, number, rows):
        """The folder a<number> of the tenant, and how many bytes are in it."""
        folder = self.root / f"{tenant}/a{number}"
        folder.mkdir(parents=True)
        files = soft_prompt(rows=rows, seed=number)
        for name, data in zip(("adapter_config.json", "adapter_model.safetensors"), files):
            (folder / name).write_bytes(data)
        return sum(map(len, files))

    def version(self, view, name):
        return self.ok(view.get(f"/v1/adapters/{name}"))["version"]

    def test_adapters_are_counted_for_who_loads_them(self):
        few, other = (self.tenant(name, limits={"max_adapters": limit_})
                      for name, limit_ in (("few", 1), ("many", 2)))
        for name in ("few", "many"):
            for i in range(2):
                self.write(name, i, 16)
        self.assertEqual(self.load(few, "a0", "x").status, 200)
        self.assert_error(self.load(few, "a1"), 403, ["limit of 1"])
        for name in ("a0", "a1"):
            self.assertEqual(self.load(other, name).status, 200)
        old = self.version(few, "x")
        self.assertEqual(self.load(few, "a1", "x").status, 200)  # a swap is no further adapter
        new = self.version(few, "x")
        self.assertNotEqual(new, old)
        answer = few.complete(model="x", prompt=[1], max_tokens=1)
        self.assertEqual((answer.status, answer.headers["X-Adapter-Version"]), (200, new))
        self.assertEqual(self.unload(few, "a0").status, 404)  # another's
        self.assertEqual(self.unload(few, "x").status, 200)
        self.assertEqual(self.load(few, "a1").status, 200)
        self.assertEqual((few.adapter_names(), other.adapter_names()), (["a1"], ["a0", "a1"]))

    def test_bytes_are_counted_for_who_loads_them(self):
        size = [self.write(name, i, 16) for name in ("tight", "loose") for i in range(3)][0]
        tight = self.tenant("tight", limits={"max_adapter_bytes": 2 * size + size // 2})
        loose = self.tenant("loose")
        for view in (loose, tight):
            for i in range(2):  # kept versions count
                self.assertEqual(self.load(view, f"a{i}", "x").status, 200)
        version = self.version(tight, "x")
        self.assert_error(self.load(tight, "a2", "x"), 413, [2 * size + size // 2])
        self.assert_error(self.load(tight, "a2"), 413)
        self.assertEqual(self.version(tight, "x"), version)
        self.assertEqual(tight.adapter_names(), ["x"])
        self.assertEqual(self.load(loose, "a2", "x").status, 200)
        self.assertEqual(self.unload(tight, "x").status, 200)
        self.assertEqual(self.load(tight, "a2").status, 200)

    def test_limits(self):
        view = self.tenant("acme", limits={"tokens_per_minute": 150, "max_adapters": 2})
        for i in range(4):
            self.write("acme", i, 200 if i == 3 else 100)
        self.assertEqual(self.load(view, "a0").status, 200)
        self.assertEqual(self.load(view, "a0").status, 200)  # nothing is compiled
        answer = self.load(view, "a1")
        self.assert_error(answer, 429, [150])
        self.assertRegex(answer.headers["Retry-After"], r"^[1-9]\d*$")
        self.assertEqual(answer.headers["x-ratelimit-limit-tokens"], "150")
        self.assertLess(int(answer.headers["x-ratelimit-remaining-tokens"]), 100)
        self.assert_error(self.load(view, "a3"), 403, [150, 200])
        self.ok(patch(self.admin, "/admin/tenants/acme", {"limits": {"max_adapters": 1}}))
        self.assert_error(self.load(view, "a1"), 403, ["adapters"])


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


if __name__ == "__main__":
    unittest.main()
