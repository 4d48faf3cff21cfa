#!/usr/bin/python3
"""A bounded load of streamed completions over all adapters; ends with one JSON line.

    scripts/loadtest/loadtest.py --clients 16 --requests 256 --words 32 --max-tokens 32
    scripts/loadtest/loadtest.py --rate 4 --clients 64 --seconds 60 --models 'soft-*' --mix skewed

Closed loop: each of the clients sends its next request when its last one has been answered. With
--rate requests are due at even times whatever the server does, at most --clients of them at once,
and times count from when a request was due. Works with every server that has OpenAI's streamed
completions (--chat: chat completions). Progress and errors go to stderr, the result to stdout.

--models: names or patterns, in the order given (default: the base and every adapter that the
request's key sees). --mix, over those models: distinct takes them in turn, uniform at random,
skewed at random, each 1.5 times as often as the next, identical the first alone. An adapter with
several tasks is asked for one after another.
"""

import argparse
import collections
import fnmatch
import http.client
import json
import pathlib
import random
import selectors
import socket
import sys
import time
import urllib.parse

from streams import Answer, Connection

PROMPTS = ["The capital of France is", "Once upon a time there was a small", "To be, or not to",
           "Review: the soup was cold and the waiter was rude.\nSentiment:",
           "Write one sentence about the sea.", "A list of three colours:"]
WORDS = """time year people way day man thing woman life child world school state family student
group country problem hand part place case week company system program question work government
number night point home water room mother area money story fact month lot right study book eye job
word business issue side kind head house service friend father power hour game line end member law
car city""".split()
MIXES = ("distinct", "uniform", "skewed", "identical")


# ---- what is asked for --------------------------------------------------------------------------


def get_json(args, path, key):
    """The JSON at a path, or None where the server has no such path."""
    connection = http.client.HTTPConnection(*args.address, timeout=args.timeout)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise OSError(f"{path}: {answer.status} {body[:200].decode(errors='replace')}")
    return json.loads(body)


def list_models(args, key):
    """[(model, number of tasks)] that the key may use and the command line asks for."""
    found = get_json(args, "/v1/models", key) or {"data": []}
    adapters = get_json(args, "/v1/adapters", key) or {"data": []}
    tasks = {a["id"]: a.get("tasks", 1) for a in adapters["data"]}
    seen = [m["id"] for m in found["data"]]
    names = []
    for wanted in args.models or ["*"]:
        names += fnmatch.filter(seen, wanted) or ([] if "*" in wanted else [wanted])
    if not names:
        raise OSError(f"no model is called {' or '.join(args.models or ['anything'])}")
    return [(name, tasks.get(name, 1)) for name in names]


class Plan:
    """Request i in all its parts; the same for the same seed."""

    def __init__(self, args):
        self.args = args
        self.path = "/v1/chat/completions" if args.chat else "/v1/completions"
        self.models = [list_models(args, key) for key in args.keys]
        self.turn = collections.Counter()

    def model(self, models, i, chance):
        if self.args.mix == "distinct":
            return models[i % len(models)]
        if self.args.mix == "identical":
            return models[0]
        weights = [1.5 ** -k for k in range(len(models))]
        return chance.choices(models, weights if self.args.mix == "skewed" else None)[0]

    def prompt(self, i, chance):
        words = " ".join(chance.choices(WORDS, k=self.args.words or 0))
        return self.args.before + (words or PROMPTS[i % len(PROMPTS)])

    def fields(self, i, who):
        chance = random.Random(f"{self.args.seed} {i}")
        models = self.models[who % len(self.models)]
        model, tasks = self.model(models, i, chance)
        fields = {"model": model, "stream": True, "stream_options": {"include_usage": True},
                  "max_tokens": self.args.max_tokens, "temperature": self.args.temperature,
                  "ignore_eos": True, "seed": i}
        prompt = self.prompt(i, chance)
        fields |= {"messages": [{"role": "user", "content": prompt}]} if self.args.chat else \
            {"prompt": prompt}
        if tasks > 1:
            fields["task_id"] = self.turn[model] % tasks
            self.turn[model] += 1
        return fields | self.args.fields

    def request(self, i, who):
        """(model, bytes) of request i, sent by client `who`."""
        fields = self.fields(i, who)
        body = json.dumps(fields).encode()
        key = self.args.keys[who % len(self.args.keys)]
        head = (f"POST {self.path} HTTP/1.1\r\nHost: {self.args.host}\r\n"
                "Content-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n"
                + (f"Authorization: Bearer {key}\r\n" if key else "") + "\r\n")
        return fields["model"], head.encode() + body


# ---- sending it ---------------------------------------------------------------------------------


class Load:
    """Runs the plan: who is idle takes the next request, when it is due."""

    def __init__(self, args, plan):
        self.args, self.plan = args, plan
        self.selector = selectors.DefaultSelector()
        self.address = socket.getaddrinfo(*args.address, type=socket.SOCK_STREAM)[0][4]
        self.connections = [Connection(self.selector, self.address, self.answered)
                            for _ in range(args.clients)]
        self.who = {c: i for i, c in enumerate(self.connections)}
        self.idle = list(reversed(self.connections))
        self.sent, self.answers, self.errors = 0, [], collections.Counter()

    def due(self):
        """When the next request is to be sent, or None after the last one."""
        if self.args.requests is not None and self.sent >= self.args.requests:
            return None
        return self.began + self.sent / self.args.rate if self.args.rate else self.began

    def send(self):
        """Sends what is due; returns when there is something to send again."""
        while (due := self.due()) is not None and self.idle:
            now = time.perf_counter()
            if due > now:
                return due
            connection = self.idle.pop()
            model, request = self.plan.request(self.sent, self.who[connection])
            self.sent += 1
            connection.start(request, Answer(model, due if self.args.rate else time.perf_counter()))
        return None

    def answered(self, connection, answer):
        self.idle.append(connection)
        self.answers.append(answer)
        if answer.error:
            self.errors[answer.kind] += 1
            if self.errors.total() <= 5:
                text = f"{answer.model}: {answer.kind}: {answer.error.strip()}"
                print("error:", text, file=sys.stderr)

    def stuck(self, now):
        """Ends requests of which nothing has come for too long."""
        for connection in self.connections:
            answer = connection.answer
            if answer and now - (answer.last or answer.began) > self.args.timeout:
                connection.over(TimeoutError("nothing came"))

    def run(self, progress):
        self.began = time.perf_counter()
        deadline = self.began + self.args.seconds
        while (now := time.perf_counter()) < deadline:
            due = self.send()
            if due is None and self.due() is None and len(self.idle) == len(self.connections):
                break
            wake = min(due or deadline, deadline, now + 0.5)
            for key, mask in self.selector.select(max(0.0, wake - time.perf_counter())):
                key.data.ready(mask)
            if progress.show(self):
                self.stuck(now)
        self.seconds = time.perf_counter() - self.began
        self.cut = [c.answer for c in self.connections if c.answer]
        for connection in self.connections:
            connection.close()


class Progress:
    """A line about twice a second on a terminal, every ten seconds elsewhere."""

    def __init__(self):
        self.terminal = sys.stderr.isatty()
        self.every = 0.5 if self.terminal else 10
        self.next, self.looked = time.perf_counter() + self.every, 0

    def show(self, load):
        """Whether half a second has passed; prints when it is time to."""
        now = time.perf_counter()
        if now - self.looked < 0.5:
            return False
        self.looked = now
        if now >= self.next:
            self.next = now + self.every
            of = f"/{load.args.requests}" if load.args.requests is not None else ""
            running = [c.answer for c in load.connections if c.answer]
            tokens = sum(a.tokens for a in load.answers + running)
            line = (f"{now - load.began:5.0f} s: {len(load.answers)}{of} answered, "
                    f"{len(running)} running, {tokens} tokens, {load.errors.total()} errors")
            print("\r" + line if self.terminal else line, end="" if self.terminal else "\n",
                  file=sys.stderr, flush=True)
        return True

    def end(self):
        if self.terminal:
            print(file=sys.stderr)


# ---- figures ------------------------------------------------------------------------------------


def percentile(ordered, share):
    """Nearest rank."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values, scale=1.0):
    ordered = sorted(v * scale for v in values)
    return {name: round(percentile(ordered, share), 2) if ordered else None
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1))}


def summary(args, load, cpu):
    good = [a for a in load.answers if not a.error]
    usage = [a.usage or {} for a in good]
    tokens = sum(a.tokens for a in good) + sum(a.tokens for a in load.cut)
    details = [u.get("prompt_tokens_details") or {} for u in usage]
    return {"clients": args.clients, "rate": args.rate, "models": len({a.model for a in good}),
            "mix": args.mix, "max_tokens": args.max_tokens, "requests": len(good),
            "errors": load.errors.total(), "errors_by_kind": dict(load.errors),
            "cut": len(load.cut), "seconds": round(load.seconds, 2),
            "prompt_tokens": sum(u.get("prompt_tokens", 0) for u in usage),
            "cached_tokens": sum(d.get("cached_tokens") or 0 for d in details),
            "tokens": tokens, "tokens_per_s": round(tokens / load.seconds, 1),
            "requests_per_s": round(len(good) / load.seconds, 2),
            "request_tokens_per_s": spread(a.tokens / (a.ended - a.began) for a in good),
            "ttft_ms": spread((a.first - a.began for a in good), 1000),
            "inter_token_ms": spread((g for a in good for g in a.gaps), 1000),
            "client_cpu_percent": round(100 * cpu / load.seconds, 1)}


# ---- command line -------------------------------------------------------------------------------


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8080")
    add("--key", action="append", default=[], help="bearer key; clients take several in turn")
    add("--key-file", type=pathlib.Path, help="bearer keys, one a line")
    add("--clients", type=int, default=8, help="requests at once, at most")
    add("--rate", type=float, help="requests a second, due at even times (default: closed loop)")
    add("--requests", type=int, help="in all (default: 64, or no end with --rate)")
    add("--seconds", type=float, default=300, help="stop after this long")
    add("--timeout", type=float, default=120, help="give up when nothing comes for so long")
    add("--chat", action="store_true", help="chat completions")
    add("--words", type=int, help="random words in a prompt (default: a few fixed prompts)")
    add("--before", default="", help="text in front of each prompt; @FILE: what the file holds")
    add("--max-tokens", type=int, default=64)
    add("--temperature", type=float, default=0)
    add("--models", type=lambda s: s.split(","), help="comma-separated names or patterns")
    add("--mix", choices=MIXES, default="distinct")
    add("--seed", type=int, default=1, help="another one asks for other prompts and models")
    add("--fields", type=json.loads, default={}, help="JSON of more fields for each request")
    args = parser.parse_args(argv)
    url = urllib.parse.urlsplit(args.url)
    if url.scheme != "http" or not url.hostname or args.clients < 1:
        parser.error("--url is http://HOST:PORT, --clients at least 1")
    args.host, args.address = url.netloc, (url.hostname, url.port or 80)
    if args.key_file:
        args.key += args.key_file.read_text().split()
    args.keys = args.key or [None]
    if args.before.startswith("@"):
        args.before = pathlib.Path(args.before[1:]).read_text()
    if args.requests is None and not args.rate:
        args.requests = 64
    return args


def main():
    args = parse()
    try:
        load, progress = Load(args, Plan(args)), Progress()
        cpu = time.process_time()
        load.run(progress)
        progress.end()
    except OSError as error:
        print(f"{args.url}: {error}", file=sys.stderr)
        return 1
    result = summary(args, load, time.process_time() - cpu)
    print(json.dumps(result))
    return 1 if result["errors"] or not (result["requests"] or result["cut"]) else 0


if __name__ == "__main__":
    sys.exit(main())
