"""Memory that is short, and the end before the beginning."""

import http.client
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from harness import BIN, GQA, Daemon, limit


def is_sanitized():
    with open(BIN, "rb") as f:
        data = f.read()
    return b"__asan_init" in data or b"__tsan_init" in data


def resident(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS"))


def address_space(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmSize"))


def put_head(daemon, length):
    conn = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=limit(30))
    conn.putrequest("PUT", "/v1/adapters/big")
    conn.putheader("Content-Type", "multipart/form-data; boundary=BB")
    if length:
        conn.putheader("Content-Length", str(length))
    else:
        conn.putheader("Transfer-Encoding", "chunked")
    conn.endheaders()
    return conn


PART = (b'--BB\r\nContent-Disposition: form-data; name="weights"; '
        b'filename="adapter_model.safetensors"\r\n\r\n')


def send_body(conn, size, chunked):
    sent, block = 0, PART + bytes((1 << 20) - len(PART))
    try:
        while sent < size:
            conn.send(b"100000\r\n" + block + b"\r\n" if chunked else block)
            sent, block = sent + len(block), bytes(1 << 20)
        if chunked:
            conn.send(b"0\r\n\r\n")
    except OSError:
        pass  # refused before the end; the answer is there


class Memory(unittest.TestCase):
    @unittest.skipIf(is_sanitized(), "a sanitizer has address space of its own")
    def test_large_upload_without_memory_is_503(self):
        with Daemon() as d:
            worker, = d.worker_pids()
            room = address_space(worker) + (64 << 20)
            resource.prlimit(worker, resource.RLIMIT_AS, (room, room))
            size = 200 << 20
            for chunked in False, True:
                conn = put_head(d, None if chunked else size)
                send_body(conn, size, chunked)
                answer = conn.getresponse()
                self.assertEqual(answer.status, 503, answer.read())
                self.assertEqual(answer.getheader("Retry-After"), "1")
                conn.close()
            self.assertEqual(d.complete(prompt=[1], max_tokens=1).status, 200)

    def test_uploads_have_a_ceiling_together(self):
        size = 20_000_000
        with Daemon(config={"max_upload_bytes": size}) as d:
            worker, = d.worker_pids()
            before = resident(worker)
            conns = []
            for _ in range(12):
                conn = put_head(d, size - 1)
                conn.send(PART + bytes(19_000_000))
                conns.append(conn)
                self.assertEqual(d.complete(prompt=[1], max_tokens=1).status, 200)
            if not is_sanitized():
                self.assertLess(resident(worker) - before, 3 * size)
            for conn in conns:
                conn.close()


class ConnectionMemory(unittest.TestCase):
    def test_headers_have_the_room_that_is_set(self):
        """What one setting refuses another serves, streams and bodies behind such headers too."""
        large = {"X-Filling": "a" * 20_000}
        for size, status in (4096, 431), (65536, 200):
            with self.subTest(size=size), Daemon(GQA, config={"connection_memory_bytes": size}) as d:
                self.assertEqual(d.get("/health", headers=large).status, status)
                self.assertEqual(d.complete(prompt=[5] * 50, max_tokens=2).status, 200)
                self.assertEqual(d.complete(headers=large, prompt=[5] * 50, max_tokens=2).status, status)
                long = list(d.stream(prompt=[5] * 50, max_tokens=100, ignore_eos=True))
                self.assertEqual(long[-1]["choices"][0]["finish_reason"], "length")


class EarlyEnd(unittest.TestCase):
    def test_sigterm_before_the_model_is_there(self):
        tmp = tempfile.mkdtemp(prefix="prefixd-early-")
        self.addCleanup(shutil.rmtree, tmp, True)
        never = os.path.join(tmp, "keys")  # opening it waits for a writer that never comes
        os.mkfifo(never)
        for number in signal.SIGTERM, signal.SIGINT:
            p = subprocess.Popen([BIN, "--model", str(GQA), "--listen", "127.0.0.1:0",
                                  "--api-key-file", never], stderr=subprocess.DEVNULL)
            time.sleep(limit(0.3))
            self.assertIsNone(p.poll())
            p.send_signal(number)
            try:
                self.assertEqual(p.wait(limit(5)), 0)
            finally:
                p.kill()


if __name__ == "__main__":
    unittest.main()
