"""Tenants, keys and backups from the command line, beside a running daemon and without one."""

import calendar
import fcntl
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import tempfile
import threading
import time
import unittest

from harness import BIN, GQA, Daemon, limit

KEY = re.compile(r"pfx_[A-Za-z0-9_-]{43}\n")
COMMANDS = [("tenant", "add"), ("tenant", "list"), ("tenant", "show"), ("tenant", "set"),
            ("tenant", "suspend"), ("tenant", "resume"), ("tenant", "remove"), ("key", "add"),
            ("key", "list"), ("key", "revoke"), ("backup",)]
LIMITS = ("requests_per_minute", "tokens_per_minute", "max_running", "max_queued",
          "max_adapters", "max_adapter_bytes", "max_virtual_tokens")


class CliCase(unittest.TestCase):
    def setUp(self):
        self.tmp = pathlib.Path(tempfile.mkdtemp(prefix="prefixd-cli-"))
        self.addCleanup(shutil.rmtree, self.tmp, True)
        self.state = self.tmp / "state"

    def run_raw(self, *words, **more):
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.run([BIN, *map(str, words)], stdin=subprocess.DEVNULL, text=True,
                              timeout=limit(60), **more)

    def run_on_state(self, *words, **more):
        return self.run_raw(*words, "--state", self.state, **more)

    def cli(self, *words):
        """The command's stdout; it succeeds and says nothing else."""
        done = self.run_on_state(*words)
        self.assertEqual((done.returncode, done.stderr), (0, ""), words)
        return done.stdout

    def json(self, *words):
        out = self.cli(*words, "--json")
        self.assertEqual(out.count("\n"), 1, out)
        self.assertTrue(out.endswith("\n"))
        return json.loads(out)

    def check_refused(self, done, *names):
        """One line on stderr, nothing on stdout."""
        self.assertEqual((done.returncode, done.stdout), (1, ""), done)
        self.assertRegex(done.stderr, r"\Aprefixd: [^\n]+\n\Z")
        for name in names:
            self.assertIn(str(name), done.stderr)

    def refused(self, *words, names=()):
        self.check_refused(self.run_on_state(*words), *names)

    def key(self, *words):
        out = self.cli("key", "add", *words)
        self.assertRegex(out, rf"\A{KEY.pattern}\Z")
        return out.strip()

    def table(self, *words):
        """The rows of a table as lists of cells, and insists that columns line up."""
        lines = self.cli(*words).splitlines()
        starts = [m.start() for m in re.finditer(r"(?:^|(?<=  ))\S", lines[0])]
        for line in lines:
            for start in starts[1:]:
                self.assertEqual(line[start - 2:start], "  ", lines)
                self.assertNotEqual(line[start:start + 1], " ", lines)
        return [re.split(r" {2,}", line) for line in lines]


class Words(CliCase):
    def test_help(self):
        done = self.run_raw("--help")
        self.assertEqual(done.returncode, 0)
        for group in ("tenant", "key", "backup"):
            self.assertRegex(done.stdout, rf"\b{group}\b")
        for group in ("tenant", "key"):
            done = self.run_raw(group, "--help")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            for command in COMMANDS:
                if command[0] == group:
                    self.assertIn(f"prefixd {' '.join(command)}", done.stdout)

    def test_every_command_has_help_and_does_nothing_with_it(self):
        for command in COMMANDS:
            for words in ((*command, "--help"), (*command, "x", "--nonsense", "--help"),
                          (*command, "--state", str(self.state), "--help")):
                with self.subTest(words=words):
                    done = self.run_raw(*words)
                    self.assertEqual((done.returncode, done.stderr), (0, ""))
                    self.assertIn(f"usage: prefixd {' '.join(command)}", done.stdout)
                    for option in ("--state DIR", "--json", "--help"):
                        self.assertIn(option, done.stdout)
        self.assertFalse(self.state.exists())

    def test_limits_are_in_the_help(self):
        for command in ("add", "set"):
            text = self.run_raw("tenant", command, "--help").stdout
            for name in ("weight", *LIMITS):
                self.assertIn(f"--{name.replace('_', '-')} N", text)

    def test_wrong_words_say_what_is_accepted_and_touch_nothing(self):
        state = ("--state", str(self.state))
        for words, names in (
                (("tenant",), ("add", "list", "remove")),
                (("tenant", "make", "x", *state), ('"make"', "add", "suspend")),
                (("key", *state), ("add", "list", "revoke")),
                (("tenant", "add", *state), ("NAME",)),
                (("tenant", "add", "x"), ("--state DIR",)),
                (("tenant", "list", "--state"), ("--state",)),
                (("tenant", "list", "--state", "--json"), ("--state",)),
                (("tenant", "list", "--state", ""), ("--state",)),
                (("tenant", "list", "x", *state), ('"x"',)),
                (("tenant", "add", "x", "y", *state), ('"y"', "NAME")),
                (("tenant", "add", "x", "--expires", "1", *state), ("--expires", "--help")),
                (("tenant", "add", "x", "--weight", *state), ("--weight",)),
                (("tenant", "add", "x", "--json=1", *state), ("--json",)),
                (("tenant", "add", "x\ny\033[2J", "z", *state), ("NAME",)),
                (("key", "add", "x", "--scope", "admin", *state), ("infer", "manage")),
                (("backup", *state), ("FILE",))):
            with self.subTest(words=words):
                self.check_refused(self.run_raw(*words), "accepted", *names)
        for option, accepted in (("weight", "1 to 1000"), ("max-running", "default"),
                                 ("max-adapter-bytes", "GiB")):
            for value in ("0", "-1", "1.5", "x", "", "1k2", " 1", "9223372036854775807",
                          "99999999999999999999"):
                with self.subTest(option=option, value=value):
                    self.refused("tenant", "add", "x", f"--{option}={value}",
                                 names=(f"--{option}", accepted))
        self.refused("tenant", "add", "x", "--max-running", "5k", names=("--max-running",))
        self.assertFalse(self.state.exists())
        self.assertEqual(os.listdir(self.tmp), [])

    def test_options_stand_anywhere_and_with_an_equals_sign(self):
        done = self.run_raw("tenant", "add", f"--state={self.state}", "--weight=7", "acme", "--json")
        self.assertEqual(json.loads(done.stdout)["weight"], 7)


class Folders(CliCase):
    """A mistyped folder is noticed: only the two commands that a setup begins with make one."""

    def refused_here(self):
        for words in (("tenant", "list"), ("tenant", "show", "default"),
                      ("tenant", "set", "default", "--weight", "2"),
                      ("tenant", "suspend", "default"), ("tenant", "resume", "default"),
                      ("tenant", "remove", "x"), ("key", "add", "default"), ("key", "add", "x"),
                      ("key", "list"), ("key", "list", "x"), ("key", "revoke", "key_1"),
                      ("backup", self.tmp / "file")):
            with self.subTest(words=words):
                self.refused(*words, names=("--state", "no state folder", "accepted"))

    def test_a_folder_that_is_not_there(self):
        self.refused_here()
        self.assertEqual(os.listdir(self.tmp), [])

    def test_a_folder_of_something_else(self):
        (self.state / "adapters").mkdir(parents=True)
        (self.state / "notes.txt").write_text("mine\n")
        self.refused_here()
        self.assertEqual(sorted(os.listdir(self.state)), ["adapters", "notes.txt"])

    def test_a_setup_is_two_commands(self):
        self.cli("tenant", "add", "acme")
        self.key("acme")
        self.state = self.tmp / "other"
        self.key("--admin")
        self.cli("tenant", "list")

    def test_a_folder_of_an_older_daemon(self):
        for name in "adapters", "blobs":
            (self.state / name).mkdir(parents=True)
        self.assertEqual([t["id"] for t in self.json("tenant", "list")], ["default"])


class Tenants(CliCase):
    def test_a_tenants_life(self):
        now = time.time()
        made = self.json("tenant", "add", "acme", "--weight", "2", "--max-queued", "5",
                         "--max-adapter-bytes", "3M")
        self.assertEqual((made["id"], made["object"], made["weight"], made["suspended"]),
                         ("acme", "tenant", 2, False))
        self.assertAlmostEqual(made["created"], now, delta=limit(10))
        self.assertEqual(tuple(made["limits"]), LIMITS)
        defaults = self.json("tenant", "show", "default")["limits"]
        self.assertEqual(made["limits"],
                         {**defaults, "max_queued": 5, "max_adapter_bytes": 3 << 20})
        self.assertEqual(self.json("tenant", "show", "acme"), made)
        changed = self.json("tenant", "set", "acme", "--max-queued", "default", "--max-running", "9")
        self.assertEqual(changed, {**made, "limits": {**made["limits"], "max_running": 9,
                                                      "max_queued": defaults["max_queued"]}})
        self.assertEqual(self.json("tenant", "set", "acme", "--weight", "3"),
                         {**changed, "weight": 3})
        self.assertTrue(self.json("tenant", "suspend", "acme")["suspended"])
        self.assertTrue(self.json("tenant", "show", "acme")["suspended"])
        self.assertFalse(self.json("tenant", "resume", "acme")["suspended"])
        self.assertEqual([t["id"] for t in self.json("tenant", "list")], ["acme", "default"])
        self.assertEqual(self.json("tenant", "remove", "acme"),
                         {"id": "acme", "object": "tenant", "deleted": True})
        self.assertEqual([t["id"] for t in self.json("tenant", "list")], ["default"])

    def test_for_people(self):
        self.cli("tenant", "add", "a-longer-name", "--max-queued", "5")
        self.cli("tenant", "suspend", "default")
        rows = self.table("tenant", "list")
        self.assertEqual(rows[0], ["NAME", "WEIGHT", "STATE", "CREATED", "LIMITS"])
        self.assertEqual([(r[0], r[2], r[4]) for r in rows[1:]],
                         [("a-longer-name", "active", "max_queued=5"),
                          ("default", "suspended", "defaults")])
        shown = dict(self.table("tenant", "show", "a-longer-name"))
        self.assertEqual((shown["tenant"], shown["max_queued"]), ("a-longer-name", "5"))
        self.assertRegex(shown["max_running"], r"\A\d+ \(default\)\Z")

    def test_none_waiting_is_a_limit(self):
        made = self.json("tenant", "add", "acme", "--max-queued", "0")
        self.assertEqual(made["limits"]["max_queued"], 0)
        self.refused("tenant", "set", "acme", "--max-queued", "-1",
                     names=("--max-queued", "a number from 0 on; or default"))
        for name in LIMITS:
            if name != "max_queued":
                option = "--" + name.replace("_", "-")
                self.refused("tenant", "set", "acme", option, "0", names=(option, "from 1 on"))
        self.refused("tenant", "set", "acme", "--weight", "1001", names=("1 to 1000",))

    def test_what_cannot_be(self):
        self.cli("tenant", "add", "acme")
        self.refused("tenant", "add", "acme", names=("acme", "already"))
        for name in ("a/b", "", ".hidden", "a b", "x" * 65, "ä"):
            self.refused("tenant", "add", name, names=("1 to 64",))
        for words in (("show",), ("set", "--weight", "2"), ("suspend",), ("resume",), ("remove",)):
            self.refused("tenant", words[0], "nobody", *words[1:],
                         names=('"nobody"', "prefixd tenant list"))
        self.refused("tenant", "set", "acme", names=("nothing to set",))
        self.refused("tenant", "remove", "default", names=("default",))
        self.assertEqual([t["id"] for t in self.json("tenant", "list")], ["acme", "default"])

    def test_thousands_are_listed_whole(self):
        self.key("--admin")
        db = sqlite3.connect(self.state / "registry.db")
        db.executemany("INSERT INTO tenants (name, created) VALUES (?, 1)",
                       [(f"t{i:05}",) for i in range(2500)])
        db.commit()
        db.close()
        names = [t["id"] for t in self.json("tenant", "list")]
        self.assertEqual(names, ["default", *(f"t{i:05}" for i in range(2500))])
        self.assertEqual(len(self.table("tenant", "list")), 2502)

    def test_the_state_is_its_owners_alone(self):
        self.cli("tenant", "add", "acme")
        self.assertEqual(self.state.stat().st_mode & 0o777, 0o700)
        for path in self.state.rglob("*"):
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)

    def test_commands_at_once(self):
        """Each is one transaction: none is lost and none is refused."""
        running = [subprocess.Popen([BIN, "tenant", "add", f"t{i}", "--state", str(self.state)],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                   for i in range(12)]
        for p in running:
            _, said = p.communicate(timeout=limit(60))
            self.assertEqual((p.returncode, said), (0, ""))
        self.assertEqual({t["id"] for t in self.json("tenant", "list")},
                         {"default", *(f"t{i}" for i in range(12))})


class Keys(CliCase):
    def setUp(self):
        super().setUp()
        self.cli("tenant", "add", "acme")

    def test_the_key_stands_alone_and_is_kept_nowhere(self):
        keys = [self.key("acme"), self.key("acme"), self.key("--admin")]
        self.assertEqual(len(set(keys)), 3)
        told = self.json("key", "add", "acme")
        self.assertRegex(told["key"] + "\n", KEY)
        keys.append(told["key"])
        for path in self.state.rglob("*"):
            if path.is_file():
                for key in keys:
                    self.assertNotIn(key[4:].encode(), path.read_bytes(), path)
        listed = self.cli("key", "list") + self.cli("key", "list", "--json")
        for key in keys:
            self.assertNotIn(key[4:], listed)

    def test_owner_and_scope(self):
        self.cli("tenant", "add", "other")
        for words, tenant, scope in ((("acme",), "acme", "manage"),
                                     (("acme", "--scope", "infer"), "acme", "infer"),
                                     (("other", "--scope", "manage"), "other", "manage"),
                                     (("--admin",), None, "admin")):
            made = self.json("key", "add", *words)
            self.assertEqual((made["object"], made["tenant"], made["scope"], made["expires"],
                              made["revoked"]), ("key", tenant, scope, None, None), words)
        keys = self.json("key", "list")
        self.assertEqual([k["id"] for k in keys], ["key_1", "key_2", "key_3", "key_4"])
        self.assertTrue(all("key" not in k for k in keys))
        self.assertEqual([k["id"] for k in self.json("key", "list", "other")], ["key_3"])
        self.refused("key", "add", names=("TENANT", "--admin"))
        self.refused("key", "add", "acme", "--admin", names=("no tenant",))
        self.refused("key", "add", "--admin", "--scope", "infer", names=("no scope",))
        self.refused("key", "add", "nobody", names=('"nobody"',))
        self.refused("key", "list", "nobody", names=('"nobody"',))

    def test_expiry(self):
        def expires(value):
            return self.json("key", "add", "acme", "--expires", value)["expires"]

        now = int(time.time())
        self.assertEqual(expires(str(now + 1000)), now + 1000)
        for value, ahead in (("+30d", 30 * 86400), ("+12h", 12 * 3600), ("+1h", 3600)):
            self.assertAlmostEqual(expires(value), now + ahead, delta=limit(20))
        self.assertEqual(expires("2099-02-28"), calendar.timegm((2099, 2, 28, 0, 0, 0)))
        for value in ("soon", "", "+", "+30", "+30x", "+d", "+1dh", "-30d", "30d", "2099-02-30",
                      "2099-13-01", "2099-1-1", "2099-01-01T00:00:00", "1e10",
                      "99999999999999999999", "+999999999d"):
            self.refused("key", "add", "acme", f"--expires={value}", names=("--expires", "+30d"))
        for value in ("1", "2001-01-01", str(now - 5), "+0h"):
            self.refused("key", "add", "acme", "--expires", value, names=("--expires", "past"))

    def test_revoking(self):
        self.key("acme")
        self.key("acme", "--expires", "+1h")
        before = self.json("key", "list")
        self.assertEqual(self.cli("key", "revoke", "key_1"), "key_1 is revoked\n")
        revoked = self.json("key", "revoke", "key_2")
        self.assertAlmostEqual(revoked["revoked"], time.time(), delta=limit(10))
        self.assertEqual({**revoked, "revoked": None}, before[1])
        for word in ("key_3", "key_99999999999999999999", "key_0", "key_-1", "key_1x", "1", "key_",
                     "acme"):
            self.refused("key", "revoke", word, names=("key",))

    def test_for_people(self):
        self.key("acme")
        self.key("--admin", "--expires", "2099-01-31")
        self.cli("key", "revoke", "key_1")
        self.json("key", "add", "acme", "--expires", str(int(time.time()) + 1))
        time.sleep(1.1)
        rows = self.table("key", "list")
        self.assertEqual(rows[0], ["ID", "TENANT", "SCOPE", "STATE", "CREATED", "EXPIRES"])
        self.assertEqual([(r[0], r[1], r[2], r[3]) for r in rows[1:]],
                         [("key_1", "acme", "manage", "revoked"), ("key_2", "-", "admin", "valid"),
                          ("key_3", "acme", "manage", "expired")])
        self.assertEqual(rows[2][5], "2099-01-31T00:00:00Z")

    def test_an_answer_that_cannot_be_written_is_a_failure(self):
        with open("/dev/full", "w") as full:
            done = self.run_on_state("key", "add", "acme", stdout=full)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"\Aprefixd: [^\n]*stdout[^\n]*\n\Z")


class Beside(CliCase):
    """Commands while a daemon serves from the state folder: they count for the next request."""

    def daemon(self, *flags):
        d = Daemon(GQA, flags=["--dtype", "f32", "--state", self.state, *flags])
        self.addCleanup(d.close)
        return d.start()

    def status(self, d, key=None, path="/v1/models"):
        return d.get(path, headers={"Authorization": f"Bearer {key}"} if key else {}).status

    def put(self, d, key, name):
        return d.request("PUT", f"/v1/adapters/{name}", {"kind": "text", "text": "Hello."},
                         headers={"Authorization": f"Bearer {key}"})

    def test_keys_count_at_once(self):
        d = self.daemon("--workers", "2")
        self.assertEqual({self.status(d) for _ in range(8)}, {200})
        self.cli("tenant", "add", "acme")
        self.assertEqual({self.status(d) for _ in range(8)}, {200})
        key = self.key("acme")
        self.assertEqual({self.status(d) for _ in range(8)}, {401})
        self.assertEqual({self.status(d, key) for _ in range(8)}, {200})
        other = self.key("acme")
        self.assertEqual(self.put(d, key, "mine").status, 201)
        self.cli("tenant", "suspend", "acme")
        self.assertEqual({self.status(d, key) for _ in range(8)}, {403})
        self.cli("tenant", "resume", "acme")
        self.assertEqual({self.status(d, key) for _ in range(8)}, {200})
        self.cli("key", "revoke", "key_1")
        self.assertEqual({self.status(d, key) for _ in range(8)}, {401})
        self.assertEqual({self.status(d, other) for _ in range(8)}, {200})

    def test_scopes_and_expiry(self):
        d = self.daemon()
        self.cli("tenant", "add", "acme")
        admin, infer = self.key("--admin"), self.key("acme", "--scope", "infer")
        brief = self.key("acme", "--expires", str(int(time.time()) + 3))
        self.assertEqual([self.status(d, k, "/metrics") for k in (admin, infer)], [200, 403])
        self.assertEqual(self.put(d, infer, "x").status, 403)
        self.assertEqual(self.status(d, infer), 200)
        self.assertEqual(self.status(d, brief), 200)
        time.sleep(3.1)
        self.assertEqual(self.status(d, brief), 401)

    def test_what_is_set_and_removed_counts_at_once(self):
        d = self.daemon()
        self.cli("tenant", "add", "acme")
        key = self.key("acme")
        self.assertEqual(self.put(d, key, "one").status, 201)
        self.cli("tenant", "set", "acme", "--max-adapters", "1")
        self.assertEqual(self.put(d, key, "two").status, 403)
        self.cli("tenant", "set", "acme", "--max-adapters", "2")
        self.assertEqual(self.put(d, key, "two").status, 201)
        admin = {"Authorization": f"Bearer {self.key('--admin')}"}
        over_http = d.get("/admin/tenants/acme", headers=admin).json
        self.assertEqual(over_http, self.json("tenant", "show", "acme"))
        self.cli("tenant", "remove", "acme")
        self.assertEqual(self.status(d, key), 401)
        self.cli("tenant", "add", "acme")
        self.assertEqual(self.status(d, key), 401)
        again = self.key("acme")
        names = d.get("/v1/adapters", headers={"Authorization": f"Bearer {again}"}).json["data"]
        self.assertEqual(names, [])

    def test_a_daemon_stays_closed_when_the_tenant_with_the_last_key_goes(self):
        d = self.daemon("--workers", "2")
        self.cli("tenant", "add", "acme")
        key = self.key("acme")
        self.cli("tenant", "remove", "acme")
        self.assertEqual({self.status(d) for _ in range(8)}, {401})
        self.assertEqual(self.status(d, path="/metrics"), 401)
        self.assertEqual(self.status(d, key), 401)
        d.stop()
        d = self.daemon()
        self.assertEqual(self.status(d), 401)
        self.assertEqual(self.status(d, self.key("--admin"), "/metrics"), 200)

    def test_what_was_made_without_a_daemon_is_there_for_one(self):
        self.cli("tenant", "add", "acme")
        key = self.key("acme")
        d = self.daemon()
        self.assertEqual([self.status(d), self.status(d, key)], [401, 200])


def text_of(i):
    return {"kind": "text", "text": f"Number {i} of many, {'x' * (i % 7)}."}


class Writer(threading.Thread):
    """Changes names one after the other, and keeps what all of them were after each change."""

    def __init__(self, daemon, prefix):
        super().__init__()
        self.d, self.prefix, self.error = daemon, prefix, None
        self.stopped = threading.Event()
        self.now, self.history = {}, [{}]
        self.started, self.finished = 0, 0  # changes

    def change(self, i):
        name = f"{self.prefix}{i % 5}"
        path = f"/v1/adapters/{name}"
        if i % 5 == 4 and name in self.now:
            answer, expected = self.d.request("DELETE", path), {204}
            self.now.pop(name)
        else:
            answer, expected = self.d.request("PUT", path, text_of(i)), {200, 201}
            if answer.status in expected:
                self.now[name] = answer.json["version"]
        assert answer.status in expected, answer

    def run(self):
        i = 0
        try:
            while not self.stopped.is_set():
                self.started += 1
                self.change(i)
                self.history.append(dict(self.now))
                self.finished += 1
                i += 1
        except BaseException as error:
            self.error = error

    def moments(self, first, last):
        return self.history[first:last + 1]


class Backup(CliCase):
    def daemon(self):
        d = Daemon(GQA, flags=["--dtype", "f32", "--state", self.state],
                   config={"keep_versions": 1})
        self.addCleanup(d.close)
        return d.start()

    def unpack(self, file, name):
        target = self.tmp / name
        target.mkdir()
        subprocess.run(["tar", "xf", str(file), "-C", str(target)], check=True)
        return target

    def adapters(self, d):
        return {a["id"]: a["version"] for a in d.get("/v1/adapters?limit=1000").json["data"]}

    def check_all_answer(self, d):
        for name in self.adapters(d):
            answer = d.complete(model=name, prompt=[1, 2, 3], max_tokens=2)
            self.assertEqual(answer.status, 200, answer)
            versions = d.get(f"/v1/adapters/{name}/versions").json["data"]
            self.assertTrue(versions)
        self.assertNotRegex(d.stderr(), r"(?i) (warn|error) ")

    def test_while_it_serves_and_changes(self):
        d = self.daemon()
        for i in range(40):
            self.assertEqual(d.request("PUT", f"/v1/adapters/still{i}", text_of(1000 + i)).status, 201)
        still = self.adapters(d)
        writers = [Writer(d, "a"), Writer(d, "b")]
        for w in writers:
            w.start()
        try:
            taken = []
            for i in range(6):
                file = self.tmp / f"backup{i}.tar"
                first = [w.finished for w in writers]
                self.cli("backup", file)
                taken.append((file, first, [w.started for w in writers]))
        finally:
            for w in writers:
                w.stopped.set()
            for w in writers:
                w.join(limit(60))
        for w in writers:
            self.assertIsNone(w.error)
        self.assertGreater(sum(last[0] - first[0] for _, first, last in taken), 6,
                           "nothing changed while the backups were made")
        d.stop()
        for i, (file, first, last) in enumerate(taken):
            with self.subTest(backup=i):
                flags = ["--dtype", "f32", "--state", self.unpack(file, f"restored{i}")]
                with Daemon(GQA, flags=flags) as restored:
                    found = self.adapters(restored)
                    self.check_all_answer(restored)
                for w, a, b in zip(writers, first, last):
                    own = {k: v for k, v in found.items() if k.startswith(w.prefix)}
                    self.assertIn(own, w.moments(a, b))
                self.assertEqual({k: v for k, v in found.items() if k in still}, still)

    def test_without_a_daemon_it_is_all_there(self):
        d = self.daemon()
        self.cli("tenant", "add", "acme", "--weight", "3")
        key = self.key("acme")
        d.headers = {"Authorization": f"Bearer {key}"}
        self.assertEqual(d.request("PUT", "/v1/adapters/one", text_of(1)).status, 201)
        version = self.adapters(d)["one"]
        d.stop()
        file = self.tmp / "b.tar"
        self.assertRegex(self.cli("backup", file), rf"\A{re.escape(str(file))}: .*\n\Z")
        told = self.json("backup", file)
        self.assertEqual(told, {"object": "backup", "file": str(file), "blobs": 1,
                                "bytes": file.stat().st_size})
        tenants, keys = self.json("tenant", "list"), self.json("key", "list")
        self.state = self.unpack(file, "restored")
        self.assertEqual((self.json("tenant", "list"), self.json("key", "list")), (tenants, keys))
        d = Daemon(GQA, flags=["--dtype", "f32", "--state", self.state], wait_ready=False)
        self.addCleanup(d.close)
        d.headers = {"Authorization": f"Bearer {key}"}
        d.start()
        d.wait(lambda: d.get("/ready").status == 200, 20, "/ready")
        self.assertEqual(self.adapters(d), {"one": version})
        self.check_all_answer(d)

    def test_the_archive(self):
        d = self.daemon()
        self.assertEqual(d.request("PUT", "/v1/adapters/one", text_of(1)).status, 201)
        (self.state / "blobs/.new-killed").mkdir()
        (self.state / "blobs/.new-killed/adapter.json").write_text("{}")
        file = self.tmp / "b.tar"
        self.cli("backup", file)
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
        with tarfile.open(file) as tar:
            members = {m.name: m for m in tar.getmembers()}
        blob = next(n for n in members if re.fullmatch(r"blobs/[^/]+", n))
        self.assertEqual(set(members), {"registry.db", "blobs", blob, f"{blob}/adapter.json"})
        self.assertTrue(all(m.mode & 0o077 == 0 for m in members.values()))
        self.assertEqual(sorted(os.listdir(self.tmp)), ["b.tar", "state"])

    def test_one_at_a_time_to_a_file(self):
        self.key("--admin")
        file = self.tmp / "b.tar"
        with open(f"{file}.partial", "w") as partial:
            fcntl.flock(partial, fcntl.LOCK_EX)
            self.refused("backup", file, names=("another backup", file))
            self.cli("backup", self.tmp / "other.tar")
        pathlib.Path(f"{file}.partial").write_bytes(b"of a killed one" * 100000)
        pathlib.Path(f"{file}.partial-registry").write_bytes(b"of a killed one")
        self.cli("backup", file)
        with tarfile.open(file) as tar:
            self.assertIn("registry.db", tar.getnames())
        self.assertEqual(sorted(os.listdir(self.tmp)), ["b.tar", "other.tar", "state"])

    def test_a_failed_one_leaves_the_former(self):
        d = self.daemon()
        body = {"kind": "text", "text": "Hello."}
        self.assertEqual(d.request("PUT", "/v1/adapters/one", body).status, 201)
        d.stop()
        file = self.tmp / "b.tar"
        self.cli("backup", file)
        former = file.read_bytes()
        blob = next((self.state / "blobs").iterdir())
        (blob / "more").write_bytes(bytes(2_000_000))

        def small_disk():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

        done = self.run_on_state("backup", file, preexec_fn=small_disk, restore_signals=False)
        self.check_refused(done, file, "too large")
        self.assertEqual(file.read_bytes(), former)
        self.assertEqual(sorted(os.listdir(self.tmp)), ["b.tar", "state"])
        self.refused("backup", self.tmp / "missing/b.tar", names=("No such file",))
        self.cli("backup", file)
        self.assertGreater(file.stat().st_size, len(former))


if __name__ == "__main__":
    unittest.main()
