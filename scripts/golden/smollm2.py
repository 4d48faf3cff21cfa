"""Goldens of the demo model, SmolLM2-135M-Instruct, over its dequantised GGUF."""

import json
import os
import pathlib
import subprocess

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from golden import adapters, gguf_llama, reference
from golden.files import GOLDEN, MODELS, ROOT, how, write_json

NEW_TOKENS = 24
MARGIN = 0.01
CHAT = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n")
# More than are kept, in case an answer has a near tie.
PROMPTS = [CHAT.format("What is the capital of France?"),
           "The three primary colours are",
           "def fibonacci(n):\n    ",
           "Once upon a time, in a village by the sea,",
           CHAT.format("Name two planets.")]
PROMPTS_KEPT = 3


def model_path(given=None):
    """The GGUF file: the one given, or the cached one, downloaded if it must be."""
    if given:
        return given
    out = subprocess.run([ROOT / "scripts" / "get_demo_model"], stdout=subprocess.PIPE,
                         text=True)
    if out.returncode != 0:
        raise SystemExit(1)
    return pathlib.Path(out.stdout.strip())


def load_tokenizer(path):
    """The file's vocabulary and merges under SmolLM's pre-tokenizer."""
    reader = gguf.GGUFReader(path)

    def meta(key):
        return reader.fields[f"tokenizer.ggml.{key}"].contents()

    tokens, types = meta("tokens"), meta("token_type")
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)},
                               merges=[tuple(m.split(" ")) for m in meta("merges")]))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel()
    control = gguf.TokenType.CONTROL
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True)
                            for t, kind in zip(tokens, types) if kind == control])
    if tok.get_vocab_size() != len(tokens):
        raise SystemExit("the special tokens of the file are not in its vocabulary")
    return tok


def _prompts_of(adapter):
    """The prompts to try on an adapter: its own from smollm2_prompts.json, else the common ones.

    {"sentiment": ["<|im_start|>user...", ...], ...}; the base gets the common ones.
    """
    path = GOLDEN / "smollm2_prompts.json"
    if adapter and path.is_file():
        return json.loads(path.read_text()).get(adapter, PROMPTS)
    return PROMPTS


def write_cases(gguf_file, folder, out):
    path = model_path(gguf_file)
    tok = load_tokenizer(path)

    def encode(text):
        return tok.encode(text, add_special_tokens=False).ids

    cases = []
    listed = adapters.list_adapters(folder) if folder else []
    for adapter, adapter_path, task in [(None, None, None)] + listed:
        ref = reference.open_reference(gguf_llama.load_gguf(path), adapter_path, task, encode)
        kept = 0
        for text in _prompts_of(adapter):
            new = reference.greedy(ref, encode(text), NEW_TOKENS, MARGIN)
            print(f"{adapter}: {text!r} ->", repr(tok.decode(new)) if new else "a near tie")
            if new and kept < PROMPTS_KEPT:
                cases.append(reference.case(ref, adapter, task, encode(text), new))
                kept += 1
            if kept == PROMPTS_KEPT:
                break
        if kept == 0:
            raise SystemExit(f"{adapter}: every prompt has a near tie; give it others")
    command = "make_golden.py smollm2"
    if folder:
        command += f" --adapters {os.path.relpath(folder.resolve(), ROOT)}"
    head = {"how": how(command, "torch", "transformers", "peft", "gguf"),
            "note": "SmolLM2-135M-Instruct.Q4_1.gguf dequantised, computed in float32",
            "margin": MARGIN}
    write_json(out or GOLDEN / "smollm2.json", head, "cases", cases)


def write_dequant(gguf_file):
    for name, path in [("smollm2", model_path(gguf_file)), ("mixed", MODELS / "mixed.gguf")]:
        head = {"how": how("make_golden.py dequant", "gguf", "numpy"),
                "note": "SHA-256 of each tensor's float32 bytes, little-endian, file's row order"}
        write_json(GOLDEN / f"{name}_dequant.json", head, "tensors",
                   list(gguf_llama.dequant_digests(path)))
