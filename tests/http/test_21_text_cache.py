"""Prompts that begin as earlier ones: what is cached, for whom, and that no answer tells the difference."""

import unittest

from harness import GQA, Daemon, HttpCase, run_all, token_ids
from tenants import TenantCase, scaled
from test_06_adapters import soft_prompt

FLAGS = ["--dtype", "f32", "--name", "base"]
SYSTEM = [(7 * i + 3) % 300 for i in range(40)]


def fields_of(prompt, **more):
    return {"prompt": prompt, "max_tokens": 10, "ignore_eos": True, "logprobs": 2,
            "return_tokens_as_token_ids": True, **more}


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


class Conversation(HttpCase):
    @classmethod
    def daemon(cls):
        return Daemon(GQA, flags=FLAGS)

    def talk(self, d, turns, topic, **more):
        """Every turn sends all that was said before; (choices, cached tokens) of each."""
        said, seen = list(SYSTEM), []
        for turn in range(turns):
            said += [(topic * 31 + turn * 17 + i) % 300 for i in range(13)]
            answer = self.ok(d.complete(**fields_of(said, **more)))
            seen.append((answer["choices"], cached(answer)))
            said += token_ids(answer["choices"][0])
        return seen

    def test_a_second_turn_computes_what_is_new(self):
        with Daemon(GQA, flags=FLAGS) as fresh, \
                Daemon(GQA, flags=[*FLAGS, "--text-cache", "false"]) as off:
            warm, without = self.talk(fresh, 4, 1), self.talk(off, 4, 1)
            self.assertEqual([t[0] for t in warm], [t[0] for t in without])
            # 53, 76, 99 and 122 tokens; all but the last one of a turn was computed in it
            self.assertEqual([t[1] for t in warm], [0, 48, 80, 96])
            self.assertEqual([t[1] for t in without], [0] * 4)
            seen = fresh.metrics()
            self.assertEqual(seen.sum("prefixd_prefix_cache_queries"), 53 + 76 + 99 + 122)
            self.assertEqual(seen.sum("prefixd_prefix_cache_hits"), 48 + 80 + 96)
            self.assertEqual(seen.sum("prefixd_prefill_rows_total"), 53 + 28 + 19 + 26)
            self.assertEqual(seen.sum("prefixd_kv_blocks_used"), 0)
            self.assertEqual(seen.sum("prefixd_kv_blocks_cached"), 131 // 16)
            self.assertEqual(off.metrics().sum("prefixd_kv_blocks_cached"), 0)
            self.assertEqual(off.metrics().sum("prefixd_prefix_cache_queries"), 0)

    def test_many_at_once_answer_as_alone(self):
        def one(seed):
            return [t[0] for t in self.talk(self.d, 3, seed, temperature=seed % 2, seed=seed)]

        together = run_all([lambda s=s: one(s) for s in range(scaled(8))])
        with Daemon(GQA, flags=[*FLAGS, "--text-cache", "false"]) as off:
            for seed, seen in enumerate(together):
                alone = self.talk(off, 3, seed, temperature=seed % 2, seed=seed)
                self.assertEqual(seen, [t[0] for t in alone])

    def test_choices_and_streams_report_what_was_cached(self):
        prompt = [5] + SYSTEM
        first = self.ok(self.d.complete(**fields_of(prompt, n=4)))
        self.assertEqual(cached(first), 0)
        self.assertEqual(cached(self.ok(self.d.complete(**fields_of(prompt, n=3)))), 32)
        two = self.ok(self.d.complete(**fields_of([prompt, [9] + prompt])))
        self.assertEqual(cached(two), 32)
        stream = list(self.d.stream(**fields_of(prompt), stream_options={"include_usage": True}))
        self.assertEqual(cached([e for e in stream if e.get("usage")][-1]), 32)
        self.assertEqual(cached(self.ok(self.d.complete(**fields_of(prompt, echo=True)))), 0)


class Private(TenantCase):
    def ask(self, view, model=None):
        return self.ok(view.complete(**fields_of(SYSTEM, model=model)))

    def test_another_tenant_finds_nothing(self):
        one, other = self.tenant("one"), self.tenant("other")
        first = self.ask(one)
        self.assertEqual((cached(first), cached(self.ask(one))), (0, 32))
        self.assertEqual(cached(self.ask(other)), 0)
        self.assertEqual(self.ask(other)["choices"], first["choices"])

    def test_nor_does_one_who_comes_after_a_tenant_was_removed(self):
        gone = self.tenant("again")
        self.ask(gone)
        self.assertEqual(self.admin.request("DELETE", "/admin/tenants/again").status, 204)
        self.assertEqual(cached(self.ask(self.tenant("again"))), 0)

    def test_nor_does_another_version(self):
        view = self.tenant("versions")

        def put(seed):
            answer = view.put_peft("soft", None, *soft_prompt(seed=seed))
            self.assertIn(answer.status, (200, 201), answer)
            return answer.json["version"]

        old = put(1)
        first = self.ask(view, "soft")
        self.assertEqual((cached(first), cached(self.ask(view, "soft"))), (0, 32))
        self.assertEqual(cached(self.ask(view)), 0)  # without it
        put(2)
        changed = self.ask(view, "soft")
        self.assertEqual(cached(changed), 0)
        self.assertNotEqual(changed["choices"], first["choices"])
        self.ok(view.post("/v1/adapters/soft/rollback", {"version": old}))
        again = self.ask(view, "soft")
        self.assertEqual(cached(again), 32)
        self.assertEqual(again["choices"], first["choices"])

    def test_usage_is_what_clients_counted(self):
        view = self.tenant("counted")
        total = 0
        for i in range(6):
            fields = fields_of(SYSTEM + [i % 3], n=1 + i % 2)
            if i % 3:
                total += cached(self.ok(view.complete(**fields)))
            else:
                stream = view.stream(**fields, stream_options={"include_usage": True})
                total += cached([e for e in stream if e.get("usage")][-1])
        self.assertEqual(total, 5 * 32)

        def used():
            row, = self.ok(view.get("/v1/usage"))["data"]
            return row["cached_tokens"]

        self.d.wait(lambda: used() == total, 10, f"{total} cached tokens")
        seen = self.d.request("GET", "/metrics", headers=self.admin.headers).body.decode()
        self.assertIn(f'prefixd_tenant_cached_tokens_total{{tenant="counted"}} {total}\n', seen)


class Reloaded(HttpCase):
    def test_a_version_that_left_memory_finds_its_text_again(self):
        with Daemon(GQA, flags=FLAGS) as d:
            size = self.ok(d.put_peft("a", None, *soft_prompt()), 201)["bytes"]
        with Daemon(GQA, flags=[*FLAGS, "--adapter-bytes", size + size // 2]) as d:
            for i, name in enumerate("ab"):
                self.ok(d.put_peft(name, None, *soft_prompt(seed=i)), 201)
            first = self.ok(d.complete(**fields_of(SYSTEM, model="a")))
            self.ok(d.complete(**fields_of(SYSTEM, model="b")))
            before = d.metrics().sum("prefixd_adapter_loads_total")
            again = self.ok(d.complete(**fields_of(SYSTEM, model="a")))
            self.assertEqual(d.metrics().sum("prefixd_adapter_loads_total"), before + 1)
            self.assertEqual(again["choices"], first["choices"])
            self.assertEqual((cached(first), cached(again)), (0, 32))


if __name__ == "__main__":
    unittest.main()
