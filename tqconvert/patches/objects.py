"""Ids of git objects, computed from bytes: what a file or a folder on disk would be in a repository."""

import hashlib
import os
from pathlib import Path

ABSENT = "0" * 40
"""The id that `index` lines give to a file that is not there."""


def blob_id(data: bytes | None) -> str:
    """The id of a file's content, 40 hex digits; ABSENT for None."""
    if data is None:
        return ABSENT
    head = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    head.update(data)
    return head.hexdigest()


def folder_id(folder: Path) -> str | None:
    """The id of the tree that a folder would be, None if it holds no file.

    Equals `git rev-parse COMMIT:folder` where nothing but the committed files lies in it and their line
    ends are those of the repository.
    """
    rows = []
    for item in os.scandir(folder):
        name = os.fsencode(item.name)
        if item.is_symlink():
            mode, oid = b"120000", blob_id(os.fsencode(os.readlink(item.path)))
        elif item.is_dir():
            below = folder_id(Path(item.path))
            if below is None:
                continue  # git keeps no empty folders
            mode, oid = b"40000", below
        else:
            mode = b"100755" if item.stat().st_mode & 0o100 else b"100644"
            oid = blob_id(Path(item.path).read_bytes())
        rows.append((name + (b"/" if mode == b"40000" else b""), mode, name, oid))
    if not rows:
        return None
    body = b"".join(m + b" " + n + b"\0" + bytes.fromhex(o) for _, m, n, o in sorted(rows))
    head = hashlib.sha1(b"tree %d\0" % len(body), usedforsecurity=False)
    head.update(body)
    return head.hexdigest()
