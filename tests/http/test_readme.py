"""The README's own curl lines, run as they stand against the demo model."""

import json
import re
import shutil
import subprocess
import tempfile
import unittest

from harness import CACHE, DEMO, ROOT, SLOW, Daemon, limit

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
        tmp = tempfile.mkdtemp(prefix="prefixd-readme-")
        self.addCleanup(shutil.rmtree, tmp, True)
        adapters = ROOT / "demo/smollm2"
        with Daemon(DEMO, adapters, ["--state", tmp]) as d:
            for command in commands:
                with self.subTest(command=command[:100]):
                    self.run_one(d, command)

    def run_one(self, d, command):
        local = re.sub(r"(http://)?(127\.0\.0\.1|localhost):8080", d.url, command)
        self.assertIn(d.url, local, "it does not speak to the daemon")
        done = subprocess.run(["sh", "-c", local.replace("curl ", "curl --no-progress-meter ", 1)
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
