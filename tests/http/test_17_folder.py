"""The adapters folder while the daemon runs, and the names by which vLLM's operators load from one."""

import json
import os
import pathlib
import random
import shutil
import tempfile
import threading
import time
import unittest

from harness import GQA, GQA_ADAPTERS, Daemon, HttpCase, joined, kill_9, limit, long_model

PROMPT = [84, 104, 101, 32, 116]
SOON = 10  # seconds; a change is seen half a second after it is over
TEXTS = [json.dumps({"kind": "text", "text": t}).encode() for t in ("aaa bbb", "ccc ddd eee")]


class Folder(unittest.TestCase):
    """One daemon, one folder of its own, for each test."""

    maxDiff = 4000

    def setUp(self):
        self.tmp = pathlib.Path(tempfile.mkdtemp(prefix="prefixd-folder-"))
        self.addCleanup(shutil.rmtree, self.tmp, True)
        self.folder = self.tmp / "adapters"
        self.folder.mkdir()

    def daemon(self, *flags, state=True, model=GQA):
        flags = ["--dtype", "f32", "--name", "gqa", *flags]
        if state:
            flags += ["--state", self.tmp / "state"]
        d = Daemon(model, self.folder, flags)
        self.addCleanup(d.close)
        return d.start()

    def add(self, name, kind="cpt"):
        """A whole adapter, moved in at once as a careful operator does."""
        shutil.copytree(GQA_ADAPTERS / kind, self.tmp / "new", copy_function=shutil.copyfile)
        os.rename(self.tmp / "new", self.folder / name)

    def version(self, d, name, query=""):
        """The digest, or None if there is no such adapter."""
        answer = d.get(f"/v1/adapters/{name}{query}")
        self.assertIn(answer.status, (200, 404), answer)
        return answer.json["version"] if answer.status == 200 else None

    def until(self, d, name, wanted, query=""):
        d.wait(lambda: self.version(d, name, query) == wanted, SOON, f"{name} to be {wanted}")

    def until_other(self, d, name, old, query=""):
        d.wait(lambda: self.version(d, name, query) not in (old, None), SOON,
               f"{name} to change")
        return self.version(d, name, query)

    def stays(self, d, name, wanted, seconds=2.5, query=""):
        """Nothing happens to it for several looks at the folder."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.assertEqual(self.version(d, name, query), wanted, d.stderr()[-2000:])
            time.sleep(0.05)

    def text(self, d, name):
        answer = d.complete(model=name, prompt=PROMPT, max_tokens=24, ignore_eos=True)
        self.assertEqual(answer.status, 200, answer)
        return answer.json["choices"][0]["text"]

    def skips(self, d, name):
        return [line for line in d.stderr().splitlines() if f"adapter {name} skipped" in line]


class Changes(Folder):
    def test_appears_and_goes(self):
        d = self.daemon(state=False)
        self.assertEqual(d.adapter_names(), [])
        self.add("one")
        (self.folder / "words.json").write_bytes(TEXTS[0])
        first = self.until_other(d, "one", None)
        self.until_other(d, "words", None)
        self.assertEqual(d.put_peft("put", GQA_ADAPTERS / "cpt").json["version"], first)
        self.assertEqual(self.text(d, "one"), self.text(d, "put"))
        shutil.rmtree(self.folder / "one")
        (self.folder / "words.json").unlink()
        self.until(d, "one", None)
        self.until(d, "words", None)
        self.assertEqual(d.complete(model="one", prompt=PROMPT).status, 404)
        self.add("one")
        self.until(d, "one", first)
        self.assertEqual(d.adapter_names(), ["one", "put"])
        self.assertNotIn("skipped", d.stderr())

    def test_copied_file_by_file(self):
        d = self.daemon(state=False)
        shutil.copytree(GQA_ADAPTERS / "prefix_tuning", self.folder / "copied")
        self.until_other(d, "copied", None)

    def test_one_name_after_another(self):
        """Many at once, renamed ones, and a name that changes its kind."""
        d = self.daemon(state=False)
        for i in range(20):
            (self.folder / f"n{i}.json").write_bytes(TEXTS[i % 2])
        self.add("dir")
        d.wait(lambda: len(d.adapter_names()) == 21, SOON, "all of them")
        version = self.version(d, "dir")
        os.rename(self.folder / "dir", self.folder / "renamed")
        self.until(d, "renamed", version)
        self.until(d, "dir", None)
        (self.folder / "n0.json").unlink()
        self.add("n0")
        self.until(d, "n0", version)
        shutil.rmtree(self.folder / "n0")
        (self.folder / "n0.json").write_bytes(TEXTS[0])
        d.wait(lambda: self.version(d, "n0") not in (None, version), SOON, "n0 is text again")

    def test_of_two_of_one_name_the_first_that_loads(self):
        (self.folder / "two.json").write_bytes(TEXTS[0])
        d = self.daemon(state=False)
        words = self.version(d, "two")
        self.assertTrue(words)
        self.add("two")
        folder = self.until_other(d, "two", words)
        (self.folder / "two/adapter_config.json").write_text('{"peft_type": "LORA"}')
        self.until(d, "two", words)
        self.assertIn("LORA", d.stderr())
        shutil.rmtree(self.folder / "two")
        self.stays(d, "two", words)
        self.add("two")
        self.until(d, "two", folder)

    def test_replaced_while_streams_run(self):
        self.add("hot", "cpt")
        d = self.daemon()
        old, old_text = self.version(d, "hot"), self.text(d, "hot")
        d.put_peft("other", GQA_ADAPTERS / "prompt_tuning")
        new, new_text = self.version(d, "other"), self.text(d, "other")
        self.assertNotEqual(old_text, new_text)
        seen, failures, over = [], [], threading.Event()

        def client():
            while not over.is_set():
                stream = d.stream(model="hot", prompt=PROMPT, max_tokens=24, ignore_eos=True)
                events = list(stream)
                if stream.status != 200 or not stream.done:
                    failures.append(events)
                else:
                    seen.append(joined(events))

        clients = [threading.Thread(target=client) for _ in range(8)]
        for c in clients:
            c.start()
        for version, kind in [(new, "prompt_tuning"), (old, "cpt")] * 2:
            shutil.copytree(GQA_ADAPTERS / kind, self.folder / ".next",
                            copy_function=shutil.copyfile)
            for part in ("adapter_config.json", "adapter_model.safetensors"):
                os.replace(self.folder / ".next" / part, self.folder / "hot" / part)
            shutil.rmtree(self.folder / ".next")
            self.until(d, "hot", version)
        over.set()
        for c in clients:
            c.join(limit(60))
        self.assertEqual(failures, [])
        self.assertEqual(set(seen), {old_text, new_text})

    def test_gone_while_a_stream_runs(self):
        self.add("hot")
        d = self.daemon(state=False, model=long_model(self.tmp))
        stream = d.stream(model="hot", prompt=PROMPT, max_tokens=20000, ignore_eos=True)
        events = iter(stream)
        next(events)
        shutil.rmtree(self.folder / "hot")
        self.until(d, "hot", None)
        self.assertIn("choices", next(events))
        stream.drop()

    def test_half_written_waits(self):
        """Slowly and with pauses, as over a network; what is served meanwhile stays."""
        d = self.daemon(state=False)
        weights = (GQA_ADAPTERS / "cpt/adapter_model.safetensors").read_bytes()
        config = (GQA_ADAPTERS / "cpt/adapter_config.json").read_bytes()
        self.add("served", "prompt_tuning")
        served = self.until_other(d, "served", None)
        for name in ("slow", "served"):
            (self.folder / name).mkdir(exist_ok=True)
        before = {"slow": None, "served": served}
        files = {n: open(self.folder / n / "adapter_model.safetensors", "wb") for n in before}
        step = len(weights) // 6 + 1
        for at in range(0, len(weights), step):
            for name, file in files.items():
                file.write(weights[at:at + step])
                file.flush()
                if at == 0:
                    (self.folder / name / "adapter_config.json").write_bytes(config)
            if at + step < len(weights):
                for name, version in before.items():
                    self.stays(d, name, version, 0.45)
        for file in files.values():
            file.close()
        whole = self.until_other(d, "slow", None)
        self.until(d, "served", whole)
        self.assertEqual(self.skips(d, "slow") + self.skips(d, "served"), [])

    def test_the_config_comes_last(self):
        d = self.daemon(state=False)
        (self.folder / "late").mkdir()
        shutil.copy(GQA_ADAPTERS / "cpt/adapter_model.safetensors", self.folder / "late")
        self.stays(d, "late", None, 1.5)
        shutil.copy(GQA_ADAPTERS / "cpt/adapter_config.json", self.folder / "late")
        self.until_other(d, "late", None)
        self.assertNotIn("skipped", d.stderr())

    def test_a_broken_one_is_told_once_and_can_be_mended(self):
        self.add("good")
        self.add("broken")
        d = self.daemon(state=False)
        good = self.version(d, "good")
        config = (self.folder / "broken/adapter_config.json").read_bytes()
        (self.folder / "broken/adapter_config.json").write_text('{"peft_type": "LORA"}')
        d.wait(lambda: self.skips(d, "broken"), SOON, "the reason")
        self.assertEqual(self.version(d, "broken"), good)  # what it was is served on
        for i in range(4):
            (self.folder / f"more{i}.json").write_bytes(TEXTS[0])
            self.until_other(d, f"more{i}", None)
        self.assertEqual(len(self.skips(d, "broken")), 1, d.stderr())
        self.assertIn("LORA", self.skips(d, "broken")[0])
        (self.folder / "broken/adapter_config.json").write_bytes(config)
        (self.folder / "no name!.json").write_bytes(TEXTS[0])
        d.wait(lambda: self.skips(d, "no name!"), SOON, "a name that is none")
        self.assertEqual(self.version(d, "broken"), good)

    def test_swapped_by_links_as_volumes_are(self):
        for n, text in enumerate(TEXTS):
            (self.folder / f"..v{n}").mkdir()
            (self.folder / f"..v{n}" / "words.json").write_bytes(text)
        shutil.copytree(GQA_ADAPTERS / "cpt", self.folder / "..v0" / "dir")
        shutil.copytree(GQA_ADAPTERS / "prompt_tuning", self.folder / "..v1" / "dir")
        (self.folder / "..data").symlink_to("..v0")
        (self.folder / "words.json").symlink_to("..data/words.json")
        (self.folder / "dir").symlink_to("..data/dir")
        d = self.daemon(state=False)
        words, folder = self.version(d, "words"), self.version(d, "dir")
        self.assertTrue(words and folder)
        (self.folder / "..next").symlink_to("..v1")
        os.replace(self.folder / "..next", self.folder / "..data")
        self.until_other(d, "words", words)
        self.until_other(d, "dir", folder)
        (self.folder / "..next").symlink_to("..v0")
        os.replace(self.folder / "..next", self.folder / "..data")
        self.until(d, "words", words)
        self.until(d, "dir", folder)

    def test_the_folder_itself_goes_and_comes_again(self):
        self.add("one")
        d = self.daemon(state=False)
        version = self.version(d, "one")
        os.rename(self.folder, self.tmp / "away")
        d.wait(lambda: "the adapters folder:" in d.stderr(), SOON, "a complaint")
        self.stays(d, "one", version, 1)
        self.folder.mkdir()
        (self.folder / "two.json").write_bytes(TEXTS[0])
        self.until_other(d, "two", None)
        self.until(d, "one", None)
        (self.folder / "three.json").write_bytes(TEXTS[0])
        self.until_other(d, "three", None)


class Churn(Folder):
    """Anything at any time: once the folder rests, the registry is what the folder is."""

    def act(self, rng, name):
        """One of the things that operators and their tools do to an adapter."""
        at, text = self.folder / name, self.folder / f"{name}.json"
        what = rng.randrange(8)
        if what == 0:
            shutil.rmtree(at, ignore_errors=True)
        elif what == 1:
            text.unlink(missing_ok=True)
        elif what == 2:
            text.write_bytes(rng.choice(TEXTS))
        elif what == 3:
            body = rng.choice(TEXTS)
            text.write_bytes(body[:rng.randrange(len(body))])  # half of it
        elif what == 4 and not at.exists():
            self.add(name, rng.choice(["cpt", "prompt_tuning"]))
        elif what == 5:
            shutil.copytree(GQA_ADAPTERS / rng.choice(["cpt", "prompt_tuning"]), at,
                            dirs_exist_ok=True, copy_function=shutil.copyfile)
        elif what == 6:
            other = self.folder / rng.choice("abcdef")
            if at.exists() and not other.exists():
                os.rename(at, other)
        elif at.exists():
            weights = at / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1])

    def content(self, name):
        """What the name should be: whole files, the folder before the text; else None."""
        at, text = self.folder / name, self.folder / f"{name}.json"
        for kind in ("cpt", "prompt_tuning"):
            if all((at / f).exists() and
                   (at / f).read_bytes() == (GQA_ADAPTERS / kind / f).read_bytes()
                   for f in ("adapter_config.json", "adapter_model.safetensors")):
                return kind
        for i, body in enumerate(TEXTS):
            if text.exists() and text.read_bytes() == body:
                return f"text{i}"
        return None

    def test_the_registry_is_what_the_folder_is(self):
        rng = random.Random(os.environ.get("PREFIXD_TEST_SEED", "1"))
        d = self.daemon("--workers", "2")
        d.any_exit = True
        digests = {f"text{i}": d.request("PUT", f"/v1/adapters/put{i}", json.loads(b))
                   for i, b in enumerate(TEXTS)}
        digests |= {k: d.put_peft(f"put-{k}", GQA_ADAPTERS / k)
                    for k in ("cpt", "prompt_tuning")}
        digests = {k: a.json["version"] for k, a in digests.items()}
        for n in range(160):
            self.act(rng, rng.choice("abcdef"))
            time.sleep(rng.choice([0, 0, 0.01, 0.1]))
            if n == 80:
                kill_9(d.worker_pids()[0])  # whether it watched or not
        for name in "abcdef":
            wanted = self.content(name)
            exists = any(p.exists() for p in (self.folder / name, self.folder / f"{name}.json"))
            with self.subTest(name=name, wanted=wanted, exists=exists):
                if wanted:
                    self.until(d, name, digests[wanted])
                elif not exists:
                    self.until(d, name, None)
                else:  # broken: nothing, or what it was when it was whole
                    self.assertIn(self.version(d, name), [None, *digests.values()])


class Precedence(Folder):
    def change(self, name):
        """Another content in the folder, and something else that tells when it was seen."""
        for part in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(GQA_ADAPTERS / "prompt_tuning" / part, self.folder / name / part)
        (self.folder / "witness.json").write_bytes(TEXTS[len(list(self.tmp.glob("t*"))) % 2])
        (self.tmp / f"t{time.monotonic_ns()}").touch()

    def test_deleted_stays_deleted(self):
        self.add("one")
        d = self.daemon()
        self.assertTrue(self.version(d, "one"))
        self.assertEqual(d.request("DELETE", "/v1/adapters/one").status, 204)
        old = self.version(d, "witness")
        self.change("one")
        self.until_other(d, "witness", old)
        self.stays(d, "one", None, 1)
        self.assertEqual(d.stop(), 0)
        d.restart()
        self.assertIsNone(self.version(d, "one"))
        self.stays(d, "one", None, 1)
        put = d.put_peft("one", GQA_ADAPTERS / "cpt")
        self.assertEqual(put.status, 201, put)

    def test_put_wins(self):
        self.add("one", "hidden_prefix")
        d = self.daemon()
        shipped = self.version(d, "one")
        put = d.put_peft("one", GQA_ADAPTERS / "cpt").json["version"]
        self.assertNotEqual(put, shipped)
        self.change("one")
        self.until_other(d, "witness", None)
        self.stays(d, "one", put, 1)
        shutil.rmtree(self.folder / "one")
        (self.folder / "witness.json").unlink()
        self.until(d, "witness", None)
        self.stays(d, "one", put, 1)
        self.add("one", "hidden_prefix")
        self.assertEqual(d.stop(), 0)
        d.restart()
        self.stays(d, "one", put, 1)

    def test_put_of_the_same_content_is_kept_when_the_folder_loses_it(self):
        self.add("one")
        d = self.daemon()
        version = self.version(d, "one")
        self.assertEqual(d.put_peft("one", GQA_ADAPTERS / "cpt").json["version"], version)
        shutil.rmtree(self.folder / "one")
        (self.folder / "witness.json").write_bytes(TEXTS[0])
        self.until_other(d, "witness", None)
        self.stays(d, "one", version, 1)

    def test_what_happened_while_nobody_watched(self):
        for name in ("gone", "kept", "changed"):
            self.add(name)
        d = self.daemon()
        kept = self.version(d, "kept")
        self.assertTrue(self.version(d, "gone"))
        self.assertEqual(d.stop(), 0)
        shutil.rmtree(self.folder / "gone")
        self.add("new")
        self.change("changed")
        d.restart()
        self.assertIsNone(self.version(d, "gone"))
        self.assertEqual((self.version(d, "kept"), self.version(d, "new")), (kept, kept))
        self.assertNotIn(self.version(d, "changed"), (None, kept))


class Tenants(Folder):
    def test_a_tenants_folder(self):
        d = self.daemon()
        self.assertEqual(d.post("/admin/tenants", {"name": "acme"}).status, 201)
        (self.folder / "acme").mkdir()
        self.add("acme/sql", "cpt")
        self.add("sql", "prompt_tuning")
        his = self.until_other(d, "sql", None, "?tenant=acme")
        mine = self.until_other(d, "sql", None)
        self.assertNotEqual(his, mine)
        self.assertIsNone(self.version(d, "acme"))
        shutil.rmtree(self.folder / "sql")
        self.until(d, "sql", None)
        self.stays(d, "sql", his, 1, "?tenant=acme")
        shutil.rmtree(self.folder / "acme")
        self.until(d, "sql", None, "?tenant=acme")

    def test_a_folder_whose_tenant_comes_later(self):
        (self.folder / "late").mkdir()
        self.add("late/sql")
        d = self.daemon()
        self.assertEqual(d.adapter_names(), [])
        self.assertIn("no tenant", d.stderr())
        self.assertEqual(d.post("/admin/tenants", {"name": "late"}).status, 201)
        self.until_other(d, "sql", None, "?tenant=late")
        self.assertEqual(d.stderr().count("no tenant"), 1)
        self.assertEqual(d.request("DELETE", "/admin/tenants/late").status, 204)
        self.assertEqual(d.post("/admin/tenants", {"name": "late"}).status, 201)
        (self.folder / "witness.json").write_bytes(TEXTS[0])  # makes the daemon look
        self.until_other(d, "sql", None, "?tenant=late")  # another tenant, who has it too

    def test_a_tenants_limits_hold(self):
        d = self.daemon()
        answer = d.post("/admin/tenants", {"name": "small", "limits": {"max_adapters": 1}})
        self.assertEqual(answer.status, 201, answer)
        (self.folder / "small").mkdir()
        for name in "ab":
            (self.folder / f"small/{name}.json").write_bytes(TEXTS[0])
        d.wait(lambda: "adapter small/" in d.stderr() and "skipped" in d.stderr(), SOON,
               "the limit")
        used = [a for a in d.get("/v1/adapters?tenant=small").json["data"] if a["version"]]
        self.assertEqual(len(used), 1)


class Refused(Folder):
    """What the folder has of a name and cannot be used: told to who asks, not in the log alone."""

    def break_it(self, name):
        (self.folder / name / "adapter_config.json").write_text('{"peft_type": "LORA"}')

    def mend(self, name, kind="cpt"):
        shutil.copyfile(GQA_ADAPTERS / kind / "adapter_config.json",
                        self.folder / name / "adapter_config.json")

    def add_broken(self, name):
        self.add(name)
        self.break_it(name)

    def info(self, d, name, query=""):
        answer = d.get(f"/v1/adapters/{name}{query}")
        return answer.json if answer.status == 200 else None

    def until_refused(self, d, name, wanted=True, query=""):
        def is_so():
            info = self.info(d, name, query)
            return info is not None and (info["refused"] is not None) == wanted
        d.wait(is_so, SOON, f"{name} to be {'refused' if wanted else 'used'}")
        return self.info(d, name, query)

    def refusals(self, d):
        value = "prefixd_adapters_refused "
        return [int(line[len(value):]) for line in d.get("/metrics").body.decode().splitlines()
                if line.startswith(value)][0]

    def check_broken(self, d, name, why, query=""):
        info = self.info(d, name, query)
        self.assertEqual((info["state"], info["version"], info["until"], info["resident"]),
                         ("broken", None, None, False))
        self.assertIn(why, info["why"])
        self.assertNotIn("/", info["why"])
        self.assertEqual(info["refused"], {"why": info["why"], "until": None})
        listed = [a for a in d.get(f"/v1/adapters{query}").json["data"] if a["id"] == name]
        self.assertEqual(listed, [info])
        answer = d.post(f"/v1/completions{query}", {"model": name, "prompt": PROMPT})
        self.assertEqual(answer.status, 422, answer)
        for text in (why, "when its files change"):
            self.assertIn(text, answer.json["error"]["message"])

    def test_one_that_never_was_good(self):
        self.add_broken("bad")
        (self.folder / "cut.json").write_bytes(TEXTS[0][:-5])
        (self.folder / "no name!.json").write_bytes(b"{}")
        d = self.daemon(state=False)
        self.check_broken(d, "bad", "LORA")
        self.assertNotIn("ETag", d.get("/v1/adapters/bad").headers)
        self.assertEqual(self.info(d, "cut")["state"], "broken")
        self.assertEqual(d.adapter_names(), ["bad", "cut"])
        d.wait(lambda: self.refusals(d) == 3, SOON, "all three to be counted")
        self.mend("bad")
        self.until_other(d, "bad", None)
        info = self.info(d, "bad")
        self.assertEqual((info["state"], info["why"], info["refused"]), ("ready", None, None))
        d.wait(lambda: self.refusals(d) == 2, SOON, "two to be counted")
        self.break_it("bad")
        self.until_refused(d, "bad")
        shutil.rmtree(self.folder / "bad")
        d.wait(lambda: d.get("/v1/adapters/bad").status == 404, SOON, "it to be gone")
        (self.folder / "cut.json").unlink()
        d.wait(lambda: d.get("/v1/adapters/cut").status == 404, SOON, "that to be gone too")
        self.assertEqual(d.complete(model="cut", prompt=PROMPT).status, 404)

    def test_half_written_is_not_refused_before_its_time(self):
        d = self.daemon(state=False)
        (self.folder / "half").mkdir()
        shutil.copy(GQA_ADAPTERS / "cpt/adapter_config.json", self.folder / "half")
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            self.assertEqual(d.get("/v1/adapters/half").status, 404)
            time.sleep(0.1)
        d.wait(lambda: self.info(d, "half"), 3 * SOON, "it to be given up")
        self.check_broken(d, "half", "adapter_model.safetensors is missing")

    def test_the_good_one_stays_in_use(self):
        self.add("one")
        d = self.daemon()
        good = self.version(d, "one")
        self.break_it("one")
        info = self.until_refused(d, "one")
        self.assertEqual((info["state"], info["why"], info["version"]), ("ready", None, good))
        self.assertIn("LORA", info["refused"]["why"])
        self.text(d, "one")
        self.assertEqual(d.stop(), 0)
        d.restart()
        info = self.info(d, "one")
        self.assertEqual((info["state"], info["version"]), ("ready", good))
        self.assertIn("LORA", info["refused"]["why"])
        self.mend("one")  # as it was: nothing is to be done but to tell that
        info = self.until_refused(d, "one", False)
        self.assertEqual(info["version"], good)

    def test_the_next_of_the_name_is_used_meanwhile(self):
        self.add_broken("two")
        (self.folder / "two.json").write_bytes(TEXTS[0])
        d = self.daemon(state=False)
        info = self.info(d, "two")
        self.assertEqual((info["state"], info["kind"]), ("ready", "text"))
        self.assertIn("LORA", info["refused"]["why"])

    def test_what_was_put_has_no_part_in_it(self):
        self.add_broken("bad")
        self.add("good")
        d = self.daemon()
        put = d.put_peft("bad", GQA_ADAPTERS / "cpt")
        self.assertEqual((put.status, put.json["refused"]), (201, None))
        self.assertEqual(d.put_peft("good", GQA_ADAPTERS / "prompt_tuning").status, 200)
        self.break_it("good")
        (self.folder / "witness.json").write_bytes(TEXTS[0])
        self.until_other(d, "witness", None)
        self.assertEqual(d.stop(), 0)
        d.restart()
        for name in ("bad", "good"):
            info = self.info(d, name)
            self.assertEqual((info["state"], info["refused"]), ("ready", None), name)

    def test_deleted_stays_deleted(self):
        self.add_broken("bad")
        d = self.daemon()
        self.check_broken(d, "bad", "LORA")
        self.assertEqual(d.request("DELETE", "/v1/adapters/bad").status, 204)
        self.assertEqual(d.get("/v1/adapters/bad").status, 404)
        self.assertEqual(d.request("DELETE", "/v1/adapters/bad").status, 404)
        self.mend("bad")
        (self.folder / "witness.json").write_bytes(TEXTS[0])
        self.until_other(d, "witness", None)
        self.assertEqual(d.get("/v1/adapters/bad").status, 404)

    def test_mended_or_gone_while_nobody_watched(self):
        for name in ("mended", "gone", "stays"):
            self.add_broken(name)
        d = self.daemon()
        self.assertEqual(d.adapter_names(), ["gone", "mended", "stays"])
        self.assertEqual(d.stop(), 0)
        self.mend("mended")
        shutil.rmtree(self.folder / "gone")
        d.restart()
        self.assertEqual(d.adapter_names(), ["mended", "stays"])
        self.assertEqual(self.info(d, "mended")["state"], "ready")
        self.check_broken(d, "stays", "LORA")

    def test_all_workers_tell_it_whoever_watches(self):
        self.add_broken("bad")
        self.add_broken("gone")
        d = self.daemon("--workers", "2")
        d.any_exit = True
        d.wait(lambda: len(d.worker_pids()) == 2, SOON, "two workers")
        seen = {}
        deadline = time.monotonic() + limit(SOON)
        while len(seen) < 2 and time.monotonic() < deadline:
            answer = d.get("/v1/adapters/bad")
            seen[answer.headers["X-Prefixd-Worker"]] = answer.json["state"]
        self.assertEqual(list(seen.values()), ["broken"] * 2)
        shutil.rmtree(self.folder / "gone")
        self.mend("bad")
        for pid in sorted(d.worker_pids()):  # whoever watches has not seen it yet
            kill_9(pid)
        d.wait(lambda: self.answer(d, "gone") == 404 and self.answer(d, "bad") == 200, 2 * SOON,
               "another to look")
        self.until_other(d, "bad", None)
        self.assertEqual(self.info(d, "bad")["state"], "ready")

    def answer(self, d, name):
        try:
            return d.get(f"/v1/adapters/{name}").status
        except OSError:
            return None

    def test_a_tenants_own(self):
        d = self.daemon()
        for name in ("acme", "other"):
            self.assertEqual(d.post("/admin/tenants", {"name": name}).status, 201)
        (self.folder / "acme").mkdir()
        self.add_broken("acme/bad")
        self.until_refused(d, "bad", query="?tenant=acme")
        self.check_broken(d, "bad", "LORA", "?tenant=acme")
        for query in ("", "?tenant=other"):
            self.assertEqual(d.get(f"/v1/adapters/bad{query}").status, 404)
            self.assertEqual(d.get(f"/v1/adapters{query}").json["data"], [])
        self.assertEqual(d.request("DELETE", "/admin/tenants/acme").status, 204)
        self.assertEqual(d.post("/admin/tenants", {"name": "acme"}).status, 201)
        (self.folder / "witness.json").write_bytes(TEXTS[0])  # makes the daemon look
        self.until_refused(d, "bad", query="?tenant=acme")  # of the new one of that name

    def test_what_a_limit_refuses_is_tried_again(self):
        d = self.daemon()
        limits = {"name": "small", "limits": {"max_adapters": 1}}
        self.assertEqual(d.post("/admin/tenants", limits).status, 201)
        (self.folder / "small").mkdir()
        for name in "ab":
            (self.folder / f"small/{name}.json").write_bytes(TEXTS[0])
        query = "?tenant=small"
        d.wait(lambda: [a for a in d.get(f"/v1/adapters{query}").json["data"] if a["refused"]],
               SOON, "one to be refused")
        infos = d.get(f"/v1/adapters{query}").json["data"]
        info = [a for a in infos if a["refused"]][0]
        self.assertEqual(len(infos), 2)
        self.assertEqual(info["state"], "broken")
        self.assertIn("limit of 1", info["why"])
        self.assertAlmostEqual(info["until"], time.time() + 5, delta=limit(5))
        answer = d.post(f"/v1/completions{query}", {"model": info["id"], "prompt": PROMPT})
        self.assertEqual(answer.status, 422)
        self.assertRegex(answer.json["error"]["message"], r"again in \d+ s")


class Workers(Folder):
    def everywhere(self, d, name, wanted):
        """What every worker says; connections go to whichever is quickest."""
        seen = {}
        deadline = time.monotonic() + limit(SOON)
        while len(seen) < 3 and time.monotonic() < deadline:
            answer = d.get(f"/v1/adapters/{name}")
            seen[answer.headers["X-Prefixd-Worker"]] = answer.status
        self.assertEqual(set(seen.values()), {wanted}, seen)

    def test_one_watches_for_all(self):
        self.add("one")
        d = self.daemon("--workers", "3")
        d.wait(lambda: len(d.worker_pids()) == 3, SOON, "three workers")
        self.everywhere(d, "one", 200)
        self.add("two")
        self.until_other(d, "two", None)
        self.everywhere(d, "two", 200)
        shutil.rmtree(self.folder / "one")
        self.until(d, "one", None)
        self.everywhere(d, "one", 404)

    def test_whoever_takes_over_looks_again(self):
        """Each worker is killed once, so the watching one was."""
        self.add("one")
        d = self.daemon("--workers", "2")
        d.any_exit = True
        for n in range(2):
            d.wait(lambda: len(d.worker_pids()) == 2, SOON, "two workers")
            kill_9(sorted(d.worker_pids())[0])
            self.add(f"new{n}")
            d.wait(lambda: self.answers(d, f"new{n}") == 200, SOON, f"new{n}")
        shutil.rmtree(self.folder / "one")
        d.wait(lambda: self.answers(d, "one") == 404, SOON, "one to go")

    def answers(self, d, name):
        try:
            return d.get(f"/v1/adapters/{name}").status
        except OSError:  # it was on its way to the worker that died
            return None


class Lora(HttpCase):
    """What clients of vLLM call, for prefixes."""

    @classmethod
    def daemon(cls):
        cls.root = pathlib.Path(cls.tmp, "root")
        (cls.root / "default").mkdir(parents=True)
        for kind in ("cpt", "prompt_tuning"):
            shutil.copytree(GQA_ADAPTERS / kind, cls.root / "default" / kind)
        shutil.copytree(GQA_ADAPTERS / "cpt", cls.root / "acme" / "his")
        (cls.root / "default/words.json").write_bytes(TEXTS[0])
        return Daemon(GQA, flags=["--dtype", "f32", "--name", "gqa", "--lora-root", cls.root])

    def load(self, name, path, query="", **more):
        return self.d.post(f"/v1/load_lora_adapter{query}",
                           {"lora_name": name, "lora_path": str(path), **more})

    def unload(self, name, query=""):
        return self.d.post(f"/v1/unload_lora_adapter{query}", {"lora_name": name})

    def test_load_and_unload(self):
        answer = self.load("sql", "cpt")
        self.assertEqual((answer.status, answer.body),
                         (200, b"Success: LoRA adapter 'sql' added successfully."), answer)
        self.assertIn("text/plain", answer.headers["Content-Type"])
        put = self.d.put_peft("put", GQA_ADAPTERS / "cpt").json["version"]
        self.assertEqual(self.d.get("/v1/adapters/sql").json["version"], put)
        self.assertEqual(self.d.complete(model="sql", prompt=PROMPT).status, 200)
        self.assertIn("sql", [m["id"] for m in self.d.get("/v1/models").json["data"]])
        error = self.assert_error(self.load("sql", "prompt_tuning"), 400)
        self.assertEqual(error["message"], "The lora adapter 'sql' has already been loaded. If "
                         "you want to load the adapter in place, set 'load_inplace' to True.")
        self.assertEqual(self.d.get("/v1/adapters/sql").json["version"], put)
        self.ok_text(self.load("sql", "prompt_tuning", load_inplace=True))
        self.assertNotEqual(self.d.get("/v1/adapters/sql").json["version"], put)
        answer = self.unload("sql")
        self.assertEqual((answer.status, answer.body),
                         (200, b"Success: LoRA adapter 'sql' removed successfully."), answer)
        self.assert_error(self.d.complete(model="sql", prompt=PROMPT), 404)
        error = self.assert_error(self.unload("sql"), 404)
        self.assertEqual(error["message"], "The lora adapter 'sql' cannot be found.")

    def ok_text(self, answer):
        self.assertEqual(answer.status, 200, answer)
        self.assertTrue(answer.body.startswith(b"Success"), answer)

    def test_what_must_be_given(self):
        both = "Both 'lora_name' and 'lora_path' must be provided."
        for body in ({}, {"lora_name": "x"}, {"lora_path": "cpt"}, {"lora_name": "", "lora_path": "cpt"},
                     {"lora_name": 5, "lora_path": "cpt"}):
            error = self.assert_error(self.d.post("/v1/load_lora_adapter", body), 400)
            self.assertEqual(error["message"], both)
        error = self.assert_error(self.d.post("/v1/unload_lora_adapter", {}), 400)
        self.assertEqual(error["message"],
                         "'lora_name' needs to be provided to unload a LoRA adapter.")
        self.assert_error(self.load("x", "cpt", load_inplace="yes"), 400, ["load_inplace"])
        self.assert_error(self.load("no name", "cpt"), 400)
        self.assert_error(self.load("gqa", "cpt"), 400)
        self.ok_text(self.load("x", "cpt", is_3d_lora_weight=False, base_model_name=None))
        self.ok_text(self.unload("x"))

    def test_absolute_paths_of_the_folder_and_text(self):
        self.ok_text(self.load("abs", self.root / "default" / "cpt"))
        self.ok_text(self.load("words", "words.json"))
        self.assertEqual(self.d.get("/v1/adapters/words").json["kind"], "text")
        self.ok_text(self.unload("abs"))
        self.ok_text(self.unload("words"))

    def test_no_path_leads_out(self):
        default = self.root / "default"
        (default / "link").symlink_to(default / "cpt")
        (default / "out").symlink_to(self.root / "acme/his")
        shutil.copytree(GQA_ADAPTERS / "cpt", default / "linked")
        (default / "linked/adapter_model.safetensors").unlink()
        (default / "linked/adapter_model.safetensors").symlink_to(
            GQA_ADAPTERS / "cpt/adapter_model.safetensors")
        os.mkfifo(default / "fifo.json")
        (default / "huge.json").touch()
        os.truncate(default / "huge.json", 1 << 40)
        paths = {"..": 400, "../acme/his": 400, "cpt/../../acme/his": 400, "/etc/passwd": 400,
                 self.root / "acme/his": 400, str(default) + "/../acme/his": 400, "link": 400,
                 "out": 400, "linked": 400, "fifo.json": 400, "huge.json": 413,
                 "nothing": 404, "../nothing": 400, "a" * 5000: 400, default: 400, ".": 404}
        for path, status in paths.items():
            with self.subTest(path=str(path)[:60]):
                error = self.assert_error(self.load("out", path), status)
                self.assertNotIn(str(self.root), error["message"])
                self.assertNotIn("/", error["message"])
        self.assertNotIn("out", self.d.adapter_names())

    def test_each_tenant_has_his_own_folder(self):
        self.assertEqual(self.d.post("/admin/tenants", {"name": "acme"}).status, 201)
        self.assert_error(self.load("his", "his"), 404)
        self.ok_text(self.load("his", "his", "?tenant=acme"))
        self.assert_error(self.load("mine", "cpt", "?tenant=acme"), 404)
        self.assertEqual(self.d.get("/v1/adapters/his").status, 404)
        self.assertEqual(self.d.get("/v1/adapters/his?tenant=acme").status, 200)
        self.assert_error(self.unload("his"), 404)
        self.ok_text(self.unload("his", "?tenant=acme"))
        self.assertEqual(self.d.post("/admin/tenants", {"name": "none"}).status, 201)
        self.assert_error(self.load("x", "cpt", "?tenant=none"), 404)

    def test_what_is_no_adapter(self):
        bad = self.root / "default/bad"
        shutil.copytree(GQA_ADAPTERS / "cpt", bad)
        (bad / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        self.assert_error(self.load("bad", "bad"), 422, ["LORA"])
        (bad / "adapter_model.safetensors").unlink()
        self.assert_error(self.load("bad", "bad"), 404, ["adapter_model.safetensors"])
        (bad / "adapter_model.bin").write_bytes(b"PK")
        self.assert_error(self.load("bad", "bad"), 422, ["safetensors"])
        self.assertNotIn("bad", self.d.adapter_names())

    def test_many_at_once(self):
        names = [f"many{i}" for i in range(12)]
        threads = [threading.Thread(target=self.load, args=(n, "cpt")) for n in names]
        for t in threads:
            t.start()
        for t in threads:
            t.join(limit(60))
        self.assertTrue(set(names) <= set(self.d.adapter_names()))
        for n in names:
            self.ok_text(self.unload(n))


class LoraOff(HttpCase):
    def test_off_unless_configured(self):
        for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            answer = self.d.post(path, {"lora_name": "x", "lora_path": "cpt"})
            self.assert_error(answer, 404)


if __name__ == "__main__":
    unittest.main()
