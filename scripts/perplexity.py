#!/usr/bin/env python3
"""Perplexity of a text under each type of weights, over HTTP with echo and logprobs.

    scripts/perplexity.py MODEL TEXT --dtypes f32,bf16,int8,int4 --tokens 20000

The text is cut into windows of --context tokens, each scored from its second token on. A daemon is started for
each type in turn; the tokens of the first type are the reference: behind each perplexity stands its ratio to it,
with the standard error of that ratio (the same tokens are scored, so it is far smaller than that of either).
"""
import argparse
import json
import math
import subprocess
import sys
import urllib.request


def post(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def url_of(daemon):
    """What the daemon says once it listens; its log goes where ours goes."""
    for line in daemon.stdout:
        if line.startswith("listening on "):
            return line.split()[-1]
    sys.exit("the daemon ended before it listened")


def score(url, text, args):
    """Log-probabilities of all scored tokens."""
    ids = post(url, "/tokenize", {"content": text})["tokens"][:args.tokens]
    scores = []
    for first in range(0, len(ids) - args.context + 1, args.context):
        prompt = ids[first:first + args.context]
        body = {"model": "", "prompt": prompt, "echo": True, "logprobs": 0, "max_tokens": 0}
        scores += post(url, "/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"][1:]
    return scores


def run(dtype, text, args):
    command = [args.daemon, "--model", args.model, "--dtype", dtype, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            return score(url_of(daemon), text, args)
        finally:
            daemon.terminate()


def mean(values):
    return sum(values) / len(values)


def report(dtype, scores, reference):
    differences = [a - b for a, b in zip(reference, scores)]
    ratio = math.exp(mean(differences))
    spread = math.sqrt(mean([(d - mean(differences)) ** 2 for d in differences]) / len(differences))
    print(f"{dtype}: perplexity {math.exp(-mean(scores)):.4f} over {len(scores)} tokens, "
          f"{100 * (ratio - 1):+.3f} % (standard error {100 * ratio * spread:.3f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--dtypes", default="f32,bf16,int8,int4")
    parser.add_argument("--tokens", type=int, default=20000)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--daemon", default="build/prefixd")
    args = parser.parse_args()
    with open(args.text, encoding="utf-8") as file:
        text = file.read(args.tokens * 16)
    reference = None
    for dtype in args.dtypes.split(","):
        scores = run(dtype, text, args)
        reference = reference or scores
        report(dtype, scores, reference)


if __name__ == "__main__":
    main()
