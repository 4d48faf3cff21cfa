#!/usr/bin/env python3
"""Train demo/tiny: a small Llama-shaped model and two adapters on it, from public-domain text.

Development only: the result is committed, nobody needs this script to build or run prefixd.
Needs torch, transformers, tokenizers, peft and safetensors.

The committed files were made with

    scripts/make_demo_model.py --text tinyshakespeare.txt --out demo/tiny

where the text is "tiny Shakespeare", 1 115 394 bytes of Shakespeare's plays (public domain),
    SHA-256 86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed
Another text works too, the script only warns. Everything is seeded; the same versions of the
libraries on the same kind of CPU give the same files, other ones give a model as good.
About seven minutes on one core. `--part adapters` trains the adapters again on a model that is there.
"""
import argparse
import hashlib
import json
import math
import pathlib
import shutil
import sys
import time

import peft
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

TEXT_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
BASE_NAME = "prefixd/tiny"
EOS = "<|endoftext|>"
VOCAB = 768
WINDOW = 256
# A "document" is this many speeches; the end-of-text token after it is what makes answers end.
SPEECHES_PER_DOCUMENT = 4


def read_speeches(path):
    """The text's speeches: "NAME:" and its lines, separated in the file by empty lines."""
    data = pathlib.Path(path).read_bytes()
    if hashlib.sha256(data).hexdigest() != TEXT_SHA256:
        print("note: not the text that the committed model was trained on", file=sys.stderr)
    return [s.strip() for s in data.decode("utf-8").split("\n\n") if s.strip()]


def train_tokenizer(speeches):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(speeches, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=[EOS], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tok


def encode_documents(tok, speeches):
    """All speeches as one row of token ids, with EOS between documents."""
    ids = []
    for at in range(0, len(speeches), SPEECHES_PER_DOCUMENT):
        document = "\n\n".join(speeches[at:at + SPEECHES_PER_DOCUMENT])
        ids += tok.encode(document).ids + [tok.token_to_id(EOS)]
    return torch.tensor(ids)


def fresh_model(eos):
    """0.84 M parameters: four layers, two query heads to each of two KV heads, tied head."""
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCAB, hidden_size=128, intermediate_size=352, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        rms_norm_eps=1e-5, tie_word_embeddings=True, initializer_range=0.04,
        bos_token_id=eos, eos_token_id=eos, pad_token_id=None))


def learning_rate(step, steps, peak, warmup=40):
    """Linear warm-up, then a half cosine down to a twentieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def random_windows(ids, n, length, rng):
    starts = torch.randint(0, len(ids) - length, (n,), generator=rng)
    return torch.stack([ids[s:s + length] for s in starts.tolist()])


def train(model, batches, steps, peak, decay, label):
    """AdamW over batches(step); the loss is the model's own next-token loss."""
    params = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=peak, betas=(0.9, 0.98), weight_decay=decay)
    model.train()
    begun, mean = time.time(), None
    for step in range(steps):
        for group in opt.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        x = batches(step)
        loss = model(input_ids=x, labels=x).loss
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        if step % 50 == 49 or step == steps - 1:
            print(f"{label}: step {step + 1}/{steps} loss {mean:.3f} "
                  f"{time.time() - begun:.0f} s", file=sys.stderr, flush=True)
    model.eval()


def held_out_loss(model, ids):
    """Mean loss over consecutive windows of ids."""
    with torch.no_grad():
        windows = ids[:len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
        return sum(model(input_ids=w[None], labels=w[None]).loss.item()
                   for w in windows) / len(windows)


def make_model(speeches, out, steps):
    tok = train_tokenizer(speeches)
    eos = tok.token_to_id(EOS)
    ids = encode_documents(tok, speeches)
    cut = len(ids) * 95 // 100
    model = fresh_model(eos)
    rng = torch.Generator().manual_seed(1)
    train(model, lambda _: random_windows(ids[:cut], 12, WINDOW, rng), steps, 4e-3, 0.1, "model")
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=eos, eos_token_id=eos)
    model.config.name_or_path = ""
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tok.save(str(out / "tokenizer.json"))
    loss = held_out_loss(model.float(), ids[cut:])
    print(f"model: {len(ids)} tokens of text, held-out loss {loss:.3f} a token", file=sys.stderr)


def save_adapter(model, out):
    """PEFT's own two files, without the model card."""
    model.peft_config["default"].base_model_name_or_path = BASE_NAME
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    (out / "adapter_model.safetensors").chmod(0o644)


def verse_ids(tok, speeches):
    """Speeches whose every line begins with a capital (verse), long enough for a window."""
    verse = []
    for s in speeches:
        lines = s.split("\n")[1:]
        if len(lines) >= 4 and all(line[:1].isupper() for line in lines):
            verse.append("\n".join(lines))
    return torch.tensor(tok.encode("\n".join(verse)).ids)


def question_ids(tok, speeches):
    """Speeches that ask: those with two question marks or more."""
    asking = [s for s in speeches if s.count("?") >= 2]
    return torch.tensor(tok.encode("\n\n".join(asking)).ids)


def make_adapters(speeches, model_dir, out, steps):
    tok = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    plans = {
        "verse": (peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=8),
                  verse_ids(tok, speeches), 3e-2),
        "prefix": (peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
                   question_ids(tok, speeches), 3e-2),
    }
    for name, (config, ids, peak) in plans.items():
        torch.manual_seed(2)
        rng = torch.Generator().manual_seed(3)
        base = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        model = peft.get_peft_model(base, config)
        train(model, lambda _: random_windows(ids, 12, 64, rng), steps, peak, 0.0, name)
        shutil.rmtree(out / name, ignore_errors=True)
        save_adapter(model, out / name)
    text = {"kind": "text", "text": "ROMEO:\nO, she doth teach the torches to burn bright!\n\n"}
    (out / "romeo.json").write_text(json.dumps(text, indent=2) + "\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--text", required=True, help="the training text, UTF-8")
    ap.add_argument("--out", default="demo/tiny", type=pathlib.Path)
    ap.add_argument("--part", choices=["all", "model", "adapters"], default="all")
    ap.add_argument("--steps", type=int, default=700, help="training steps of the model")
    ap.add_argument("--adapter-steps", type=int, default=150)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    speeches = read_speeches(args.text)
    model_dir, adapters = args.out / "model", args.out / "adapters"
    if args.part != "adapters":
        model_dir.mkdir(parents=True, exist_ok=True)
        make_model(speeches, model_dir, args.steps)
    if args.part != "model":
        adapters.mkdir(parents=True, exist_ok=True)
        make_adapters(speeches, model_dir, adapters, args.adapter_steps)


if __name__ == "__main__":
    main()
