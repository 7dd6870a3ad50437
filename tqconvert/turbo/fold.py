"""Write a balanced model: a longer header, the tensor data copied once, the changed rows over it.

    [tag page]   as the input has one
    header       the input's keys, turboquant.balance, turboquant.k_mean, turboquant.header_pad
    data         the input's, to the byte, but for the rows that were scaled

The last key is there so that the data begins at the same place of a 4096-byte block as in the input:
file systems share whole blocks between files.
"""

import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from tqconvert import fs
from tqconvert.errors import InvalidGgufError
from tqconvert.gguf.header import MAX_KEYS, parse_header, read_header
from tqconvert.gguf.rewrite import Content, remove_leftover, write_beside
from tqconvert.gguf.state import Found
from tqconvert.gguf.tagplan import Method
from tqconvert.gguf.tags import BALANCE, fixed_header, read_tags, render_page
from tqconvert.gguf.types import ValueType
from tqconvert.progress import Progress, Silent
from tqconvert.turbo.balanceplan import K_MEAN, BalancePlan
from tqconvert.turbo.scale_rows import Rounding, scale_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BLOCK: Final = 4096
HEADER_PAD: Final = "turboquant.header_pad"


class BalanceResult(NamedTuple):
    """What was written; `rounding` by the type of the tensors."""

    method: Method
    size: int
    n_changed: int
    """Bytes of tensors written anew."""
    rounding: dict[str, Rounding]


def apply_balance(plan: BalancePlan, *, progress: Progress | None = None) -> BalanceResult:
    """Carry out a plan of `plan_balance`.

    Raises LockedError if the input is no longer what the plan looked at, RefusedError if a scale does
    not fit, StorageError; then nothing was written.
    """
    try:
        return _apply(plan, progress or Silent())
    except OSError as e:
        raise fs.storage_error(e, plan.target) from e


def _apply(plan: BalancePlan, progress: Progress) -> BalanceResult:
    found, target = plan.found, plan.target
    remove_leftover(target)
    fd = fs.open_fd(found.path, os.O_RDONLY)
    try:
        found.check_unchanged(fd)
        head = _head(plan, fd)
        old_start = found.start + found.header.data_start
        # Up to the next block of the input, bytes go with the header; from there they are shared.
        shared_from = min(old_start + -old_start % BLOCK, found.stamp.size)
        page = head + fs.read_at(fd, shared_from - old_start, old_start)
        content = Content(page, fd, shared_from, found.stamp.size - shared_from)
        rounding: dict[str, Rounding] = {}

        def edit(out: int) -> None:
            for change in plan.edits:
                data = fs.read_at(fd, change.n_bytes, old_start + change.offset)
                new, cost = scale_rows(
                    data, change.type, change.factors, subject=f"{found.path}: {change.tensor}"
                )
                fs.write_at(out, new, len(head) + change.offset)
                name = change.type.name
                rounding[name] = rounding.get(name, Rounding()) + cost

        method = write_beside(
            content, target, mode=os.fstat(fd).st_mode & 0o777 | 0o200, progress=progress,
            check=lambda: found.check_unchanged(fd), edit=edit,
        )  # fmt: skip
    finally:
        os.close(fd)
    n_changed = sum(change.n_bytes for change in plan.edits)
    return BalanceResult(method, content.size, n_changed, rounding)


def _head(plan: BalancePlan, fd: int) -> bytes:
    """All bytes before the tensor data."""
    found = plan.found
    old = fs.read_at(fd, found.header.data_start, found.start)
    own = render_header(found, old, plan)
    size = len(own) + found.stamp.size - found.start - found.header.data_start
    header = parse_header(own, size, subject=str(plan.target))
    if header.tensors != found.header.tensors or header.data_start != len(own):
        raise InvalidGgufError(f"{found.path}: its header does not survive being written anew")
    tags = read_tags(read_header(found.path)) if found.kind == "tagged" else None
    page = render_page(header, tags, subject=str(plan.target)) if tags else b""
    return page + own


def render_header(found: Found, old: bytes, plan: BalancePlan) -> bytes:
    """The header of the balanced file, up to its tensor data; `old` is the input's."""
    header = found.header
    added = _string_key(BALANCE, plan.mode)
    n_added = 2
    if plan.k_mean is not None:
        added, n_added = added + _float_array_key(K_MEAN, plan.k_mean), n_added + 1
    replaced = [e for k, e in header.entries.items() if k in (BALANCE, K_MEAN, HEADER_PAD)]
    n_keys = header.n_kv - len(replaced) + n_added
    if n_keys > MAX_KEYS:
        raise InvalidGgufError(f"{found.path}: {header.n_kv} keys leave no room for {n_added} more")
    kept, at = b"", len(fixed_header(header, 0))
    for entry in sorted(replaced, key=lambda e: e.start):
        kept, at = kept + old[at : entry.start], entry.end
    kept += old[at : header.kv_end]
    infos = old[header.kv_end : header.infos_end]
    start = fixed_header(header, n_keys) + kept + added
    pad_head = _key(HEADER_PAD, ValueType.ARRAY) + struct.pack("<I", ValueType.UINT8)
    without = len(start) + len(pad_head) + 8 + len(infos)
    n_pad = (found.start + header.data_start - without) % BLOCK
    own = start + pad_head + struct.pack("<Q", n_pad) + bytes(n_pad) + infos
    return own + bytes(-len(own) % header.alignment)


def _key(name: str, kind: ValueType) -> bytes:
    raw = name.encode()
    return struct.pack("<Q", len(raw)) + raw + struct.pack("<I", kind)


def _string_key(name: str, value: str) -> bytes:
    raw = value.encode()
    return _key(name, ValueType.STRING) + struct.pack("<Q", len(raw)) + raw


def _float_array_key(name: str, values: "npt.NDArray[np.float64]") -> bytes:
    head = _key(name, ValueType.ARRAY) + struct.pack("<IQ", ValueType.FLOAT32, len(values))
    return head + values.astype("<f4").tobytes()
