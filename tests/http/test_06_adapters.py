"""Adapters over HTTP: put, list, files, delete, hot swap, durability, refusals."""

import json
import math
import pathlib
import random
import shutil
import socket
import tempfile
import threading
import time
import unittest

from harness import (GQA, GQA_ADAPTERS, Daemon, HttpCase, f32, joined, limit, long_model,
                     model_copy, multipart, run_all, safetensors, safetensors_raw)

PROMPT = [84, 104, 101, 32, 116]
WIDTH, LAYERS, KV_WIDTH = 64, 3, 32
REFUSED = (400, 413, 415, 422)


def config_of(kind, **changes):
    config = json.loads((GQA_ADAPTERS / kind / "adapter_config.json").read_text())
    for key, value in changes.items():
        config[key] = value
    return json.dumps(config).encode()


def weights_of(kind):
    return (GQA_ADAPTERS / kind / "adapter_model.safetensors").read_bytes()


def soft_prompt(rows=8, width=WIDTH, seed=1, value=None):
    """(config, weights) of a soft prompt made here."""
    rng = random.Random(seed)
    values = [rng.gauss(0, 0.5) if value is None else value for _ in range(rows * width)]
    return (config_of("prompt_tuning", num_virtual_tokens=rows),
            safetensors({"prompt_embeddings": ("F32", (rows, width), f32(values))}))


class Kinds(HttpCase):
    @classmethod
    def daemon(cls):
        return Daemon(GQA, GQA_ADAPTERS, ["--dtype", "f32", "--name", "gqa"])

    def answer(self, model, **fields):
        log = self.ok(self.d.complete(model=model, prompt=PROMPT, max_tokens=20, logprobs=2,
                                      ignore_eos=True, **fields))["choices"][0]["logprobs"]
        return log["tokens"], log["token_logprobs"]

    def test_each_kind_is_the_same_put_or_loaded_at_start(self):
        for folder in sorted(p for p in GQA_ADAPTERS.iterdir() if p.is_dir()):
            kind = folder.name
            task = {"task_id": 1} if kind == "multitask" else {}
            with self.subTest(kind=kind):
                put = self.d.put_peft(f"put-{kind}", folder)
                self.assertIn(put.status, (200, 201), put)
                info = put.json
                self.assertTrue(info["version"])
                config = json.loads((folder / "adapter_config.json").read_text())
                self.assertEqual(info["virtual_tokens"], config["num_virtual_tokens"])
                self.assertGreater(info["bytes"], 0)
                self.assertIsInstance(info["kind"], str)
                self.assertGreaterEqual(info["compile_ms"], 0)
                self.assertIs(info["durable"], False)
                loaded = self.ok(self.d.get(f"/v1/adapters/{kind}"))
                self.assertEqual(loaded["version"], info["version"])
                self.assertEqual(loaded["kind"], info["kind"])
                self.assertEqual(self.answer(f"put-{kind}", **task), self.answer(kind, **task))
                self.assertNotEqual(self.answer(kind, **task)[1], self.answer(None)[1])

    def test_text(self):
        body = json.loads((GQA_ADAPTERS / "text.json").read_text())
        put = self.d.request("PUT", "/v1/adapters/words", body)
        self.assertIn(put.status, (200, 201), put)
        tokens = self.d.post("/tokenize", {"content": body["text"]}).json["tokens"]
        self.assertEqual(put.json["virtual_tokens"], len(tokens))
        self.assertEqual(self.answer("words"), self.answer("text"))
        spelled = self.ok(self.d.complete(prompt=tokens + PROMPT, max_tokens=20, logprobs=2,
                                          ignore_eos=True))["choices"][0]["logprobs"]
        self.assertEqual(self.answer("words")[0], spelled["tokens"])

    def test_kinds_are_told_apart(self):
        listed = {a.get("id") or a["name"]: a for a in self.ok(self.d.get("/v1/adapters"))["data"]}
        self.assertNotEqual(listed["text"]["kind"], listed["prompt_tuning"]["kind"])
        self.assertNotEqual(listed["prefix_tuning"]["kind"], listed["prompt_tuning"]["kind"])
        for kind in ("text", "prefix_tuning", "hidden_prefix"):
            self.assertEqual(self.ok(self.d.get(f"/v1/adapters/{kind}"))["version"],
                             listed[kind]["version"])


class Resources(HttpCase):
    @classmethod
    def daemon(cls):
        return Daemon(GQA, flags=["--dtype", "f32", "--name", "gqa"])

    def test_put_get_delete(self):
        folder = GQA_ADAPTERS / "prompt_tuning"
        self.assert_error(self.d.get("/v1/adapters/one"), 404)
        self.assert_error(self.d.request("DELETE", "/v1/adapters/one"), 404)
        first = self.d.put_peft("one", folder)
        self.assertEqual(first.status, 201, first)
        again = self.d.put_peft("one", folder)
        self.assertEqual(again.status, 200, again)
        self.assertEqual(again.json["version"], first.json["version"])
        other = self.d.put_peft("one", GQA_ADAPTERS / "cpt")
        self.assertNotEqual(other.json["version"], first.json["version"])
        self.assertEqual(self.ok(self.d.get("/v1/adapters/one"))["version"],
                         other.json["version"])
        self.assertEqual(self.d.get("/v1/models/one").json["parent"], "gqa")
        gone = self.d.request("DELETE", "/v1/adapters/one")
        self.assertEqual((gone.status, gone.body), (204, b""), gone)
        for answer in (self.d.get("/v1/adapters/one"), self.d.get("/v1/models/one"),
                       self.d.complete(model="one", prompt=PROMPT),
                       self.d.request("DELETE", "/v1/adapters/one")):
            self.assert_error(answer, 404)
        self.assertNotIn("one", self.d.adapter_names())

    def test_files(self):
        folder = GQA_ADAPTERS / "prefix_tuning"
        self.d.put_peft("filed", folder)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            got = self.d.get(f"/v1/adapters/filed/files/{name}")
            self.assertEqual((got.status, got.body), (200, (folder / name).read_bytes()), name)
        for name in ("nothing", "..%2Fadapter_config.json", "..", "adapter_config.json%00"):
            with self.subTest(name=name):
                self.assertIn(self.d.get(f"/v1/adapters/filed/files/{name}").status, (400, 404))
        self.assert_error(self.d.get("/v1/adapters/nobody/files/adapter_config.json"), 404)

    def test_parts_by_file_name_in_any_order(self):
        config = (GQA_ADAPTERS / "cpt/adapter_config.json").read_bytes()
        weights = weights_of("cpt")
        for parts in ([("a", "adapter_model.safetensors", weights),
                       ("b", "adapter_config.json", config)],
                      [("file", "adapter_config.json", config),
                       ("file", "adapter_model.safetensors", weights)]):
            answer = self.d.put_parts("parts", parts)
            self.assertIn(answer.status, (200, 201), answer)

    def test_names(self):
        for name in ("a", "A.b_c-1", "9", "x" * 64, "%61bc"):
            with self.subTest(name=name):
                answer = self.d.request("PUT", f"/v1/adapters/{name}",
                                        {"kind": "text", "text": "hi"})
                self.assertIn(answer.status, (200, 201), answer)
        self.assertIn("abc", self.d.adapter_names())
        before = self.d.adapter_names()
        for name in (".x", "-x", "_x", "a%2Fb", "..%2Fa", "a%00b", "%00", "x" * 65, "a%20b",
                     "%C3%A9", "a:b", "gqa", "..", "a%0Ab", "a%5Cb", "a+b", "a~b"):
            with self.subTest(name=name):
                for method, body in (("PUT", {"kind": "text", "text": "hi"}), ("GET", None)):
                    answer = self.d.request(method, f"/v1/adapters/{name}", body)
                    self.assertIn(answer.status, (400, 404, 409, 422), answer)
        self.assertEqual(self.d.adapter_names(), before)
        self.assert_alive()

    def test_text_bodies_refused(self):
        for body in ({"kind": "text"}, {"kind": "text", "text": ""}, {"kind": "text", "text": 5},
                     {"kind": "song", "text": "la"}, {"text": "hi"}, [], {},
                     {"kind": "text", "text": "a\x00b"}, {"kind": "text", "text": "x " * 2000}):
            with self.subTest(body=str(body)[:40]):
                self.assert_error(self.d.request("PUT", "/v1/adapters/wrong", body), REFUSED)
        self.assertNotIn("wrong", self.d.adapter_names())


class Refused(HttpCase):
    """Every upload here is refused with a message; nothing changes; the daemon lives."""

    FLAGS = ["--dtype", "f32"]

    @classmethod
    def daemon(cls):
        return Daemon(GQA, flags=cls.FLAGS)

    def setUp(self):
        self.assertIn(self.d.put_peft("kept", GQA_ADAPTERS / "prompt_tuning").status, (200, 201))
        self.before = self.answer()

    def answer(self):
        return self.ok(self.d.complete(model="kept", prompt=PROMPT, logprobs=3))["choices"]

    def refuse(self, config, weights, *words):
        answer = self.d.put_peft("kept", None, config, weights)
        self.assert_error(answer, REFUSED, words)
        self.assertNotRegex(answer.json["error"]["message"], r"/tmp|0x[0-9a-f]{6}")
        new = self.d.put_peft("fresh", None, config, weights)
        self.assertIn(new.status, REFUSED, new)
        self.assertEqual(self.d.get("/v1/adapters/fresh").status, 404)
        self.assertEqual(self.answer(), self.before)

    def each(self, cases):
        for what, (config, weights, *words) in cases.items():
            with self.subTest(what=what):
                self.refuse(config, weights, *words)

    def test_configs(self):
        pt, pt_w = config_of("prompt_tuning"), weights_of("prompt_tuning")
        rows = json.loads(pt)["num_virtual_tokens"]
        kv, kv_w = config_of, weights_of("prefix_tuning")
        cart, cart_w = config_of, weights_of("cartridge")
        mt_w = weights_of("multitask")
        self.each({
            "LORA": (config_of("prompt_tuning", peft_type="LORA"), pt_w, "LORA"),
            "unknown type": (config_of("prompt_tuning", peft_type="FOO"), pt_w, "FOO"),
            "ADAPTION_PROMPT": (config_of("prompt_tuning", peft_type="ADAPTION_PROMPT"), pt_w),
            "no type": (config_of("prompt_tuning", peft_type=None), pt_w),
            "type is a number": (config_of("prompt_tuning", peft_type=3), pt_w),
            "task type": (config_of("prompt_tuning", task_type="SEQ_CLS"), pt_w, "task_type"),
            "submodules": (config_of("prompt_tuning", num_transformer_submodules=2), pt_w),
            "modules_to_save": (config_of("prompt_tuning", modules_to_save=["lm_head"]), pt_w),
            "P differs": (config_of("prompt_tuning", num_virtual_tokens=rows + 1), pt_w),
            "P is 0": (config_of("prompt_tuning", num_virtual_tokens=0),
                       safetensors({"prompt_embeddings": ("F32", (0, WIDTH), b"")})),
            "P negative": (config_of("prompt_tuning", num_virtual_tokens=-1), pt_w),
            "P a float": (config_of("prompt_tuning", num_virtual_tokens=rows + 0.5), pt_w),
            "P huge": (config_of("prompt_tuning", num_virtual_tokens=2**62), pt_w),
            "token_dim": (config_of("prompt_tuning", token_dim=WIDTH + 1), pt_w),
            "num_layers": (config_of("prompt_tuning", num_layers=LAYERS + 1), pt_w),
            "heads": (kv("prefix_tuning", num_attention_heads=3), kv_w),
            "kv token_dim": (kv("prefix_tuning", token_dim=WIDTH), kv_w),
            "frozen > P": (cart("cartridge", num_frozen_tokens=41), cart_w),
            "tasks differ": (config_of("multitask", num_tasks=4), mt_w),
            "ranks differ": (config_of("multitask", num_ranks=3), mt_w),
            "soft as kv": (config_of("prefix_tuning", num_virtual_tokens=rows), pt_w),
            "not JSON": (b"{", pt_w),
            "not an object": (b"[]", pt_w),
            "empty": (b"", pt_w),
            "NUL": (pt.replace(b"PROMPT_TUNING", b"PROMPT_TUNING\\u0000X"), pt_w),
            "duplicate": (b'{"peft_type":"LORA",' + pt.lstrip()[1:], pt_w),
            "bad UTF-8": (pt.replace(b'"revision": null', b'"revision": "\xff"'), pt_w),
            "deep": (b'{"a":' * 5000 + b"1" + b"}" * 5000, pt_w),
        })

    def test_shapes(self):
        def made(dtype, shape, raw, name="prompt_embeddings", **config):
            return (config_of("prompt_tuning", num_virtual_tokens=8, **config),
                    safetensors({name: (dtype, shape, raw)}))

        rows8 = f32([0.1] * (8 * WIDTH))
        self.each({
            "wrong width": made("F32", (8, 32), f32([0.1] * 256), token_dim=None),
            "3-D": made("F32", (1, 8, WIDTH), rows8),
            "1-D": made("F32", (8 * WIDTH,), rows8),
            "name": made("F32", (8, WIDTH), rows8, name="lora_A"),
            "F64": made("F64", (8, WIDTH), rows8 * 2),
            "I32": made("I32", (8, WIDTH), rows8),
            "F8": made("F8_E4M3", (8, WIDTH), rows8[:8 * WIDTH]),
            "NaN": made("F32", (8, WIDTH), rows8[:-4] + f32([math.nan])),
            "Inf": made("F32", (8, WIDTH), f32([math.inf]) + rows8[4:]),
            "-Inf": made("F32", (8, WIDTH), rows8[:-4] + f32([-math.inf])),
            "F16 NaN": made("F16", (8, WIDTH), b"\x00\x7e" + bytes(8 * WIDTH * 2 - 2)),
            "BF16 Inf": made("BF16", (8, WIDTH), b"\x80\x7f" + bytes(8 * WIDTH * 2 - 2)),
            "too many": soft_prompt(rows=300),
            "as many as positions": soft_prompt(rows=256),
            "extra key": (config_of("prompt_tuning", num_virtual_tokens=8), safetensors({
                "prompt_embeddings": ("F32", (8, WIDTH), rows8),
                "base_model.lm_head.weight": ("F32", (1,), f32([0]))})),
            "no tensor": (config_of("prompt_tuning"), safetensors({})),
            "hidden layers": (config_of("hidden_prefix", num_virtual_tokens=2), safetensors({
                "hidden_prefix": ("F32", (LAYERS + 1, 2, WIDTH),
                                  f32([0.1] * ((LAYERS + 1) * 2 * WIDTH)))})),
            "kv width": (config_of("prefix_tuning", num_virtual_tokens=2), safetensors({
                "prompt_embeddings": ("F32", (2, LAYERS * 2 * WIDTH),
                                      f32([0.1] * (2 * LAYERS * 2 * WIDTH)))})),
        })

    def test_files_that_lie(self):
        config = config_of("prompt_tuning", num_virtual_tokens=8)
        rows8 = f32([0.1] * (8 * WIDTH))
        size = len(rows8)
        good = safetensors({"prompt_embeddings": ("F32", (8, WIDTH), rows8)})

        def header(text):
            return config, safetensors_raw(text.encode(), rows8)

        def tensor(offsets, shape=(8, WIDTH), name="prompt_embeddings"):
            return (f'"{name}":{{"dtype":"F32","shape":{list(shape)},'
                    f'"data_offsets":{list(offsets)}}}')

        self.each({
            "empty": (config, b""),
            "7 bytes": (config, good[:7]),
            "only the length": (config, good[:8]),
            "cut header": (config, good[:40]),
            "cut data": (config, good[:-1]),
            "trailing byte": (config, good + b"\0"),
            "length 2^63": (config, safetensors_raw(good[8:-size], rows8, 2**63)),
            "length 2^64-1": (config, safetensors_raw(good[8:-size], rows8, 2**64 - 1)),
            "length past the end": (config, safetensors_raw(good[8:-size], rows8, len(good))),
            "not JSON": header("{nope}"),
            "array": header("[]"),
            "hole": header("{" + tensor((4, size)) + "}"),
            "past the end": header("{" + tensor((0, size + 4)) + "}"),
            "backwards": header("{" + tensor((size, 0)) + "}"),
            "overlap": header("{" + tensor((0, size)) + "," + tensor((0, size), name="b") + "}"),
            "duplicate name": header("{" + tensor((0, size)) + "," + tensor((0, size)) + "}"),
            "escaped duplicate": header("{" + tensor((0, size)) + ","
                                        + tensor((0, size), name="prompt\\u005fembeddings")
                                        + "}"),
            "shape overflow": header("{" + tensor((0, size), (2**62, 2**62)) + "}"),
            "float shape": header('{"prompt_embeddings":{"dtype":"F32","shape":[8.0,64],'
                                  f'"data_offsets":[0,{size}]}}}}'),
            "negative shape": header("{" + tensor((0, size), (-8, -WIDTH)) + "}"),
            "bad UTF-8": (config, safetensors_raw(b'{"\xff":1}', rows8)),
            "deep": (config, safetensors_raw(b'{"a":' + b"[" * 20000, rows8)),
            "pickle": (config, b"PK\x03\x04" + bytes(200)),
            "old pickle": (config, b"\x80\x02}q\x00."),
        })

    def test_parts_missing_or_wrong(self):
        config, weights = config_of("prompt_tuning"), weights_of("prompt_tuning")
        for what, parts in {
            "no weights": [("config", "adapter_config.json", config)],
            "no config": [("weights", "adapter_model.safetensors", weights)],
            "nothing": [],
            "a pickle": [("config", "adapter_config.json", config),
                         ("weights", "adapter_model.bin", b"PK\x03\x04" + bytes(100))],
            "config twice": [("config", "adapter_config.json", config)] * 2
                            + [("weights", "adapter_model.safetensors", weights)],
        }.items():
            with self.subTest(what=what):
                self.assert_error(self.d.put_parts("kept", parts), REFUSED)
                self.assertEqual(self.answer(), self.before)

    def test_multipart_that_breaks_off(self):
        body, content_type = multipart([("config", "adapter_config.json",
                                         config_of("cpt")),
                                        ("weights", "adapter_model.safetensors",
                                         weights_of("cpt"))])
        for cut in (len(body) - 10, len(body) // 2, 20):
            with self.subTest(cut=cut):
                answer = self.d.request("PUT", "/v1/adapters/kept", body[:cut],
                                        {"Content-Type": content_type})
                self.assertIn(answer.status, REFUSED, answer)
        for bad_type in ("multipart/form-data", "multipart/form-data; boundary=",
                         "application/octet-stream", "text/plain"):
            with self.subTest(bad_type=bad_type):
                answer = self.d.request("PUT", "/v1/adapters/kept", body,
                                        {"Content-Type": bad_type})
                self.assertIn(answer.status, REFUSED, answer)
        self.assertEqual(self.answer(), self.before)
        self.assert_alive()


class BrokenOff(unittest.TestCase):
    def test_uploads_that_break_off_do_not_hold_the_end(self):
        """The bytes and the client's going away often come at once; both must be seen."""
        body, content_type = multipart([("config", "adapter_config.json", config_of("cpt")),
                                        ("weights", "adapter_model.safetensors",
                                         weights_of("cpt"))])
        head = (f"PUT /v1/adapters/x HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode()
        with Daemon(GQA) as d:
            for cut in [0, 1, 100, 300, len(body) - 1] * 4:
                with socket.create_connection(("127.0.0.1", d.port)) as sock:
                    sock.sendall(head + body[:cut])
            began = time.monotonic()
            self.assertEqual(d.stop(), 0)
            self.assertLess(time.monotonic() - began, limit(3))


class RefusedAfterTheCast(Refused):
    """The same refusals with a bf16 cache, and values that are finite only before the cast."""

    FLAGS = ["--dtype", "bf16"]

    def test_infinite_after_the_cast(self):
        config, weights = soft_prompt(value=3.4e38)
        self.refuse(config, weights)


class HotSwap(HttpCase):
    @classmethod
    def daemon(cls):
        return Daemon(long_model(cls.tmp), flags=["--dtype", "f32"])

    FIELDS = {"prompt": PROMPT, "max_tokens": 600, "ignore_eos": True, "temperature": 0.8,
              "seed": 3}

    def test_streams_keep_their_version(self):
        versions = [soft_prompt(seed=s) for s in (1, 2)]
        texts, digests = [], []
        for config, weights in versions:
            put = self.d.put_peft("swapped", None, config, weights)
            digests.append(put.json["version"])
            texts.append(self.ok(self.d.complete(model="swapped", **self.FIELDS))
                         ["choices"][0]["text"])
        self.assertNotEqual(texts[0], texts[1])
        overlaps = 0
        for round_ in range(4):
            current = (round_ + 1) % 2
            streams = [self.d.stream(model="swapped", **self.FIELDS) for _ in range(3)]
            iterators = [iter(s) for s in streams]
            firsts = [[next(i)] for i in iterators]
            put = self.d.put_peft("swapped", None, *versions[1 - current])
            self.assertEqual(put.status, 200, put)
            self.assertEqual(put.json["version"], digests[1 - current])
            overlaps += self.d.metrics().running > 0
            after = self.ok(self.d.complete(model="swapped", **self.FIELDS))
            self.assertEqual(after["choices"][0]["text"], texts[1 - current])
            for first, rest, stream in zip(firsts, iterators, streams):
                self.assertEqual(joined(first + list(rest)), texts[current])
                self.assertTrue(stream.done)
        self.assertGreater(overlaps, 0, "no stream ran while its adapter was swapped")

    def test_delete_lets_running_requests_finish(self):
        self.d.put_peft("leaving", None, *soft_prompt(seed=5))
        whole = self.ok(self.d.complete(model="leaving", **self.FIELDS))["choices"][0]["text"]
        stream = self.d.stream(model="leaving", **self.FIELDS)
        events = iter(stream)
        first = [next(events)]
        self.assertIn(self.d.request("DELETE", "/v1/adapters/leaving").status, (200, 204))
        self.assert_error(self.d.complete(model="leaving", prompt=PROMPT), 404)
        self.assertEqual(joined(first + list(events)), whole)

    def test_many_puts_and_requests_at_once(self):
        """No request fails, and each answers as exactly one of the versions."""
        versions = [soft_prompt(seed=s, rows=4 + s) for s in (11, 12, 13)]
        fields = {**self.FIELDS, "max_tokens": 40, "model": "busy"}
        texts = []
        for version in versions:
            self.d.put_peft("busy", None, *version)
            texts.append(self.ok(self.d.complete(**fields))["choices"][0]["text"])
        self.assertEqual(len(set(texts)), 3)

        def client():
            return [self.ok(self.d.complete(**fields))["choices"][0]["text"] for _ in range(8)]

        def putter():
            for i in range(12):
                self.assertEqual(self.d.put_peft("busy", None, *versions[i % 3]).status, 200)
            return []

        for answers in run_all([client] * 6 + [putter] * 2):
            self.assertLessEqual(set(answers), set(texts))


class Durable(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.mkdtemp(prefix="prefixd-state-")
        self.addCleanup(shutil.rmtree, self.tmp, True)
        self.state = pathlib.Path(self.tmp, "state")

    def daemon(self, adapters=None):
        d = Daemon(GQA, adapters, ["--state", self.state, "--dtype", "f32"])
        self.addCleanup(d.close)
        return d.start()

    def text(self, d, model):
        answer = d.complete(model=model, prompt=PROMPT, max_tokens=24, ignore_eos=True,
                            logprobs=1)
        self.assertEqual(answer.status, 200, answer)
        return answer.json["choices"][0]

    def test_what_was_put_survives_kill_9(self):
        d = self.daemon()
        puts = {"soft": d.put_peft("soft", GQA_ADAPTERS / "prompt_tuning"),
                "kv": d.put_peft("kv", GQA_ADAPTERS / "prefix_tuning"),
                "gone": d.put_peft("gone", GQA_ADAPTERS / "cpt"),
                "words": d.request("PUT", "/v1/adapters/words", {"kind": "text", "text": "Hi"})}
        for put in puts.values():
            self.assertEqual(put.status, 201, put)
            self.assertIs(put.json["durable"], True)
        before = {name: self.text(d, name) for name in ("soft", "kv", "words")}
        self.assertIn(d.request("DELETE", "/v1/adapters/gone").status, (200, 204))
        d.kill()
        d.restart()
        self.assertEqual(d.adapter_names(), ["kv", "soft", "words"])
        for name in ("soft", "kv", "words"):
            self.assertEqual(d.get(f"/v1/adapters/{name}").json["version"],
                             puts[name].json["version"])
            self.assertEqual(self.text(d, name), before[name])
        got = d.get("/v1/adapters/kv/files/adapter_model.safetensors")
        self.assertEqual(got.body, weights_of("prefix_tuning"))

    def test_rollback(self):
        """An older version answers as it did, before and after a kill; its condition holds."""
        d = self.daemon()
        old = d.put_peft("x", GQA_ADAPTERS / "prompt_tuning").json["version"]
        before = self.text(d, "x")
        new = d.put_peft("x", GQA_ADAPTERS / "prefix_tuning").json["version"]
        after = self.text(d, "x")
        self.assertNotEqual(before, after)
        back = d.request("POST", "/v1/adapters/x/rollback", {"version": old},
                         headers={"If-Match": f'"{new}"'})
        self.assertEqual((back.status, back.json["version"]), (200, old), back)
        self.assertEqual(back.headers["ETag"], f'"{old}"')
        self.assertEqual(self.text(d, "x"), before)
        late = d.request("POST", "/v1/adapters/x/rollback", {"version": new},
                         headers={"If-Match": f'"{new}"'})
        self.assertEqual(late.status, 412, late)
        d.kill()
        d.restart()
        self.assertEqual(self.text(d, "x"), before)
        versions = d.get("/v1/adapters/x/versions").json["data"]
        self.assertEqual([(v["version"], v["current"], v["kind"]) for v in versions],
                         [(new, False, "PREFIX_TUNING"), (old, True, "PROMPT_TUNING")])
        d.request("POST", "/v1/adapters/x/rollback", {"version": new})
        self.assertEqual(self.text(d, "x"), after)

    def test_one_of_many_compares_and_swaps(self):
        """Of eight PUTs that begin from the same version exactly one gets through."""
        d = self.daemon()
        versions = [soft_prompt(seed=s, rows=8) for s in range(9)]
        etag = f'"{d.put_peft("x", None, *versions[0]).json["version"]}"'
        seen = []

        def put(version):
            seen.append(d.put_peft("x", None, *version, headers={"If-Match": etag}).status)

        threads = [threading.Thread(target=put, args=(v,)) for v in versions[1:]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual(sorted(seen), [200] + [412] * 7)
        self.assertEqual(len(d.get("/v1/adapters/x/versions").json["data"]), 2)

    def test_state_of_an_older_daemon(self):
        """Pointer files and blobs of before the database are served as they were."""
        d = self.daemon()
        version = d.put_peft("x", GQA_ADAPTERS / "prompt_tuning").json["version"]
        before = self.text(d, "x")
        d.kill()
        for file in self.state.glob("registry.db*"):
            file.unlink()
        (self.state / "blobs" / f"1-{version}").rename(self.state / "blobs" / version)
        (self.state / "adapters").mkdir()
        (self.state / "adapters" / "x.json").write_text(
            f'{{"version": "{version}", "created": 12345}}\n')
        (self.state / "adapters" / "gone.json").write_text('{"deleted": true}\n')
        for _ in range(2):
            d.restart()
            x = d.get("/v1/adapters/x").json
            self.assertEqual((x["version"], x["created"], x["durable"]), (version, 12345, True))
            self.assertEqual(self.text(d, "x"), before)
            self.assertEqual(d.adapter_names(), ["x"])
            self.assertFalse((self.state / "adapters").exists())
            d.kill()

    def test_kill_9_amid_puts(self):
        """After each kill the last acknowledged version, or a newer one, is there whole."""
        versions = [soft_prompt(seed=s, rows=16) for s in range(4)]
        d = self.daemon()
        digests = [d.put_peft("x", None, *v).json["version"] for v in versions]
        rng = random.Random(7)
        for _ in range(5):
            acknowledged, stop_after = [len(versions) - 1], rng.randint(1, 12)
            reached, ended = threading.Event(), threading.Event()

            def put_for_ever():
                for i in range(400):
                    if ended.is_set():
                        return
                    try:
                        if d.put_peft("x", None, *versions[i % 4]).status != 200:
                            return
                    except OSError:
                        return
                    acknowledged.append(i % 4)
                    if i >= stop_after:
                        reached.set()

            d.put_peft("x", None, *versions[3])
            thread = threading.Thread(target=put_for_ever)
            thread.start()
            self.assertTrue(reached.wait(60))
            d.kill()
            ended.set()
            thread.join(30)
            d.restart()
            last = acknowledged[-1]
            version = d.get("/v1/adapters/x").json["version"]
            self.assertIn(version, (digests[last], digests[(last + 1) % 4]))
            self.text(d, "x")

    def test_state_wins_over_adapters(self):
        folder = pathlib.Path(self.tmp, "adapters")
        shutil.copytree(GQA_ADAPTERS / "cpt", folder / "both")
        d = self.daemon(folder)
        shipped = d.get("/v1/adapters/both").json["version"]
        put = d.put_peft("both", GQA_ADAPTERS / "prompt_tuning")
        self.assertNotEqual(put.json["version"], shipped)
        lines = d.stderr().count("\n")
        d.kill()
        d.restart()
        self.assertEqual(d.get("/v1/adapters/both").json["version"], put.json["version"])
        new = "\n".join(d.stderr().split("\n")[lines:])
        self.assertRegex(new, r"both.*(PUT|request)")

    def test_refused_puts_leave_nothing(self):
        d = self.daemon()
        d.put_peft("x", None, *soft_prompt())
        version = d.get("/v1/adapters/x").json["version"]
        self.assertIn(d.put_peft("x", None, *soft_prompt(value=math.nan)).status, REFUSED)
        self.assertIn(d.put_peft("y", None, *soft_prompt(width=8)).status, REFUSED)
        d.kill()
        d.restart()
        self.assertEqual(d.adapter_names(), ["x"])
        self.assertEqual(d.get("/v1/adapters/x").json["version"], version)

    def test_a_spoilt_version_is_broken_alone(self):
        d = self.daemon()
        d.put_peft("good", None, *soft_prompt(seed=1))
        d.put_peft("spoilt", None, *soft_prompt(seed=2))
        self.spoil(d, "spoilt")
        d.restart()
        self.assertEqual(d.adapter_names(), ["good", "spoilt"])
        self.assert_broken(d, "spoilt")
        self.text(d, "good")
        self.assertEqual(d.get("/v1/adapters/good").json["state"], "ready")

    def spoil(self, d, name):
        """Ends the daemon and damages the stored files of an adapter, but not its name."""
        version = d.get(f"/v1/adapters/{name}").json["version"]
        d.kill()
        for compiled in (self.state / "compiled").glob(f"1-{version}-*"):
            compiled.unlink()
        weights = self.state / "blobs" / f"1-{version}" / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")

    def assert_broken(self, d, name):
        """It has a name still, but does not answer, and says why and until when."""
        answer = d.complete(model=name, prompt=PROMPT)
        self.assertEqual((answer.status, answer.json["error"]["code"]),
                         (422, "adapter_incompatible"), answer)
        info = d.get(f"/v1/adapters/{name}").json
        self.assertEqual((info["state"], info["resident"]), ("broken", False), info)
        self.assertTrue(info["why"])
        self.assertNotIn(str(self.tmp), info["why"] + answer.json["error"]["message"])
        self.assertGreater(info["until"], time.time() - 60)

    def test_put_again_mends_a_spoilt_version(self):
        d = self.daemon()
        d.put_peft("x", None, *soft_prompt())
        before = self.text(d, "x")
        self.spoil(d, "x")
        d.restart()
        self.assert_broken(d, "x")
        put = d.put_peft("x", None, *soft_prompt())
        self.assertEqual((put.status, put.json["durable"]), (200, True), put)
        self.assertEqual(self.text(d, "x"), before)
        d.kill()
        for compiled in (self.state / "compiled").iterdir():
            compiled.unlink()
        d.restart()
        self.assertEqual(self.text(d, "x"), before)

    def test_delete_of_a_spoilt_version(self):
        """What was PUT wins over the adapters folder even then; deleted it stays deleted."""
        folder = pathlib.Path(self.tmp, "adapters")
        shutil.copytree(GQA_ADAPTERS / "cpt", folder / "both")
        d = self.daemon(folder)
        for name in ("both", "alone"):
            self.assertLess(d.put_peft(name, None, *soft_prompt()).status, 300)
        self.spoil(d, "both")
        d.restart()
        self.assert_broken(d, "both")
        self.assert_broken(d, "alone")
        for name in ("both", "alone"):
            self.assertEqual(d.request("DELETE", f"/v1/adapters/{name}").status, 204)
            self.assertEqual(d.request("DELETE", f"/v1/adapters/{name}").status, 404)
        d.kill()
        d.restart()
        self.assertEqual(d.adapter_names(), [])

    def test_two_models_do_not_mix(self):
        """A state made for one base does not stop another base from starting."""
        d = self.daemon()
        d.put_peft("x", None, *soft_prompt())
        self.assertEqual(d.stop(), 0)
        other = model_copy(self.tmp, lambda c: None, "other",
                           source=GQA.parent / "wide")
        d = Daemon(other, flags=["--state", self.state])
        self.addCleanup(d.close)
        d.start()
        self.assertEqual(d.complete(prompt=[1]).status, 200)
        self.assert_broken(d, "x")
        self.assertEqual(d.request("DELETE", "/v1/adapters/x").status, 204)
        self.assertEqual(d.request("DELETE", "/v1/adapters/x").status, 404)


if __name__ == "__main__":
    unittest.main()
