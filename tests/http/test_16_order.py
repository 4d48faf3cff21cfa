"""What is answered is on disk: every write, sync and commit before it, as a recorder saw them."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import unittest

from harness import BIN, GQA, GQA_ADAPTERS, ROOT, Daemon, limit
from order_log import Call, late_files, violations

REGISTRY = r"state/registry\.db(-wal)?/?"
BLOBS = r"state/blobs(/.*)?"
WAL, BLOB_FILE = r"state/registry\.db-wal", r"state/blobs/[^/]+/[^/]+"
BACKUP = r"backup\.tar/?"


def promises(call):
    """What must be on disk before a call: before an answer all that it speaks of; before the commit
    the files that it makes current; before a backup gets its name all of it."""
    if call.kind == "answer":
        return f"{REGISTRY}|{BLOBS}|{BACKUP}"
    if call.kind == "write" and call.path == "state/registry.db-wal":
        return BLOBS
    if call.kind == "rename" and call.path2 == "backup.tar":
        return re.escape(call.path)
    return None


class Log(unittest.TestCase):
    """The judgement itself, on orders made up here."""

    BLOB = ["1 2 7 mkdir state/blobs/.new-1", "3 4 7 create state/blobs/.new-1/a",
            "5 6 7 write state/blobs/.new-1/a", "7 8 7 sync state/blobs/.new-1/a",
            "9 10 7 sync state/blobs/.new-1", "11 12 7 rename state/blobs/.new-1 state/blobs/d",
            "13 14 7 sync state/blobs"]
    COMMIT = ["15 16 7 write state/registry.db-wal", "17 18 7 sync state/registry.db-wal"]
    ANSWER = ["19 0 7 answer socket"]

    def judge(self, *lines):
        return violations([line.replace(" ", "\t") for line in lines], promises)

    def test_a_good_order(self):
        self.assertEqual(self.judge(*self.BLOB, *self.COMMIT, *self.ANSWER), [])

    def test_each_sync_is_needed(self):
        good = [*self.BLOB, *self.COMMIT, *self.ANSWER]
        for i in [i for i, line in enumerate(good) if " sync " in line]:
            with self.subTest(without=good[i]):
                self.assertNotEqual(self.judge(*good[:i], *good[i + 1:]), [])

    def test_a_sync_after_the_answer_is_late(self):
        late = self.judge(*self.BLOB, self.COMMIT[0], *self.ANSWER,
                          "20 21 7 sync state/registry.db-wal")
        self.assertEqual([v[0].kind for v in late], ["answer"])

    def test_a_sync_that_is_under_way_when_the_answer_goes_is_late(self):
        self.assertTrue(self.judge(*self.BLOB, self.COMMIT[0],
                                   "17 25 7 sync state/registry.db-wal", *self.ANSWER))

    def test_a_sync_that_began_before_the_write_was_over_does_not_count(self):
        self.assertTrue(self.judge(*self.BLOB, "15 17 7 write state/registry.db-wal",
                                   "16 18 7 sync state/registry.db-wal", *self.ANSWER))

    def test_a_commit_before_the_blob_is_synced(self):
        late = self.judge("5 6 7 write state/blobs/d/a", "7 8 7 write state/registry.db-wal",
                          "9 10 7 sync state/registry.db-wal", "11 12 7 sync state/blobs/d/a",
                          "13 0 7 answer socket")
        self.assertEqual([v[0].kind for v in late], ["write"])

    def test_a_commit_before_the_blob_is_there_at_all(self):
        lines = [line.replace(" ", "\t") for line in (
            *self.BLOB, *self.COMMIT, *self.ANSWER, "20 21 7 unlink state/blobs/x/a",
            "22 23 7 rename state/blobs/x state/blobs/.old-x")]
        self.assertEqual(late_files(lines, WAL, BLOBS), [])
        for late in ("write state/blobs/.new-2/a", "rename state/blobs/.new-2 state/blobs/e",
                     "mkdir state/blobs/.new-2"):
            added = f"30 31 7 {late}".replace(" ", "\t")
            self.assertEqual([c.begin for c in late_files([*lines, added], WAL, BLOBS)], [30])

    def test_what_is_gone_again_needs_nothing(self):
        gone = ["5 6 7 create state/blobs/x", "7 8 7 write state/blobs/x",
                "9 10 7 unlink state/blobs/x"]
        self.assertEqual(self.judge(*gone, *self.ANSWER), [])
        self.assertTrue(self.judge(*gone[:2], *self.ANSWER))

    def test_an_empty_files_name_is_no_loss_until_something_is_in_it(self):
        wal = ["1 2 7 create state/registry.db-wal", "3 4 7 sync state",
               "5 6 7 write state/registry.db-wal", "7 8 7 sync state/registry.db-wal"]
        self.assertEqual(self.judge(wal[0], "9 0 7 answer socket"), [])
        self.assertEqual(self.judge(*wal, "9 0 7 answer socket"), [])
        self.assertTrue(self.judge(wal[0], *wal[2:], "9 0 7 answer socket"))

    def test_a_backup_is_synced_before_it_gets_its_name_and_the_name_before_the_answer(self):
        good = ["1 2 7 create backup.tar.partial", "3 4 7 write backup.tar.partial",
                "5 6 7 sync backup.tar.partial", "7 8 7 rename backup.tar.partial backup.tar",
                "9 10 7 sync .", "11 0 7 answer stdout"]
        self.assertEqual(self.judge(*good), [])
        for i in (2, 4):
            self.assertTrue(self.judge(*good[:i], *good[i + 1:]), good[i])


class Recorded(unittest.TestCase):
    """A daemon and commands that run under the recorder."""

    @classmethod
    def setUpClass(cls):
        cls.built = tempfile.mkdtemp(prefix="prefixd-order-")
        cls.addClassCleanup(shutil.rmtree, cls.built, True)
        cls.recorder = os.path.join(cls.built, "order.so")
        subprocess.run([*shlex.split(os.environ.get("CC", "cc")), "-shared", "-fPIC", "-O2", "-o",
                        cls.recorder, str(ROOT / "tests/support/order.c"), "-ldl"], check=True)

    def setUp(self):
        self.tmp = pathlib.Path(tempfile.mkdtemp(prefix="prefixd-order-"))
        self.addCleanup(shutil.rmtree, self.tmp, True)
        self.root = self.tmp / "root"
        self.root.mkdir()
        self.state, self.log = self.root / "state", self.tmp / "log"

    def recorded(self, drop=None):
        """A program that is the daemon under the recorder."""
        path = self.tmp / "prefixd"
        asan = "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", "")
        variables = {"ORDER_ROOT": self.root, "TMPDIR": self.root, "ORDER_LOG": self.log, "ORDER_DROP": drop,
                     "ORDER_COUNT": self.tmp / "count", "ASAN_OPTIONS": asan,
                     "LD_PRELOAD": self.recorder}
        lines = [f"export {k}={shlex.quote(str(v))}" for k, v in variables.items() if v]
        path.write_text("\n".join(["#!/bin/sh", *lines, f'exec {shlex.quote(BIN)} "$@"', ""]))
        path.chmod(0o755)
        return str(path)

    def lines(self):
        return self.log.read_text().splitlines() if self.log.exists() else []

    def run_recorded(self, *words, drop=None):
        done = subprocess.run([self.recorded(drop), *words, "--state", str(self.state)], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=limit(60))
        self.assertEqual((done.returncode, done.stderr), (0, ""), words)
        return done.stdout

    def writes(self, action):
        """What was written below the root from the action's beginning to its first answer."""
        before = len(self.lines())
        action()
        lines = self.lines()[before:]
        self.assertEqual(late_files(lines, WAL, BLOBS), [], "files after their commit")
        calls = [Call(line) for line in lines]
        answers = [c.begin for c in calls if c.kind == "answer"]
        self.assertTrue(answers, "the recorder saw no answer")
        return {c.path for c in calls if c.kind in ("write", "create") and c.end
                and c.end < min(answers)}

    def check_seen(self, what, writes, *patterns):
        """A recorder that sees nothing would find everything in order."""
        for pattern in patterns:
            self.assertTrue([p for p in writes if re.fullmatch(pattern, p)],
                            f"{what}: no write of {pattern} was seen among {sorted(writes)}")


class Order(Recorded):
    def start(self, drop=None, state=True):
        where = ["--state", self.state] if state else []
        d = Daemon(GQA, flags=["--dtype", "f32", "--workers", "2", *where],
                   binary=self.recorded(drop))
        self.addCleanup(d.close)
        return d.start()

    def put(self, d, name, kind):
        answer = d.put_peft(name, GQA_ADAPTERS / kind)
        self.assertIn(answer.status, (200, 201), answer)
        return answer.json["version"]

    def ok(self, answer, status=200):
        self.assertEqual(answer.status, status, answer)

    def test_nothing_is_answered_before_it_is_on_disk(self):
        d = self.start()
        first = []
        self.check_seen("PUT", self.writes(lambda: first.append(self.put(d, "a", "cpt"))), WAL,
                        BLOB_FILE)
        self.check_seen("PUT of another version",
                        self.writes(lambda: self.put(d, "a", "prompt_tuning")), WAL, BLOB_FILE)
        self.check_seen("rollback", self.writes(lambda: self.ok(
            d.post("/v1/adapters/a/rollback", {"version": first[0]}))), WAL)
        self.check_seen("DELETE", self.writes(lambda: self.ok(
            d.request("DELETE", "/v1/adapters/a"), 204)), WAL)
        self.check_seen("tenant", self.writes(lambda: self.ok(
            d.post("/admin/tenants", {"name": "acme"}), 201)), WAL)
        self.check_seen("key", self.writes(lambda: self.ok(
            d.post("/admin/keys", {"tenant": "acme", "scope": "manage"}), 201)), WAL)
        self.assertEqual(violations(self.lines(), promises), [])

    def test_what_does_not_last_is_not_synced(self):
        """Without --state; what is written there is seen, so a sync of it would be."""
        d = self.start(state=False)
        self.put(d, "a", "cpt")
        self.put(d, "a", "cpt")
        self.put(d, "a", "prompt_tuning")
        self.ok(d.request("DELETE", "/v1/adapters/a"), 204)
        self.assertEqual(d.stop(), 0)
        calls = [Call(line) for line in self.lines()]
        written = {c.path for c in calls if c.kind == "write"}
        for part in ("registry.db-wal", "blobs/"):
            self.assertTrue([p for p in written if part in p], sorted(written))
        self.assertEqual([c for c in calls if c.kind == "sync"], [])

    def test_commands_print_what_is_on_disk(self):
        for words in (("tenant", "add", "acme"), ("key", "add", "acme"),
                      ("tenant", "set", "acme", "--weight", "3"), ("key", "revoke", "key_1"),
                      ("tenant", "remove", "acme")):
            self.check_seen(words, self.writes(lambda: self.run_recorded(*words)), WAL)
        writes = self.writes(lambda: self.run_recorded("backup", str(self.root / "backup.tar")))
        self.check_seen("backup", writes, r"backup\.tar\.partial")
        self.assertEqual(violations(self.lines(), promises), [])

    def found_without(self, drop, *kinds):
        """The kinds of promises that are found broken when syncs of a path are left out."""
        found = violations(self.lines(), promises)
        self.assertEqual({promise.kind for promise, _, _ in found} & set(kinds), set(kinds),
                         f"without syncs of {drop}")

    def test_a_daemon_that_forgets_a_sync_is_found(self):
        for drop, kinds in (("state/blobs/*/*", {"answer", "write"}),
                            ("state/blobs/*", {"answer", "write"}),
                            ("state/blobs", {"answer", "write"}),
                            ("state/registry.db-wal", {"answer"})):
            with self.subTest(drop=drop):
                self.setUp()
                d = self.start(drop)
                self.put(d, "a", "cpt")
                d.stop()
                self.found_without(drop, *kinds)

    def test_a_command_that_forgets_a_sync_is_found(self):
        for drop, kind in (("backup.tar.partial", "rename"), (".", "answer"),
                           ("state/registry.db*", "answer")):  # closing moves the log into it
            with self.subTest(drop=drop):
                self.setUp()
                self.run_recorded("tenant", "add", "acme", drop=drop)
                self.run_recorded("backup", str(self.root / "backup.tar"), drop=drop)
                self.found_without(drop, kind)


if __name__ == "__main__":
    unittest.main()
