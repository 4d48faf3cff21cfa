"""Random kill -9 of the supervisor or a worker amid changes and generation.

Every adapter belongs to one client, which knows what was acknowledged. After each kill what was
acknowledged is there, a change without an answer is there wholly or not at all, and everything
answers. The seed is printed; PREFIXD_TEST_SEED repeats it.
"""

import http.client
import os
import pathlib
import random
import shutil
import signal
import tempfile
import threading
import time
import unittest

from harness import GQA, Daemon, joined, limit
from tenants import ADMIN_KEY, Background, View, add_tenant, ready_workers
from test_06_adapters import PROMPT, soft_prompt

BROKEN = (OSError, http.client.HTTPException)
CONTENTS = [soft_prompt(seed=s, rows=6 + s) for s in range(5)]


class State:
    """What an adapter is: its current version and all kept ones. None: there is no such name."""

    def __init__(self, current=None, kept=()):
        self.current, self.kept = current, frozenset(kept)

    def __eq__(self, other):
        return (self.current, self.kept) == (other.current, other.kept)

    def __repr__(self):
        return f"({self.current and self.current[:8]} of {sorted(k[:8] for k in self.kept)})"


class Owner:
    """A client that changes one adapter of its own again and again."""

    def __init__(self, view, name, digests, rng):
        self.view, self.name, self.digests, self.rng = view, name, digests, rng
        self.states = [State()]  # one when all is known; after a change without an answer two
        self.done = 0

    def change(self):
        """(what it does, the state after it, the status of success)."""
        now = self.states[0]
        path, kind = f"/v1/adapters/{self.name}", self.rng.random()
        if now.current and kind < 0.15:
            return (lambda: self.view.request("DELETE", path)), State(), 204
        if now.current and kind < 0.4:
            back = self.rng.choice(sorted(now.kept))
            return (lambda: self.view.post(f"{path}/rollback", {"version": back}),
                    State(back, now.kept), 200)
        i = self.rng.randrange(len(CONTENTS))
        after = State(self.digests[i], now.kept | {self.digests[i]})
        return (lambda: self.view.put_peft(self.name, None, *CONTENTS[i]),
                after, 200 if now.current else 201)

    def run(self, over):
        """Until told to end, or until one change has no answer."""
        while not over.is_set():
            action, after, status = self.change()
            try:
                answer = action()
            except BROKEN:
                self.states = [self.states[0], after]
                return
            if answer.status == 503:  # the daemon is going away, and changed nothing
                continue
            assert answer.status == status, f"{self.name}: {answer} where {status} is due"
            self.states = [after]
            self.done += 1

    def look(self):
        """The state as the daemon tells it, in every way in which it does."""
        path = f"/v1/adapters/{self.name}"
        answer, versions = self.view.get(path), self.view.get(f"{path}/versions?limit=1000")
        assert answer.status == versions.status, f"{answer} {versions}"
        listed = {a["id"]: a["version"] for a in
                  self.view.get("/v1/adapters?limit=1000").json["data"]}
        if answer.status == 404:
            assert self.name not in listed, listed
            return State()
        assert answer.status == 200, answer
        data = versions.json["data"]
        current = [v["version"] for v in data if v["current"]]
        assert current == [answer.json["version"]] == [listed.get(self.name)], (answer, data, listed)
        return State(current[0], [v["version"] for v in data])

    def check(self, answers):
        """What is there is one of what may be, and answers as that version does."""
        found = self.look()
        assert found in self.states, f"{self.name} is {found}, which is none of {self.states}"
        self.states = [found]
        got = answer_of(self.view, self.name)
        assert got == answers.get(found.current), f"{self.name} {found}: {got}"
        if found.current:
            weights = self.view.get(f"/v1/adapters/{self.name}/files/adapter_model.safetensors")
            assert weights.body == CONTENTS[self.digests.index(found.current)][1], self.name


def answer_of(view, name):
    """A greedy answer, or None for 404."""
    answer = view.complete(model=name, prompt=PROMPT, max_tokens=16, ignore_eos=True)
    if answer.status == 404:
        return None
    assert answer.status == 200, answer
    return answer.json["choices"][0]["text"]


def generate(view, names, answers, over, seed):
    """Streams of anybody's adapters: each is whole and right, breaks off, or finds no such name."""
    rng, whole = random.Random(seed), 0
    while not over.is_set():
        try:
            stream = view.stream(model=rng.choice(names), prompt=PROMPT, max_tokens=16,
                                 ignore_eos=True)
            if stream.status in (404, 503):
                stream.response.read()
                continue
            assert stream.status == 200, f"{stream.status} {stream.response.read()}"
            text = joined(list(stream))
        except BROKEN:
            time.sleep(0.01)
            continue
        finally:
            if "stream" in locals():
                stream.conn.close()
        assert any(a == text if stream.done else a.startswith(text) for a in answers.values()), text
        whole += stream.done
    return whole


class Crash:
    """A daemon, its owners and what became of them."""

    def __init__(self, folder, seed, workers=2):
        self.rng, self.workers, self.kills = random.Random(seed), workers, 0
        keys = pathlib.Path(folder, "admin-keys")
        keys.write_text(ADMIN_KEY + "\n")
        self.d = Daemon(GQA, config={"drain_ms": 1000}, flags=[
            "--dtype", "f32", "--state", f"{folder}/state", "--admin-key-file", keys,
            "--workers", workers])
        self.d.any_exit = True

    def begin(self, n_tenants=2, n_each=2):
        self.d.start()
        admin = View(self.d, ADMIN_KEY)
        views = [add_tenant(admin, f"tenant-{i}") for i in range(n_tenants)]
        digests, self.answers = [], {None: None}
        for content in CONTENTS:
            made = views[0].put_peft("reference", None, *content)
            assert made.status in (200, 201), made
            digests.append(made.json["version"])
            self.answers[digests[-1]] = answer_of(views[0], "reference")
        assert len(set(self.answers.values())) == len(CONTENTS) + 1
        self.owners = [Owner(v, f"owned-{k}", digests, random.Random(self.rng.random()))
                       for v in views for k in range(n_each)]
        self.texts = {k: v for k, v in self.answers.items() if k}

    def kill(self):
        """Somebody dies; says who. Three deaths of workers under one version would quarantine it."""
        which = self.rng.choice(("worker", "worker", "supervisor", "all"))
        if which == "worker" and self.kills < 2:
            self.kills += 1
            os.kill(self.rng.choice(self.d.worker_pids()), signal.SIGKILL)
            return which
        if which == "all":
            self.d.kill()
            return which
        self.d.process.kill()
        self.d.process.wait(limit(10))
        return "supervisor"

    def round(self):
        """Changes and generation, a kill amid them, a restart where it needs one, and a look at all."""
        over = threading.Event()
        names = [o.name for o in self.owners]
        clients = [Background(lambda o=o: o.run(over)) for o in self.owners]
        clients += [Background(lambda o=o, s=s: generate(o.view, names, self.texts, over, s))
                    for s, o in enumerate(self.owners[::2])]
        time.sleep(limit(self.rng.uniform(0.02, 0.4)))
        which = self.kill()
        if which == "worker":
            time.sleep(limit(0.05))
        over.set()
        for client in clients:
            client.result(60)
        if which == "worker":
            ready_workers(self.d, self.workers)
        else:
            self.d.restart()
            self.kills = 0
        for owner in self.owners:
            owner.check(self.answers)
        return which

    def end(self):
        done = sum(o.done for o in self.owners)
        self.d.kill()
        self.d.restart()
        for owner in self.owners:
            owner.check(self.answers)
        assert self.d.stop() == 0, self.d.stderr()[-4000:]
        self.d.close()
        return done


def crash_rounds(n, seed, say=lambda text: None):
    """n kills; {"rounds", "changes" acknowledged, kills by kind}."""
    folder = tempfile.mkdtemp(prefix="prefixd-crash-")
    crash = Crash(folder, seed)
    kinds = {"worker": 0, "supervisor": 0, "all": 0}
    try:
        crash.begin()
        for i in range(n):
            which = crash.round()
            kinds[which] += 1
            say(f"round {i + 1}: {which}")
        done = crash.end()
    except BaseException:
        crash.d.kill()
        print(crash.d.stderr()[-6000:])
        shutil.rmtree(crash.d.scratch, True)
        raise
    finally:
        shutil.rmtree(folder, True)
    return {"rounds": n, "changes": done, **kinds}


class Crashes(unittest.TestCase):
    def test_random_kills(self):
        seed = int(os.environ.get("PREFIXD_TEST_SEED") or random.randrange(1 << 30))
        print(f"kills: PREFIXD_TEST_SEED={seed}")
        counts = crash_rounds(6, seed)
        self.assertGreater(counts["changes"], 6, counts)


class TheChecks(unittest.TestCase):
    """The checks above see what they are there for."""

    def test_a_lost_change_is_seen(self):
        folder = tempfile.mkdtemp(prefix="prefixd-crash-")
        self.addCleanup(shutil.rmtree, folder, True)
        crash = Crash(folder, 1)
        self.addCleanup(crash.d.close)
        crash.begin(1, 1)
        owner, = crash.owners
        first, second = owner.digests[:2]
        for i in (0, 1):
            self.assertLess(owner.view.put_peft(owner.name, None, *CONTENTS[i]).status, 300)
        for lie in (State(), State(first, [first, second]), State(second, [second]),
                    State(second, [first, second, owner.digests[2]])):
            owner.states = [lie]
            with self.assertRaises(AssertionError):
                owner.check(crash.answers)
        owner.states = [State(second, [first, second])]
        owner.check(crash.answers)
        with self.assertRaises(AssertionError):
            owner.check({**crash.answers, second: crash.answers[first]})


if __name__ == "__main__":
    unittest.main()
