"""The load client and the scripts that measure against a peer: they count what happened."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

from harness import BIN, GQA_ADAPTERS, ROOT, Daemon, demo_model, limit
from tenants import TenantCase

LOADTEST = ROOT / "scripts/loadtest/loadtest.py"
AGAINST = ROOT / "scripts/bench/against.py"
LUA = ROOT / "scripts/bench/completions.lua"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def script(path, *args):
    return subprocess.run([sys.executable, path, *map(str, args)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=limit(120))


def load(url, *args):
    """(exit status, the JSON line, what it said meanwhile) of a load."""
    done = script(LOADTEST, "--url", url, *args)
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done
    return done.returncode, json.loads(lines[0]), done.stderr


class Canned:
    """Answers each request in turn with bytes of the test's, then closes if told so."""

    def __init__(self, *answers, at_once=7):
        self.answers, self.at_once, self.requests = list(answers), at_once, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(limit(10))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.thread.join(limit(10))

    def serve(self):
        while self.answers:
            try:
                sock = self.listener.accept()[0]
            except OSError:
                return
            with sock:
                sock.settimeout(limit(10))
                while self.answers and self.one(sock):
                    pass

    def one(self, sock):
        """Reads a request and answers it; whether the connection stays."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65536)
            if not piece:
                return False
            data += piece
        if data.startswith(b"GET"):
            sock.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += sock.recv(65536)
        self.requests.append(json.loads(body))
        answer, stays = self.answers.pop(0)
        for i in range(0, len(answer), self.at_once):
            sock.sendall(answer[i:i + self.at_once])
        return stays


def event(**fields):
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def chunked(data, size=11):
    """In chunks that end anywhere, also within an event."""
    pieces = [data[i:i + size] for i in range(0, len(data), size)]
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


TEXTS = b"".join(event(choices=[{"text": t}]) for t in ("a", "b", "", "c"))
USAGE = event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 4,
                                 "prompt_tokens_details": {"cached_tokens": 2}})
WHOLE = TEXTS + USAGE + b"data: [DONE]\n\n"


class Answers(unittest.TestCase):
    """What the load client reads, against bytes that say exactly what there is to read."""

    def ask(self, *answers, flags=(), status=0, **kind):
        with Canned(*answers, **kind) as server:
            found = load(server.url, "--clients", 1, "--requests", kind.get("n", len(answers)),
                         "--models", "m", *flags)
        self.assertEqual(found[0], status, found)
        self.requests = server.requests
        return found[1]

    def test_every_framing(self):
        plain = HEAD + b"Connection: close\r\n\r\n" + WHOLE
        counted = HEAD + b"Content-Length: %d\r\n\r\n" % len(WHOLE) + WHOLE
        for at_once in 1, 3, 4096:
            found = self.ask((chunked(WHOLE), True), (counted, True), (plain, False),
                             (chunked(WHOLE, 500), True), at_once=at_once)
            self.assertEqual((found["requests"], found["errors"], found["tokens"]), (4, 0, 16))
            self.assertEqual((found["prompt_tokens"], found["cached_tokens"]), (20, 8))
            self.assertLessEqual(0, found["inter_token_ms"]["p50"])

    def test_without_usage_events_with_text_are_tokens(self):
        self.assertEqual(self.ask((chunked(TEXTS), True))["tokens"], 3)

    def test_chat(self):
        deltas = [{"role": "assistant"}, {"content": "x"}, {"content": "y"}, {}]
        data = b"".join(event(choices=[{"delta": d}]) for d in deltas)
        found = self.ask((chunked(data), True), flags=["--chat", "--words", 3, "--before", "Say: "])
        self.assertEqual(found["tokens"], 2)
        message = self.requests[0]["messages"][0]
        self.assertEqual((message["role"], len(message["content"].split())), ("user", 4))
        self.assertTrue(message["content"].startswith("Say: "))

    def test_a_used_connection_that_closed_is_no_error(self):
        found = self.ask((chunked(WHOLE), False), (chunked(WHOLE), False))
        self.assertEqual((found["requests"], found["errors"]), (2, 0))

    def test_errors_are_counted_by_kind(self):
        busy = b"HTTP/1.1 429 No\r\nContent-Length: 4\r\n\r\nbusy"
        within = event(choices=[{"text": "a"}]) + event(error={"message": "broken"})
        cut = chunked(WHOLE)[:-9]
        nothing = chunked(b"data: [DONE]\n\n")
        found = self.ask((busy, True), (chunked(within), True), (cut, False), (nothing, True),
                         (chunked(WHOLE), True), (b"nonsense\r\n\r\n", False), status=1)
        self.assertEqual(found["errors_by_kind"], {"429": 1, "in stream": 1, "ConnectionError": 1,
                                                   "empty": 1, "IndexError": 1})
        self.assertEqual((found["errors"], found["requests"], found["tokens"]), (5, 1, 4))

    def test_time_is_bounded(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, never answers
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            done = script(LOADTEST, "--url", url, "--timeout", 0.2, "--models", "m")
        self.assertEqual(done.returncode, 1)
        self.assertIn("timed out", done.stderr)


class Load(unittest.TestCase):
    """The load client against the daemon."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(*demo_model()).start()
        cls.addClassCleanup(cls.daemon.close)

    def served(self):
        """Tokens that the daemon says it generated."""
        return self.daemon.metrics().sum("prefixd_generation_tokens_total")

    def test_closed_loop(self):
        before = self.served()
        status, found, _ = load(self.daemon.url, "--clients", 4, "--requests", 24, "--words", 8,
                                "--max-tokens", 6)
        self.assertEqual((status, found["requests"], found["errors"], found["cut"]), (0, 24, 0, 0))
        self.assertEqual(found["tokens"], 24 * 6)
        self.assertEqual(self.served() - before, 24 * 6)
        self.assertEqual(found["models"], 1 + len(self.daemon.adapter_names()))
        for spread in "ttft_ms", "request_tokens_per_s":
            self.assertLess(0, found[spread]["p50"])
            self.assertLessEqual(found[spread]["p50"], found[spread]["p99"])

    def test_fixed_rate(self):
        status, found, _ = load(self.daemon.url, "--rate", 40, "--requests", 20, "--clients", 32,
                                "--max-tokens", 2)
        self.assertEqual((status, found["requests"]), (0, 20))
        self.assertGreaterEqual(found["seconds"], 19 / 40)
        status, found, _ = load(self.daemon.url, "--rate", 100000, "--seconds", 1, "--clients", 1,
                                "--max-tokens", 16)
        self.assertEqual(status, 0)  # one client is far too few: the wait counts
        self.assertGreater(found["ttft_ms"]["max"], 500)

    def test_mixes_and_patterns(self):
        """Errors tell how often others than the first of four models were asked for."""
        models = self.daemon.adapter_names()[0] + ",no-1,no-2,no-3"
        for mix, least, most in (("identical", 0, 0), ("distinct", 150, 150), ("uniform", 135, 165),
                                 ("skewed", 100, 132)):
            _, found, said = load(self.daemon.url, "--requests", 200, "--max-tokens", 1,
                                  "--models", models, "--mix", mix)
            self.assertTrue(least <= found["errors"] <= most, (mix, found, said))
            self.assertEqual(found["errors"] + found["requests"], 200)
        status, found, _ = load(self.daemon.url, "--requests", 3, "--models", "no-such-name")
        self.assertEqual((status, found["errors_by_kind"]), (1, {"404": 3}))
        done = script(LOADTEST, "--url", self.daemon.url, "--models", "nothing-*")
        self.assertEqual((done.returncode, done.stdout), (1, ""))

    def test_wrk(self):
        if not shutil.which("wrk"):
            self.skipTest("no wrk here")
        name = self.daemon.adapter_names()[0]
        env = {**os.environ, "MODELS": f"{name},no-such-name", "WORDS": "4", "MAX_TOKENS": "3"}
        before = self.served()
        done = subprocess.run(["wrk", "-t1", "-c4", f"-d{min(5, limit(1)):.0f}s", "-s", LUA,
                               self.daemon.url], env=env,
                              capture_output=True, text=True, timeout=limit(60), check=True)
        tokens = int(done.stdout.split(" tokens,")[0].split()[-1])
        self.assertRegex(done.stdout, r"by status:.* 200: \d+")
        self.assertRegex(done.stdout, r"by status:.* 404: \d+")
        self.assertGreater(tokens, 0)
        self.assertEqual(tokens % 3, 0)
        self.assertLessEqual(tokens, self.served() - before)

    def test_against_itself(self):
        done = script(AGAINST, "server", "--ours", self.daemon.url, "--peer", "same", "--rounds", 2,
                      "--json", "--peer-load", "--max-tokens 1", "--", "--requests", 8,
                      "--max-tokens", 16)
        self.assertEqual(done.returncode, 0, done)
        found = {m["metric"]: m for m in map(json.loads, done.stdout.splitlines())}
        self.assertIn("TTFT p50 ms", found)
        self.assertEqual(len(found["tok/s"]["ours_all"]), 2)
        self.assertAlmostEqual(found["tok/s"]["ratio_max"],
                               max(a / b for a, b in zip(found["tok/s"]["ours_all"],
                                                         found["tok/s"]["peer_all"])))


class Servers(unittest.TestCase):
    """against.py starts servers, waits for them, and ends them."""

    def test_started_for_each_turn(self):
        command = f"{BIN} --model {demo_model()[0]} --listen 127.0.0.1:{{port}}"
        done = script(AGAINST, "start", "--rounds", 2, "--json", "--ours", command,
                      "--peer", command)
        self.assertGreater(json.loads(done.stdout)["ours"], 0, done)
        done = script(AGAINST, "server", "--rounds", 1, "--json", "--fresh", "--ours", command,
                      "--peer", "same", "--", "--requests", 2, "--max-tokens", 4)
        self.assertEqual(done.returncode, 0, done)
        self.assertIn('"tok/s"', done.stdout)

    def test_a_server_that_ends_is_an_error(self):
        command = f"{BIN} --model /nonexistent --listen 127.0.0.1:{{port}}"
        done = script(AGAINST, "start", "--rounds", 1, "--ours", command, "--peer", command)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("/nonexistent", done.stderr)


class Keys(TenantCase):
    def test_each_key_sees_its_own(self):
        """Clients take keys in turn; the adapter that one tenant has is asked for with its key."""
        one, two = self.tenant("one"), self.tenant("two")
        self.assertEqual(one.put_peft("own", GQA_ADAPTERS / "prompt_tuning").status, 201)
        keys = pathlib.Path(self.tmp, "keys")
        keys.write_text(f"{one.key}\n{two.key}\n")
        status, found, said = load(self.d.url, "--key-file", keys, "--clients", 2,
                                   "--requests", 16, "--max-tokens", 4)
        self.assertEqual((status, found["requests"], found["models"]), (0, 16, 2), said)
        done = script(LOADTEST, "--url", self.d.url, "--key", "wrong")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("401", done.stderr)


FAKES = {
    "prefixd-bench": """
path = sys.argv[sys.argv.index('--csv') + 1]
open(path, 'w').write(f'sweep,rows,best,median,worst\\ndecode,32,900,{140 - n * 20},1\\n')""",
    "llama-batched-bench": """
print('|  PP |   TG |  B | N_KV | T_PP s | S_PP t/s | T_TG s | S_TG t/s | T s | S t/s|')
print('|-----|------|----|------|--------|----------|--------|----------|-----|------|')
for rate in 10, 40, 50:
    print(f'|  64 |   16 | 32 | 2560 |  1.000 |    20.00 |  1.000 | {rate:8.1f} | 2.0 |  9.0 |')""",
    "llama-bench": "print('[{\"avg_ts\": 9, \"samples_ts\": [10, 40, 50]}]')",
}


class Engines(unittest.TestCase):
    """against.py on programs that print what the engines print."""

    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory(prefix="prefixd-engines-")
        self.addCleanup(self.tmp.cleanup)
        for name, body in FAKES.items():
            path = pathlib.Path(self.tmp.name, name)
            path.write_text(f"#!{sys.executable}\nimport sys\nlog = open(__file__ + '.log', 'a+')\n"
                            "log.write(' '.join(sys.argv[1:]) + '\\n')\nlog.seek(0)\n"
                            f"n = len(log.readlines())\n{body}\n")
            path.chmod(0o755)

    def against(self, peer, *cases):
        return script(AGAINST, "engine", "--json", "--rounds", 3, "--bench",
                      f"{self.tmp.name}/prefixd-bench", "--model", "M", "--peer",
                      f"{self.tmp.name}/{peer}", "--peer-model", "G", "--tokens", 16, *cases)

    def commands(self, name):
        return pathlib.Path(self.tmp.name, name + ".log").read_text().splitlines()

    def test_batched_bench(self):
        done = self.against("llama-batched-bench", "rows=32", "prefill=64")
        decode, prefill = map(json.loads, done.stdout.splitlines())
        self.assertEqual((decode["ours_all"], decode["peer_all"]), ([120, 100, 80], [40] * 3))
        self.assertEqual([decode[f"ratio_{r}"] for r in ("min", "median", "max")], [2, 2.5, 3])
        self.assertEqual(prefill["peer_all"], [20] * 3)
        ours, peer = self.commands("prefixd-bench"), self.commands("llama-batched-bench")
        self.assertIn("--sweep decode --rows 32 --context 64 --tokens 16", ours[0])
        self.assertIn("-c 2816 -npp 64 -ntg 16 -npl 32,32,32", peer[0])
        self.assertIn("--sweep prefill --prompt 64 --prefix 0", ours[3])
        self.assertIn("-npp 64 -ntg 1 -npl 1,1,1", peer[3])

    def test_shared_prefix_and_long_context(self):
        self.against("llama-batched-bench", "rows=32,prefix=2048", "rows=8,context=4096")
        peer = self.commands("llama-batched-bench")
        self.assertIn("-c 66304 -npp 2048 -ntg 16 -npl 32,32,32 -pps", peer[0])
        self.assertIn("-npp 4096 -ntg 16 -npl 8,8,8", peer[3])
        self.assertNotIn("-pps", peer[3])
        ours = self.commands("prefixd-bench")
        self.assertIn("--sweep prefixes --rows 32 --context 64 --tokens 16 --prefix 2048 "
                      "--prefixes 1", ours[0])
        self.assertIn("--sweep context --rows 8 --context 4096", ours[3])
        done = self.against("llama-batched-bench", "rows=4,prefix=8,prefixes=2")
        self.assertEqual(done.returncode, 1)

    def test_llama_bench(self):
        found = json.loads(self.against("llama-bench", "rows=1").stdout)
        self.assertEqual(found["peer_all"], [40] * 3)
        self.assertEqual(self.against("llama-bench", "rows=2").returncode, 1)

    def test_refusals(self):
        for case in "rows", "prefill=5,rows=5", "depth=3", "rows=x":
            self.assertEqual(self.against("llama-bench", case).returncode, 1, case)
        self.assertEqual(self.against("prefixd-bench.log", "rows=1").returncode, 1)


if __name__ == "__main__":
    unittest.main()
