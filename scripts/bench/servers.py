"""A server for measurements: one that runs already, or one that is started, awaited and ended."""

import http.client
import pathlib
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse


class Server:
    """`what` is a URL, or a command with {port} where the port goes."""

    def __init__(self, what, patience=300):
        self.what, self.patience = what, patience
        self.process, self.url = None, what.rstrip("/")

    def __enter__(self):
        if not self.what.startswith("http://"):
            self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Seconds from the start of the process until it is ready."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="against-"))
        command = shlex.split(self.what.replace("{port}", str(port)))
        with open(self.scratch / "log", "wb") as log:
            began = time.perf_counter()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)
        try:
            while not self.ready():
                time.sleep(0.005)
                if self.process.poll() is not None or time.perf_counter() - began > self.patience:
                    raise OSError(f"{self.what}: not ready\n{self.log()}")
        except BaseException:
            self.stop()
            raise
        return time.perf_counter() - began

    def ready(self):
        """Whether it serves: all peers answer 200 here then, and not before."""
        parts = urllib.parse.urlsplit(self.url)
        try:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def log(self):
        return (self.scratch / "log").read_text(errors="replace")[-3000:]

    def stop(self):
        if not self.process:
            return
        self.process.terminate()
        try:
            self.process.wait(45)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        shutil.rmtree(self.scratch, ignore_errors=True)
