"""logprobs and echo: shapes, keys, numbers that read back, and the goldens over HTTP."""

import json
import math
import re
import struct
import unittest

from harness import CACHE, DEMO, GOLDEN, ROOT, SLOW, Daemon
from test_03_completions import PROMPT, CompletionCase

STORIES = ROOT.parent / "shared/assets"
FIELDS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class Logprobs(CompletionCase):
    def logprobs(self, **fields):
        return self.complete(**{"ignore_eos": True, **fields})["choices"][0]["logprobs"]

    def test_shape(self):
        for count in (1, 5, 20):
            log = self.logprobs(logprobs=count, max_tokens=9, return_tokens_as_token_ids=True)
            for field in FIELDS:
                self.assertEqual(len(log[field]), 9, field)
            for token, value, top in zip(log["tokens"], log["token_logprobs"],
                                         log["top_logprobs"]):
                self.assertRegex(token, r"^token_id:\d+$")
                self.assertEqual(len(top), count)
                self.assertEqual(top[token], value)
                self.assertEqual(max(top.values()), value)
                self.assertLessEqual(sum(map(math.exp, top.values())), 1 + 1e-5)

    def test_zero_gives_the_chosen_ones(self):
        log = self.logprobs(logprobs=0, max_tokens=5)
        self.assertEqual(len(log["token_logprobs"]), 5)
        self.assertEqual(log["token_logprobs"],
                         self.logprobs(logprobs=4, max_tokens=5)["token_logprobs"])

    def test_keyed_by_text(self):
        log = self.logprobs(logprobs=3, max_tokens=30)
        for token, value, top in zip(log["tokens"], log["token_logprobs"], log["top_logprobs"]):
            self.assertNotRegex(token, r"^token_id:")
            self.assertIn(token, top)
            self.assertEqual(top[token], value)

    def test_no_duplicate_keys(self):
        def unique(pairs):
            keys = [k for k, _ in pairs]
            self.assertEqual(len(keys), len(set(keys)), keys)
            return dict(pairs)

        answer = self.d.complete(prompt=PROMPT, logprobs=20, max_tokens=60, ignore_eos=True)
        json.loads(answer.body, object_pairs_hook=unique)

    def test_raw_before_temperature(self):
        """The same forced tokens have the same logprobs however they were sampled."""
        sampled = self.logprobs(logprobs=2, temperature=1.9, seed=2, top_k=50, max_tokens=12,
                                return_tokens_as_token_ids=True)
        ids = [int(t[9:]) for t in sampled["tokens"]]
        forced = self.logprobs(prompt=PROMPT + ids, echo=True, logprobs=2, max_tokens=0,
                               return_tokens_as_token_ids=True)
        for a, b in zip(sampled["token_logprobs"], forced["token_logprobs"][len(PROMPT):]):
            self.assertAlmostEqual(a, b, delta=1e-4)

    def test_numbers_read_back_as_the_same_f32(self):
        answer = self.d.complete(prompt=PROMPT, logprobs=20, max_tokens=100, ignore_eos=True)
        log = answer.raw_numbers["choices"][0]["logprobs"]
        texts = log["token_logprobs"] + [v for top in log["top_logprobs"] for v in top.values()]
        digits = [len(re.sub(r"e.*|[-.]", "", t).lstrip("0")) for t in texts]
        self.assertGreater(sum(d >= 8 for d in digits) / len(digits), 0.3, texts[:20])
        for text in texts:
            value = float(text)
            near = struct.unpack("<f", struct.pack("<f", value))[0]
            self.assertLessEqual(abs(value - near), abs(near) * 2.0**-24, text)

    def test_text_offset(self):
        for fields in ({}, {"echo": True, "prompt": "é 😀 ab"}):
            choice = self.complete(logprobs=0, max_tokens=20, ignore_eos=True,
                                   **fields)["choices"][0]
            offsets = choice["logprobs"]["text_offset"]
            self.assertEqual(offsets, sorted(offsets))
            if fields:
                self.assertEqual(offsets[0], 0)
            self.assertLessEqual(offsets[-1] - offsets[0], len(choice["text"]))


class Echo(CompletionCase):
    def test_text(self):
        for prompt in ("The thing é 😀", "x", " two  spaces\n"):
            with self.subTest(prompt=prompt):
                plain = self.text(prompt=prompt, max_tokens=9)
                self.assertEqual(self.text(prompt=prompt, max_tokens=9, echo=True),
                                 prompt + plain)
                answer = self.complete(prompt=prompt, max_tokens=0, echo=True)
                self.assertEqual(answer["choices"][0]["text"], prompt)
                self.assertEqual(answer["usage"]["completion_tokens"], 0)
                self.assertEqual(answer["choices"][0]["finish_reason"], "length")

    def test_special_tokens_show_in_the_prompt_alone(self):
        for prompt in ([319, 20, 21, 319, 22], "<|endoftext|>The thing<|endoftext|>",
                       "The thing"):
            with self.subTest(prompt=prompt):
                choice = self.complete(prompt=prompt, max_tokens=0, echo=True,
                                       logprobs=0)["choices"][0]
                text, log = choice["text"], choice["logprobs"]
                self.assertEqual("".join(log["tokens"]), text)
                if isinstance(prompt, str):
                    self.assertEqual(text, prompt)
                else:
                    self.assertTrue(text.startswith("<|endoftext|>"), text)
                for token, offset in zip(log["tokens"], log["text_offset"]):
                    self.assertEqual(text[offset:offset + len(token)], token)

    def test_a_token_put_in_front_takes_no_room(self):
        with Daemon(GOLDEN / "models/llama3", flags=["--dtype", "f32"]) as d:
            for stream in (False, True):
                fields = {"prompt": "Hello", "max_tokens": 0, "echo": True, "logprobs": 0}
                choice = (next(iter(d.stream(**fields))) if stream
                          else d.complete(**fields).json)["choices"][0]
                self.assertEqual(choice["text"], "Hello")
                self.assertEqual("".join(choice["logprobs"]["tokens"][1:]), "Hello")
                self.assertEqual(choice["logprobs"]["text_offset"][:2], [0, 0])

    def test_first_logprob_is_null(self):
        for model in (None, "cartridge"):
            for max_tokens in (0, 3):
                log = self.complete(model=model, echo=True, logprobs=2, max_tokens=max_tokens,
                                    ignore_eos=True)["choices"][0]["logprobs"]
                self.assertEqual(len(log["tokens"]), len(PROMPT) + max_tokens)
                self.assertIsNone(log["token_logprobs"][0])
                self.assertIsNone(log["top_logprobs"][0])
                self.assertNotIn(None, log["token_logprobs"][1:])

    def test_lists_as_harnesses_send_them(self):
        prompts = [[1, 2, 3], [7, 8, 9, 10, 11], [5]]
        alone = [self.complete(prompt=p, echo=True, logprobs=1, max_tokens=0)["choices"][0]
                 for p in prompts]
        together = self.complete(prompt=prompts, echo=True, logprobs=1, max_tokens=0)["choices"]
        self.assertEqual([c["logprobs"] for c in together], [c["logprobs"] for c in alone])
        self.assertEqual([c["text"] for c in together], [c["text"] for c in alone])


class Goldens(unittest.TestCase):
    """tests/golden/<model>.json through the API: ids equal, logprobs within 1e-3."""

    def check(self, daemon, case, delta=1e-3):
        fields = {} if case["task_id"] is None else {"task_id": case["task_id"]}
        answer = daemon.complete(model=case["adapter"], prompt=case["prompt_ids"],
                                 max_tokens=len(case["ids"]), logprobs=5, echo=True,
                                 ignore_eos=True, return_tokens_as_token_ids=True, **fields)
        self.assertEqual(answer.status, 200, answer)
        log = answer.json["choices"][0]["logprobs"]
        n = len(case["prompt_ids"])
        ids = [int(t.removeprefix("token_id:")) for t in log["tokens"]]
        self.assertEqual(ids[:n], case["prompt_ids"])
        self.assertEqual(ids[n:], case["ids"])
        for got, want in zip(log["token_logprobs"][1:],
                             case["prompt_logprobs"][1:] + case["logprobs"]):
            self.assertAlmostEqual(got, want, delta=delta)
        for got, want in zip(log["top_logprobs"][n:], case["top"]):
            for token, value in want[:4]:
                self.assertAlmostEqual(got[f"token_id:{token}"], value, delta=delta)

    def run_file(self, name, model):
        path = GOLDEN / f"{name}.json"
        if not path.exists() or not model.exists():
            self.skipTest(f"{path.name} or its model is absent")
        cases = json.loads(path.read_text())["cases"]
        adapters = GOLDEN / "adapters" / name
        with Daemon(model, adapters if adapters.exists() else None, ["--dtype", "f32"]) as d:
            for case in cases if SLOW <= 4 else cases[::3]:
                with self.subTest(model=name, adapter=case["adapter"], task=case["task_id"],
                                  prompt=len(case["prompt_ids"])):
                    self.check(d, case)
        self.assertTrue(cases)

    def test_gqa(self):
        self.run_file("gqa", GOLDEN / "models/gqa")

    def test_wide(self):
        self.run_file("wide", GOLDEN / "models/wide")

    def test_mha(self):
        self.run_file("mha", GOLDEN / "models/mha")

    def test_llama3(self):
        self.run_file("llama3", GOLDEN / "models/llama3")

    def test_linear(self):
        self.run_file("linear", GOLDEN / "models/linear")

    def test_mixed_gguf(self):
        self.run_file("mixed", GOLDEN / "models/mixed.gguf")

    def test_smollm2_and_the_demo_adapters(self):
        if not DEMO.exists():
            self.skipTest(f"the demo model is not in {CACHE} (scripts/get_demo_model)")
        if SLOW > 1:
            self.skipTest("a real model in f32 takes too long in a slow flavour")
        by_adapter = {}  # one case of each: this model takes its time in f32
        for case in json.loads((GOLDEN / "smollm2.json").read_text())["cases"]:
            by_adapter.setdefault(case["adapter"], case)
        with Daemon(DEMO, ROOT / "demo/smollm2", ["--dtype", "f32"]) as d:
            for case in by_adapter.values():
                with self.subTest(adapter=case["adapter"], prompt=len(case["prompt_ids"])):
                    self.check(d, case, delta=2e-3)

    def test_stories260k_as_published(self):
        model, adapter = (STORIES / "models/stories260K-hf",
                          STORIES / "adapters/prompt-tuning-on-stories260K")
        if not model.exists():
            self.skipTest("../shared/assets is absent")
        golden = json.loads((model / "golden.json").read_text())
        with Daemon(model, flags=["--dtype", "f32"]) as d:
            self.assertEqual(d.put_peft("tuned", adapter).status, 201)
            whole = d.complete(prompt="Once upon a time", max_tokens=251, echo=True)
            self.assertTrue(whole.json["choices"][0]["text"].startswith(
                golden["published_greedy_text"][:400]), whole)
            for name, file in ((None, model), ("tuned", adapter)):
                for case in json.loads((file / "golden.json").read_text())["cases"]:
                    with self.subTest(adapter=name, prompt=case["prompt"]):
                        self.check_stories(d, name, case)

    def check_stories(self, daemon, adapter, case):
        for prompt in filter(None, (case["prompt"], case["prompt_ids"])):  # "" is refused
            answer = daemon.complete(model=adapter, prompt=prompt, logprobs=5,
                                     max_tokens=len(case["ids"]), ignore_eos=True,
                                     return_tokens_as_token_ids=True).json
            log = answer["choices"][0]["logprobs"]
            self.assertEqual([int(t[9:]) for t in log["tokens"]], case["ids"])
            self.assertEqual(answer["usage"]["prompt_tokens"], len(case["prompt_ids"]))
            for got, want in zip(log["top_logprobs"], case["top5_logprobs"]):
                for token, value in want[:4]:
                    self.assertAlmostEqual(got[f"token_id:{token}"], value, delta=1e-3)


if __name__ == "__main__":
    unittest.main()
