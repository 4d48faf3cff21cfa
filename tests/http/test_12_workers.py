"""Supervisor and workers: one copy of the base, deaths of either, restarts, stopping."""

import contextlib
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import unittest.mock

from harness import DEMO, GQA, GQA_ADAPTERS, MID, Daemon, joined, limit, long_model, run_all
from tenants import pin

BROKEN = (http.client.IncompleteRead, ConnectionError, http.client.RemoteDisconnected)
LONG = {"prompt": [1], "max_tokens": 60000, "ignore_eos": True}


def worker_of(daemon):
    """The worker that answered, and the status."""
    answer = daemon.get("/ready", timeout=5)
    return int(answer.headers["X-Prefixd-Worker"]), answer.status


def image_of(pid):
    """Kilobytes of the base's memory in a process: {"Rss": ..., "Pss": ...}."""
    sums, is_image = {"Rss": 0, "Pss": 0}, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_image = "memfd:prefixd-model" in line
        elif is_image and line.split(":")[0] in sums:
            sums[line.split(":")[0]] += int(line.split()[1])
    return sums


def exists(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def can_connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def until(condition, seconds):
    """Seconds until the condition held; nothing is waited for longer than asked."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit(seconds):
            raise AssertionError(f"not within {limit(seconds)} s")
        time.sleep(0.002)
    return time.monotonic() - began


class WorkerCase(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.mkdtemp(prefix="prefixd-workers-")
        self.addCleanup(shutil.rmtree, self.tmp, True)

    def daemon(self, *flags, model=None, adapters=None, config=None):
        d = Daemon(model or long_model(self.tmp), adapters, ["--dtype", "f32", *flags],
                   config=config)
        self.addCleanup(d.close)
        return d.start()

    def all_workers(self, d, n):
        """Waits until n workers are ready; their process ids."""
        d.wait(lambda: len(d.worker_pids()) == n and
               sum(f"worker {p} is ready" in d.stderr() for p in d.worker_pids()) == n,
               20, f"{n} workers")
        return d.worker_pids()


class Base(WorkerCase):
    def check_memory(self, model, flags=()):
        d = Daemon(model, flags=["--workers", "4", *flags])
        self.addCleanup(d.close)
        d.start()
        workers = self.all_workers(d, 4)
        for _ in range(20):  # until some workers have read all of it
            bodies = run_all([lambda: d.complete(prompt="Once upon a time", max_tokens=8).json
                              for _ in range(16)])
            self.assertEqual(len({b["choices"][0]["text"] for b in bodies}), 1)
            each = [image_of(p) for p in [d.process.pid, *workers]]
            size = max(e["Rss"] for e in each)
            if sum(e["Rss"] > 0.9 * size for e in each[1:]) > 1:
                break
        self.assertGreater(sum(e["Rss"] > 0.9 * size for e in each[1:]), 1, each)
        # Proportional shares add up to one copy, not to one for each process.
        self.assertLessEqual(sum(e["Pss"] for e in each), size * 1.02 + 5 * 4 * 8, each)

    def test_memory_of_the_base_is_paid_once(self):
        self.check_memory(GQA)

    def test_memory_of_a_real_base_is_paid_once(self):
        if not DEMO.exists():
            self.skipTest("the demo model is not here")
        self.check_memory(DEMO)

    def test_totals_are_shared_out(self):
        """Threads from the cores; KV blocks and the adapters' memory from what was asked for."""
        block = 768 * 16  # of gqa in f32
        d = self.daemon("--workers", "2", "--kv-bytes", str(2 * 4096 * block),
                        "--adapter-bytes", "2", adapters=GQA_ADAPTERS)
        pids = self.all_workers(d, 2)
        lines = [line for line in d.stderr().splitlines() if "engine:" in line]
        threads = max(1, os.sysconf("SC_NPROCESSORS_ONLN") // 2)
        self.assertEqual(len(lines), 2)
        for line in lines:
            self.assertIn(f" {threads} threads,", line)
            self.assertIn(" KV pool 4096 blocks of 16 tokens ", line)
        first, second = (pin(d, pids[0], pids) for _ in range(2))
        self.addCleanup(first.conn.close)
        self.addCleanup(second.conn.close)
        names = d.adapter_names()
        stream = first.stream(model=names[0], **LONG)
        next(iter(stream))
        answer = second.complete(model=names[1], prompt=[1], max_tokens=1)
        stream.drop()
        self.assertEqual(answer.status, 503, answer)
        self.assertIn("(1 bytes)", answer.json["error"]["message"])

    def test_every_answer_names_its_worker(self):
        d = self.daemon("--workers", "2", adapters=GQA_ADAPTERS)
        workers = self.all_workers(d, 2)
        answers = [d.get("/health"), d.get("/v1/models"), d.get("/nonexistent"),
                   d.complete(prompt=[1], max_tokens=1), d.complete(prompt=7),
                   d.request("OPTIONS", "/v1/completions"), d.get("/metrics")]
        for answer in answers:
            self.assertIn(int(answer.headers["X-Prefixd-Worker"]), workers, answer)
        stream = d.stream(prompt=[1], max_tokens=2, ignore_eos=True)
        self.assertIn(int(stream.headers["X-Prefixd-Worker"]), workers)
        list(stream)

    def test_all_workers_answer_and_agree(self):
        d = self.daemon("--workers", "4", adapters=GQA_ADAPTERS)
        self.all_workers(d, 4)
        name = d.adapter_names()[0]
        seen = {}

        def ask():
            answer = d.complete(model=name, prompt=[1, 2], max_tokens=20, ignore_eos=True)
            seen.setdefault(answer.headers["X-Prefixd-Worker"], set()).add(
                answer.json["choices"][0]["text"])

        for _ in range(20):
            run_all([ask] * 8)
            if len(seen) > 1:
                break
        self.assertGreater(len(seen), 1, "one worker took every connection")
        self.assertEqual(len(set.union(*seen.values())), 1)


class Changes(WorkerCase):
    """What one worker has answered is what every other serves from then on."""

    @contextlib.contextmanager
    def only(self, d, worker):
        """No other worker takes a connection meanwhile."""
        others = [p for p in d.worker_pids() if p != worker]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)

    def by(self, d, worker, method, path, body=None, headers=None):
        with self.only(d, worker):
            answer = d.request(method, path, body, headers)
        self.assertEqual(int(answer.headers["X-Prefixd-Worker"]), worker)
        return answer

    def uses(self, d, worker):
        """(status, version) of a completion by this worker."""
        answer = self.by(d, worker, "POST", "/v1/completions",
                         {"model": "x", "prompt": [1], "max_tokens": 2, "temperature": 0})
        return answer.status, answer.headers["X-Adapter-Version"]

    def check_all_agree(self, d, workers, version):
        for worker in workers:
            self.assertEqual(self.uses(d, worker), (200, version))
            self.assertEqual(self.by(d, worker, "GET", "/v1/adapters/x").json["version"], version)

    def check_changes(self, *flags, durable):
        d = self.daemon("--workers", "4", *flags)
        workers = self.all_workers(d, 4)
        versions = []
        for i, worker in enumerate(workers):
            put = self.by(d, worker, "PUT", "/v1/adapters/x",
                          {"kind": "text", "text": f"Answer {i} times."})
            self.assertEqual((put.status, put.json["durable"]), (200 if i else 201, durable))
            versions.append(put.json["version"])
            self.check_all_agree(d, workers, versions[-1])
        back = self.by(d, workers[2], "POST", "/v1/adapters/x/rollback", {"version": versions[0]})
        self.assertEqual(back.status, 200, back)
        self.check_all_agree(d, workers, versions[0])
        lost = self.by(d, workers[3], "DELETE", "/v1/adapters/x",
                       headers={"If-Match": f'"{versions[3]}"'})
        self.assertEqual(lost.status, 412, lost)
        self.assertEqual(self.by(d, workers[1], "DELETE", "/v1/adapters/x").status, 204)
        for worker in workers:
            self.assertEqual(self.uses(d, worker)[0], 404)
            self.assertEqual(self.by(d, worker, "GET", "/v1/adapters").json["data"], [])
        return d

    def test_all_workers_see_a_change_at_once(self):
        self.check_changes(durable=False)

    def test_all_workers_see_a_durable_change_at_once(self):
        state = os.path.join(self.tmp, "state")
        d = self.check_changes("--state", state, durable=True)
        self.assertEqual(d.request("PUT", "/v1/adapters/y", {"kind": "text", "text": "Hi"}).status,
                         201)
        d.kill()
        d.restart()
        self.assertEqual(d.adapter_names(), ["y"])

    def test_a_restarted_worker_has_what_the_others_have(self):
        d = self.daemon("--workers", "2")
        old, other = self.all_workers(d, 2)
        version = self.by(d, old, "PUT", "/v1/adapters/x", {"kind": "text", "text": "Hi"}).json[
            "version"]
        os.kill(old, signal.SIGKILL)
        until(lambda: old not in d.worker_pids() and len(d.worker_pids()) == 2, 10)
        self.check_all_agree(d, self.all_workers(d, 2), version)

    TEXT = {"kind": "text", "text": "Hi"}

    def damaged(self, *flags):
        """A daemon none of whose workers has its one adapter in memory, and whose files are not
        what they were; the workers, the version and its file."""
        state = pathlib.Path(self.tmp, "state")
        d = self.daemon("--workers", "3", "--state", state, *flags)
        version = d.request("PUT", "/v1/adapters/x", self.TEXT).json["version"]
        self.assertEqual(d.stop(), 0)
        shutil.rmtree(state / "compiled")
        file = state / "blobs" / f"1-{version}" / "adapter.json"
        file.write_bytes(file.read_bytes().replace(b"Hi", b"Ho"))
        d.restart()
        return d, self.all_workers(d, 3), version, file

    def states(self, d, workers):
        """What each says of x: (state, why), and the state of its newest version."""
        said = set()
        for worker in workers:
            info = self.by(d, worker, "GET", "/v1/adapters/x").json
            row = self.by(d, worker, "GET", "/v1/adapters/x/versions").json["data"][0]
            self.assertEqual(row["state"], info["state"])
            said.add((info["state"], info["why"], info["until"]))
        return said

    def test_what_is_broken_in_one_worker_is_broken_in_all(self):
        d, workers, version, _ = self.damaged()
        self.assertEqual(self.states(d, workers), {("ready", None, None)})
        self.assertEqual(self.uses(d, workers[1])[0], 422)
        (state, why, _), = self.states(d, workers)
        self.assertEqual((state, why), ("broken", "the stored files are damaged"))
        for worker in workers:
            self.assertEqual(self.uses(d, worker)[0], 422)
        put = self.by(d, workers[2], "PUT", "/v1/adapters/x", self.TEXT)
        self.assertEqual((put.status, put.json["version"]), (200, version))
        self.assertEqual(self.states(d, workers), {("ready", None, None)})
        self.check_all_agree(d, workers, version)

    def test_what_loads_again_in_one_worker_is_ready_in_all(self):
        d, workers, version, file = self.damaged()
        self.assertEqual(self.uses(d, workers[0])[0], 422)
        now = file.stat()
        file.write_bytes(file.read_bytes().replace(b"Ho", b"Hi"))
        os.utime(file, ns=(now.st_atime_ns, now.st_mtime_ns))
        until(lambda: self.uses(d, workers[1]) == (200, version), 30)
        self.assertEqual(self.states(d, workers), {("ready", None, None)})
        self.check_all_agree(d, workers, version)

    def test_damaged_files_are_not_served(self):
        d, workers, _, file = self.damaged()
        for worker in workers:
            got = self.by(d, worker, "GET", "/v1/adapters/x/files/adapter.json")
            self.assertEqual(got.status, 422, got)
            self.assertNotIn(b"Ho", got.body)
        self.assertEqual(d.request("PUT", "/v1/adapters/x", self.TEXT).status, 200)
        got = self.by(d, workers[0], "GET", "/v1/adapters/x/files/adapter.json")
        self.assertEqual((got.status, got.body), (200, file.read_bytes()))

    def test_a_version_in_use_anywhere_is_draining_everywhere(self):
        d = self.daemon("--workers", "3")
        workers = self.all_workers(d, 3)
        self.by(d, workers[0], "PUT", "/v1/adapters/x", self.TEXT)
        with self.only(d, workers[1]):
            stream = d.stream(model="x", **LONG)
            next(iter(stream))
        self.by(d, workers[2], "PUT", "/v1/adapters/x", {"kind": "text", "text": "Ho"})

        def states():
            return {tuple(v["state"] for v in self.by(
                d, w, "GET", "/v1/adapters/x/versions").json["data"]) for w in workers}

        self.assertEqual(states(), {("ready", "draining")})
        stream.drop()
        until(lambda: states() == {("ready", "ready")}, 10)

    def test_the_temporary_folder_goes_with_the_daemon(self):
        tmp = os.path.join(self.tmp, "t")
        os.mkdir(tmp)
        with unittest.mock.patch.dict(os.environ, {"TMPDIR": tmp}):
            d = self.daemon("--workers", "2")
        self.assertEqual(
            d.request("PUT", "/v1/adapters/x", {"kind": "text", "text": "Hi"}).status, 201)
        self.assertEqual(len(os.listdir(tmp)), 1)
        self.assertEqual(d.stop(), 0)
        self.assertEqual(os.listdir(tmp), [])


class Deaths(WorkerCase):
    def test_kill_9_of_a_worker_breaks_what_it_ran_visibly(self):
        d = self.daemon()
        worker, _ = worker_of(d)
        streams = [d.stream(**LONG) for _ in range(4)]
        for s in streams:
            next(iter(s))
        ended = []

        def whole():
            try:
                ended.append(d.complete(**LONG))
            except BROKEN as error:
                ended.append(error)

        waiter = threading.Thread(target=whole)
        waiter.start()
        d.wait(lambda: d.metrics().running == 5, 5, "all of them to run")
        os.kill(worker, signal.SIGKILL)
        for stream in streams:
            with self.assertRaises(BROKEN):
                text = b""
                while True:  # read1 tells the end of a stream from its breaking off
                    text += stream.response.read1(65536) or stream.response.read()
                    self.assertNotIn(b'"finish_reason":"', text)
                    self.assertNotIn(b"[DONE]", text)
        waiter.join(limit(20))
        self.assertIsInstance(ended[0], BROKEN)
        d.wait(lambda: "ready" in d.stderr().split("died")[-1], 10, "a new worker")
        new, status = worker_of(d)
        self.assertEqual(status, 200)
        self.assertNotEqual(new, worker)
        self.assertRegex(d.stderr(), rf"worker {worker} died .*signal 9 \(Killed\)")

    def test_the_log_names_the_adapters_a_dead_worker_ran(self):
        d = self.daemon(adapters=GQA_ADAPTERS)
        name = d.adapter_names()[0]
        version = d.get(f"/v1/adapters/{name}").json["version"]
        self.assertEqual(d.complete(model=d.adapter_names()[1], prompt=[1]).status, 200)
        stream = d.stream(model=name, **LONG)
        next(iter(stream))
        os.kill(worker_of(d)[0], signal.SIGKILL)
        d.wait(lambda: "died" in d.stderr(), 5, "the death in the log")
        line = next(x for x in d.stderr().splitlines() if "died" in x)
        self.assertRegex(line, rf"versions it ran: {version[:12]} \(1\)$")
        stream.drop()

    def check_quick_restart(self, d, seconds):
        """Three deaths: each time the next answer of /ready is there in time."""
        times = []
        for _ in range(3):
            worker, _ = worker_of(d)
            stream = d.stream(prompt=[1], max_tokens=2000, ignore_eos=True)
            next(iter(stream))
            began = time.monotonic()
            os.kill(worker, signal.SIGKILL)
            until(lambda: fresh(d, worker), 5)
            times.append(time.monotonic() - began)
            stream.drop()
        self.assertLess(max(times), limit(seconds), times)
        return times

    def test_a_new_worker_is_there_at_once(self):
        self.check_quick_restart(self.daemon(), 0.3)

    def test_a_new_worker_on_a_real_base_is_there_at_once(self):
        model = next((m for m in (MID, DEMO) if m.exists()), None)
        if not model:
            self.skipTest("neither the demo model nor a larger one is here")
        d = Daemon(model, flags=["--ctx", "2048"])
        self.addCleanup(d.close)
        times = self.check_quick_restart(d.start(), 0.3)
        print(f"restart of a worker on {model.name}: "
              f"{', '.join(f'{t * 1000:.0f}' for t in times)} ms")

    def test_many_deaths_are_slowed_down(self):
        d = self.daemon()
        for _ in range(4):
            worker, _ = worker_of(d)
            os.kill(worker, signal.SIGKILL)
            until(lambda: fresh(d, worker), 10)
        waits = [int(w) for w in re.findall(r"next start waits (\d+) ms", d.stderr())]
        self.assertEqual(waits, [250])
        self.assertEqual(worker_of(d)[1], 200)

    def test_sigterm_of_a_worker_replaces_it_without_loss(self):
        d = self.daemon()
        worker, _ = worker_of(d)
        fields = {"prompt": [1], "max_tokens": 1500, "ignore_eos": True}
        whole = d.complete(**fields).json["choices"][0]["text"]
        stream = d.stream(**fields)
        events = iter(stream)
        first = [next(events)]
        os.kill(worker, signal.SIGTERM)
        self.assertEqual(joined(first + list(events)), whole)
        self.assertTrue(stream.done)
        until(lambda: fresh(d, worker), 10)
        self.assertNotIn("died", d.stderr())


def fresh(d, old):
    """Whether another worker than the old one answers that it is ready."""
    try:
        worker, status = worker_of(d)
    except (OSError, http.client.HTTPException):
        return False
    return worker != old and status == 200


class Supervisor(WorkerCase):
    def test_kill_9_of_the_supervisor(self):
        """No new connection after 100 ms; what runs is finished; then nothing is left."""
        d = self.daemon("--workers", "2")
        workers = self.all_workers(d, 2)
        fields = {"prompt": [1], "max_tokens": 1500, "ignore_eos": True}
        whole = d.complete(**fields).json["choices"][0]["text"]
        streams = [d.stream(**fields) for _ in range(4)]
        iterators = [iter(s) for s in streams]
        firsts = [[next(i)] for i in iterators]
        d.any_exit = True
        d.process.kill()
        d.process.wait(limit(5))
        closed = until(lambda: not can_connect(d.port), 5)
        self.assertLess(closed, limit(0.1))
        for first, rest, stream in zip(firsts, iterators, streams):
            self.assertEqual(joined(first + list(rest)), whole)
            self.assertTrue(stream.done)
        until(lambda: not any(map(exists, workers)), 5)

    def test_orphans_end_in_time(self):
        d = self.daemon(config={"drain_ms": 500})
        workers = d.worker_pids()
        stream = d.stream(**LONG)
        next(iter(stream))
        d.process.kill()
        d.process.wait(limit(5))
        self.assertLess(until(lambda: not any(map(exists, workers)), 10), limit(5))
        stream.drop()

    def test_a_restart_finds_port_and_state(self):
        """While orphans still finish a stream."""
        state = pathlib.Path(self.tmp, "state")
        d = self.daemon("--state", str(state))
        put = d.request("PUT", "/v1/adapters/words", {"kind": "text", "text": "Hi"})
        self.assertEqual(put.status, 201, put)
        stream = d.stream(**LONG)
        events = iter(stream)
        next(events)
        old = d.worker_pids()
        d.process.kill()
        d.process.wait(limit(5))
        next_one = Daemon(d.args[2], flags=["--dtype", "f32", "--state", str(state),
                                            "--listen", f"127.0.0.1:{d.port}"])
        self.addCleanup(next_one.close)
        next_one.start()
        self.assertTrue(exists(old[0]))
        next(events)
        self.assertEqual(next_one.get("/v1/adapters/words").json["version"],
                         put.json["version"])
        stream.drop()
        until(lambda: not exists(old[0]), 5)

    def test_sigterm_drains_every_worker(self):
        d = self.daemon("--workers", "3")
        workers = self.all_workers(d, 3)
        fields = {"prompt": [1], "max_tokens": 1000, "ignore_eos": True}
        whole = d.complete(**fields).json["choices"][0]["text"]
        streams = [d.stream(**fields) for _ in range(6)]
        iterators = [iter(s) for s in streams]
        firsts = [[next(i)] for i in iterators]
        d.signal()
        for first, rest, stream in zip(firsts, iterators, streams):
            self.assertEqual(joined(first + list(rest)), whole)
            self.assertTrue(stream.done)
        self.assertEqual(d.wait_exit(10), 0)
        self.assertFalse(any(map(exists, workers)))
        self.assertFalse(can_connect(d.port))

    def test_signals_to_the_whole_group_are_one_signal(self):
        """As a terminal's Ctrl-C and a service manager send them."""
        d = self.daemon()
        fields = {"prompt": [1], "max_tokens": 1000, "ignore_eos": True}
        stream = d.stream(**fields)
        events = iter(stream)
        next(events)
        for pid in [*d.worker_pids(), d.process.pid]:
            os.kill(pid, signal.SIGINT)
        list(events)
        self.assertTrue(stream.done)
        self.assertEqual(d.wait_exit(10), 0)

    def test_second_sigterm_kills_at_once(self):
        d = self.daemon("--workers", "2")
        workers = self.all_workers(d, 2)
        stream = d.stream(**LONG)
        next(iter(stream))
        d.signal()
        d.wait(lambda: "draining" in d.stderr(), 5, "the drain")
        d.signal()
        self.assertEqual(d.process.wait(limit(2)), 128 + signal.SIGTERM)
        d.any_exit = True
        self.assertFalse(any(map(exists, workers)))
        stream.drop()

    def test_sigterm_while_loading(self):
        if not DEMO.exists():
            self.skipTest("the demo model is not here")
        d = Daemon(DEMO)
        process = subprocess.Popen(d.args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(limit(0.15))
        process.terminate()
        began = time.monotonic()
        out, _ = process.communicate(timeout=limit(5))
        self.assertLess(time.monotonic() - began, limit(0.5))
        self.assertEqual(process.returncode, 0)
        self.assertEqual(out, b"")
        shutil.rmtree(d.scratch, True)

    def test_only_one_line_on_stdout(self):
        d = self.daemon("--workers", "3")
        self.all_workers(d, 3)
        self.assertEqual(d.stop(), 0)
        self.assertEqual(d.more_stdout(), [])


if __name__ == "__main__":
    unittest.main()
