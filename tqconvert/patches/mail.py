"""What stands above the diff of a patch file, as the author and message of a commit.

Ollama's patches are mails as `git format-patch` writes them; their author, date and message become what
`git am` would make of them. Ours have a header of `Key: value` lines, and one identity and date for all,
so that the same patches give the same commits everywhere.
"""

import re
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from tqconvert.patches.diff import split_header

IDENTITY = b"tqconvert <tqconvert@invalid>"
DATE = b"1767225600 +0000"
"""2026-01-01: a date of no meaning, the same in every commit of ours."""

_FIELD = re.compile(rb"^([A-Za-z][A-Za-z0-9-]*):[ \t]*(.*(?:\n[ \t].*)*)$", re.MULTILINE)
_DATE = re.compile(
    r"(\d{1,2}) ([A-Z][a-z]{2}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_IN_BODY = (b"From: ", b"Date: ", b"Subject: ")


class Mail(NamedTuple):
    """Whose a commit is, and its message."""

    author: bytes
    """NAME <ADDRESS>"""
    date: bytes
    """SECONDS ZONE"""
    subject: bytes
    body: bytes

    @property
    def message(self) -> bytes:
        """Subject and body, as a commit holds them."""
        return self.subject + b"\n" + (b"\n" + self.body + b"\n" if self.body else b"")


def read_mail(data: bytes, name: str) -> Mail:
    """Author and message of a patch file; `name` is its subject if it has none."""
    head, _ = split_header(data)
    if not head.startswith(b"From ") or b"\nFrom: " not in head:
        return _ours(head, name)
    top, _, body = head.partition(b"\n\n")
    fields = {m[1].lower(): m[2] for m in _FIELD.finditer(top)}
    body = _before_diff(body)
    while body.startswith(_IN_BODY):
        line, _, body = body.partition(b"\n")
        key, _, value = line.partition(b": ")
        fields[key.lower()] = value
        body = body.lstrip(b"\n")
    subject = _subject(_decoded(fields.get(b"subject", b""))) or name.encode()
    author = _author(_decoded(fields.get(b"from", b"")))
    return Mail(author, _date(fields.get(b"date", b"")), subject, _tidy(body))


def fields_of(data: bytes) -> dict[str, str]:
    """The `Key: value` lines above a patch of ours; folded lines are joined."""
    head, _ = split_header(data)
    return {
        m[1].decode(): re.sub(r"\s*\n\s+", " ", m[2].decode("utf-8", "replace")).strip()
        for m in _FIELD.finditer(head)
    }


def _ours(head: bytes, name: str) -> Mail:
    fields = {m[1].lower(): re.sub(rb"\s*\n\s+", b" ", m[2]) for m in _FIELD.finditer(head)}
    subject = fields.get(b"subject", b"").strip() or name.encode()
    return Mail(IDENTITY, DATE, subject, fields.get(b"why", b"").strip())


def _before_diff(body: bytes) -> bytes:
    found = re.search(rb"^(---\s*$|diff -|Index: )", body, re.MULTILINE)
    return body[: found.start()] if found else body


def _subject(text: bytes) -> bytes:
    """Without `Re:` and the brackets in front."""
    text = re.sub(rb"\s+", b" ", text).strip()
    while found := re.match(rb"(?:[Rr][Ee]:|\[[^\]]*\])\s*", text):
        text = text[found.end() :]
    return text


def _author(text: bytes) -> bytes:
    found = re.fullmatch(rb"\s*(.*?)\s*<([^<>]*)>\s*", text, re.DOTALL)
    name, address = (found[1], found[2]) if found else (text.strip(), text.strip())
    if name[:1] == b'"' and name[-1:] == b'"':
        name = re.sub(rb"\\(.)", rb"\1", name[1:-1])
    return re.sub(rb"[<>\n]", b"", name) + b" <" + address + b">"


def _date(text: bytes) -> bytes:
    found = _DATE.search(text.decode("latin-1"))
    if not found or found[2] not in _MONTHS:
        return DATE
    east = timedelta(hours=int(found[8]), minutes=int(found[9]))
    zone = timezone(east if found[7] == "+" else -east)
    when = datetime(
        int(found[3]), _MONTHS.index(found[2]) + 1, int(found[1]), int(found[4]), int(found[5]),
        int(found[6]), tzinfo=zone,
    )  # fmt: skip
    return f"{int(when.timestamp())} {found[7]}{found[8]}{found[9]}".encode()


def _decoded(text: bytes) -> bytes:
    text = re.sub(rb"\n[ \t]+", b" ", text)
    if b"=?" not in text:
        return text
    from email.header import decode_header, make_header

    return str(make_header(decode_header(text.decode("ascii", "replace")))).encode()


def _tidy(body: bytes) -> bytes:
    """No spaces at line ends, no blank lines in a row or at either end."""
    text = b"\n".join(line.rstrip() for line in body.split(b"\n"))
    return re.sub(rb"\n{3,}", b"\n\n", text).strip(b"\n")
