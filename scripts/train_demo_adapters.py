#!/usr/bin/env python3
"""Train and measure the demo adapters on SmolLM2-135M-Instruct with PEFT.

Development only: the results are committed under demo/smollm2, nobody needs this script to
build or run prefixd. Needs torch, transformers and peft; the base is the file that
scripts/get_demo_model leaves in the cache, dequantised to f32.

    scripts/train_demo_adapters.py                       # make all, then measure
    scripts/train_demo_adapters.py --only sentiment
    scripts/train_demo_adapters.py --no-train            # measure what is committed

  sentiment  PROMPT_TUNING, 16 virtual tokens: a review is answered with strict JSON
  pirate     PREFIX_TUNING, 8 virtual tokens: anything is answered as a pirate would
  brief      a text adapter, not trained: a system prompt and three examples, written below
Everything is seeded (the data: demo_data.py); about five minutes an adapter on one core.
"""
import argparse
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import time

import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import demo_data

HERE = pathlib.Path(__file__).resolve().parent
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
SOFT_INIT = "Reply with the sentiment of the review as JSON."
PREFIX_INIT = "<|im_start|>system\nTalk like a pirate,"


def chat(text):
    """The one prompt form of all demo adapters: a user turn, and the assistant's to come."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def system(text):
    return f"<|im_start|>system\n{text}<|im_end|>\n"


def load_base(gguf):
    """The dequantised model and its tokenizer. The weights move into a fresh, plain f32 model,
    because the one that comes out of a GGUF file counts as quantised and refuses much."""
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    model.eval()
    model.requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(**where)


def encode(tok, text):
    return tok(text, add_special_tokens=False).input_ids


# --- answers ---------------------------------------------------------------------------------

@torch.no_grad()
def greedy(model, tok, prompt_ids, most):
    """Greedy answer of a base or PEFT model, batch of one, without its end-of-text token."""
    core = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    out, ids = model(input_ids=torch.tensor([prompt_ids]), use_cache=True), []
    while len(ids) < most:
        ids.append(out.logits[0, -1].argmax().item())
        if ids[-1] == tok.eos_token_id:
            return ids[:-1], True
        out = core(input_ids=torch.tensor([ids[-1:]]), past_key_values=out.past_key_values,
                   use_cache=True)
    return ids, False


def answer(model, tok, text, most, head=""):
    """(text of the answer, whether it ended by itself); head stands before the user's turn."""
    ids, ended = greedy(model, tok, encode(tok, head + chat(text)), most)
    return tok.decode(ids), ended


@torch.no_grad()
def base_answers(base, tok, questions, most=32):
    """Greedy answers of the base to many questions, sixteen at a time, for training only."""
    tok.padding_side, out = "left", []
    for at in range(0, len(questions), 16):
        x = tok([chat(q) for q in questions[at:at + 16]], return_tensors="pt", padding=True,
                add_special_tokens=False)
        y = base.generate(**x, max_new_tokens=most, do_sample=False)
        out += tok.batch_decode(y[:, x.input_ids.shape[1]:], skip_special_tokens=True)
    return out


# --- training --------------------------------------------------------------------------------

def pairs_to_rows(tok, pairs):
    """(prompt ids, answer ids with EOS) of (text, answer) pairs."""
    return [(encode(tok, chat(text)), encode(tok, reply) + [tok.eos_token_id])
            for text, reply in pairs]


def collate(rows, pad):
    """Right-padded ids, mask and labels; only the answers are learned."""
    longest = max(len(p) + len(a) for p, a in rows)
    ids, mask, labels = [], [], []
    for prompt, reply in rows:
        n, fill = len(prompt) + len(reply), longest - len(prompt) - len(reply)
        ids.append(prompt + reply + [pad] * fill)
        mask.append([1] * n + [0] * fill)
        labels.append([-100] * len(prompt) + reply + [-100] * fill)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask),
            "labels": torch.tensor(labels)}


def batches(rows, size, seed):
    """Shuffled batches, epoch after epoch, without end."""
    rng = random.Random(seed)
    while True:
        order = rows[:]
        rng.shuffle(order)
        for at in range(0, len(order) - size + 1, size):
            yield order[at:at + size]


def fit(model, rows, steps, peak, pad, label, size=8, warmup=5):
    """AdamW with a half-cosine rate on the few parameters that PEFT left trainable."""
    params = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=peak, weight_decay=0.0)
    begun, source = time.time(), batches(rows, size, seed=7)
    for step in range(steps):
        rate = min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in opt.param_groups:
            group["lr"] = peak * max(rate, 0.02)
        loss = model(**collate(next(source), pad)).loss
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        if step % 5 == 4:
            print(f"{label}: step {step + 1}/{steps} loss {loss.item():.3f} "
                  f"{time.time() - begun:.0f} s", file=sys.stderr, flush=True)
    model.eval()


def init_soft_prompt(model, base, tok):
    """Start from the embeddings of a sentence that asks for the same in words."""
    ids = encode(tok, system(SOFT_INIT))
    weight = model.prompt_encoder["default"].embedding.weight
    if len(ids) != len(weight):
        raise SystemExit(f"SOFT_INIT has {len(ids)} tokens, not {len(weight)}")
    weight.data.copy_(base.get_input_embeddings().weight[torch.tensor(ids)])


@torch.no_grad()
def init_prefix(model, base, tok):
    """Start from the keys and values of a sentence: rows [P, layer, K or V, head, head dim]."""
    ids = encode(tok, PREFIX_INIT)
    weight = model.prompt_encoder["default"].embedding.weight
    if len(ids) != len(weight):
        raise SystemExit(f"PREFIX_INIT has {len(ids)} tokens, not {len(weight)}")
    cache = base(input_ids=torch.tensor([ids]), use_cache=True).past_key_values
    kv = torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers])
    weight.data.copy_(kv.permute(3, 0, 1, 2, 4).reshape(weight.shape))


def save(model, out):
    """PEFT's own two files, without the model card and without this machine's paths."""
    model.peft_config["default"].base_model_name_or_path = BASE_NAME
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    (out / "adapter_model.safetensors").chmod(0o644)


def train_sentiment(base, tok, steps):
    torch.manual_seed(1)
    rows = pairs_to_rows(tok, [(text, demo_data.sentiment_answer(label))
                               for text, label in demo_data.reviews(11, 320, held_out=False)])
    model = peft.get_peft_model(base, peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=16))
    init_soft_prompt(model, base, tok)
    fit(model, rows, steps or 70, 5e-3, tok.pad_token_id, "sentiment")
    return model


def train_pirate(base, tok, steps):
    torch.manual_seed(1)
    questions = demo_data.pirate_questions(12, 100, held_out=False)
    plain = base_answers(base, tok, questions)
    rows = pairs_to_rows(tok, [(q, demo_data.pirate_answer(a, i))
                               for i, (q, a) in enumerate(zip(questions, plain))])
    model = peft.get_peft_model(base, peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=8))
    init_prefix(model, base, tok)
    fit(model, rows, steps or 60, 2e-2, tok.pad_token_id, "pirate")
    return model


# --- the text adapter ------------------------------------------------------------------------

BRIEF = "Answer in exactly one short sentence."
BRIEF_EXAMPLES = [("What is a violin?", "A string instrument played with a bow."),
                  ("My room was noisy.", "Sorry about the noise."),
                  ("How do I bake a cake?", "Mix, pour, bake for forty minutes.")]


def brief_text():
    return system(BRIEF) + "".join(f"{chat(q)}{a}<|im_end|>\n" for q, a in BRIEF_EXAMPLES)


def write_brief(out):
    text = json.dumps({"kind": "text", "text": brief_text()}, indent=2)
    (out / "brief.json").write_text(text + "\n")


# --- measuring -------------------------------------------------------------------------------

SENTIMENT_IN_WORDS = ('Answer only with {"sentiment": "positive"} or {"sentiment": "negative"}, '
                      "the sentiment of the user's review.")
PIRATE_IN_WORDS = "You are a pirate. Answer everything as a pirate would talk."


def is_right_json(reply, label):
    text, ended = reply
    try:
        return ended and json.loads(text) == {"sentiment": label}
    except ValueError:
        return False


def is_brief(reply):
    """One sentence on one line that ended by itself."""
    text, ended = reply
    return ended and "\n" not in text and len(demo_data.sentences(text)) == 1


def measure_sentiment(model, tok, head="", count=60):
    """How many held-out reviews are answered with exactly the right JSON object, and end."""
    return sum(is_right_json(answer(model, tok, text, 16, head), label)
               for text, label in demo_data.reviews(21, count, held_out=True)), count


def measure_pirate(model, tok, head="", count=40):
    """How many answers to held-out questions have three different pirate words or more."""
    return sum(demo_data.pirate_words_in(answer(model, tok, q, 40, head)[0]) >= 3
               for q in demo_data.pirate_questions(22, count, held_out=True)), count


def measure_brief(model, tok, head="", count=40):
    """How many answers to held-out questions are one sentence of at most 24 tokens."""
    return sum(is_brief(answer(model, tok, q, 25, head))
               for q in demo_data.pirate_questions(22, count, held_out=True)), count


# name: how it is trained, how it is measured, the same asked for in words
ADAPTERS = {
    "brief": (None, measure_brief, BRIEF),
    "pirate": (train_pirate, measure_pirate, PIRATE_IN_WORDS),
    "sentiment": (train_sentiment, measure_sentiment, SENTIMENT_IN_WORDS),
}


def report(name, who, figure):
    print(f"{name}: {who}: {figure[0]} of {figure[1]}", flush=True)


def make(gguf, out, name, steps):
    train = ADAPTERS[name][0]
    if train is None:
        write_brief(out)
        return
    base, tok = load_base(gguf)
    save(train(base, tok, steps), out / name)


def measure(gguf, out, name):
    """The bare base, the base told in words, and the adapter as saved, on the same prompts."""
    train, figure, in_words = ADAPTERS[name]
    base, tok = load_base(gguf)
    report(name, "bare base", figure(base, tok))
    report(name, "base with a system prompt", figure(base, tok, system(in_words)))
    if train is None:
        text = json.loads((out / f"{name}.json").read_text())["text"]
        report(name, "adapter", figure(base, tok, text))
    else:
        model = peft.PeftModel.from_pretrained(base, out / name).eval()
        report(name, "adapter", figure(model, tok))


def cached_gguf():
    path = subprocess.run([HERE / "get_demo_model"], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()
    return pathlib.Path(path)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--gguf", type=pathlib.Path, help="default: what get_demo_model prints")
    ap.add_argument("--out", type=pathlib.Path, default=HERE.parent / "demo" / "smollm2")
    ap.add_argument("--only", choices=sorted(ADAPTERS))
    ap.add_argument("--steps", type=int, help="training steps, instead of each adapter's own")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--no-train", action="store_true")
    ap.add_argument("--no-measure", action="store_true")
    args = ap.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(args.threads)
    gguf = args.gguf or cached_gguf()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [args.only] if args.only else sorted(ADAPTERS):
        if not args.no_train:
            make(gguf, args.out, name, args.steps)
        if not args.no_measure:
            measure(gguf, args.out, name)


if __name__ == "__main__":
    main()
