"""The id of a patch's change, without its text around, line numbers and white space.

What `git patch-id --stable` prints (git v2.39.5, builtin/patch-id.c): per file the SHA-1 of its lines
with all white space taken out, and of these the sum, so that the order of the files does not count.
"""

import hashlib
import re

_SPACE = b" \t\n\r"
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


def patch_id(data: bytes) -> str | None:
    """The id, 40 hex digits; None if the patch holds no diff. Of several mails only the first counts."""
    total, started, head = 0, False, True
    before = after = 0
    hasher = hashlib.sha1(usedforsecurity=False)
    for line in data.splitlines(keepends=True) if b"\r" not in data else _lines(data):
        if line.startswith(b"\\ ") and len(line) > 12:
            continue
        if not started and not line.startswith(b"diff "):
            continue
        if head:
            if line.startswith(b"index "):
                continue
            if line.startswith(b"--- "):
                head, before, after = False, 1, 1
            elif not line[:1].isalpha():
                break
        elif not before and not after:
            if m := _HUNK.match(line):
                before, after = (int(n) if n is not None else 1 for n in m.groups())
                continue
            if not line.startswith(b"diff "):
                break
            total += int.from_bytes(hasher.digest(), "little")
            hasher, head = hashlib.sha1(usedforsecurity=False), True
        if not head:
            before -= line[:1] in (b"-", b" ")
            after -= line[:1] in (b"+", b" ")
        hasher.update(line.translate(None, _SPACE))
        started = True
    if not started:
        return None
    total += int.from_bytes(hasher.digest(), "little")
    return (total & ((1 << 160) - 1)).to_bytes(20, "little").hex()


def _lines(data: bytes) -> list[bytes]:
    """Lines that end with LF alone."""
    parts = data.split(b"\n")
    return [p + b"\n" for p in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
