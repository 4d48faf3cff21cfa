"""One case for each engine's own benchmark: the command that measures it, the figures it prints.

A case is {"prefill": 512}, or {"rows": 32} with "context" (tokens of each row's own, 64 unless
said), "prefix" (tokens of an adapter that all rows read) and "prefixes" (how many different ones).
A measurement is `runs` figures of one process in tokens a second, or the median alone where a
program says only that.
"""

import csv
import json
import re
import subprocess
import tempfile

CONTEXT = 64
NAMES = ("prefill", "rows", "context", "prefix", "prefixes")


def run(command):
    """What a command printed; a failure is an error with what it said."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=3600)
    if done.returncode:
        said = done.stderr[-2000:] + done.stdout[-500:]
        raise OSError(f"{command[0]}: exit {done.returncode}\n{said}")
    return done.stdout


def parse_case(text):
    """prefill=512, rows=32, rows=8,context=4096, or rows=32,prefix=2048,prefixes=4"""
    case = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in NAMES or not value.isdigit():
            raise ValueError(f"{text}: a case is {parse_case.__doc__}")
        case[name] = int(value)
    if ("prefill" in case) == ("rows" in case) or ("prefill" in case and len(case) > 1):
        raise ValueError(f"{text}: either prefill alone or rows")
    return case


def prefixd_bench(program, model, case, args, more):
    """One case is a sweep over lists of one number each, one line of its CSV."""
    if "prefill" in case:
        which = ["prefill", "--prompt", case["prefill"], "--prefix", 0]
    else:
        sweep = "prefixes" if "prefix" in case else "context" if "context" in case else "decode"
        which = [sweep, "--rows", case["rows"], "--context", case.get("context", CONTEXT),
                 "--tokens", args.tokens]
    if "prefix" in case:
        which += ["--prefix", case["prefix"], "--prefixes", case.get("prefixes", 1)]
    with tempfile.NamedTemporaryFile("r", suffix=".csv") as table:
        run([program, model, "--threads", args.threads, "--runs", args.runs, "--csv", table.name,
             "--sweep", *which, *more])
        return [float(line["median"]) for line in csv.DictReader(table)]


def batched_bench(program, model, case, args, more):
    """llama-batched-bench of llama.cpp and of its forks. Their tables have the same ten columns:
    the sixth is the speed of prompts, the eighth that of decoding."""
    if case.get("prefixes", 1) > 1 or ("prefix" in case and "context" in case):
        raise ValueError("llama-batched-bench has one shared prompt, or one for each row")
    rows, shared = case.get("rows", 1), case.get("prefix", 0)
    prompt = case.get("prefill") or shared or case.get("context", CONTEXT)
    tokens = args.tokens if "rows" in case else 1
    room = rows * (prompt + tokens)  # a copy of the shared prompt for each row, without -kvu
    output = run([program, "-m", model, "-t", args.threads, "-tb", args.threads, "-c", room + 256,
                  "-npp", prompt, "-ntg", tokens, "-npl", ",".join([str(rows)] * args.runs),
                  *(["-pps"] if shared else []), *more])
    table = [line.strip(" |").split("|") for line in output.splitlines()
             if re.fullmatch(r"\|[ 0-9.|]+\|", line.strip())]
    column = 5 if "prefill" in case else 7
    return [float(columns[column]) for columns in table if len(columns) == 10]


def llama_bench(program, model, case, args, more):
    """llama-bench: prompts, and one row."""
    if case.get("rows", 1) > 1 or "prefix" in case or "context" in case:
        raise ValueError("llama-bench has no case of several rows: use llama-batched-bench")
    output = run([program, "-m", model, "-t", args.threads, "-p", case.get("prefill", 0), "-n",
                  args.tokens if "rows" in case else 0, "-r", args.runs, "-o", "json", *more])
    return json.loads(output[output.index("["):])[0]["samples_ts"]


def engine_of(program):
    """Which of them a program is, by its name."""
    name = program.rsplit("/", 1)[-1]
    for part, measure in (("prefixd-bench", prefixd_bench), ("batched-bench", batched_bench),
                          ("llama-bench", llama_bench)):
        if part in name:
            return measure
    raise ValueError(f"{program}: neither prefixd-bench, llama-batched-bench nor llama-bench")
