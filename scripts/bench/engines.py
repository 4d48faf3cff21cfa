"""One case for each engine's own benchmark: the command that measures it, and the figure it prints.

A case is what prefixd-bench calls it: {"prefill": 512}, or {"rows": 32} with "prefix" (tokens that all rows
share) and "context" (tokens of each row's own) where they are not 0 and 64. The figure is the median of
`runs` in one process, in tokens a second.
"""

import json
import re
import statistics

CONTEXT = 64  # what a row has of its own when it decodes


def parse_case(text):
    """`prefill=512`, `rows=32`, `rows=32,prefix=2048`, `rows=8,context=4096`."""
    case = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in ("prefill", "rows", "prefix", "context") or not value.isdigit():
            raise ValueError(f"no case is called {text}: {parse_case.__doc__}")
        case[name] = int(value)
    if ("prefill" in case) == ("rows" in case) or ("prefill" in case and len(case) > 1):
        raise ValueError(f"{text}: either prefill alone or rows")
    return case


class PrefixdBench:
    def command(self, program, model, case, args):
        rows, prefill = case.get("rows", 0), case.get("prefill", 0)
        return [program, model, "--threads", args.threads, "--prefill", prefill, "--rows", rows,
                "--prefix", case.get("prefix", 0), "--context", case.get("context", CONTEXT),
                "--tokens", args.tokens, "--runs", args.runs]

    def rates(self, output, _):
        return [float(x) for x in re.findall(r"median +([0-9.]+)", output)]


class BatchedBench:
    """llama-batched-bench of llama.cpp and of its forks; their tables have the same columns."""

    def command(self, program, model, case, args):
        rows, shared = case.get("rows", 1), case.get("prefix", 0)
        prompt = case.get("prefill") or shared or case.get("context", CONTEXT)
        tokens = args.tokens if "rows" in case else 1
        room = (prompt if shared else rows * prompt) + rows * tokens
        return [program, "-m", model, "-t", args.threads, "-tb", args.threads, "-c", room + 256,
                "-npp", prompt, "-ntg", tokens, "-npl", ",".join([str(rows)] * args.runs),
                *(["-pps"] if shared else [])]

    def rates(self, output, case):
        """S_PP and S_TG are the sixth and eighth of ten columns."""
        table = [line.strip().strip("|").split("|") for line in output.splitlines()
                 if re.fullmatch(r"\|[ 0-9.|]+\|", line.strip())]
        return [float(columns[5 if "prefill" in case else 7]) for columns in table
                if len(columns) == 10]


class LlamaBench:
    """llama-bench: prompts, and one row."""

    def command(self, program, model, case, args):
        if case.get("rows", 1) > 1 or "prefix" in case or "context" in case:
            raise ValueError("llama-bench has no case of several rows: use llama-batched-bench")
        return [program, "-m", model, "-t", args.threads, "-p", case.get("prefill", 0),
                "-n", args.tokens if "rows" in case else 0, "-r", args.runs, "-o", "json"]

    def rates(self, output, _):
        return json.loads(output[output.index("["):])[0]["samples_ts"]


def engine_of(program):
    """Which of them a program is, by its name."""
    for part, kind in (("prefixd-bench", PrefixdBench), ("batched-bench", BatchedBench),
                       ("llama-bench", LlamaBench)):
        if part in program.rsplit("/", 1)[-1]:
            return kind()
    raise ValueError(f"{program}: neither prefixd-bench, llama-batched-bench nor llama-bench")


def figure(engine, output, case):
    rates = engine.rates(output, case)
    if not rates:
        raise ValueError(f"no figure in:\n{output[-2000:]}")
    return statistics.median(rates)
