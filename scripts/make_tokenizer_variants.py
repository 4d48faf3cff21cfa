#!/usr/bin/env python3
"""Makes tests/golden/tokenizer/variants.json (development only; needs the tokenizers library).

Small tokenizers of the kinds that tokenizer.json files come in, each with texts, and what the
reference library makes of them. The vocabularies are made up; the settings are what is tested.

    python scripts/make_tokenizer_variants.py
"""
import copy
import json
import os
import random

import tokenizers
from tokenizers import Tokenizer

OUT = os.path.join(os.path.dirname(__file__), "..", "tests", "golden", "tokenizer", "variants.json")

PLAIN = [
    "", " ", "  ", "a", " a", "a b", "the cat  sat", "Hello, world", "it's 2024!", "x\n\ny", "\t\r\n z",
    "caf\u00e9 cafe\u0301", "\u00bd 3\u00b2 \u0663\u0664", "\u4e2d\u6587 \ud55c\uad6d", "\U0001f600a\U0001f468\u200d\U0001f469",
    "\u2581a\u2581 b", "a\u00a0b\u3000c\u2028d", "<unk>the</s>the<s> ", "e\u0301\u0316\u0301", "\ufb01\uff21\u212b",
    "12345678", "a1b22c333", "thethethethe", "___--", "\u180ea", "\u0000a\u0000",
]
ADDED = [
    "the<mask>cat", "the  <mask>  cat", "[R]  the", "[R]\n", " wrd ", "swrd wrds wrd", "wrd_wrd.wrd", "wrd\u0301", "\u24b6wrd",
    "<n> the <n>", "the <nn> a", "Zz zz Zzz", "<<<|<<<|", "<mask>[R] <mask>", "  <n>[R]  \n", "[R] \n \n", "<mask><mask>",
]


def byte_level_base():
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    alphabet = [chr(b) for b in plain] + [chr(0x100 + i) for i in range(len(rest))]
    merges = ["t h", "th e", "\u0120 the", "\u0120 a", "a t", "c at", "l l", "e ll", "\u0120 \u0120", "\u010a \u010a", "1 2", "3 4",
              "12 34", "\u00e4 \u00b8", "i t", "o r"]
    vocab = alphabet + [m.replace(" ", "") for m in merges] + ["\u0120cat", "<s>", "</s>"]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "vocab": {p: i for i, p in enumerate(vocab)},
                  "merges": merges},
    }


def spm_base():
    merges = ["t h", "th e", "\u2581 the", "\u2581 a", "a t", "c at", "\u2581 \u2581", "l l", "e ll", "1 2", "\u2581 cat"]
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + ["\u2581"]
    pieces += list("abcdefghijklmnopqrstuvwxyzHW123,.!'\u00e9\u4e2d")
    pieces += [m.replace(" ", "") for m in merges]
    special = [token(i, p, special=True) for i, p in enumerate(pieces[:3])]
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
                  "vocab": {p: i for i, p in enumerate(pieces)}, "merges": merges},
    }


def token(id, content, **flags):
    base = dict(id=id, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    return {**base, **flags}


def add_tokens(t, normalized=True):
    n = len(t["model"]["vocab"])
    t["added_tokens"] = t["added_tokens"] + [
        token(n, "<mask>", lstrip=True, special=True), token(n + 1, "[R]", rstrip=True),
        token(n + 2, "wrd", single_word=True), token(n + 3, "<<<|"), token(n + 4, " \n"),
        token(n + 5, "<n>", lstrip=True, rstrip=True, special=True), token(n + 6, "<nn>", special=True),
        token(n + 7, "Zz", normalized=normalized)]


def split(regex, behavior, invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: regex}, "behavior": behavior, "invert": invert}


def bytes_only():
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def variants():
    t = byte_level_base()
    yield "byte level", t
    t = byte_level_base()
    t["pre_tokenizer"]["add_prefix_space"] = True
    add_tokens(t)
    yield "byte level, prefix space, added tokens", t
    t = byte_level_base()
    t["model"]["ignore_merges"] = True
    t["model"]["merges"] = [m.split(" ") for m in t["model"]["merges"]]
    t["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        split(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
              "Isolated"), bytes_only()]}
    end = t["model"]["vocab"]["</s>"]
    t["post_processor"] = {"type": "Sequence", "processors": [bytes_only(), {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "E", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"B": {"id": "B", "ids": [end - 1], "tokens": ["<s>"]},
                           "E": {"id": "E", "ids": [end, end - 1], "tokens": ["</s>", "<s>"]}}}]}
    t["added_tokens"] = [token(end - 1, "<s>", special=True), token(end, "</s>", special=True)]
    yield "split, ignore_merges, template before and after", t
    t = byte_level_base()
    t["normalizer"] = {"type": "NFC"}
    t["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}
    yield "NFC, digits one by one", t
    t = byte_level_base()
    t["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "NFKD"}, {"type": "Replace", "pattern": {"String": "e\u0301"}, "content": "E"}]}
    t["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": False}, split(r"\s+|\p{P}", "Removed"), bytes_only()]}
    add_tokens(t)
    yield "NFKD and Replace, digit runs, removed matches", t
    t = byte_level_base()
    t["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        split(r"[^\r\n\p{L}\p{N}]?+\p{L}+|\p{Nd}{1,2}|\s+", "Removed", True), bytes_only()]}
    yield "only matches kept", t
    t = spm_base()
    yield "byte fallback, Prepend and Replace", t
    t = spm_base()
    add_tokens(t, False)
    t["model"]["byte_fallback"] = False
    yield "unknown characters fused, added tokens", t
    t = spm_base()
    t["model"].update(byte_fallback=False, fuse_unk=False)
    t["decoder"]["decoders"][3]["start"] = 2
    yield "unknown characters one by one, two spaces stripped", t
    t = spm_base()
    t["model"]["vocab"]["no <0xE4>"] = t["model"]["vocab"].pop("<0xE4>")
    t["model"]["vocab"]["no <0xED>"] = t["model"]["vocab"].pop("<0xED>")
    yield "byte fallback with gaps", t
    for scheme in "always", "first", "never":
        for splits in True, False:
            t = spm_base()
            meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": splits}
            t.update(normalizer=None, pre_tokenizer=meta, decoder=meta)
            add_tokens(t)
            yield f"Metaspace {scheme}{', split' if splits else ''}", t


def cases(name, t, rng):
    ref = Tokenizer.from_str(json.dumps(t))
    n = ref.get_vocab_size()
    texts = PLAIN + (ADDED if "added" in name or "Metaspace" in name else [])
    out = []
    for text in texts:
        ids = ref.encode(text, add_special_tokens=False).ids
        special = ref.encode(text, add_special_tokens=True).ids
        out.append({"text": text, "ids": ids, "ids_with_special": special,
                    "decoded": ref.decode(ids, skip_special_tokens=False),
                    "decoded_skip_special": ref.decode(special, skip_special_tokens=True)})
    random_ids = []
    for _ in range(30):
        ids = [rng.choice([rng.randrange(n), 3 + rng.choice([0xE2, 0x82, 0xAC, 0xC3, 0xA9, 0x41, 0x20])])
               for _ in range(rng.randrange(1, 10))]
        random_ids.append({"ids": ids, "decoded": ref.decode(ids, skip_special_tokens=False),
                           "decoded_skip_special": ref.decode(ids, skip_special_tokens=True)})
    return {"name": name, "tokenizer": t, "cases": out, "decode_only": random_ids}


def main():
    rng = random.Random(7)
    made = [cases(name, copy.deepcopy(t), rng) for name, t in variants()]
    with open(OUT, "w", encoding="utf-8") as f:
        f.write('{"source": "tokenizers %s; scripts/make_tokenizer_variants.py",\n"variants": [\n' % tokenizers.__version__)
        f.write(",\n".join(json.dumps(m, separators=(",", ":")) for m in made))
        f.write("\n]}\n")


if __name__ == "__main__":
    main()
