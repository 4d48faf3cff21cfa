"""POST /v1/completions, not streamed: every field, its range, its default."""

import re
import unittest

from harness import GQA, GQA_ADAPTERS, Daemon, HttpCase, token_ids

EOS = 319
VOCAB = 320
PROMPT = [84, 104, 101, 32, 116]


class CompletionCase(HttpCase):
    @classmethod
    def daemon(cls):
        return Daemon(GQA, GQA_ADAPTERS, ["--name", "gqa", "--dtype", "f32"])

    def complete(self, **fields):
        fields.setdefault("prompt", PROMPT)
        return self.ok(self.d.complete(**fields))

    def ids(self, **fields):
        """The generated ids of one choice."""
        fields = {"logprobs": 0, "return_tokens_as_token_ids": True, "ignore_eos": True,
                  **fields}
        return token_ids(self.complete(**fields)["choices"][0])

    def text(self, **fields):
        return self.complete(**fields)["choices"][0]["text"]


class Shape(CompletionCase):
    def test_the_object(self):
        answer = self.complete(max_tokens=4, ignore_eos=True)
        self.assertRegex(answer["id"], r"^cmpl-.")
        self.assertEqual(answer["object"], "text_completion")
        self.assertGreater(answer["created"], 1_700_000_000)
        self.assertIsInstance(answer["model"], str)
        self.assertEqual(len(answer["choices"]), 1)
        choice = answer["choices"][0]
        self.assertEqual((choice["index"], choice["finish_reason"]), (0, "length"))
        self.assertIsNone(choice["logprobs"])
        usage = answer["usage"]
        self.assertEqual((usage["prompt_tokens"], usage["completion_tokens"],
                          usage["total_tokens"]), (len(PROMPT), 4, len(PROMPT) + 4))
        self.assertEqual(usage["prompt_tokens_details"]["virtual_tokens"], 0)

    def test_ids_differ(self):
        self.assertNotEqual(self.complete()["id"], self.complete()["id"])

    def test_usage_with_an_adapter(self):
        usage = self.complete(model="cartridge", max_tokens=4, ignore_eos=True)["usage"]
        self.assertEqual((usage["prompt_tokens"], usage["completion_tokens"],
                          usage["total_tokens"]), (len(PROMPT), 4, len(PROMPT) + 4))
        self.assertEqual(usage["prompt_tokens_details"]["virtual_tokens"], 40)


class Model(CompletionCase):
    def test_names_of_the_base(self):
        bare = self.ids()
        for model in ("gqa", None, ""):
            with self.subTest(model=model):
                self.assertEqual(self.ids(model=model), bare)

    def test_names_of_an_adapter(self):
        adapted = self.ids(model="prompt_tuning")
        self.assertEqual(self.ids(model="gqa:prompt_tuning"), adapted)
        self.assertNotEqual(adapted, self.ids())

    def test_unknown_is_404_never_the_base(self):
        for model in ("nobody", "gqa:nobody", "other:prompt_tuning", "gqa:", ":prompt_tuning",
                      "prompt_tuning\x00x", "GQA", "prompt_tuning ", "../gqa"):
            with self.subTest(model=model):
                answer = self.d.complete(model=model, prompt=PROMPT)
                if "\x00" in model:
                    self.assert_error(answer, (400, 404))
                else:
                    error = self.assert_error(answer, 404)
                    self.assertEqual(error["code"], "model_not_found")


class Prompt(CompletionCase):
    def test_string_equals_its_tokens(self):
        text = "The thing on the stand, é 27"
        tokens = self.ok(self.d.post("/tokenize", {"content": text, "add_special": True}))
        self.assertEqual(self.ids(prompt=text), self.ids(prompt=tokens["tokens"]))

    def test_lists(self):
        prompts = ["One", "Two is", "Three are"]
        alone = [self.text(prompt=p) for p in prompts]
        answer = self.complete(prompt=prompts)
        self.assertEqual([c["index"] for c in answer["choices"]], [0, 1, 2])
        self.assertEqual([c["text"] for c in answer["choices"]], alone)
        lists = [self.d.post("/tokenize", {"content": p}).json["tokens"] for p in prompts]
        both = self.complete(prompt=lists)
        self.assertEqual([c["text"] for c in both["choices"]], alone)
        self.assertEqual(both["usage"]["prompt_tokens"], sum(map(len, lists)))

    def test_a_list_of_one_string_and_one_id(self):
        self.assertEqual(self.text(prompt=["One"]), self.text(prompt="One"))
        self.assertEqual(self.text(prompt=[[79]]), self.text(prompt=[79]))

    def test_refused(self):
        bad = [None, "", [], [""], ["a", ""], [[]], [[1], []], 5, True, {}, {"a": 1}, [1, "a"],
               ["a", 1], [[1], "a"], [-1], [1.5], [VOCAB], [2**31], [2**63], [True], [None],
               [["a"]], [[[1]]], [[1], [VOCAB]]]
        for prompt in bad:
            with self.subTest(prompt=prompt):
                self.assert_error(self.d.complete(prompt=prompt), 400, ["prompt"])
        self.assert_error(self.d.complete(), 400, ["prompt"])
        self.assert_alive()


class Length(CompletionCase):
    def test_defaults(self):
        answer = self.ok(self.d.post("/v1/completions", {"prompt": PROMPT, "ignore_eos": True}))
        self.assertEqual(answer["usage"]["completion_tokens"], 16)
        self.assertEqual(len(answer["choices"]), 1)

    def test_context_limit_names_the_three_numbers(self):
        prompt = list(range(10, 21))
        for stream in (False, True):
            answer = self.d.complete(model="cartridge", prompt=prompt, max_tokens=206,
                                     stream=stream)
            error = self.assert_error(answer, 400)
            for number in (11, 40, 206):
                self.assertRegex(error["message"], rf"\b{number}\b")
        fits = self.complete(model="cartridge", prompt=prompt, max_tokens=205, ignore_eos=True)
        self.assertEqual(fits["usage"]["completion_tokens"], 205)
        self.assert_error(self.d.complete(prompt=[1] * 300), 400)

    def test_n(self):
        answer = self.complete(n=3, max_tokens=6, ignore_eos=True)
        self.assertEqual([c["index"] for c in answer["choices"]], [0, 1, 2])
        self.assertEqual(len({c["text"] for c in answer["choices"]}), 1)
        self.assertEqual(answer["usage"]["prompt_tokens"], len(PROMPT))
        self.assertEqual(answer["usage"]["completion_tokens"], 18)

    def test_n_of_each_prompt_in_order(self):
        prompts = ["One", "Two is"]
        answer = self.complete(prompt=prompts, n=2)
        alone = [self.text(prompt=p) for p in prompts]
        self.assertEqual([c["index"] for c in answer["choices"]], [0, 1, 2, 3])
        self.assertEqual([c["text"] for c in answer["choices"]],
                         [alone[0], alone[0], alone[1], alone[1]])

    def test_n_differ_when_sampled(self):
        answer = self.complete(n=4, temperature=2, seed=5, max_tokens=12, ignore_eos=True)
        self.assertGreater(len({c["text"] for c in answer["choices"]}), 1)

    def test_at_most_128_sequences(self):
        answer = self.complete(prompt=[[1], [2]], n=64, max_tokens=1, ignore_eos=True)
        self.assertEqual(len(answer["choices"]), 128)
        self.assert_error(self.d.complete(prompt=[[1], [2]], n=65, max_tokens=1), 400)
        self.assert_error(self.d.complete(prompt=[[1]] * 129, max_tokens=1), 400)
        self.assert_error(self.d.complete(prompt=[1], n=129, max_tokens=1), 400)


class Sampling(CompletionCase):
    def test_greedy_repeats(self):
        self.assertEqual(self.ids(temperature=0), self.ids(temperature=0))
        self.assertEqual(self.ids(temperature=0, seed=1), self.ids(temperature=0, seed=2))

    def test_seed(self):
        sampled = [self.ids(temperature=1.5, seed=s, max_tokens=24) for s in range(6)]
        self.assertEqual(self.ids(temperature=1.5, seed=3, max_tokens=24), sampled[3])
        self.assertGreater(len({tuple(s) for s in sampled}), 3)
        for seed in (0, -1, 2**53, None):
            self.ids(temperature=1, seed=seed)

    def test_without_a_seed_answers_vary(self):
        drawn = {tuple(self.ids(temperature=2, max_tokens=24)) for _ in range(4)}
        self.assertGreater(len(drawn), 1)

    def test_default_temperature_is_one(self):
        explicit = self.ids(temperature=1, top_p=1, seed=11, max_tokens=40)
        answer = self.ok(self.d.post("/v1/completions", {
            "prompt": PROMPT, "seed": 11, "max_tokens": 40, "logprobs": 0, "ignore_eos": True,
            "return_tokens_as_token_ids": True}))
        self.assertEqual(token_ids(answer["choices"][0]), explicit)
        self.assertNotEqual(explicit, self.ids(temperature=0, max_tokens=40))

    def test_filters_that_leave_one_token(self):
        greedy = self.ids(temperature=0, max_tokens=24)
        for fields in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1}):
            with self.subTest(fields=fields):
                self.assertEqual(self.ids(temperature=1.7, seed=3, max_tokens=24, **fields),
                                 greedy)

    def test_filters_hold(self):
        """Each sampled token is one that the filter lets through."""
        for fields, allowed in (({"top_k": 3}, 3), ({"top_k": 2, "top_p": 0.9}, 2)):
            answer = self.complete(temperature=2, seed=9, max_tokens=60, logprobs=allowed,
                                   return_tokens_as_token_ids=True, ignore_eos=True, **fields)
            log = answer["choices"][0]["logprobs"]
            for token, top in zip(log["tokens"], log["top_logprobs"]):
                best = sorted(top, key=top.get, reverse=True)[:allowed]
                self.assertIn(token, best)

    def test_no_op_filters(self):
        plain = self.ids(temperature=1, seed=4, max_tokens=24)
        for fields in ({"top_p": 1}, {"top_k": 0}, {"top_k": -1}, {"min_p": 0},
                       {"top_k": VOCAB}, {"top_p": None, "top_k": None, "min_p": None}):
            with self.subTest(fields=fields):
                self.assertEqual(self.ids(temperature=1, seed=4, max_tokens=24, **fields),
                                 plain)


class Ending(CompletionCase):
    def some_text(self):
        """A long greedy text and where a stretch of plain characters first stands in it."""
        text = self.text(max_tokens=120, ignore_eos=True)
        for match in re.finditer(r"(?=([ -~]{3}))", text):
            piece = match[1]
            if text.find(piece) == match.start() >= 8:
                return text, piece, match.start()
        self.fail(f"no plain stretch in {text!r}")

    def test_stop(self):
        text, piece, at = self.some_text()
        for stop in (piece, [piece], ["\x01never\x01", piece], [f"never{i}" for i in range(15)]
                     + [piece]):
            with self.subTest(stop=stop):
                answer = self.complete(max_tokens=120, ignore_eos=True, stop=stop)
                self.assertEqual(answer["choices"][0]["text"], text[:at])
                self.assertEqual(answer["choices"][0]["finish_reason"], "stop")
                self.assertLess(answer["usage"]["completion_tokens"], 120)

    def test_a_stop_that_begins_and_does_not_come(self):
        text, piece, at = self.some_text()
        self.assertEqual(self.text(max_tokens=120, ignore_eos=True, stop=piece + "\x01no"), text)

    def test_stop_is_not_matched_in_the_prompt(self):
        text = self.text(prompt="zebra zebra", max_tokens=10, ignore_eos=True)
        if "zebra" not in text:
            self.assertEqual(self.text(prompt="zebra zebra", max_tokens=10, ignore_eos=True,
                                       stop="zebra"), text)

    def test_stop_ranges(self):
        self.complete(stop="x" * 1024)
        self.complete(stop=None)
        self.complete(stop=[])
        for stop in ("x" * 1025, ["a"] * 17, 5, [5], [None], {"a": 1}, True):
            with self.subTest(stop=str(stop)[:40]):
                self.assert_error(self.d.complete(prompt=PROMPT, stop=stop), 400, ["stop"])

    def find_eos(self):
        """A seed whose free-running answer holds EOS, and where."""
        for seed in range(60):
            ids = self.ids(temperature=2, seed=seed, max_tokens=150)
            if EOS in ids and 3 <= ids.index(EOS) < 140:
                return seed, ids, ids.index(EOS)
        self.fail("EOS never came in 60 seeds: is it masked?")

    def test_eos(self):
        seed, ids, at = self.find_eos()
        fields = {"temperature": 2, "seed": seed, "max_tokens": 150, "logprobs": 0}
        answer = self.complete(return_tokens_as_token_ids=True, **fields)
        choice = answer["choices"][0]
        self.assertEqual(token_ids(choice), ids[:at + 1])
        self.assertEqual(choice["finish_reason"], "stop")
        self.assertEqual(answer["usage"]["completion_tokens"], at + 1)
        self.assertNotIn("<|endoftext|>", choice["text"])
        named = self.complete(**fields)["choices"][0]
        self.assertEqual(named["logprobs"]["tokens"][-1], "<|endoftext|>")
        at_least = self.complete(min_tokens=at + 3, **fields)
        self.assertGreaterEqual(at_least["usage"]["completion_tokens"], at + 3)

    def test_min_tokens_range(self):
        for fields in ({"min_tokens": -1}, {"min_tokens": 9, "max_tokens": 8},
                       {"min_tokens": "1"}):
            with self.subTest(fields=fields):
                self.assert_error(self.d.complete(prompt=PROMPT, **fields), 400, ["min_tokens"])


class Values(CompletionCase):
    def test_invalid_values(self):
        bad = {
            "temperature": [-0.1, "hot", [], True, 1e30],
            "top_p": [-0.1, 1.1, "x", True],
            "top_k": [-2, 1.5, "x"],
            "min_p": [-0.1, 1.1, "x"],
            "seed": [1.5, "x", [], 1e300],
            "n": [0, -1, 1.5, "2", True],
            "max_tokens": [-1, 1.5, "5", True, 1e99, 2**63],
            "logprobs": [-1, 21, 1.5, "5", True],
            "echo": ["yes", 1],
            "stream": ["yes", 1],
            "ignore_eos": ["yes"],
            "return_tokens_as_token_ids": ["yes"],
            "model": [5, ["gqa"], {}],
            "stream_options": ["yes", 5],
        }
        for field, values in bad.items():
            for value in values:
                with self.subTest(field=field, value=value):
                    answer = self.d.complete(**{"prompt": PROMPT, field: value})
                    self.assert_error(answer, 400, [field])
        self.assert_alive()

    def test_null_means_absent(self):
        plain = self.text()
        for field in ("model", "max_tokens", "top_p", "top_k", "min_p", "seed", "n", "stop",
                      "logprobs", "echo", "stream", "stream_options", "ignore_eos",
                      "min_tokens", "return_tokens_as_token_ids", "user", "suffix", "best_of",
                      "logit_bias", "frequency_penalty", "presence_penalty"):
            with self.subTest(field=field):
                self.assertEqual(self.text(**{field: None}), plain)

    def test_fields_that_change_nothing(self):
        plain = self.text()
        for fields in ({"frequency_penalty": 0}, {"presence_penalty": 0.0}, {"logit_bias": {}},
                       {"best_of": 1}, {"user": "somebody"}, {"frobnicate": [1, {"a": 2}]},
                       {"repetition_penalty": 1.0}):
            with self.subTest(fields=fields):
                self.assertEqual(self.text(**fields), plain)

    def test_fields_that_would_change_the_answer(self):
        for field, value in (("frequency_penalty", 0.5), ("presence_penalty", -1),
                             ("logit_bias", {"50": 10}), ("best_of", 3), ("suffix", "end")):
            with self.subTest(field=field):
                self.assert_error(self.d.complete(**{"prompt": PROMPT, field: value}), 400,
                                  [field])

    def test_stream_options_without_stream(self):
        self.assert_error(self.d.complete(prompt=PROMPT,
                                          stream_options={"include_usage": True}), 400,
                          ["stream_options"])

    def test_tasks(self):
        by_task = [self.ids(model="multitask", task_id=t) for t in range(3)]
        self.assertEqual(len({tuple(i) for i in by_task}), 3)
        for task in ({}, {"task_id": None}, {"task_id": 3}, {"task_id": -1},
                     {"task_id": "0"}, {"task_id": 2**40}):
            with self.subTest(task=task):
                self.assert_error(self.d.complete(model="multitask", prompt=PROMPT, **task),
                                  400, ["task"])


if __name__ == "__main__":
    unittest.main()
