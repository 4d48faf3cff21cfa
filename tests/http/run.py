#!/usr/bin/python3
"""Runs the HTTP suite against one daemon binary: run.py [--only SUBSTR] [--jobs N].

Prints every failure and skip; the last line is `N passed, N failed, N skipped`.
"""

import argparse
import concurrent.futures
import glob
import os
import pathlib
import re
import subprocess
import sys
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def find_openai():
    """Lets `import openai` find the folder that openai_client.sh made."""
    folder = os.environ.get("PREFIXD_OPENAI", str(ROOT / "build/openai"))
    sys.path += [folder] + glob.glob(f"{folder}/lib/python3*/site-packages")


class Result(unittest.TestResult):
    """Counts whole tests: several failed sub-tests of one test are one failure."""

    def __init__(self, verbose):
        super().__init__()
        self.verbose, self.bad, self.passed = verbose, set(), 0

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()

    def report(self, test, err):
        self.bad.add(getattr(test, "test_case", test).id())
        print(f"FAIL {test}\n{self._exc_info_to_string(err, test)}", flush=True)

    def addFailure(self, test, err):
        self.report(test, err)

    addError = addFailure

    def addSubTest(self, test, subtest, err):
        if err:
            self.report(subtest, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"skip {test}: {reason}", flush=True)

    def addSuccess(self, test):
        self.passed += 1
        if self.verbose:
            print(f"ok   {test} ({time.monotonic() - self.began:.2f} s)", flush=True)


def flatten(suite, only):
    kept = unittest.TestSuite()
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            kept.addTest(flatten(item, only))
        elif only in item.id():
            kept.addTest(item)
    return kept


def run_file(path):
    """A file of tests in a process of its own: what it printed, and its three counts."""
    done = subprocess.run([sys.executable, __file__, "--only", f"{path.stem}."],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = done.stdout.splitlines()
    counts = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", lines[-1] if lines else "")
    if not counts:  # it broke off before it could count
        return f"FAIL {path.name}\n{done.stdout}", (0, 1, 0)
    return "\n".join(lines[:-2]), tuple(map(int, counts.groups()))


def run_files(jobs):
    """Several files at once, for builds whose tests mostly wait for a slow daemon."""
    started, total = time.monotonic(), [0, 0, 0]
    paths = sorted(HERE.glob("test_*.py"), key=lambda p: -p.stat().st_size)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for text, counts in pool.map(run_file, paths):
            print(text, end="\n" if text else "", flush=True)
            total = [a + b for a, b in zip(total, counts)]
    print(f"HTTP suite: {time.monotonic() - started:.0f} s, {jobs} files at once")
    print("{} passed, {} failed, {} skipped".format(*total))
    return 1 if total[1] or not total[0] else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run the tests whose id contains this")
    parser.add_argument("-v", "--verbose", action="store_true", help="name passed tests too")
    parser.add_argument("--jobs", type=int, default=1, help="run so many files at once")
    args = parser.parse_args()
    if args.jobs > 1 and not args.only:
        return run_files(args.jobs)
    sys.path.insert(0, str(HERE))
    find_openai()
    import harness
    if not os.access(harness.BIN, os.X_OK):
        sys.exit(f"{harness.BIN} is missing: make all, or set PREFIXD_BIN")
    suite = flatten(unittest.defaultTestLoader.discover(str(HERE), "test_*.py", str(HERE)),
                    args.only)
    result = Result(args.verbose)
    started = time.monotonic()
    suite.run(result)
    print(f"HTTP suite: {time.monotonic() - started:.0f} s")
    print(f"{result.passed} passed, {len(result.bad)} failed, {len(result.skipped)} skipped")
    return 1 if result.bad or not result.passed else 0


if __name__ == "__main__":
    sys.exit(main())
