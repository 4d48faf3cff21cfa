#!/usr/bin/python3
"""Make adapters that mean nothing, for measurements: random soft prompts, or one long text.

    scripts/bench/make_adapters.py OUT --soft 16 --tokens 16 --dim 576
    scripts/bench/make_adapters.py OUT --text 2400

OUT can be given to --adapters: soft-00, soft-01, ... as PEFT saves prompt tuning, and
long-text.json. The text stands in OUT/long-text.txt as well, for clients that send it instead
(loadtest.py --before @FILE).
The same arguments make the same bytes.
"""

import argparse
import json
import pathlib
import random
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "loadtest"))
from loadtest import WORDS  # noqa: E402  (the path is made above)


def soft_prompt(folder, seed, tokens, dim):
    """Rows about as long as those of token embeddings: what the numbers are does not matter."""
    chance = random.Random(seed)
    data = struct.pack(f"<{tokens * dim}f", *(chance.gauss(0, 0.1) for _ in range(tokens * dim)))
    tensor = {"dtype": "F32", "shape": [tokens, dim], "data_offsets": [0, len(data)]}
    header = json.dumps({"prompt_embeddings": tensor}).encode()
    header += b" " * (-len(header) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + data)
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": tokens,
         "token_dim": dim, "num_transformer_submodules": 1}, indent=1))


def long_text(out, words):
    text = " ".join(random.Random(words).choices(WORDS, k=words)) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "long-text.txt").write_text(text)
    (out / "long-text.json").write_text(json.dumps({"kind": "text", "text": text}))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--soft", type=int, default=0, help="how many soft prompts")
    parser.add_argument("--tokens", type=int, default=16, help="virtual tokens of each")
    parser.add_argument("--dim", type=int, default=576, help="width of the model")
    parser.add_argument("--text", type=int, default=0, help="words of a text adapter")
    args = parser.parse_args()
    for i in range(args.soft):
        soft_prompt(args.out / f"soft-{i:02}", i, args.tokens, args.dim)
    if args.text:
        long_text(args.out, args.text)


if __name__ == "__main__":
    main()
