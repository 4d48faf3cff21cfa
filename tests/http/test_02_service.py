"""What operators and tools ask first: health, ready, version, models, tokens, metrics."""

import os
import re
import unittest

from harness import GQA, GQA_ADAPTERS, Daemon, HttpCase, demo_model


class Service(HttpCase):
    @classmethod
    def daemon(cls):
        return Daemon(GQA, GQA_ADAPTERS, ["--name", "golden/gqa", "--dtype", "f32"])

    def test_health_ready_version(self):
        self.assertEqual(self.ok(self.d.get("/health"))["status"], "ok")
        self.ok(self.d.get("/ready"))
        self.assertRegex(self.ok(self.d.get("/version"))["version"], r"^\d+\.\d+")

    def test_probes_leave_no_line(self):
        """Nor a name that was given before."""
        ids = [self.d.get(path).headers["X-Request-Id"] for path in ["/health", "/ready", "/version"] * 30]
        self.assertEqual(len(set(ids)), len(ids))
        for name in ids:
            self.assertRegex(name, "^[0-9a-f]{32}$")
        refused = self.d.get("/nothing").headers["X-Request-Id"]
        self.d.wait(lambda: refused in self.d.stderr(), 5, "the line of what was refused")
        self.assertFalse([name for name in ids if name in self.d.stderr()])

    def test_models(self):
        listed = self.ok(self.d.get("/v1/models"))
        self.assertEqual(listed["object"], "list")
        by_id = {m["id"]: m for m in listed["data"]}
        names = sorted([p.stem if p.suffix == ".json" else p.name
                        for p in GQA_ADAPTERS.iterdir()])
        self.assertEqual(sorted(by_id), sorted(["golden/gqa"] + names))
        self.assertFalse(by_id["golden/gqa"].get("parent"))
        for name in names:
            self.assertEqual(by_id[name]["parent"], "golden/gqa")
        for model in listed["data"]:
            self.assertEqual(model["object"], "model")
            self.assertIsInstance(model["created"], int)
            self.assertIsInstance(model["owned_by"], str)

    def test_one_model(self):
        self.assertEqual(self.ok(self.d.get("/v1/models/text"))["id"], "text")
        self.assertEqual(self.ok(self.d.get("/v1/models/golden%2Fgqa"))["id"], "golden/gqa")
        error = self.assert_error(self.d.get("/v1/models/nobody"), 404)
        self.assertEqual(error["code"], "model_not_found")

    def test_tokenize_and_back(self):
        for text in ["Once upon a time", "é 😀 \n\t 12345", "   ", "a\\u0041"]:
            with self.subTest(text=text):
                tokens = self.ok(self.d.post("/tokenize", {"content": text}))["tokens"]
                self.assertTrue(tokens)
                self.assertTrue(all(isinstance(t, int) for t in tokens))
                self.assertEqual(self.ok(self.d.post("/tokenize", {"prompt": text}))["tokens"],
                                 tokens)
                back = self.ok(self.d.post("/detokenize", {"tokens": tokens}))
                self.assertEqual(back.get("content", back.get("prompt")), text)

    def test_tokenize_errors(self):
        for body in [{}, {"content": 5}, {"content": None}, {"tokens": []}]:
            with self.subTest(body=body):
                self.assert_error(self.d.post("/tokenize", body), 400)
        for body in [{}, {"tokens": "x"}, {"tokens": [-1]}, {"tokens": [320]},
                     {"tokens": [1.5]}, {"tokens": [[1]]}]:
            with self.subTest(body=body):
                self.assert_error(self.d.post("/detokenize", body), 400)

    def test_metrics(self):
        self.ok(self.d.complete(prompt=[1, 2, 3], max_tokens=5, ignore_eos=True))
        before = self.d.metrics()
        self.ok(self.d.complete(prompt=[1, 2, 3], max_tokens=5, ignore_eos=True,
                                model="cartridge"))
        self.d.wait(lambda: self.d.metrics().running == 0, 2, "the request to end")
        after = self.d.metrics()
        self.assertEqual(after.bad_lines, [])
        self.assertIn("text/plain", self.d.get("/metrics").headers["Content-Type"])

        def grew(name):
            return after.sum(name) - before.sum(name)

        self.assertEqual(grew("prefixd_prompt_tokens_total"), 3)
        self.assertEqual(grew("prefixd_generation_tokens_total"), 5)
        self.assertEqual(grew("prefixd_request_success_total"), 1)
        for histogram in ("time_to_first_token_seconds", "inter_token_latency_seconds",
                          "e2e_request_latency_seconds", "request_queue_time_seconds",
                          "request_prefill_time_seconds", "request_decode_time_seconds",
                          "request_prompt_tokens", "request_generation_tokens"):
            self.assertGreaterEqual(grew(f"prefixd_{histogram}_count"), 1, histogram)
            self.assertIn(f"# TYPE prefixd_{histogram} histogram", after.text)
            self.assertRegex(after.text, rf'prefixd_{histogram}_bucket{{[^}}]*le="\+Inf"')
        self.assertEqual(after.waiting, 0)
        self.assertLessEqual(after.kv_usage, 1)

    def test_no_prefill_for_an_adapter(self):
        def prefill_rows():
            text = self.d.get("/metrics").body.decode()
            rows = re.findall(r"^(prefixd_\w*prefill\w*rows\w*|prefixd_\w*rows\w*prefill\w*)"
                              r"(?:\{[^}]*\})? ([0-9.e+]+)$", text, re.M)
            self.assertTrue(rows, "no counter of prefill rows")
            return sum(float(r[1]) for r in rows)

        for adapter, virtual in [(None, 0), ("cartridge", 40), ("prompt_tuning", None),
                                 ("text", None), ("hidden_prefix", None)]:
            with self.subTest(adapter=adapter):
                before = prefill_rows()
                usage = self.ok(self.d.complete(model=adapter, prompt=list(range(10, 21)),
                                                max_tokens=1))["usage"]
                got = usage["prompt_tokens_details"]["virtual_tokens"]
                if virtual is None:
                    self.assertGreater(got, 0)
                else:
                    self.assertEqual(got, virtual)
                self.assertEqual(prefill_rows() - before, 11)


class DemoModel(HttpCase):
    """Whatever model is served: it boots with its adapters and each of them answers."""

    @classmethod
    def daemon(cls):
        model, adapters = demo_model()
        return Daemon(model, adapters)

    def test_each_adapter_answers(self):
        names = [m["id"] for m in self.ok(self.d.get("/v1/models"))["data"]]
        expected = {n.removesuffix(".json") for n in os.listdir(demo_model()[1] or ".")
                    if not n.endswith(".md")} if demo_model()[1] else set()
        self.assertLessEqual(expected, set(names))
        for name in names:
            with self.subTest(model=name):
                fields = {"task_id": 0} if name == "multitask" else {}
                answer = self.ok(self.d.complete(model=name, prompt="The king", max_tokens=8,
                                                 ignore_eos=True, **fields))
                self.assertEqual(answer["usage"]["completion_tokens"], 8)


if __name__ == "__main__":
    unittest.main()
