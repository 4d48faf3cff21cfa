"""Short forms of the long measurements of tests/soak: they run, and nothing goes wrong in them."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "soak"))
import fair_http  # noqa: E402  (the path is made above)
import many_adapters  # noqa: E402
import streams  # noqa: E402
from harness import SLOW  # noqa: E402
from tenants import scaled  # noqa: E402


class Load(unittest.TestCase):
    def test_more_adapters_than_memory(self):
        """Every request of a load with many misses is answered; its figures are all there."""
        found = many_adapters.measure(n=120, room=12, n_tenants=4, n_requests=scaled(240), rounds=2,
                                      starts=1)
        for kind in "zipf", "uniform":
            self.assertEqual(found[kind]["requests"], scaled(240) // 2 * 2)
            for figure in "ttft_p50_ratio", "step_mean_ratio":
                self.assertGreater(found[kind][figure], 0)
        self.assertTrue(2 <= found["resident"] <= 14, found)
        self.assertGreater(found["evictions"], 0)

    def test_tokens_follow_weights(self):
        """Three times the weight gets more than half as much again, however slow the machine."""
        one, three = fair_http.shares([1, 3], n_requests=scaled(400))["tokens"]
        self.assertGreater(three, 1.5 * one)
        self.assertGreater(one, 0)

    def test_streams_that_wait_take_little(self):
        """Memory of a stream that waits for its first token, its connection's and library's included."""
        found = streams.memory(500)
        self.assertEqual(found["begun"], 500)
        self.assertGreater(found["waiting"], 400)
        if SLOW == 1:  # a sanitizer has its own ways with memory
            self.assertEqual(streams.out_of_bounds(found), [])

    def test_a_token_takes_little_of_the_loop(self):
        """At 500 tokens a second over 32 streams the loop has nearly all of its time left."""
        found = streams.loop_time(2)
        self.assertGreater(found["events_per_s"], 0)
        if SLOW == 1:
            self.assertEqual(streams.out_of_bounds(found), [])


if __name__ == "__main__":
    unittest.main()
