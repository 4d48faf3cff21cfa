#!/usr/bin/python3
"""A bounded load of streamed completions over all adapters; ends with one JSON line.

    scripts/loadtest/loadtest.py --clients 8 --requests 64 --max-tokens 64

Each of N clients keeps one connection and sends its share of the requests one after another;
request i asks for model i modulo the list of models (default: the base and every adapter), and
for a task in turn where an adapter has several.
Progress and errors go to stderr, the result to stdout.
"""

import argparse
import asyncio
import json
import sys
import time
import urllib.parse

PROMPTS = ["The capital of France is", "Once upon a time there was a small", "To be, or not to",
           "Review: the soup was cold and the waiter was rude.\nSentiment:",
           "Write one sentence about the sea.", "A list of three colours:"]


class Client:
    """One keep-alive connection, speaking just enough HTTP/1.1."""

    def __init__(self, url, key):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port or 80
        self.key, self.reader, self.writer = key, None, None

    async def close(self):
        if self.writer:
            self.writer.close()
        self.reader = self.writer = None

    async def open(self, method, path, body=b""):
        """Sends a request; returns (status, headers)."""
        if not self.writer:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        key = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        self.writer.write((f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{key}"
                           "Content-Type: application/json\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n").encode() + body)
        await self.writer.drain()
        status = int((await self.reader.readline()).split()[1])
        headers = {}
        while (line := (await self.reader.readline()).strip()):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    async def pieces(self, headers):
        """Yields the body as it comes."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(await self.reader.readline(), 16):
                yield await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
        else:
            yield await self.reader.readexactly(int(headers.get("content-length", 0)))

    async def whole(self, method, path):
        status, headers = await self.open(method, path)
        body = b"".join([piece async for piece in self.pieces(headers)])
        if status != 200:
            raise OSError(f"{path}: {status} {body[:200].decode(errors='replace')}")
        return json.loads(body)

    async def complete(self, fields):
        """One streamed completion; returns (ttft, seconds, tokens, gaps between events)."""
        began = time.perf_counter()
        status, headers = await self.open("POST", "/v1/completions", json.dumps(fields).encode())
        text, times, tokens = b"", [], None
        async for piece in self.pieces(headers):
            text += piece
            *events, text = text.split(b"\n\n") if status == 200 else [text]
            for event in events:
                if not event.startswith(b"data: ") or event == b"data: [DONE]":
                    continue
                chunk = json.loads(event[6:])
                if "error" in chunk:
                    raise OSError(chunk["error"].get("message"))
                if chunk["choices"]:
                    times.append(time.perf_counter())
                if chunk.get("usage"):
                    tokens = chunk["usage"]["completion_tokens"]
        if status != 200:
            raise OSError(f"{status} {text[:200].decode(errors='replace')}")
        if not times or tokens is None:
            raise OSError("a stream without tokens or usage")
        gaps = [b - a for a, b in zip(times, times[1:])]
        return times[0] - began, time.perf_counter() - began, tokens, gaps


def percentile(values, share):
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def spread(values, scale=1.0, digits=2):
    return {name: round(percentile(values, share) * scale, digits) if values else None
            for name, share in (("p50", 0.5), ("p95", 0.95))}


def note(errors, text):
    """Counts every error, shows the first few."""
    errors.append(text)
    if len(errors) <= 5:
        print(f"error: {text}", file=sys.stderr)


async def list_models(args):
    """[(model, number of tasks)]."""
    client = Client(args.url, args.key)
    models = [m["id"] for m in (await client.whole("GET", "/v1/models"))["data"]]
    adapters = (await client.whole("GET", "/v1/adapters"))["data"]
    await client.close()
    tasks = {a["id"]: a.get("tasks", 1) for a in adapters}
    return [(m, tasks.get(m, 1)) for m in args.models or models]


async def client_loop(args, client, queue, models, results, errors, deadline):
    while not queue.empty() and time.perf_counter() < deadline:
        i = queue.get_nowait()
        model, tasks = models[i % len(models)]
        fields = {"model": model, "prompt": PROMPTS[i % len(PROMPTS)], "stream": True,
                  "max_tokens": args.max_tokens, "ignore_eos": True, "seed": i,
                  "temperature": args.temperature, "stream_options": {"include_usage": True}}
        if tasks > 1:
            fields["task_id"] = i // len(models) % tasks
        try:
            left = max(0.1, deadline - time.perf_counter())
            results.append((model, *await asyncio.wait_for(client.complete(fields), left)))
        except asyncio.TimeoutError:  # the time is over, which is no failure of the daemon
            break
        except (OSError, ValueError, IndexError, asyncio.IncompleteReadError) as error:
            note(errors, f"{model}: {str(error) or type(error).__name__}")
            await client.close()
            continue
        if len(results) % 16 == 0:
            print(f"{len(results)}/{args.requests}", file=sys.stderr)
    await client.close()


def summary(args, models, results, errors, seconds):
    tokens = sum(r[3] for r in results)
    return {"clients": args.clients, "requests": len(results), "errors": len(errors),
            "models": len(models), "max_tokens": args.max_tokens, "seconds": round(seconds, 2),
            "tokens": tokens, "tokens_per_s": round(tokens / seconds, 1),
            "request_tokens_per_s": spread([r[3] / r[2] for r in results], digits=1),
            "ttft_ms": spread([r[1] for r in results], 1000),
            "inter_token_ms": spread([g for r in results for g in r[4]], 1000)}


async def run(args):
    models = await list_models(args)
    queue = asyncio.Queue()
    for i in range(args.requests):
        queue.put_nowait(i)
    results, errors = [], []
    began = time.perf_counter()
    await asyncio.gather(*[client_loop(args, Client(args.url, args.key), queue, models, results,
                                       errors, began + args.seconds)
                           for _ in range(args.clients)])
    print(json.dumps(summary(args, models, results, errors, time.perf_counter() - began)))
    return 1 if errors or not results else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", help="bearer key")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64, help="in all")
    parser.add_argument("--seconds", type=float, default=300, help="stop after this long")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0)
    parser.add_argument("--models", type=lambda s: s.split(","), help="comma-separated")
    args = parser.parse_args()
    try:
        return asyncio.run(run(args))
    except OSError as error:
        print(f"{args.url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
