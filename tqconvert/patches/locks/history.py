"""Files of a commit in a git repository, read only, and the tree that it would be with other files in it."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tqconvert.errors import GitFailedError, NotFoundError
from tqconvert.patches.git import Git
from tqconvert.patches.objects import blob_id


class Entry(NamedTuple):
    """One file of a tree."""

    mode: str
    id: str


class Commit:
    """One commit. Content is read when it is asked for, that of `fetch` in one go."""

    def __init__(self, git: Git, revision: str) -> None:
        """Raises NotFoundError (exit code 5) if the repository lacks the revision."""
        self._git = git
        done = git.run("rev-parse", f"{revision}^{{commit}}", f"{revision}^{{tree}}")
        ids = done.stdout.decode().split()
        if done.returncode or len(ids) != 2:
            raise NotFoundError(
                f"{git.folder}: has no commit {revision}, or is no repository",
                hint=f"git -C {git.folder} fetch --tags, or name a commit that it has",
            )
        self.id, self.tree = ids
        rows = git.text_of("ls-tree", "-r", "-z", "--full-tree", self.id).split("\0")
        self.entries: dict[str, Entry] = {}
        for row in filter(None, rows):
            head, _, path = row.partition("\t")
            mode, _, oid = head.split(" ")
            self.entries[path] = Entry(mode, oid)
        self._found: dict[str, bytes] = {}

    def fetch(self, paths: Iterable[str]) -> None:
        """Read the content of these files with one process; those that are not there are passed over.

        Raises GitFailedError where the repository lacks content (a partial clone).
        """
        wanted = [p for p in paths if p in self.entries and p not in self._found]
        asked = "".join(f"{self.entries[p].id}\n" for p in wanted)
        out = self._git.bytes_of("cat-file", "--batch", data=asked.encode())
        at = 0
        for path in wanted:
            end = out.index(b"\n", at)
            head = out[at:end].split(b" ")
            if len(head) != 3:
                raise GitFailedError(f"{self._git.folder}: lacks the content of {path}")
            size = int(head[2])
            self._found[path] = out[end + 1 : end + 1 + size]
            at = end + size + 2

    def read(self, path: str) -> bytes | None:
        """The content of a file, None if the commit has no such file."""
        if path not in self.entries:
            return None
        if path not in self._found:
            self.fetch((path,))
        return self._found[path]

    def tree_with(self, changes: Mapping[str, bytes | None]) -> str:
        """The id of the tree that has `changes` in it; nothing is written."""
        entries = dict(self.entries)
        for path, data in changes.items():
            if data is None:
                entries.pop(path, None)
            else:
                mode = entries[path].mode if path in entries else "100644"
                entries[path] = Entry(mode, blob_id(data))
        return tree_id(entries)


def tree_id(entries: Mapping[str, Entry]) -> str:
    """The id of the git tree that holds these files."""
    top: dict[str, object] = {}
    for path, entry in entries.items():
        *folders, name = path.split("/")
        node = top
        for folder in folders:
            below = node.setdefault(folder, {})
            assert isinstance(below, dict)
            node = below
        node[name] = entry
    return _hash_tree(top)


def _hash_tree(node: Mapping[str, object]) -> str:
    rows = []
    for name, item in node.items():
        raw = name.encode("utf-8", "surrogateescape")
        if isinstance(item, Entry):
            rows.append((raw, item.mode.lstrip("0").encode(), raw, item.id))
        else:
            assert isinstance(item, dict)
            rows.append((raw + b"/", b"40000", raw, _hash_tree(item)))
    body = b"".join(m + b" " + n + b"\0" + bytes.fromhex(o) for _, m, n, o in sorted(rows))
    head = hashlib.sha1(b"tree %d\0" % len(body), usedforsecurity=False)
    head.update(body)
    return head.hexdigest()
