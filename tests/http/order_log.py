"""Reads what tests/support/order.c recorded, and says what was promised before it was on disk."""

import re


class Call:
    """One recorded call. Answers are logged before they are sent and have no end."""

    def __init__(self, line):
        begin, end, _, self.kind, *paths = line.rstrip("\n").split("\t")
        self.begin, self.end = int(begin), int(end) or None
        self.path, self.path2 = paths[0], paths[1] if len(paths) > 1 else None

    def __repr__(self):
        return f"<{self.begin}-{self.end or ''} {self.kind} {self.path} {self.path2 or ''}>"


def is_temporary(path):
    """Names with a leading dot are cleared away when they are found: nobody relies on them."""
    return any(part.startswith(".") and part != "." for part in path.split("/"))


def parent(path):
    return path.rsplit("/", 1)[0] if "/" in path else "."


class Disk:
    """Follows calls in the order in which they were over, and knows what is not synced.

    unsynced: {file or folder: [(call, what)]}, what being "path" for bytes of the file itself, and
    "path/" for a name that is new in the folder.
    A sync covers what was over when it began.
    """

    def __init__(self):
        self.unsynced = {}

    def change(self, where, call, what):
        self.unsynced.setdefault(where, []).append((call, what))

    def move(self, old, new):
        for path in [p for p in self.unsynced if p == new or p.startswith(new + "/")]:
            del self.unsynced[path]  # replaced, or another's name of before
        for path in [p for p in self.unsynced if p == old or p.startswith(old + "/")]:
            self.unsynced[new + path[len(old):]] = [
                (call, re.sub("^" + re.escape(old), new, what))
                for call, what in self.unsynced.pop(path)]
        self.forget_name(old)

    def forget_name(self, path):
        names = self.unsynced.get(parent(path), [])
        names[:] = [(call, what) for call, what in names if what != path + "/"]

    def follow(self, call):
        if call.kind == "write":
            self.change(call.path, call, call.path)
        elif call.kind == "sync":
            self.unsynced[call.path] = [(c, what) for c, what in self.unsynced.get(call.path, [])
                                        if c.end > call.begin]
        elif call.kind in ("create", "mkdir"):
            self.change(parent(call.path), call, call.path + "/")
        elif call.kind == "unlink":
            self.unsynced.pop(call.path, None)
            self.forget_name(call.path)
        elif call.kind == "rename":
            self.move(call.path, call.path2)
            self.change(parent(call.path2), call, call.path2 + "/")


def violations(lines, promises):
    """[(promise, call, path)]: calls whose effect was not on disk when something was promised.

    promises(call): a regular expression of what (see Disk) must be on disk before the call begins,
    or None. Writes that are under way then count as well.
    """
    calls = [Call(line) for line in lines]
    over = sorted((c for c in calls if c.end), key=lambda c: c.end)
    disk, at, found = Disk(), 0, []
    for promise in sorted(calls, key=lambda c: c.begin):
        wanted = promises(promise)
        if not wanted:
            continue
        while at < len(over) and over[at].end < promise.begin:
            disk.follow(over[at])
            at += 1
        open_ones = [(c, what) for changes in disk.unsynced.values() for c, what in changes]
        open_ones += [(c, c.path) for c in over[at:] if c.begin < promise.begin
                      and c.kind == "write" and c is not promise]
        found += [(promise, c, what) for c, what in open_ones
                  if re.fullmatch(wanted, what) and not is_temporary(what)]
    return found
