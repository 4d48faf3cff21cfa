#!/usr/bin/python3
"""The engine's bench on a tiny model: every sweep runs, its CSV says what was measured, its plots are drawn.

PREFIXD_BENCH: the program (default build/prefixd-bench). The last line is `N passed, N failed, N skipped`.
"""

import csv
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = os.environ.get("PREFIXD_BENCH", str(ROOT / "build/prefixd-bench"))
MODEL = ROOT / "tests/golden/models/gqa"
SLOW = float(os.environ.get("PREFIXD_TEST_SLOW", "1"))
SMALL = ["--runs", "2", "--tokens", "4", "--chunk", "32", "--context", "4", "--probe-mib", "4"]

COLUMNS = ["sweep", "variant", "model", "dtype", "isa", "threads", "chunk", "rows", "context", "prefix",
           "prefixes", "tokens", "runs", "best", "median", "worst", "ratio", "place", "barrier_ns",
           "read_gbs", "bf16_gflops", "int8_gops"]
PLACES = {"one thread", "one core", "one die", "two dies", "busy"}


def bench(*args):
    return subprocess.run([BENCH, MODEL, *args], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=180 * SLOW)


class BenchTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.csv = pathlib.Path(folder.name) / "bench.csv"

    def measure(self, *args):
        """The lines of the CSV as dicts, and what was printed."""
        done = bench(*SMALL, "--csv", self.csv, *args)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.csv, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            lines = list(reader)
        self.assertEqual(reader.fieldnames, COLUMNS)
        return lines, done.stdout

    def cases(self, *args):
        """(variant, rows, prefix, prefixes) of each line, in their order."""
        return [(r["variant"], int(r["rows"]), int(r["prefix"]), int(r["prefixes"]))
                for r in self.measure(*args)[0]]

    def test_every_sweep(self):
        lines, printed = self.measure("--rows", "1,3", "--prompt", "5,40", "--prefix", "0,18",
                                      "--prefixes", "1,2")
        sweeps = ["prefill", "decode", "context", "sharing", "prefixes", "mixes"]
        self.assertEqual(list(dict.fromkeys(r["sweep"] for r in lines)), sweeps)
        for r in lines:
            best, median, worst = (float(r[name]) for name in ("best", "median", "worst"))
            self.assertTrue(best >= median >= worst > 0, r)
            self.assertGreater(float(r["ratio"]), 0)
            self.assertIn(r["place"], PLACES)
            for name in ("read_gbs", "bf16_gflops", "int8_gops"):
                self.assertGreater(float(r[name]), 0, name)
            self.assertEqual((r["model"], r["dtype"], r["threads"], r["chunk"], r["runs"]),
                             ("gqa", "f32", "2", "32", "2"))
        for sweep in sweeps:
            self.assertIn(f"\n{sweep}: ", printed)
        svg = self.csv.with_suffix(".svg")
        subprocess.run([sys.executable, ROOT / "scripts/bench/plot.py", self.csv, svg], check=True)
        root = xml.etree.ElementTree.parse(svg).getroot()
        titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")
                  if t.get("class") == "title"]
        self.assertEqual(len(titles), 4, titles)

    def test_sharing_is_compared_with_a_copy_for_each_row(self):
        self.assertEqual(self.cases("--sweep", "sharing", "--rows", "1,3", "--prefix", "0,18"),
                         [("rows", 1, 0, 0), ("rows", 3, 0, 0), ("shared", 1, 18, 1),
                          ("copies", 3, 18, 3), ("shared", 3, 18, 1)])

    def test_popularity_mixes_are_those_of_punica(self):
        self.assertEqual(self.cases("--sweep", "mixes", "--rows", "32", "--prefix", "8"),
                         [("distinct", 32, 8, 32), ("uniform", 32, 8, 6), ("skewed", 32, 8, 8),
                          ("identical", 32, 8, 1)])

    def test_prefixes_that_do_not_fit_are_left_out_or_shortened(self):
        lines, printed = self.measure("--sweep", "mixes", "--rows", "32", "--prefix", "9000",
                                      "--prefix-mib", "1")
        self.assertNotIn("distinct", [r["variant"] for r in lines])
        self.assertIn("left out", printed)
        for r in lines:
            self.assertLess(int(r["prefix"]), 256)

    def test_one_thread(self):
        lines, _ = self.measure("--sweep", "decode", "--rows", "2", "--threads", "1")
        self.assertEqual([(r["rows"], r["place"], r["barrier_ns"]) for r in lines],
                         [("2", "one thread", "0")])

    def test_what_is_not_known_is_refused(self):
        for args in (["--sweep", "sideways"], ["--rows", "1,x"], ["--rows", "0"], ["--runs", "65"],
                     ["--dtype", "q9"], ["--csv", "/no/such/folder/x.csv"], ["another-model"]):
            done = bench("--probe-mib", "1", *args)
            self.assertEqual(done.returncode, 1, args)
            self.assertIn("prefixd-bench: ", done.stderr, args)


def main():
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(BenchTest).run(result)
    for test, why in result.failures + result.errors:
        print(f"FAIL {test}\n{why}")
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad} passed, {bad} failed, 0 skipped")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
