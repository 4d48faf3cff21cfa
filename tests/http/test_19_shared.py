"""What workers share about themselves: metrics of all of them, what runs, and which
adapter versions are not run any more because workers died of them."""

import os
import pathlib
import re
import signal
import time

from harness import GQA_ADAPTERS, ROOT, limit, run_all
from tenants import ADMIN_KEY, View, add_tenant, patch
from test_12_workers import LONG, WorkerCase, fresh, until, worker_of

COUNTER = re.compile(r"prefixd_\w+(_total|_count|_sum|_bucket)(\{|$)")


def listed(d):
    answer = d.get("/admin/requests")
    assert answer.status == 200, answer
    assert answer.json["object"] == "list" and not answer.json.get("has_more"), answer
    return answer.json["data"]


def state_of(d, name, prompt=(1,)):
    """(status, error message) of a short completion."""
    answer = d.complete(model=name, prompt=list(prompt), max_tokens=1)
    return answer.status, "" if answer.status == 200 else answer.json["error"]["message"]


class SharedCase(WorkerCase):
    def crash_with(self, d, *names):
        """kill -9 of the worker that streams with each of the names; waits for the next."""
        streams = []
        for name in names:
            streams.append(d.stream(model=name, **LONG))
            next(iter(streams[-1]))
        worker, _ = worker_of(d)
        os.kill(worker, signal.SIGKILL)
        until(lambda: fresh(d, worker), 10)
        for s in streams:
            s.drop()

    def administered(self, *flags):
        """A daemon as its administrator sees it."""
        keys = pathlib.Path(self.tmp, "admin-keys")
        keys.write_text(ADMIN_KEY + "\n")
        keys.chmod(0o600)
        return View(self.daemon("--admin-key-file", keys, *flags), ADMIN_KEY)


class Metrics(SharedCase):
    def test_every_worker_speaks_for_all(self):
        d = self.daemon("--workers", "4", adapters=GQA_ADAPTERS)
        self.all_workers(d, 4)
        name, seen = d.adapter_names()[0], set()
        for _ in range(10):
            answers = run_all([lambda: d.complete(model=name, prompt=[1, 2, 3], max_tokens=5,
                                                  ignore_eos=True)] * 16)
            seen |= {a.headers["X-Prefixd-Worker"] for a in answers}
            if len(seen) > 1:
                break
        self.assertGreater(len(seen), 1, "one worker took every connection")
        key = f'prefixd_adapter_requests_total{{tenant="default",adapter="{name}"}}'
        d.wait(lambda: d.metrics().samples.get(key, 0) % 16 == 0, 5, "the last to be counted")
        n = int(d.metrics().samples[key])
        tenant = '{tenant="default"}'
        askers = set()
        for _ in range(20):  # whoever answers
            answer = d.get("/metrics")
            askers.add(answer.headers["X-Prefixd-Worker"])
            m = type(d.metrics())(answer.body.decode())
            self.assertEqual(m.bad_lines, [])
            self.assertEqual(m.samples[key], n)
            self.assertEqual(m.sum("prefixd_prompt_tokens_total"), 3 * n)
            self.assertEqual(m.sum("prefixd_generation_tokens_total"), 5 * n)
            self.assertEqual(m.samples["prefixd_tenant_prompt_tokens_total" + tenant], 3 * n)
            self.assertEqual(m.samples["prefixd_tenant_generation_tokens_total" + tenant],
                             5 * n)
            self.assertEqual(
                m.samples['prefixd_tenant_requests_total{tenant="default",outcome="ok"}'], n)
            self.assertEqual(
                m.samples["prefixd_tenant_time_to_first_token_seconds_count" + tenant], n)
            self.assertEqual(
                m.samples["prefixd_tenant_inter_token_latency_seconds_count" + tenant], 4 * n)
            self.assertEqual(m.sum("prefixd_workers"), 4)
            self.assertEqual(m.sum("prefixd_worker_deaths_total"), 0)
        self.assertGreaterEqual(len(askers), 1)

    def test_running_counts_of_all_workers(self):
        d = self.daemon("--workers", "2")
        self.all_workers(d, 2)
        streams = [d.stream(**LONG) for _ in range(6)]
        for s in streams:
            next(iter(s))
        d.wait(lambda: d.metrics().running == 6, 5, "all of them to run")
        for s in streams:
            s.drop()
        d.wait(lambda: d.metrics().running == 0, 10, "none to run")

    def test_counters_never_go_back(self):
        d = self.daemon("--workers", "2", adapters=GQA_ADAPTERS)
        workers = self.all_workers(d, 2)
        names = d.adapter_names()[:3]
        run_all([lambda n=n: d.complete(model=n, prompt=[1, 2], max_tokens=3)
                 for n in names * 8])
        before = d.metrics()
        self.assertGreater(before.sum("prefixd_steps_total"), 0)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        d.wait(lambda: len(d.worker_pids()) == 2 and not set(workers) & set(d.worker_pids())
               and len(re.findall("is ready", d.stderr())) == 4, 20, "two new workers")
        after = d.metrics()
        for name, value in before.samples.items():
            if COUNTER.match(name):
                self.assertGreaterEqual(after.samples[name], value, name)
        self.assertEqual(after.sum("prefixd_worker_deaths_total"), 2)
        self.assertEqual(after.sum("prefixd_workers"), 2)
        self.assertEqual(after.running, 0)

    def test_a_dead_worker_has_no_gauges(self):
        """Nor running requests, while nobody stands in its place yet."""
        d = self.daemon("--workers", "2")
        for _ in range(4):  # the fourth restart waits
            before = self.all_workers(d, 2)
            stream = d.stream(**LONG)
            next(iter(stream))
            os.kill(int(stream.headers["X-Prefixd-Worker"]), signal.SIGKILL)
            d.wait(lambda: set(d.worker_pids()) != set(before), 5, "its end to be seen")
            d.wait(lambda: d.metrics().running == 0, 5, "its gauges to go")
            d.wait(lambda: listed(d) == [], 5, "what still closes to go")
            stream.drop()
            d.wait(lambda: d.metrics().sum("prefixd_workers") == 2, 10, "the next one")
        self.assertEqual(d.metrics().sum("prefixd_worker_deaths_total"), 4)

    def test_the_pages_for_operators_name_what_there_is(self):
        """Every metric that a page speaks of, once there was a completion."""
        d = self.daemon(adapters=GQA_ADAPTERS)
        d.complete(model=d.adapter_names()[0], prompt=[1], max_tokens=2)
        there = {re.split(r"[{ ]", key)[0] for key in d.metrics().samples}
        there |= {re.sub("_(bucket|sum|count)$", "", name) for name in there}
        pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("demo/*.md")]
        text = "".join(page.read_text() for page in pages)
        named = set(re.findall(r"\bprefixd_\w+", text))
        self.assertGreater(len(named), 5)
        self.assertEqual(named - there, set())
        self.assertEqual(re.findall(r"`_\w+_(?:total|seconds|bytes)`", text), [])  # halves of names

    def test_series_of_a_removed_tenant_end(self):
        """And those of one that has its name later begin at nothing; others go on."""
        admin = self.administered("--workers", "2", "--state", pathlib.Path(self.tmp, "state"))
        stays = add_tenant(admin, "bolt")
        for n in 3, 1:
            acme = add_tenant(admin, "acme")
            for _ in range(n):
                self.assertEqual(acme.complete(prompt=[1], max_tokens=2).status, 200)
                self.assertEqual(stays.complete(prompt=[1], max_tokens=2).status, 200)
            counts = self.counts_of(admin)
            self.assertEqual(counts["acme"], n)
            self.assertEqual(counts["bolt"], {3: 3, 1: 4}[n])
            removed = admin.request("DELETE", "/admin/tenants/acme")
            self.assertEqual(removed.status, 204, removed)
            self.assertNotIn("acme", self.counts_of(admin))
            self.assertFalse(any('"acme"' in key for key in admin.metrics().samples))

    def counts_of(self, d):
        """{tenant: requests of the base}; each has one row."""
        rows = re.findall(r'prefixd_adapter_requests_total\{tenant="(\w+)",adapter=""\} (\d+)',
                          d.get("/metrics").body.decode())
        self.assertEqual(len(rows), len(dict(rows)), rows)
        return {name: int(n) for name, n in rows}


class Requests(SharedCase):
    def test_lists_what_all_workers_run(self):
        d = self.daemon("--workers", "2", adapters=GQA_ADAPTERS)
        workers = self.all_workers(d, 2)
        d.wait(lambda: listed(d) == [], 5, "what still closes to go")
        name = d.adapter_names()[0]
        version = d.get(f"/v1/adapters/{name}").json["version"]
        streams = {f"r-{i}": d.stream(headers={"X-Request-Id": f"r-{i}"}, **LONG,
                                      **({"model": name} if i % 2 else {})) for i in range(8)}
        for s in streams.values():
            next(iter(s))
        rows = {r["id"]: r for r in listed(d)}
        self.assertEqual(set(rows), set(streams))
        for i in range(8):
            row = rows[f"r-{i}"]
            self.assertEqual(row["object"], "request")
            self.assertIn(row["worker"], workers)
            self.assertEqual(row["worker"],
                             int(streams[f"r-{i}"].headers["X-Prefixd-Worker"]))
            self.assertEqual(row["tenant"], "default")
            self.assertEqual(row["adapter"], name if i % 2 else None)
            self.assertEqual(row["version"], version if i % 2 else None)
            self.assertEqual(row["station"], "streaming")
            self.assertGreater(row["age_ms"], 0)
            self.assertEqual(row["prompt_tokens"], 1)
            self.assertGreaterEqual(row["generated_tokens"], 1)
        for s in streams.values():
            s.drop()
        d.wait(lambda: listed(d) == [], 10, "them to end")


class Quarantine(SharedCase):
    def test_a_version_that_workers_die_of_is_refused(self):
        d = self.daemon(adapters=GQA_ADAPTERS)
        bad, good, sometimes = d.adapter_names()[:3]
        for i in range(3):
            self.assertEqual(state_of(d, bad)[0], 200)
            self.crash_with(d, bad, *[sometimes] * (i > 0))
        status, message = state_of(d, bad)
        self.assertEqual(status, 422, message)
        self.assertIn("quarantined: three workers died", message)
        info = d.get(f"/v1/adapters/{bad}").json
        self.assertEqual(info["state"], "broken")
        self.assertIn("quarantined", info["why"])
        self.assertAlmostEqual(info["until"], time.time() + 600, delta=limit(30))
        self.assertEqual(d.get(f"/v1/adapters/{good}").json["state"], "ready")
        self.assertEqual(state_of(d, good)[0], 200)
        self.assertEqual(state_of(d, sometimes)[0], 200)
        self.assertEqual(state_of(d, d.base)[0], 200)
        self.assertRegex(d.stderr(), "is quarantined")
        self.crash_with(d, sometimes)  # its third
        self.assertEqual(state_of(d, sometimes)[0], 422)
        self.assertEqual(state_of(d, good)[0], 200)

    def test_another_version_is_not_refused(self):
        d = self.daemon()
        put = d.request("PUT", "/v1/adapters/words", {"kind": "text", "text": "Hi"})
        self.assertEqual(put.status, 201, put)
        for _ in range(3):
            d.request("PUT", "/v1/adapters/words", {"kind": "text", "text": "Hi"})
            self.crash_with(d, "words")
        d.request("PUT", "/v1/adapters/words", {"kind": "text", "text": "Hi"})
        self.assertEqual(state_of(d, "words")[0], 422)
        put = d.request("PUT", "/v1/adapters/words", {"kind": "text", "text": "Ho"})
        self.assertIn(put.status, (200, 201), put)
        self.assertEqual(state_of(d, "words")[0], 200)

    def test_planned_ends_do_not_count(self):
        d = self.daemon(adapters=GQA_ADAPTERS)
        name = d.adapter_names()[0]
        for _ in range(3):
            worker, _ = worker_of(d)
            stream = d.stream(model=name, prompt=[1], max_tokens=50, ignore_eos=True)
            os.kill(worker, signal.SIGTERM)
            list(stream)
            until(lambda: fresh(d, worker), 10)
        self.assertEqual(state_of(d, name)[0], 200)
        self.assertEqual(d.metrics().sum("prefixd_worker_deaths_total"), 0)

    def test_all_workers_refuse_it(self):
        d = self.daemon("--workers", "2", adapters=GQA_ADAPTERS)
        self.all_workers(d, 2)
        name = d.adapter_names()[0]
        for _ in range(3):
            stream = d.stream(model=name, **LONG)
            next(iter(stream))
            n = d.metrics().sum("prefixd_worker_deaths_total")
            os.kill(int(stream.headers["X-Prefixd-Worker"]), signal.SIGKILL)
            d.wait(lambda: d.metrics().sum("prefixd_worker_deaths_total") > n, 10, "its end")
            stream.drop()
        d.wait(lambda: d.metrics().sum("prefixd_workers") == 2, 10, "both workers")
        end = time.monotonic() + limit(0.5)
        while time.monotonic() < end:
            self.assertEqual({s for s, _ in run_all([lambda: state_of(d, name)] * 4)}, {422})

    def text(self, view, name):
        put = view.request("PUT", f"/v1/adapters/{name}", {"kind": "text", "text": "Hi there"})
        self.assertEqual(put.status, 201, put)

    def test_it_is_the_tenants_alone_whose_version_it_is(self):
        """What another has of the same content tells nothing of it."""
        admin = self.administered("--state", pathlib.Path(self.tmp, "state"))
        a, b = add_tenant(admin, "acme"), add_tenant(admin, "bolt")
        self.text(a, "mine")
        self.text(b, "other")
        for _ in range(3):
            self.assertEqual(state_of(a, "mine")[0], 200)
            self.crash_with(a, "mine")
        self.assertEqual(state_of(a, "mine")[0], 422)
        self.assertEqual(a.get("/v1/adapters/mine").json["state"], "broken")
        self.text(b, "again")
        for name in "other", "again":
            self.assertEqual(b.get(f"/v1/adapters/{name}").json["state"], "ready")
            self.assertEqual(state_of(b, name), (200, ""))

    def test_of_a_public_one_its_owner_counts(self):
        admin = self.administered("--state", pathlib.Path(self.tmp, "state"))
        a, b = add_tenant(admin, "acme"), add_tenant(admin, "bolt")
        self.text(a, "shared")
        self.text(b, "own")
        made = patch(admin, "/v1/adapters/shared?tenant=acme", {"public": True})
        self.assertEqual(made.status, 200, made)
        for _ in range(3):
            self.assertEqual(state_of(b, "shared")[0], 200)
            self.crash_with(b, "shared")
        self.assertEqual([state_of(v, "shared")[0] for v in (a, b)], [422, 422])
        self.assertEqual(state_of(b, "own"), (200, ""))


if __name__ == "__main__":
    import unittest
    unittest.main()
