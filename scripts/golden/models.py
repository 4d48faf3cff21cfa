"""Tiny random Llama models, each with the traits that its name says, and their tokenizers."""

import json
import shutil

import torch
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)
from transformers import LlamaConfig, LlamaForCausalLM

from golden.files import MODELS, write_plain

EOS = "<|endoftext|>"
END = "<|end|>"
START = "<|start|>"

LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# d: hidden, hd: head_dim, h/kv: heads; dtype is how the weights are stored.
SPECS = {
    "gqa": dict(seed=11, d=64, layers=3, h=4, kv=2, hd=16, ffn=128, vocab=320, tied=True,
                dtype=torch.float32, rope=dict(rope_type="default", rope_theta=10000.0),
                split="gpt2"),
    "wide": dict(seed=12, d=48, layers=2, h=6, kv=3, hd=32, ffn=80, vocab=288, tied=False,
                 bias=True, dtype=torch.float32,
                 rope=dict(rope_type="default", rope_theta=50000.0), split="smollm"),
    "mha": dict(seed=13, d=40, layers=2, h=4, kv=4, hd=10, ffn=72, vocab=259, tied=False,
                dtype=torch.float32, rope=dict(rope_type="default", rope_theta=10000.0),
                split="gpt2"),
    "llama3": dict(seed=14, d=64, layers=3, h=4, kv=2, hd=16, ffn=128, vocab=320, tied=True,
                   dtype=torch.bfloat16, split="llama3",
                   rope=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0,
                             low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=32)),
    "linear": dict(seed=15, d=64, layers=2, h=4, kv=1, hd=16, ffn=112, vocab=272, tied=False,
                   dtype=torch.float16, split="smollm",
                   rope=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
    # The source of mixed.gguf; never written as a directory.
    "mixed": dict(seed=16, d=64, layers=3, h=4, kv=2, hd=16, ffn=96, vocab=304, tied=False,
                  dtype=torch.float32, rope=dict(rope_type="default", rope_theta=20000.0),
                  split="smollm"),
}


def corpus():
    """Seeded text of made-up words, numbers and some non-ASCII, for the merges."""
    rng = torch.Generator().manual_seed(5)

    def pick(items):
        return items[int(torch.randint(len(items), (1,), generator=rng))]

    parts = ["the", "and", "er", "ing", "on", "th", "re", "an", "in", "st", "le", "é", "ü"]
    for _ in range(400):
        words = ["".join(pick(parts) for _ in range(1 + int(pick("012")))) for _ in range(9)]
        yield " ".join(words) + f" {pick('0123456789')}{pick('0123456789')}" + pick([".", ",\n"])


def _pre_tokenizer(split):
    if split == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if split == "smollm":
        return pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def make_tokenizer(spec):
    """Byte-level BPE of exactly the model's vocabulary size, special tokens last."""
    specials = [EOS, END, START] if spec["split"] != "gpt2" else [EOS]
    tok = Tokenizer(models.BPE(ignore_merges=spec["split"] == "llama3"))
    tok.pre_tokenizer = _pre_tokenizer(spec["split"])
    tok.decoder = decoders.ByteLevel()
    if spec["split"] == "gpt2" and spec["vocab"] > 300:
        tok.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(vocab_size=spec["vocab"] - len(specials), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(corpus(), trainer)
    tok.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    if spec["split"] == "llama3":
        tok.post_processor = processors.TemplateProcessing(
            single=f"{START} $A", special_tokens=[(START, tok.token_to_id(START))])
    if tok.get_vocab_size() != spec["vocab"]:
        raise SystemExit(f"tokenizer has {tok.get_vocab_size()} tokens, not {spec['vocab']}")
    return tok


def make_config(spec, tok):
    return LlamaConfig(
        vocab_size=spec["vocab"], hidden_size=spec["d"], intermediate_size=spec["ffn"],
        num_hidden_layers=spec["layers"], num_attention_heads=spec["h"],
        num_key_value_heads=spec["kv"], head_dim=spec["hd"], max_position_embeddings=256,
        rms_norm_eps=1e-5, tie_word_embeddings=spec["tied"], rope_parameters=spec["rope"],
        attention_bias=spec.get("bias", False), mlp_bias=spec.get("bias", False),
        bos_token_id=tok.token_to_id(START) or tok.token_to_id(EOS),
        eos_token_id=tok.token_to_id(EOS), pad_token_id=None, dtype=spec["dtype"])


def make_model(spec, tok):
    """Weights large enough that attention, every layer and the adapters matter."""
    model = LlamaForCausalLM(make_config(spec, tok)).float().eval()
    rng = torch.Generator().manual_seed(spec["seed"])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=rng)
            if "norm" in name:
                weight.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                weight.copy_(0.3 * noise)
            elif "embed" in name or "lm_head" in name:
                weight.copy_(0.6 * noise)
            else:
                weight.copy_(1.5 * noise / weight.shape[1] ** 0.5)
    return model


def _to_old_rope_form(path):
    """Rewrites a config as older versions wrote it: rope_theta, rope_scaling, torch_dtype."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = {"factor": rope["factor"], "type": rope["rope_type"]}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.40.0"
    write_plain(path, dict(sorted(config.items())))


def write_model(name):
    """One model as a Hugging Face directory."""
    spec = SPECS[name]
    folder = MODELS / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tok = make_tokenizer(spec)
    model = make_model(spec, tok).to(spec["dtype"])
    if name == "llama3":
        # The generation config knows one end more than the config.
        model.generation_config.eos_token_id = [tok.token_to_id(EOS), tok.token_to_id(END)]
    model.save_pretrained(folder, max_shard_size="120KB" if name == "linear" else "5GB")
    tok.save(str(folder / "tokenizer.json"))
    if name == "linear":
        _to_old_rope_form(folder / "config.json")
    print(f"models/{name}: {sum(f.stat().st_size for f in folder.iterdir())} bytes,",
          ", ".join(sorted(f.name for f in folder.iterdir())))


def load_model(name, dtype=torch.float32):
    """What transformers makes of the directory, with weights upcast to dtype."""
    model = LlamaForCausalLM.from_pretrained(MODELS / name, dtype=dtype,
                                             attn_implementation="eager")
    return model.eval()
