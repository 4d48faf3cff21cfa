#!/usr/bin/env python3
"""Makes tests/golden/tokenizer/smollm2.json: texts, ids and decoded texts of SmolLM2.

The vocabulary, merges and special tokens are those of the demo model's GGUF; the splitting,
merging and decoding are the Hugging Face tokenizers library's. Development only.

  make_tokenizer_vectors.py [--gguf FILE]
"""

import argparse
import pathlib

import gguf

from golden.files import GOLDEN, how, write_json
from golden.smollm2 import load_tokenizer, model_path

TEXTS = [
    # Nothing, and almost nothing.
    "", " ", "  ", "\n", "\t", "\r\n", "a", "é", "\u00a0", "\u3000", "\u200b", "\ufeff",
    # Words and the places where they part.
    "Hello world", " Hello world", "Hello  world", "hello   world    !", "HELLO hello HeLLo",
    "don't we'll I'M they've she'd you're 'tis rock'n'roll O'Neill's", "it’s a typographic ’quote’",
    "well-known, e.g. this; that: and (those) [here] {there} <everywhere>",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "zxqv jkwp wqxz", "...", "?!?!?!", "-----", "=== *** ###", "a,b,c;d", "a . b . c",
    # Digits stand alone.
    "0", "42", "1234567890", "3.14159", "1,000,000", "2024-02-29T23:59:60Z", "v1.2.3-rc4",
    "abc123def456", "12 34  56", "½ ¾ ² ³ ①②③", "٠١٢٣٤ ०१२३ ０１２３", "Ⅷ and ⅷ", "x²+y²=z²",
    # White space in runs, and at both ends.
    "  two before", "two after  ", "\n\n\nthree lines", "tab\tbetween\t\ttabs", " \n \n ",
    "line one\nline two\r\nline three\rline four", "a\u00a0b\u2003c\u2009d\u202fe",
    "    indented four\n        indented eight\n\tand a tab", "trailing newline\n", "a\n b\n  c\n   d",
    "x" + " " * 17 + "y", "x" + "\n" * 9 + "y", "x \t \n y",
    # Other scripts.
    "Größe, Straße, naïve, façade, Ångström, Łódź, İstanbul", "e\u0301 is not \u00e9",
    "Привет, мир!", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "你好，世界。", "こんにちは世界", "안녕하세요 세계", "Tiếng Việt có dấu", "ქართული ენა", "አማርኛ",
    # Emoji, joiners, variation selectors, flags, planes beyond the first.
    "😀", "👍🏽", "👨‍👩‍👧‍👦 family", "🇫🇷🇩🇪", "❤️ vs ❤", "a😀b😀😀c", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚", "𐍈𐌰 \U0010ffff",
    # Control characters; no NUL, at which C readers of JSON cut a string.
    "one\u0001inside", "bell\u0007 escape\u001b[31mred\u001b[0m", "\u0085\u2028\u2029",
    # Code.
    "def f(x: int) -> str:\n    return f\"{x!r}\"  # comment\n",
    "for (int i = 0; i < n; i++) { a[i] += *p++ & 0xFF; }", "#include <stdio.h>\n#define X(a) #a\n",
    "SELECT * FROM t WHERE a >= 10 AND b <> 'x''y';", "<div class=\"a\">&amp;</div>",
    "{\"key\": [1, 2.5e-3, null, true]}", "https://example.org/a/b?c=d&e=%20f#g", "a\\b\\\\c\\n",
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE _x __y__",
    # Special tokens, whole, in a row, inside words, broken, spaced.
    "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_start|><|im_end|>", "word<|im_end|>word", "a <|im_start|> b",
    "<|im_start", "<|im_start |>", "<|IM_START|>", "<<|im_end|>>", "<|im_end|>  two spaces",
    "<repo_name>x<file_sep>y<filename>z", "<reponame> <gh_stars>42<issue_start>", "<empty_output>",
    "<jupyter_code>print(1)<jupyter_output>1<jupyter_text>", "<not_a_token>", "<|begin_of_text|></s>",
    # Longer, mixed.
    "The quick brown fox jumps over 13 lazy dogs; le cœur a ses raisons — 真的吗? 😅\n\n\tEnd.",
    "ab" * 40, "a" * 65, "The the THE " * 8,
]


def case(tok, text):
    ids = tok.encode(text, add_special_tokens=False).ids
    return {"text": text, "ids": ids,
            "ids_with_special": tok.encode(text, add_special_tokens=True).ids,
            "decoded": tok.decode(ids, skip_special_tokens=False),
            "decoded_skip_special": tok.decode(ids, skip_special_tokens=True)}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=pathlib.Path, help="SmolLM2 file, else the cached one")
    path = model_path(parser.parse_args().gguf)
    tok = load_tokenizer(path)
    fields = gguf.GGUFReader(path).fields
    add_bos = fields["tokenizer.ggml.add_bos_token"].contents()
    bos = fields["tokenizer.ggml.bos_token_id"].contents()
    head = {"source": how("make_tokenizer_vectors.py", "tokenizers", "gguf")
                      + f" on the vocabulary of {path.name}",
            "note": f"the file says add_bos_token {str(add_bos).lower()} (bos {bos}): "
                    "nothing is added in ids_with_special"}
    if add_bos:
        raise SystemExit("this file wants a BOS, which ids_with_special would lack")
    write_json(GOLDEN / "tokenizer" / "smollm2.json", head, "cases",
               [case(tok, text) for text in TEXTS])


if __name__ == "__main__":
    main()
