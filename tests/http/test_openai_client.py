"""The official openai Python client, unchanged, against the daemon."""

import pathlib
import unittest

from harness import GQA, GQA_ADAPTERS, Daemon, HttpCase, long_model

try:
    import openai
except ImportError:
    openai = None

KEY = "client-key-0123456789"
OPERATOR = "sk-operator"  # of the harness, which reads /metrics


@unittest.skipUnless(openai, "the openai package is not installed (tests/http/openai_client.sh)")
class OpenAI(HttpCase):
    @classmethod
    def daemon(cls):
        path = pathlib.Path(cls.tmp, "keys")
        path.write_text(KEY + "\n")
        operators = pathlib.Path(cls.tmp, "operators")
        operators.write_text(OPERATOR + "\n")
        d = Daemon(GQA, GQA_ADAPTERS, ["--name", "gqa", "--dtype", "f32", "--api-key-file", path,
                                       "--admin-key-file", operators])
        d.headers = {"Authorization": f"Bearer {OPERATOR}"}
        return d

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.client = openai.OpenAI(base_url=f"{cls.d.url}/v1", api_key=KEY, max_retries=0)
        cls.addClassCleanup(cls.client.close)

    def create(self, **fields):
        fields = {"model": "gqa", "prompt": "The king", "temperature": 0, **fields}
        return self.client.completions.create(**fields)

    def test_completion(self):
        answer = self.create(max_tokens=5, logprobs=2, extra_body={"ignore_eos": True})
        self.assertEqual(answer.usage.completion_tokens, 5)
        self.assertEqual(len(answer.choices[0].logprobs.tokens), 5)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        adapted = self.create(model="prefix_tuning", max_tokens=20)
        self.assertNotEqual(adapted.choices[0].text, self.create(max_tokens=20).choices[0].text)

    def test_streaming(self):
        whole = self.create(max_tokens=12).choices[0].text
        chunks = list(self.create(max_tokens=12, stream=True,
                                  stream_options={"include_usage": True}))
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), whole)
        self.assertEqual(chunks[-1].usage.completion_tokens,
                         self.create(max_tokens=12).usage.completion_tokens)

    def test_lists_n_stop_and_echo(self):
        answer = self.create(prompt=["a", "b"], n=2, max_tokens=3, echo=True)
        self.assertEqual([c.index for c in answer.choices], [0, 1, 2, 3])
        self.assertTrue(answer.choices[2].text.startswith("b"))
        self.assertEqual(self.create(prompt=[1, 2], max_tokens=3, stop=["x"]).object,
                         "text_completion")

    def test_models(self):
        ids = [m.id for m in self.client.models.list()]
        self.assertIn("gqa", ids)
        self.assertIn("cartridge", ids)
        self.assertEqual(self.client.models.retrieve("cartridge").id, "cartridge")

    def test_error_classes(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.create(model="nobody")
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("nobody")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.create(temperature=-1)
        self.assertIn("temperature", caught.exception.message)
        self.assertEqual(caught.exception.param, "temperature")
        with self.assertRaises(openai.BadRequestError):
            self.create(max_tokens=100000, stream=True)
        stranger = openai.OpenAI(base_url=f"{self.d.url}/v1", api_key="wrong", max_retries=0)
        with self.assertRaises(openai.AuthenticationError):
            stranger.models.list()
        stranger.close()

    def test_a_stream_that_is_closed_early(self):
        stream = self.create(max_tokens=200, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.d.wait(lambda: self.d.metrics().running == 0, 2, "the closed stream to end")

    def test_a_stream_that_fails(self):
        with Daemon(long_model(self.tmp), flags=["--dtype", "f32"],
                    config={"request_deadline_ms": 400}) as d, \
                openai.OpenAI(base_url=f"{d.url}/v1", api_key="x", max_retries=0) as client:
            stream = client.completions.create(model="", prompt=[1], max_tokens=60000,
                                               stream=True, extra_body={"ignore_eos": True})
            with self.assertRaises(openai.APIError) as caught:
                for _ in stream:
                    pass
            self.assertEqual(caught.exception.code, "deadline_exceeded")


if __name__ == "__main__":
    unittest.main()
