"""Streamed answers over sockets that never block: hundreds on one thread, timed token by token.

A thread or a coroutine for each stream would take from the daemon the core that it shares with its
clients; a selector and a parser of just these answers costs a few hundredths of one.
"""

import json
import os
import selectors
import socket
import time

MAX_HEAD = 65536


class Answer:
    """What came of one request. `first` and `gaps` are of events that brought text."""

    def __init__(self, model, began):
        self.model, self.began = model, began
        self.first, self.last, self.ended, self.gaps = None, None, None, []
        self.opened = None  # the first event of any kind, for answers that have no text
        self.tokens, self.usage = 0, None
        self.kind, self.error = None, None

    def fail(self, kind, text):
        self.kind, self.error = kind, str(text)

    def event(self, chunk, now):
        """One JSON event of the stream."""
        if "error" in chunk:
            error = chunk["error"]
            self.fail("in stream", error.get("message") if isinstance(error, dict) else error)
        if chunk.get("usage"):
            self.usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            self.opened = self.opened or now
            if choice.get("text") or (choice.get("delta") or {}).get("content"):
                self.token(now)

    def token(self, now):
        if self.first is None:
            self.first = now
        else:
            self.gaps.append(now - self.last)
        self.last = now
        self.tokens += 1

    def end(self, now):
        """Tokens are as the server counts them, where it does: some bring no text of their own."""
        self.ended = now
        self.first = self.first or self.opened
        if self.usage:
            self.tokens = self.usage.get("completion_tokens", self.tokens)
        if not self.error and not self.first:
            self.fail("empty", "a stream without tokens")


class Body:
    """The body of one answer, as pieces come: length, chunks, or until the connection closes."""

    def __init__(self, headers):
        self.chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self.left = None if self.chunked else headers.get("content-length")
        self.left = None if self.left is None else int(self.left)
        self.until_close = self.left is None and not self.chunked
        self.done = self.left == 0
        self.step = self.size

    def feed(self, data):
        """Takes from the bytearray what it can; returns it as bytes of the body."""
        if self.chunked:
            out = []
            while not self.done and self.step(data, out):
                pass
            return b"".join(out)
        piece = bytes(data if self.left is None else data[:self.left])
        del data[:len(piece)]
        if self.left is not None:
            self.left -= len(piece)
            self.done = self.left == 0
        return piece

    def size(self, data, _):
        end = data.find(b"\r\n")
        if end < 0:
            return False
        self.left = int(data[:end].partition(b";")[0], 16)
        del data[:end + 2]
        self.step = self.piece if self.left else self.trailer
        return True

    def piece(self, data, out):
        if len(data) < self.left + 2:
            return False
        out.append(bytes(data[:self.left]))
        del data[:self.left + 2]
        self.step = self.size
        return True

    def trailer(self, data, _):
        end = data.find(b"\r\n")
        if end < 0:
            return False
        self.done = end == 0
        del data[:end + 2]
        return True


class Connection:
    """A keep-alive connection with at most one request on it.

    `done(connection)` is called when the answer is over; `answer` is what came of it.
    """

    def __init__(self, selector, address, done):
        self.selector, self.address, self.done = selector, address, done
        self.sock, self.answer = None, None

    def start(self, request, answer):
        """Sends the bytes of a request, over a new connection if there is none."""
        self.request, self.answer = request, answer
        self.used = self.sock is not None
        self.send()

    def send(self):
        self.out, self.data, self.text = self.request, bytearray(), b""
        self.status, self.body, self.keep = None, None, True
        try:
            if self.sock is None:
                self.open()
            else:
                self.selector.modify(self.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
        except OSError as error:
            self.over(error)

    def open(self):
        family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.selector.register(self.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
        try:
            self.sock.connect(self.address)
        except BlockingIOError:
            pass

    def close(self):
        if self.sock is not None:
            self.selector.unregister(self.sock)
            self.sock.close()
            self.sock = None

    def ready(self, mask):
        """The selector's word that something can be read or written."""
        try:
            if mask & selectors.EVENT_WRITE:
                self.write()
            if mask & selectors.EVENT_READ and self.sock:
                self.read()
        except BlockingIOError:
            pass
        except ConnectionError as error:
            self.lost(error)
        except (OSError, ValueError, IndexError) as error:
            self.over(error)

    def lost(self, error):
        """A server may close a connection that was used before; that is no error of the request."""
        if self.used and self.answer and not self.data and self.status is None:
            self.close()
            self.used = False
            self.send()
        else:
            self.over(error)

    def write(self):
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        self.out = self.out[self.sock.send(self.out):]
        if not self.out:
            self.selector.modify(self.sock, selectors.EVENT_READ, self)

    def read(self):
        data = self.sock.recv(65536)
        if self.answer is None:  # a server that closes a connection nobody uses
            self.close()
            return
        now = time.perf_counter()
        self.data += data
        if self.body is None:
            self.head()
        if self.body is not None:
            self.feed(now)
        if not data and self.answer:
            if not self.body or not self.body.until_close:
                raise ConnectionError("the answer was cut")
            self.finish(now)

    def head(self):
        head, found, _ = self.data.partition(b"\r\n\r\n")
        if not found:
            if len(head) > MAX_HEAD:
                raise ValueError("a head without an end")
            return
        del self.data[:len(head) + 4]
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        self.status = int(first.split()[1])
        self.body = Body(headers)
        self.keep = headers.get("connection", "").lower() != "close" and not self.body.until_close

    def feed(self, now):
        self.text += self.body.feed(self.data)
        if self.status == 200:
            *events, self.text = self.text.replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                for line in event.split(b"\n"):
                    if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                        self.answer.event(json.loads(line[5:]), now)
        if self.body.done:
            self.finish(now)

    def finish(self, now):
        if self.status != 200:
            self.answer.fail(str(self.status), self.text[:200].decode(errors="replace"))
        if not self.keep:
            self.close()
        self.hand_over(now)

    def over(self, error):
        """The connection is of no use any more."""
        self.close()
        if self.answer:
            self.answer.fail(type(error).__name__, error)
            self.hand_over(time.perf_counter())

    def hand_over(self, now):
        answer = self.answer
        answer.end(now)
        self.answer = None
        self.done(self, answer)
