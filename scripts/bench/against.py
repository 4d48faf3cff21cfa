#!/usr/bin/python3
"""Measure prefixd against a peer in turn (A, B, A, B, ...); prints ratios: min, median, max.

    scripts/bench/against.py engine --model M --peer PATH/llama-batched-bench --peer-model M.gguf \\
        prefill=512 rows=1 rows=32 rows=32,prefix=2048 rows=8,context=4096
    scripts/bench/against.py server --ours 'build/prefixd --model M --listen 127.0.0.1:{port}' \\
        --peer 'llama-server -m M.gguf -np 16 -c 16384 --port {port}' -- \\
        --clients 16 --words 32 --max-tokens 32 --requests 128
    scripts/bench/against.py start --ours COMMAND --peer COMMAND

engine: the same case on build/prefixd-bench and on the peer's own program.
server: the load of scripts/loadtest/loadtest.py (its flags after --) on two servers with OpenAI's
API, each a URL or a command; --ours-load and --peer-load: flags of one side. `--peer same` sends
both loads to one server, for instance to measure adapters against none. --fresh starts the servers
anew each time.
start: from the command to an answer of 200 at /health.

The ratio is ours over the peer's, of the same round: more is better for tok/s, less for times.
Nothing else should run meanwhile.
"""

import argparse
import contextlib
import json
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys

from engines import engine_of, parse_case, run
from servers import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOADTEST = ROOT / "scripts/loadtest/loadtest.py"
CASES = ["prefill=512", "rows=1", "rows=16", "rows=32", "rows=32,prefix=2048"]


def alternate(rounds, ours, peer):
    """[(ours, peer)] of {metric: figure}; a side is called with the number of the round."""
    pairs = []
    for i in range(rounds):
        pairs.append((ours(i), peer(i)))
        print(f"round {i + 1}/{rounds}: ours {pairs[-1][0]}, peer {pairs[-1][1]}", file=sys.stderr)
    return pairs


def report(args, name, pairs):
    """Prints a line for each metric that both sides have."""
    for metric in pairs[0][0]:
        a, b = [p[0][metric] for p in pairs], [p[1][metric] for p in pairs]
        if not all(a) or not all(b):
            continue
        ratios = sorted(x / y for x, y in zip(a, b))
        line = {"case": name, "metric": metric, "ours": statistics.median(a),
                "peer": statistics.median(b), "ratio_min": ratios[0],
                "ratio_median": statistics.median(ratios), "ratio_max": ratios[-1]}
        if args.json:
            print(json.dumps(line | {"ours_all": a, "peer_all": b}), flush=True)
        else:
            print("{case:24} {metric:18} ours {ours:9.2f}  peer {peer:9.2f}  ratio "
                  "{ratio_min:.3f}  {ratio_median:.3f}  {ratio_max:.3f}".format(**line), flush=True)


# ---- engine -------------------------------------------------------------------------------------


def engine_side(args, program, model, more, case):
    measure, more = engine_of(program), shlex.split(more)

    def once(_):
        rates = measure(program, model, case, args, more)
        if not rates:
            raise ValueError(f"{program} printed no figure")
        return {"tok/s": statistics.median(rates)}
    return once


def engine_cases(args):
    for text in args.cases or CASES:
        case = parse_case(text)
        ours = engine_side(args, args.bench, args.model, args.ours_args, case)
        peer = engine_side(args, args.peer, args.peer_model, args.peer_args, case)
        report(args, text, alternate(args.rounds, ours, peer))


# ---- server -------------------------------------------------------------------------------------


def load(url, flags, seed):
    """The figures of one load. No round asks for a prompt that an earlier one asked for."""
    found = json.loads(run([sys.executable, LOADTEST, "--url", url, "--seed", seed, *flags]))
    if found["cut"]:
        raise OSError(f"{found['cut']} requests were cut: give --seconds more or --requests less")
    ttft, between = found["ttft_ms"], found["inter_token_ms"]
    return {"tok/s": found["tokens_per_s"], "TTFT p50 ms": ttft["p50"], "TTFT p95 ms": ttft["p95"],
            "between p50 ms": between["p50"], "between p99 ms": between["p99"]}


def server_side(stack, what, flags, args, seed_of):
    """A function that loads the server; without --fresh it is up until the stack unwinds."""
    if not args.fresh:
        server = stack.enter_context(Server(what))
        return lambda i: load(server.url, flags, seed_of(i))

    def fresh(i):
        with Server(what) as server:
            return load(server.url, flags, seed_of(i))
    return fresh


def server_loads(args):
    flags = args.load[1:] if args.load[:1] == ["--"] else args.load
    ours_flags = flags + shlex.split(args.ours_load)
    peer_flags = flags + shlex.split(args.peer_load)
    same = args.peer == "same"
    with contextlib.ExitStack() as stack:
        what = args.ours
        if same and not args.fresh:
            what = stack.enter_context(Server(args.ours)).url
        ours = server_side(stack, what, ours_flags, args, lambda i: 2 * i)
        peer = server_side(stack, what if same else args.peer, peer_flags, args,
                           lambda i: 2 * i + same)
        pairs = alternate(args.rounds, ours, peer)
    report(args, "server", pairs)


def starts(args):
    def side(what):
        def once(_):
            server = Server(what)
            try:
                return {"ready after ms": 1000 * server.start()}
            finally:
                server.stop()
        return once
    report(args, "start", alternate(args.rounds, side(args.ours), side(args.peer)))


# ---- command line -------------------------------------------------------------------------------


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    engine, server, start = (kinds.add_parser(k) for k in ("engine", "server", "start"))
    for kind, do in (engine, engine_cases), (server, server_loads), (start, starts):
        kind.set_defaults(do=do)
        kind.add_argument("--rounds", type=int, default=5)
        kind.add_argument("--json", action="store_true", help="a JSON line for each metric")
        kind.add_argument("--peer", required=True)
    engine.add_argument("--bench", default=str(ROOT / "build/prefixd-bench"))
    engine.add_argument("--model", required=True)
    engine.add_argument("--peer-model", required=True)
    engine.add_argument("--ours-args", default="", help="more flags, such as '--dtype int8'")
    engine.add_argument("--peer-args", default="", help="the same for the peer")
    engine.add_argument("--threads", type=int, default=2)
    engine.add_argument("--tokens", type=int, default=64, help="that each row decodes")
    engine.add_argument("--runs", type=int, default=3, help="of which a turn takes the median")
    engine.add_argument("cases", nargs="*", metavar="CASE")
    for kind in server, start:
        kind.add_argument("--ours", required=True, help="URL, or command with {port}")
    server.add_argument("--ours-load", default="")
    server.add_argument("--peer-load", default="")
    server.add_argument("--fresh", action="store_true")
    server.add_argument("load", nargs=argparse.REMAINDER)
    return parser.parse_args()


def main():
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers are ended on the way out
    try:
        args.do(args)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"against: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
