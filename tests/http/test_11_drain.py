"""SIGTERM: running answers finish, new ones are refused, the exit status is 0."""

import shutil
import tempfile
import threading
import time
import unittest

from harness import Daemon, joined, limit, long_model


class Drain(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.mkdtemp(prefix="prefixd-drain-")
        self.addCleanup(shutil.rmtree, self.tmp, True)

    def daemon(self, **config):
        d = Daemon(long_model(self.tmp), flags=["--dtype", "f32"], config=config)
        self.addCleanup(d.close)
        return d.start()

    def test_running_streams_finish(self):
        d = self.daemon(drain_ms=int(limit(30) * 1000))
        fields = {"prompt": [1], "max_tokens": 1500, "ignore_eos": True}
        whole = d.complete(**fields).json["choices"][0]["text"]
        answers = []
        waiter = threading.Thread(target=lambda: answers.append(d.complete(**fields)))
        waiter.start()
        d.wait(lambda: answers or d.metrics().running == 1, 5, "the whole answer to be made")
        streams = [d.stream(**fields) for _ in range(3)]
        iterators = [iter(s) for s in streams]
        firsts = [[next(i)] for i in iterators]
        d.signal()
        for first, rest, stream in zip(firsts, iterators, streams):
            self.assertEqual(joined(first + list(rest)), whole)
            self.assertTrue(stream.done)
        waiter.join(limit(60))
        self.assertEqual(answers[0].json["choices"][0]["text"], whole)
        self.assertEqual(d.wait_exit(), 0)

    def test_new_requests_are_refused(self):
        d = self.daemon()
        held = d.connect()
        self.assertEqual(d.request("GET", "/ready", conn=held).status, 200)
        stream = d.stream(prompt=[1], max_tokens=60000, ignore_eos=True)
        next(iter(stream))
        d.signal()

        def refused():
            try:
                return d.complete(prompt=[1], max_tokens=1, timeout=5).status == 503
            except OSError:
                return True

        d.wait(refused, 5, "new requests to be refused")
        try:
            self.assertEqual(d.request("GET", "/ready", conn=held).status, 503)
        except OSError:
            pass  # closing kept connections is as good
        stream.drop()
        self.assertEqual(d.wait_exit(10), 0)

    def test_drain_ends_in_time(self):
        d = self.daemon(drain_ms=700)
        stream = d.stream(prompt=[1], max_tokens=60000, ignore_eos=True)
        events = iter(stream)
        next(events)
        began = time.monotonic()
        d.signal()
        last = None
        for last in events:
            pass
        self.assertEqual(d.wait_exit(10), 0)
        self.assertLess(time.monotonic() - began, limit(5))
        self.assertTrue("error" in last or stream.done, last)

    def test_idle_connections_do_not_hold_it(self):
        d = self.daemon()
        held = [d.connect() for _ in range(5)]
        for conn in held:
            d.request("GET", "/health", conn=conn)
        began = time.monotonic()
        self.assertEqual(d.stop(), 0)
        self.assertLess(time.monotonic() - began, limit(3))


if __name__ == "__main__":
    unittest.main()
