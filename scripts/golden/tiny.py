"""Goldens of the tiny models: prompts that suit every adapter, and the answers."""

import torch
from tokenizers import Tokenizer

from golden import adapters, gguf_llama, models, reference
from golden.files import ADAPTERS, GOLDEN, MODELS, how, write_json

LENGTHS = [1, 7, 40, 97]
NEW_TOKENS = 16
MARGIN = 0.02


def load_base(name, dtype=torch.float32):
    if name == "mixed":
        return gguf_llama.load_gguf(MODELS / "mixed.gguf", dtype)
    return models.load_model(name, dtype)


def write_model(name):
    if name != "mixed":
        return models.write_model(name)
    tok = models.make_tokenizer(models.SPECS[name])
    return gguf_llama.write_mixed(models.SPECS[name], models.make_model(models.SPECS[name], tok),
                                  tok)


def encoder(name):
    """The model's own tokenizer, without what its post-processor adds."""
    if name == "mixed":
        tok = models.make_tokenizer(models.SPECS[name])
    else:
        tok = Tokenizer.from_file(str(MODELS / name / "tokenizer.json"))
    return lambda text: tok.encode(text, add_special_tokens=False).ids


def open_all(name, dtype=torch.float32):
    """[(adapter, task, reference)], the base first, each over a model of its own."""
    listed = [(None, None, None)] + adapters.list_adapters(ADAPTERS / name)
    return [(adapter, task, reference.open_reference(load_base(name, dtype), path, task,
                                                     encoder(name)))
            for adapter, path, task in listed]


def find_prompt(references, length, vocab):
    """The first seeded prompt on which no step of any adapter is a near tie.

    Answers must differ from the base's too, or the adapter would not be seen to matter.
    """
    for seed in range(5000):
        rng = torch.Generator().manual_seed(1000 * length + seed)
        prompt = torch.randint(vocab, (length,), generator=rng).tolist()
        answers = []
        for _, _, ref in references:
            answer = reference.greedy(ref, prompt, NEW_TOKENS, MARGIN)
            if answer is None or answer in answers:
                break
            answers.append(answer)
        else:
            print(f"  length {length}: prompt seed {seed}")
            return prompt, answers
    raise SystemExit(f"no prompt of {length} tokens keeps every margin above {MARGIN}")


@torch.no_grad()
def check(references, exact, cases):
    """Each case against float64, and PEFT's generate against our steps."""
    by_name = {(a, t): ref for a, t, ref in references}
    exact_by_name = {(a, t): ref for a, t, ref in exact}
    worst = 0.0
    for c in cases:
        key = c["adapter"], c["task_id"]
        again = reference.case(exact_by_name[key], *key, c["prompt_ids"], c["ids"])
        pairs = list(zip(c["logprobs"], again["logprobs"]))
        pairs += list(zip(c["prompt_logprobs"][1:], again["prompt_logprobs"][1:]))
        worst = max([worst] + [abs(a - b) for a, b in pairs])
        ref = by_name[key]
        if isinstance(ref, reference.Peft):
            if ref.generate(c["prompt_ids"], NEW_TOKENS) != c["ids"]:
                raise SystemExit(f"PEFT's generate differs: {key}, {len(c['prompt_ids'])}")
    print(f"  largest difference from float64: {worst:.2g}")
    if worst > 1e-4:
        raise SystemExit("this model is too ill-conditioned to be a golden")


def write_cases(name):
    print(name)
    references = open_all(name)
    vocab = models.SPECS[name]["vocab"]
    cases = []
    for length in LENGTHS:
        prompt, answers = find_prompt(references, length, vocab)
        cases += [reference.case(ref, adapter, task, prompt, new)
                  for (adapter, task, ref), new in zip(references, answers)]
    check(references, open_all(name, torch.float64), cases)
    stored = str(models.SPECS[name]["dtype"]).removeprefix("torch.")
    note = "weights as stored, computed in float32"
    if name == "mixed":
        note = "weights dequantised by the gguf package, computed in float32"
    elif stored != "float32":
        note = f"stored as {stored}, upcast: compare with --dtype f32"
    head = {"how": how(f"make_golden.py cases {name}", "torch", "transformers", "peft"),
            "note": note, "margin": MARGIN}
    write_json(GOLDEN / f"{name}.json", head, "cases", cases)
