"""What a daemon keeps in memory beside the packed weights, and that it keeps the weights once."""

import re
import unittest

from harness import GQA, GQA_ADAPTERS, Daemon, run_all
from test_12_limits import is_sanitized

RANGE = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)")
IMAGE = "/memfd:prefixd-model (deleted)"
MOST_MIB = 32  # of all processes: the tiny model has next to no keys, values and adapters


def mappings(pid):
    """[name, KiB] of each mapping: a page of several processes counts in each for its part."""
    found = []
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as f:
        for line in f:
            if header := RANGE.fullmatch(line.rstrip("\n")):
                found.append([header[1], 0])
            elif line.startswith("Pss:"):
                found[-1][1] += int(line.split()[1])
    return found


@unittest.skipIf(is_sanitized(), "a sanitizer has memory of its own")
class Memory(unittest.TestCase):
    def look(self, d):
        """MiB of all processes beside the weights."""
        found = [m for pid in [d.process.pid, *d.worker_pids()] for m in mappings(pid)]
        names = [name for name, _ in found]
        self.assertIn(IMAGE, names)
        self.assertEqual([n for n in names if n.endswith(".safetensors")], [],
                         "the files are mapped beside the packed weights")
        return sum(kib for name, kib in found if name != IMAGE) / 1024

    def check(self, *flags):
        with Daemon(GQA, GQA_ADAPTERS, flags) as d:
            self.assertLess(self.look(d), MOST_MIB, "at the start")
            names = ["", d.adapter_names()[0]]
            answers = run_all([lambda n=n: d.complete(model=n, prompt=[1, 2, 3], max_tokens=32,
                                                      ignore_eos=True) for n in names] * 16)
            self.assertEqual({a.status for a in answers}, {200})
            self.assertLess(self.look(d), MOST_MIB, "after requests")

    def test_one_worker(self):
        self.check()

    def test_two_workers(self):
        """They share the tokenizer, the settings and all code."""
        self.check("--workers", "2")


if __name__ == "__main__":
    unittest.main()
