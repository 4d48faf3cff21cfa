#!/usr/bin/env python3
"""Make "mid", the random Llama that benchmarks run on: real sizes, no meaning, the same bytes everywhere.

    scripts/make_mid_model.py OUT [--tokenizer MODEL.gguf]

24 layers of width 896, 14 query and 2 KV heads of 64, FFN 4864, 32000 tokens, head and embedding apart:
0.415 B weights in bf16, 0.83 GB, as a Hugging Face directory. The tokenizer is the byte-level BPE of the
demo model (scripts/get_demo_model), cut after as many merges as 32000 tokens leave room for, so that English
text has about as many tokens a word as with a model that was trained. Needs numpy.
"""
import argparse
import json
import pathlib
import struct
import subprocess

import numpy as np

LAYERS, DIM, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB = 24, 896, 14, 2, 64, 4864, 32000
EOS = "<|endoftext|>"
SEED = 415

# ---- weights -----------------------------------------------------------------------------------------


def tensors():
    """(name, shape) of every tensor, in the order of the file."""
    yield "model.embed_tokens.weight", (VOCAB, DIM)
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (DIM,)
        yield layer + "self_attn.q_proj.weight", (HEADS * HEAD_DIM, DIM)
        yield layer + "self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, DIM)
        yield layer + "self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, DIM)
        yield layer + "self_attn.o_proj.weight", (DIM, HEADS * HEAD_DIM)
        yield layer + "post_attention_layernorm.weight", (DIM,)
        yield layer + "mlp.gate_proj.weight", (FFN, DIM)
        yield layer + "mlp.up_proj.weight", (FFN, DIM)
        yield layer + "mlp.down_proj.weight", (DIM, FFN)
    yield "model.norm.weight", (DIM,)
    yield "lm_head.weight", (VOCAB, DIM)


def to_bf16(x):
    """The upper halves of f32, rounded to nearest even."""
    bits = x.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def values(rng, shape):
    """Norms near one; matrices with the spread that models are initialised with."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    return 1 + 0.1 * noise if len(shape) == 1 else 0.02 * noise


def write_weights(path):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.Generator(np.random.PCG64(SEED))
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, shape in tensors():
            to_bf16(values(rng, shape)).tofile(out)


# ---- tokenizer ---------------------------------------------------------------------------------------

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
           11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


def read(file, form):
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def read_value(file, kind):
    if kind == STRING:
        return file.read(read(file, "<Q")).decode()
    if kind == ARRAY:
        of, n = read(file, "<I"), read(file, "<Q")
        return [read_value(file, of) for _ in range(n)]
    return read(file, SCALARS[kind])


def gguf_merges(path):
    """The merges of a GGUF file's tokenizer, first comes first."""
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise SystemExit(f"{path}: not a GGUF file")
        read(file, "<I"), read(file, "<Q")
        for _ in range(read(file, "<Q")):
            key = read_value(file, STRING)
            value = read_value(file, read(file, "<I"))
            if key == "tokenizer.ggml.merges":
                return value
    raise SystemExit(f"{path}: no byte-level BPE tokenizer")


def byte_alphabet():
    """One printable character for each byte, as byte-level BPE names them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def make_tokenizer(merges):
    tokens, kept = [EOS, *byte_alphabet()], []
    known = set(tokens)
    for merge in merges:
        left, right = merge.split(" ")
        if len(tokens) < VOCAB and left in known and right in known and left + right not in known:
            tokens.append(left + right)
            known.add(left + right)
            kept.append([left, right])
    if len(tokens) != VOCAB:
        raise SystemExit(f"{len(tokens)} tokens, not {VOCAB}: too few merges")
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                   "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": 0, "content": EOS, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, bytes_alone]},
        "post_processor": None,
        "decoder": bytes_alone,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)}, "merges": kept},
    }


# ---- the directory -----------------------------------------------------------------------------------

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
    "hidden_size": DIM, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
    "vocab_size": VOCAB, "max_position_embeddings": 16384, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rope_theta": 10000.0,
    "hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False,
    "mlp_bias": False, "bos_token_id": 0, "eos_token_id": 0,
}
TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOS,
                    "eos_token": EOS, "clean_up_tokenization_spaces": False}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--tokenizer", help="GGUF file with a byte-level BPE (default: the demo model)")
    args = ap.parse_args()
    demo = pathlib.Path(__file__).parent / "get_demo_model"
    gguf = args.tokenizer or subprocess.check_output([demo], text=True).strip()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, value in (("config.json", CONFIG), ("tokenizer_config.json", TOKENIZER_CONFIG),
                        ("tokenizer.json", make_tokenizer(gguf_merges(gguf)))):
        (args.out / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
    write_weights(args.out / "model.safetensors")


if __name__ == "__main__":
    main()
