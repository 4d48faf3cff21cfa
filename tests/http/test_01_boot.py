"""Start and end: flags, refusals, the one line on stdout, exit statuses."""

import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import unittest

from harness import BIN, GOLDEN, GQA, GQA_ADAPTERS, Daemon, limit, model_copy

FLAGS = ["--model", "--name", "--adapters", "--listen", "--dtype", "--threads", "--ctx",
         "--kv-bytes", "--adapter-bytes", "--max-batch", "--state", "--api-key-file",
         "--admin-key-file", "--log-format", "--config",
         "--version", "--help"]


MODELS = ["a Hugging Face directory (config.json, model.safetensors, tokenizer.json)",
          "or a .gguf file is accepted"]


def run(*args):
    return subprocess.run([BIN, *map(str, args)], capture_output=True, text=True,
                          timeout=limit(8), stdin=subprocess.DEVNULL)


class Refusals(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.mkdtemp(prefix="prefixd-boot-")
        self.addCleanup(shutil.rmtree, self.tmp, True)

    def assert_refused(self, args, *names):
        """Exit 1, nothing on stdout, one line on stderr that names the things."""
        done = run(*args)
        self.assertEqual(done.returncode, 1, done)
        self.assertEqual(done.stdout, "")
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        for name in names:
            self.assertIn(str(name), lines[0])

    def test_wrong_flags(self):
        cases = [
            (["--frobnicate", "1"], ["--frobnicate"]),
            (["--model"], ["--model: no value is given"]),
            (["--model", "--ctx", "5"], ["--model: no value is given"]),
            (["--threads"], ["--threads: no value is given", "0 to 1024"]),
            ([], ["--model"]),
            (["--model", "/nonexistent/model"], ["--model /nonexistent/model: ", *MODELS]),
            (["--model", __file__], [f"--model {__file__}: ", "GGUF", "Hugging Face directory"]),
            (["--model", GQA, "stray"], ["stray"]),
            (["--model", GQA, "--threads", "many"], ["--threads", "many"]),
            (["--model", GQA, "--threads", "-1"], ["--threads", "-1"]),
            (["--model", GQA, "--threads", "100000"], ["--threads", "100000"]),
            (["--model", GQA, "--threads", "2x"], ["--threads", "2x"]),
            (["--model", GQA, "--dtype", "f64"], ["--dtype", "f64", "f32", "bf16", "int8", "int4", "auto"]),
            (["--model", GQA, "--log-format", "xml"], ["--log-format", "xml", "text", "json"]),
            (["--model", GQA, "--max-batch", "0"], ["--max-batch", "0"]),
            (["--model", GQA, "--ctx", "-5"], ["--ctx", "-5"]),
            (["--model", GQA, "--ctx", "99999999999999999999"], ["--ctx"]),
            (["--model", GQA, "--kv-bytes", "1.5"], ["--kv-bytes", "1.5"]),
            (["--model", GQA, "--config", "/nonexistent.json"], ["/nonexistent.json"]),
            (["--model", GQA, "--api-key-file", "/nonexistent.keys"], ["/nonexistent.keys"]),
        ]
        for args, names in cases:
            with self.subTest(args=args):
                self.assert_refused(args, *names)

    def test_missing_adapters_folder(self):
        for path in ("/nonexistent.dir", __file__):
            self.assert_refused(["--model", GQA, "--adapters", path, "--listen", "127.0.0.1:0"],
                                f"--adapters {path}: ", "a folder that can be read is accepted")

    def test_state_that_cannot_be(self):
        for path in ("/proc/nope", "/etc/passwd"):
            with self.subTest(path=path):
                self.assert_refused(["--model", GQA, "--state", path, "--listen", "127.0.0.1:0"],
                                    f"--state {path}: ", "is accepted")

    def test_state_in_use(self):
        state = os.path.join(self.tmp, "state")
        with Daemon(GQA, flags=["--state", state]):
            self.assert_refused(["--model", GQA, "--state", state, "--listen", "127.0.0.1:0"],
                                f"--state {state}: ", "in use by another process")

    def test_folder_without_a_model(self):
        self.assert_refused(["--model", self.tmp], f"--model {self.tmp}: ", *MODELS)

    def test_values_that_the_model_decides_about(self):
        for flag, value, accepted in [("--ctx", "100000", "this model accepts 1 to 256 tokens"),
                                      ("--kv-bytes", "1", "at least 12288")]:
            with self.subTest(flag=flag):
                done = run("--model", GQA, flag, value, "--listen", "127.0.0.1:0")
                self.assertEqual((done.returncode, done.stdout), (1, ""), done)
                self.assertIn(f"{flag} {value}: {accepted}", done.stderr.splitlines()[-1])

    def test_names(self):
        for name in ("a:b", "a\nb", b"a\xff", "a\x7f"):
            with self.subTest(name=name):
                done = subprocess.run([BIN, "--model", GQA, "--name", name], timeout=limit(8),
                                      capture_output=True, stdin=subprocess.DEVNULL)
                lines = done.stderr.decode().splitlines()  # valid UTF-8 even so
                self.assertEqual((done.returncode, len(lines)), (1, 1), done)
                self.assertIn("--name", lines[0])

    def test_refusals_as_json(self):
        for args, thing in [(["--model", "/nonexistent"], "--model /nonexistent"),
                            (["--frob"], "--frob"),
                            (["--model", GQA, "--adapters", "/nonexistent"], "--adapters /n")]:
            for form in (["--log-format", "json"], ["--log-format=json"]):
                with self.subTest(args=args):
                    done = run(*form, *args)
                    self.assertEqual((done.returncode, done.stdout), (1, ""), done)
                    self.assertEqual(done.stderr.count("\n"), 1, done)
                    line = json.loads(done.stderr)
                    self.assertEqual((line["level"], line["station"]), ("error", "boot"))
                    self.assertIn(thing, line["text"])

    def test_listen_addresses(self):
        for address in ["nonsense", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:x", ":::"]:
            with self.subTest(address=address):
                self.assert_refused(["--model", GQA, "--listen", address], address)

    def test_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            self.assert_refused(["--model", GQA, "--listen", address], f"--listen {address}: ",
                                "a free port")

    def test_config_file(self):
        for text, names in [("{", []), ('{"threads": "two"}', ["threads"]),
                            ('{"threads": 5000}', ["threads: 5000 is"]),
                            ('{"kv_bytes": "1G"}', ['kv_bytes: "1G" is']),
                            ('{"cors_origin": "http://a\\r\\nb"}', ["cors_origin", "control"]),
                            ('{"frob": 1}', ["frob"]), ("[1]", []),
                            ('{"dtype": "f64"}', ["dtype", "f64"])]:
            with self.subTest(text=text):
                path = os.path.join(self.tmp, "c.json")
                pathlib.Path(path).write_text(text)
                self.assert_refused(["--model", GQA, "--config", path], f"--config {path}: ",
                                    *names)

    def test_empty_key_file(self):
        path = pathlib.Path(self.tmp, "keys")
        path.write_text("\n")
        for flag in "--api-key-file", "--admin-key-file":
            self.assert_refused(["--model", GQA, flag, path], f"{flag} {path}")

    def test_beyond_loopback_needs_keys(self):
        self.assert_refused(["--model", GQA, "--listen", "0.0.0.0:0"], "--listen 0.0.0.0:0")

    def refused_model(self, change, *names, edit=None):
        model = model_copy(self.tmp, change, name=f"m{len(os.listdir(self.tmp))}")
        if edit:
            edit(model)
        done = run("--model", model, "--listen", "127.0.0.1:0")
        self.assertEqual((done.returncode, done.stdout), (1, ""), done)
        for name in names:
            self.assertIn(name, done.stderr.splitlines()[-1])

    def test_unsupported_models(self):
        def rope(kind):
            return lambda c: c.update(rope_parameters={"rope_type": kind, "rope_theta": 1e4,
                                                       "factor": 2.0})
        cases = {
            "architecture": (lambda c: c.update(architectures=["FooForCausalLM"],
                                                model_type="foo"), "Foo"),
            "rope": (rope("yarn"), "yarn"),
            "misshapen": (lambda c: c.update(intermediate_size=132), "mlp"),
            "missing": (lambda c: c.update(num_hidden_layers=4), "model.layers.3"),
            "extra": (lambda c: c.update(num_hidden_layers=2), "model.layers.2"),
            "activation": (lambda c: c.update(hidden_act="relu"), "relu"),
            "quantised": (lambda c: c.update(quantization_config={"quant_method": "gptq"}),
                          "quant"),
            "heads": (lambda c: c.update(num_key_value_heads=3), ""),
        }
        for what, (change, name) in cases.items():
            with self.subTest(what=what):
                self.refused_model(change, name)

    def test_broken_model_files(self):
        def truncate(model):
            path = model / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-100])

        def lie(model):
            path = model / "model.safetensors"
            data = path.read_bytes()
            path.write_bytes(struct.pack("<Q", 2**62) + data[8:])

        def unlink(name):
            return lambda model: (model / name).unlink()

        for edit, name in [(truncate, "model.safetensors"), (lie, "model.safetensors"),
                           (unlink("model.safetensors"), "model.safetensors"),
                           (unlink("config.json"), "config.json"),
                           (unlink("tokenizer.json"), "tokenizer.json")]:
            with self.subTest(edit=getattr(edit, "__name__", name)):
                self.refused_model(None, name, edit=edit)

    def test_broken_gguf(self):
        whole = (GOLDEN / "models/mixed.gguf").read_bytes()
        path = pathlib.Path(self.tmp, "bad.gguf")
        for what, data in {"cut": whole[:len(whole) // 2], "magic": b"GGML" + whole[4:],
                           "empty": b"", "count": whole[:8] + b"\xff" * 16 + whole[24:]}.items():
            with self.subTest(what=what):
                path.write_bytes(data)
                done = run("--model", path, "--listen", "127.0.0.1:0")
                self.assertEqual((done.returncode, done.stdout), (1, ""), done)
                self.assertRegex(done.stderr.splitlines()[-1], "GGUF|gguf")


class Running(unittest.TestCase):
    def test_version_and_help(self):
        version = run("--version")
        self.assertEqual(version.returncode, 0)
        self.assertRegex(version.stdout, r"\d+\.\d+")
        usage = run("--help")
        self.assertEqual(usage.returncode, 0)
        for flag in FLAGS:
            self.assertIn(flag, usage.stdout)

    def test_one_line_on_stdout_and_exit_0(self):
        d = Daemon(GQA).start()
        self.addCleanup(d.close)
        self.assertEqual(d.complete(prompt="once").status, 200)
        self.assertEqual(d.stop(), 0)
        self.assertEqual(d.more_stdout(), [])
        self.assertTrue(d.url.startswith("http://127.0.0.1:"))

    def test_config_file_and_flag_wins(self):
        with Daemon(GQA, flags=["--name", "flagged"],
                    config={"name": "configured", "ctx": 100, "dtype": "f32"}) as d:
            self.assertEqual(d.base, "flagged")
            answer = d.complete(prompt=[1, 2, 3], max_tokens=98)
            self.assertEqual(answer.status, 400, answer)
            self.assertIn("100", answer.json["error"]["message"])

    def test_loading_is_told(self):
        with Daemon(GQA) as d:
            self.assertRegex(d.stderr(), rf"boot loading {GQA} \(1 MiB\)\n(.*\n)*.*boot model")

    def test_name_of_the_working_folder(self):
        with Daemon(f"{GQA}/.") as d, Daemon(f"{GQA}/../gqa/.") as e:
            self.assertEqual((d.base, e.base), ("gqa", "gqa"))

    def test_tokenizer_with_more_ids_than_the_model(self):
        """Its tokens are refused where they come in; the rest of the vocabulary serves."""
        tmp = tempfile.mkdtemp(prefix="prefixd-boot-")
        self.addCleanup(shutil.rmtree, tmp, True)
        model = model_copy(tmp)
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        tokenizer["added_tokens"].append({"id": 320, "content": "<|new|>", "single_word": False,
                                          "lstrip": False, "rstrip": False, "normalized": False,
                                          "special": True})
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        with Daemon(model) as d:
            self.assertRegex(d.stderr(), "warn boot the tokenizer has ids up to 320, but the model "
                                         "embeds 320 tokens")
            for prompt in ("a<|new|>b", "<|new|>", ["a", "<|new|>"], [320], [[1], [320]]):
                answer = d.complete(prompt=prompt)
                self.assertEqual(answer.status, 400, answer)
                self.assertIn("320", answer.json["error"]["message"])
                self.assertEqual(answer.json["error"]["param"], "prompt")
            text = {"kind": "text", "text": "a<|new|>"}
            self.assertIn(d.request("PUT", "/v1/adapters/t", text).status, (400, 422))
            self.assertEqual(d.complete(prompt="a b").status, 200)

    def test_json_log(self):
        with Daemon(GQA, flags=["--log-format", "json"]) as d:
            self.assertEqual(d.complete(prompt="once").status, 200)
            self.assertEqual(d.stop(), 0)
            lines = d.stderr().splitlines()
            self.assertTrue(lines)
            for line in lines:
                self.assertIsInstance(json.loads(line), dict)

    def test_ipv6_loopback(self):
        if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
            self.skipTest("no IPv6 here")
        d = Daemon(GQA, flags=["--listen", "[::1]:0"], wait_ready=False)
        try:
            d.start()
        except AssertionError as error:
            self.fail(f"--listen [::1]:0: {error}")
        finally:
            d.close()

    def test_broken_adapters_are_skipped_with_a_reason(self):
        tmp = tempfile.mkdtemp(prefix="prefixd-boot-")
        self.addCleanup(shutil.rmtree, tmp, True)
        folder = pathlib.Path(tmp, "adapters")
        shutil.copytree(GQA_ADAPTERS / "prompt_tuning", folder / "good")
        shutil.copyfile(GQA_ADAPTERS / "text.json", folder / "words.json")
        shutil.copytree(GQA_ADAPTERS / "prompt_tuning", folder / "broken")
        (folder / "broken/adapter_config.json").write_text('{"peft_type":"LORA"}')
        (folder / "empty").mkdir()
        (folder / "bad.json").write_text('{"kind":"text"')
        with Daemon(GQA, folder) as d:
            for size in (1, 2, 1000):
                self.assertEqual(model_pages(d, size)[1:], ["good", "words"])
            self.assertEqual(d.get("/v1/models/bad").status, 404)
            adapters = {a["id"]: a for a in d.get("/v1/adapters").json["data"]}
            self.assertEqual([n for n in sorted(adapters) if adapters[n]["version"]],
                             ["good", "words"])
            self.assertIn("LORA", adapters["broken"]["refused"]["why"])
            log = d.stderr()
            for name in ("broken", "empty", "bad"):
                self.assertIn(name, log)
            self.assertIn("LORA", log)

    def test_float16_is_logged(self):
        with Daemon(GOLDEN / "models/linear") as d:
            self.assertRegex(d.stderr().lower(), r"f16.*bf16")

    def test_second_sigterm_exits_at_once(self):
        tmp = tempfile.mkdtemp(prefix="prefixd-boot-")
        self.addCleanup(shutil.rmtree, tmp, True)
        model = model_copy(tmp, lambda c: c.update(max_position_embeddings=65536))
        d = Daemon(model).start()
        self.addCleanup(d.close)
        stream = d.stream(prompt=[1], max_tokens=60000, ignore_eos=True)
        next(iter(stream))
        d.signal(signal.SIGTERM)
        d.wait(lambda: "drain" in d.stderr().lower() or refused(d), 5, "the drain to begin")
        d.signal(signal.SIGTERM)
        d.process.wait(limit(2))
        d.any_exit = True
        stream.drop()


def model_pages(daemon, size):
    """The ids of /v1/models, asked for page by page."""
    ids, more = [], True
    while more:
        after = f"&after={ids[-1]}" if ids else ""
        page = daemon.get(f"/v1/models?limit={size}{after}").json
        ids += [m["id"] for m in page["data"]]
        more = page["has_more"] and page["data"]
    return ids


def refused(daemon):
    try:
        return daemon.get("/ready").status != 200
    except OSError:
        return True


if __name__ == "__main__":
    unittest.main()
