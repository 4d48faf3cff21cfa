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


def is_within(path, folder):
    return path == folder or path.startswith(folder + "/")


def moved(table, old, new):
    """The table after a rename, for what stood under the old path and in place of what stood under
    the new one."""
    kept = {path: v for path, v in table.items() if not is_within(path, new)}
    return {new + path[len(old):] if is_within(path, old) else path: v for path, v in kept.items()}


class Disk:
    """Follows calls in the order in which they were over, and knows what is not synced.

    unsynced: {file or folder: [(call, what)]}, what being "path" for bytes of the file itself, and
    "path/" for a name that is new in the folder. The name of a file counts once something is in it.
    A sync covers what was over when it began.
    """

    def __init__(self):
        self.unsynced, self.synced, self.empty = {}, {}, {}

    def change(self, where, call, what):
        if self.synced.get(where, 0) < call.end:
            self.unsynced.setdefault(where, []).append((call, what))

    def sync(self, call):
        self.synced[call.path] = call.begin
        self.unsynced[call.path] = [(c, what) for c, what in self.unsynced.get(call.path, [])
                                    if c.end > call.begin]

    def write(self, call):
        self.change(call.path, call, call.path)
        if call.path in self.empty:
            self.change(parent(call.path), self.empty.pop(call.path), call.path + "/")

    def rename(self, call):
        old, new = call.path, call.path2
        for name in ("unsynced", "synced", "empty"):
            setattr(self, name, moved(getattr(self, name), old, new))
        for path in [p for p in self.unsynced if is_within(p, new)]:
            self.unsynced[path] = [(c, new + what[len(old):]) for c, what in self.unsynced[path]]
        self.forget_name(old)
        self.change(parent(new), call, new + "/")

    def unlink(self, call):
        for table in (self.unsynced, self.synced, self.empty):
            table.pop(call.path, None)
        self.forget_name(call.path)

    def forget_name(self, path):
        names = self.unsynced.get(parent(path), [])
        names[:] = [(call, what) for call, what in names if what != path + "/"]

    def follow(self, call):
        if call.kind in ("write", "sync", "rename", "unlink"):
            getattr(self, call.kind)(call)
        elif call.kind == "create":
            self.empty[call.path] = call
        elif call.kind == "mkdir":
            self.change(parent(call.path), call, call.path + "/")


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
