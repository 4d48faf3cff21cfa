"""A request's tokens and logprobs are the same bits alone, in any mix, with any settings."""

import json
import random
import unittest

from harness import GQA, GQA_ADAPTERS, Daemon, HttpCase, run_all

MODELS = [(None, {}), ("prompt_tuning", {}), ("prefix_tuning", {}), ("cartridge", {}),
          ("hidden_prefix", {}), ("text", {}), ("p_tuning_lstm", {}),
          ("multitask", {"task_id": 1}), ("multitask", {"task_id": 2})]


def requests(count, seed):
    """Requests of all adapters, lengths and samplings, the same ones for the same seed."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        model, more = MODELS[i % len(MODELS)]
        fields = {"model": model, **more, "max_tokens": rng.randint(1, 40),
                  "prompt": [rng.randrange(319) for _ in range(rng.choice((1, 3, 17, 64, 90)))],
                  "logprobs": 4, "return_tokens_as_token_ids": True, "ignore_eos": True,
                  "echo": rng.random() < 0.3, "temperature": 0}
        if rng.random() < 0.5:
            fields.update(temperature=rng.choice((0.7, 1.3)), seed=rng.randrange(1000),
                          top_p=rng.choice((1, 0.9)), top_k=rng.choice((0, 40)))
        made.append(fields)
    return made


def printed(daemon, fields):
    """The choices with every number as the characters that were sent."""
    answer = daemon.complete(**fields)
    if answer.status != 200:
        raise AssertionError(answer)
    return json.dumps(answer.raw_numbers["choices"])


class Mixes(HttpCase):
    @classmethod
    def daemon(cls):
        return Daemon(GQA, GQA_ADAPTERS, ["--dtype", "f32", "--max-batch", "16"])

    def test_alone_equals_in_any_mix(self):
        made = requests(36, seed=1)
        alone = [printed(self.d, r) for r in made]
        self.assertGreater(len(set(alone)), 30)
        for round_ in range(4):
            order = list(range(len(made)))
            random.Random(round_).shuffle(order)
            mixed = run_all([lambda i=i: printed(self.d, made[i]) for i in order])
            for i, text in zip(order, mixed):
                self.assertEqual(text, alone[i], made[i])

    def test_a_list_equals_its_parts(self):
        prompts = [[1, 2, 3], [9] * 50, [7]]
        fields = {"logprobs": 3, "max_tokens": 20, "model": "cartridge", "ignore_eos": True}
        together = json.loads(printed(self.d, {"prompt": prompts, **fields}))
        for choice, prompt in zip(together, prompts):
            part = json.loads(printed(self.d, {"prompt": prompt, **fields}))[0]
            self.assertEqual(choice["logprobs"], part["logprobs"])

    def test_the_base_is_that_of_a_daemon_without_adapters(self):
        made = [r for r in requests(36, seed=2) if r["model"] is None]
        with Daemon(GQA, flags=["--dtype", "f32"]) as bare:
            for r in made:
                self.assertEqual(printed(self.d, r), printed(bare, r))


class Settings(unittest.TestCase):
    def test_threads_chunks_and_batch_size_change_no_bit(self):
        for dtype in ("f32", "bf16", "int8"):
            made, answers = requests(18, seed=3), []
            for threads, chunk, batch in ((1, 64, 32), (2, 1, 4), (3, 7, 1), (2, 4096, 16)):
                with Daemon(GQA, GQA_ADAPTERS,
                            ["--dtype", dtype, "--threads", threads, "--max-batch", batch],
                            config={"prefill_chunk": chunk}) as d:
                    answers.append(run_all([lambda r=r: printed(d, r) for r in made]))
            for other in answers[1:]:
                for fields, a, b in zip(made, answers[0], other):
                    self.assertEqual(a, b, (dtype, fields))


if __name__ == "__main__":
    unittest.main()
