"""The README's own curl lines, run as they stand against the demo model."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest

from harness import BIN, CACHE, DEMO, ROOT, SLOW, Daemon, limit

README = ROOT / "README.md"


def curl_commands(text):
    """Every command of the ```sh blocks that begins with curl, continued lines joined."""
    commands = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S):
        block = block.replace("\\\n", " ")
        lines, i = block.splitlines(), 0
        while i < len(lines):
            line = lines[i].strip().removeprefix("$ ")
            i += 1
            if not line.startswith("curl"):
                continue
            while line.count("'") % 2 and i < len(lines):  # a quoted body over several lines
                line += "\n" + lines[i]
                i += 1
            commands.append(line)
    return commands


class Extraction(unittest.TestCase):
    def test_it_finds_what_a_shell_would_run(self):
        text = ("```sh\nmake run\n$ curl -s localhost:8080/health\ncurl -d '{\n \"a\": 1}' \\\n"
                "  x\n```\n```c\ncurl no\n```\n")
        self.assertEqual(curl_commands(text), ["curl -s localhost:8080/health",
                                               "curl -d '{\n \"a\": 1}'    x"])


class Readme(unittest.TestCase):
    def test_curl_lines(self):
        if not README.exists():
            self.skipTest("no README.md yet")
        commands = curl_commands(README.read_text())
        self.assertTrue(commands, "README.md holds no curl line")
        if not DEMO.exists():
            self.skipTest(f"the demo model is not in {CACHE} (scripts/get_demo_model)")
        if SLOW > 4:
            self.skipTest("a real model takes too long in so slow a flavour")
        if not shutil.which("curl"):
            self.skipTest("no curl here")
        with self.demo() as d:
            for command in commands:
                with self.subTest(command=command[:100]):
                    self.run_one(d, command)

    def test_what_the_demo_prints(self):
        if not DEMO.exists() or SLOW > 4 or not shutil.which("curl"):
            self.skipTest("needs the demo model, curl and a fast flavour")
        with self.demo() as d:
            again = self.tenants("make", f"{self.tmp}/state")
            self.assertEqual(again.stdout, "")
            lines = self.shown.splitlines()
            self.assertEqual(lines, self.tenants("show", d.url).stdout.splitlines(), "a second run")
            self.assertEqual(oct(os.stat(f"{self.tmp}/keys").st_mode & 0o777), "0o600")
            scripts = re.findall(r"^# (.*)\n((?:[^#].*\n)+)", self.shown, re.M)
            self.assertGreaterEqual(len(scripts), 8)
            for comment, script in scripts:
                with self.subTest(comment=comment):
                    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True,
                                          text=True, timeout=limit(120))
                    self.assertEqual(done.returncode, 0, done)
                    refused = "404" in comment
                    self.assertEqual('"error"' in done.stdout, refused, done.stdout)
                    if "swaps" in comment:  # the PUT is answered in the middle of the stream
                        events, _, rest = done.stdout.partition('{"id":"pirate","object":"adapter"')
                        self.assertIn("data: {", events)
                        self.assertIn("data: {", rest)
                        self.assertTrue(rest.rstrip().endswith("data: [DONE]"), rest[-500:])
                    if comment.startswith("what harbour gets now"):
                        self.assertIn("sentiment", json.loads(done.stdout)["choices"][0]["text"])

    def tenants(self, verb, where):
        done = subprocess.run(["scripts/demo_tenants", verb, where, f"{self.tmp}/keys"], cwd=ROOT,
                              env={**os.environ, "PREFIXD_BIN": str(BIN)}, capture_output=True,
                              text=True, timeout=limit(60))
        self.assertEqual((done.returncode, done.stderr), (0, ""), done)
        return done

    @contextlib.contextmanager
    def demo(self):
        """The daemon as `make run` starts it, its three tenants with keys and adapters."""
        self.tmp = tempfile.mkdtemp(prefix="prefixd-readme-")
        self.addCleanup(shutil.rmtree, self.tmp, True)
        self.tenants("make", f"{self.tmp}/state")
        with Daemon(DEMO, None, ["--name", "SmolLM2-135M-Instruct", "--state",
                                 f"{self.tmp}/state"]) as d:
            self.shown = self.tenants("show", d.url).stdout
            yield d

    def run_one(self, d, command):
        local = re.sub(r"(http://)?(127\.0\.0\.1|localhost):8080", d.url, command)
        self.assertIn(d.url, local, "it does not speak to the daemon")
        done = subprocess.run(["sh", "-c", f". {self.tmp}/keys; " + local.replace("curl ", "curl --no-progress-meter ", 1)
                               + ' -w "\\n%{http_code}"'], cwd=ROOT, capture_output=True,
                              text=True, timeout=limit(120))
        self.assertEqual(done.returncode, 0, done)
        body, status = done.stdout.rsplit("\n", 1)
        self.assertIn(status, ("200", "201", "204"), done.stdout)
        if body.lstrip().startswith("{") and "/completions" in command:
            for choice in json.loads(body)["choices"]:
                self.assertTrue(choice["text"].strip(), "an empty answer")


if __name__ == "__main__":
    unittest.main()
