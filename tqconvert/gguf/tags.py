"""The tag page: KV-cache defaults in 4096 bytes in front of a GGUF that stays as it is.

A tagged file is one page followed by the original file verbatim. The page holds a header with the
new count of keys, our keys, and a last key whose array of bytes reaches over the original header:

    0      24 bytes   magic, version, count of tensors, count of keys + 7
    24     ...        general.kv_cache.type_k, ... turboquant.tool, the head of turboquant.pad
    ...    zeros      the pad's data, up to 4064
    4064   32 bytes   sha256 of the bytes before it: tells a torn page from a whole one
    4096   24 bytes   the original header, the pad's last bytes
    4120   ...        the original's first key and all that follows

Tensor offsets count from the start of the data and 4096 is a multiple of the alignment, so nothing
after the page changes. `docs/gguf-tags.md` is the description for other programs.
"""

import hashlib
import json
import struct
from typing import Final, NamedTuple

from tqconvert import __version__
from tqconvert.errors import RefusedError, UsageError
from tqconvert.gguf.header import FIXED_SIZE, MAGIC, MAX_KEYS, Entry, Header, Value
from tqconvert.gguf.types import ValueType

PAGE: Final = 4096
SCHEMA: Final = 1
CHECK_SIZE: Final = 32

TYPE_K: Final = "general.kv_cache.type_k"
TYPE_V: Final = "general.kv_cache.type_v"
SCHEMA_KEY: Final = "turboquant.schema"
BALANCE: Final = "turboquant.balance"
EVIDENCE: Final = "turboquant.evidence"
TOOL: Final = "turboquant.tool"
PAD: Final = "turboquant.pad"
KEYS: Final = (TYPE_K, TYPE_V, SCHEMA_KEY, BALANCE, EVIDENCE, TOOL, PAD)
"""The keys of a page, in their order. BALANCE is not among them where the file's own header has it."""

UNMEASURED: Final = '"unmeasured"'
"""Value of `turboquant.evidence` (JSON) until a report exists for the model."""

BALANCES: Final = ("none", "weights", "calibrated")

CacheTypes = str | tuple[str, ...]
"""One cache type for all layers, or one for each."""


class KvTags(NamedTuple):
    """KV-cache defaults of a model; names of types are the runtime's. `evidence` is JSON text."""

    type_k: CacheTypes
    type_v: CacheTypes
    balance: str = "none"
    evidence: str = UNMEASURED
    tool: str = f"tqconvert {__version__}"

    @property
    def measured(self) -> bool:
        """Whether the evidence is more than the word `unmeasured`."""
        try:
            return json.loads(self.evidence) not in ("unmeasured", "", None)
        except ValueError:
            return False


def render_page(header: Header, tags: KvTags, *, subject: str | None = None) -> bytes:
    """The 4096 bytes that go before the file of this untagged header; same input, same bytes.

    Errors name `subject`, or the header's path. The balance of a file that tells its own is that one.
    Raises RefusedError if the header has another of our keys or a larger alignment, UsageError if the
    tags are no tags or do not fit.
    """
    subject = subject or str(header.path or "GGUF")
    _check_tags(tags)
    keys = [key for key in KEYS if key != BALANCE or BALANCE not in header.entries]
    taken = [key for key in keys if key in header.entries]
    if taken:
        raise RefusedError(
            f"{subject}: already has {taken[0]}, not in a page of ours",
            hint=f"take the key out first: gguf-new-metadata --remove-metadata {taken[0]} IN OUT",
        )
    if PAGE % header.alignment:
        raise RefusedError(
            f"{subject}: alignment {header.alignment} does not divide the tag page of {PAGE} bytes"
        )
    if header.n_kv + len(keys) > MAX_KEYS:
        raise RefusedError(f"{subject}: {header.n_kv} keys leave no room for {len(keys)} more")
    order = "<" if header.byte_order == "little" else ">"
    page = fixed_header(header, header.n_kv + len(keys))
    for key, value in zip(KEYS, _values(tags), strict=False):
        if key in keys:
            page += _string(key, order) + _value(value, order)
    page += _string(PAD, order) + struct.pack(order + "II", ValueType.ARRAY, ValueType.UINT8)
    data_at = len(page) + 8
    if data_at + CHECK_SIZE > PAGE:
        raise UsageError(
            f"{subject}: the tags need {data_at + CHECK_SIZE} bytes (expected at most {PAGE})",
            hint="shorten the evidence, or give one type for all layers",
        )
    page += struct.pack(order + "Q", PAGE + FIXED_SIZE - data_at)
    page += bytes(PAGE - CHECK_SIZE - data_at)
    return page + hashlib.sha256(page).digest()


def read_tags(header: Header) -> KvTags | None:
    """The tags of a header, in a page of ours or not; None if it names no cache type.

    A side without a key, or with one that is no string, has the runtime's default: f16.
    """
    k, v = _types(header.get(TYPE_K)), _types(header.get(TYPE_V))
    if k is None and v is None:
        return None
    return KvTags(
        k or "f16",
        v or "f16",
        balance=header.text(BALANCE) or "none",
        evidence=header.text(EVIDENCE) or UNMEASURED,
        tool=header.text(TOOL) or "",
    )


def is_tagged(header: Header) -> bool:
    """Whether the file begins with a page of ours, by the places of its keys.

    Its checksum takes the page's bytes: see `is_whole`.
    """
    pad = header.entries.get(PAD)
    if pad is None:
        return False
    keys = tuple(key for key, entry in header.entries.items() if entry.start <= pad.start)
    return (
        keys in (KEYS, tuple(key for key in KEYS if key != BALANCE))
        and header.integer(SCHEMA_KEY) == SCHEMA
        and pad.element is ValueType.UINT8
        and pad.value_at + CHECK_SIZE <= PAGE
        and pad.end == PAGE + FIXED_SIZE
    )


def is_whole(page: bytes) -> bool:
    """Whether all 4096 bytes of a page were written by one writer."""
    body = page[:-CHECK_SIZE]
    return len(page) == PAGE and hashlib.sha256(body).digest() == page[-CHECK_SIZE:]


def original_header(header: Header) -> Header:
    """Header of the file behind the page of a tagged one. It has no path: `read` would look wrong."""

    def moved(e: Entry) -> Entry:
        return e._replace(start=e.start - PAGE, value_at=e.value_at - PAGE, end=e.end - PAGE)

    return header._replace(
        path=None,
        size=header.size - PAGE,
        entries={k: moved(e) for k, e in header.entries.items() if e.start >= PAGE},
        kv_end=header.kv_end - PAGE,
        infos_end=header.infos_end - PAGE,
        data_start=header.data_start - PAGE,
        data_end=header.data_end - PAGE,
    )


def fixed_header(header: Header, n_kv: int) -> bytes:
    """The first 24 bytes of a file with this header's version, byte order and tensors."""
    order = "<" if header.byte_order == "little" else ">"
    return MAGIC + struct.pack(order + "IQQ", header.version, len(header.tensors), n_kv)


def _values(tags: KvTags) -> tuple[str | int | tuple[str, ...], ...]:
    """Values of all keys but the pad, in the order of KEYS."""
    return tags.type_k, tags.type_v, SCHEMA, tags.balance, tags.evidence, tags.tool


def _check_tags(tags: KvTags) -> None:
    for side, types in (("K", tags.type_k), ("V", tags.type_v)):
        names = (types,) if isinstance(types, str) else types
        if not names or not all(names):
            raise UsageError(f"cache type of {side}: a name is empty")
    if tags.balance not in BALANCES:
        raise UsageError(f"balance {tags.balance!r}: not known (expected {', '.join(BALANCES)})")
    try:
        json.loads(tags.evidence)
    except ValueError as e:
        raise UsageError(f"evidence: not JSON ({e})") from None


def _types(value: Value | None) -> CacheTypes | None:
    if isinstance(value, str):
        return value or None
    if isinstance(value, tuple) and value:
        names = tuple(v for v in value if isinstance(v, str))
        return names if len(names) == len(value) else None
    return None


def _string(text: str, order: str) -> bytes:
    raw = text.encode()
    return struct.pack(order + "Q", len(raw)) + raw


def _value(value: str | int | tuple[str, ...], order: str) -> bytes:
    """Type and value as they stand after a key."""
    if isinstance(value, str):
        return struct.pack(order + "I", ValueType.STRING) + _string(value, order)
    if isinstance(value, int):
        return struct.pack(order + "II", ValueType.UINT32, value)
    head = struct.pack(order + "IIQ", ValueType.ARRAY, ValueType.STRING, len(value))
    return head + b"".join(_string(item, order) for item in value)
