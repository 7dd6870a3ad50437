"""What a model's KV cache takes, by context and cache type, and what fits beside the weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqconvert.errors import NotFoundError
from tqconvert.gguf.header import Header, read_header
from tqconvert.gguf.shards import find_shards
from tqconvert.kv.arch import layout_of
from tqconvert.kv.layers import Layout
from tqconvert.kv.pairs import Pair, make_pair, make_pairs
from tqconvert.kv.recommend import TypeChoice, default_types
from tqconvert.kv.size import KvSize, kv_bytes, unusable, usable_types
from tqconvert.kv.types import CACHE_TYPES, F16
from tqconvert.units import format_bytes, format_context

CONTEXTS = (8192, 32768, 65536, 131072, 262144)

OVERHEAD = 512 * 2**20
"""Program, GPU context and activations; the mask of the attention comes on top."""

DEFAULT_NUM_CTX = 32768
DEFAULT_KV = 4 * 2**30
"""Without a budget: the context, and the f16 cache, that `choose_num_ctx` stays under."""

MIN_NUM_CTX = 2048


@dataclass(frozen=True, slots=True)
class Row:
    """One pair at one context. Sizes are None where the runtime refuses the pair."""

    pair: Pair
    n_ctx: int
    size: KvSize | None
    total: int | None
    """Weights, cache and overhead."""
    fits: bool | None
    """None without a memory budget, or where the runtime refuses the pair."""


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest context at which a pair fits, 0 if none does."""

    pair: Pair
    n_ctx: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `tqconvert plan` says."""

    layout: Layout
    weights_bytes: int
    n_seq: int
    n_ubatch: int
    contexts: tuple[int, ...]
    memory: int | None
    pairs: tuple[Pair, ...]
    rows: tuple[Row, ...]
    largest: tuple[Largest, ...]
    choice: TypeChoice
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool | None:
        """Whether anything fits; None without a memory budget."""
        return None if self.memory is None else any(row.fits for row in self.rows)

    @property
    def usable(self) -> dict[str, tuple[str, ...]]:
        """Names of the types that can hold K and V."""
        return {side: usable_types(self.layout, side) for side in ("k", "v")}

    @property
    def budget_reasons(self) -> tuple[str, ...]:
        """What the memory budget says about the recommended types; nothing without one."""
        if self.memory is None:
            return ()
        wanted = (self.choice.type_k or "f16",), (self.choice.type_v or "f16",)
        reach = {(x.pair.type_k, x.pair.type_v): x.n_ctx for x in self.largest}
        own, plain = reach.get(wanted, 0), reach[self.baseline.type_k, self.baseline.type_v]
        memory = format_bytes(self.memory)
        if not own:
            return (f"does not fit in {memory} at any context",)
        text = f"up to {format_context(own)} tokens per slot in {memory}"
        if own == plain and self.choice.type_k:
            return (f"{text}, and so does f16/f16, which loses nothing",)
        return (text,) if own == plain else (f"{text}, f16/f16 up to {format_context(plain)}",)

    def row(self, pair: Pair, n_ctx: int) -> Row:
        """The row of the pair at that context."""
        return next(row for row in self.rows if row.pair is pair and row.n_ctx == n_ctx)

    @property
    def baseline(self) -> Pair:
        """The f16 pair that percentages refer to."""
        return self.pairs[0]

    def to_json(self) -> dict[str, Any]:
        """The document of `--json`, without its schema."""
        layout = self.layout
        return {
            "architecture": layout.architecture,
            "known": layout.known,
            "upper_bound": not layout.known,
            "notes": list(self.notes),
            "layers": {str(kind): n for kind, n in layout.kinds.items()},
            "layout": layout.describe(),
            "context_length": layout.n_ctx_train,
            "weights_bytes": self.weights_bytes,
            "parallel": self.n_seq,
            "ubatch": self.n_ubatch,
            "memory_bytes": self.memory,
            "overhead": {"bytes": OVERHEAD, "assumption": overhead_text(self.n_ubatch)},
            "fits": self.fits,
            "rows": [_row_json(row) for row in self.rows],
            "unusable": _unusable_json(layout),
            "usable": {side: list(names) for side, names in self.usable.items()},
            "largest_context": [
                {"type_k": _json_names(x.pair.type_k), "type_v": _json_names(x.pair.type_v),
                 "origin": x.pair.origin, "context": x.n_ctx}
                for x in self.largest
            ],
            "recommendation": {
                "type_k": self.choice.type_k,
                "type_v": self.choice.type_v,
                "measured": self.choice.measured,
                "reasons": [*self.choice.reasons, *self.budget_reasons],
            },
        }  # fmt: skip


def make_plan(
    header: Header, *, weights_bytes: int, contexts: Sequence[int] | None = None,
    memory: int | None = None, n_seq: int = 1, n_ubatch: int = 512,
    type_k: str | None = None, type_v: str | None = None,
) -> Plan:  # fmt: skip
    """The plan for a model: each pair of types at each context, per sequence of `n_seq`.

    A pair of `type_k` and `type_v` (f16 where one is missing) and the file's own tags come as further
    rows. Raises NotFoundError where the header lacks what a size needs, UsageError for bad types.
    """
    layout = layout_of(header)
    if not layout.layers:
        raise NotFoundError(
            f"{header.path or 'GGUF'}: no KV cache can be planned: {'; '.join(layout.notes)}",
            hint="is it a language model? `tqconvert inspect` shows its keys",
        )
    contexts = _contexts(layout, contexts)
    pairs = make_pairs(header, layout, type_k, type_v)
    rows = tuple(
        _row(layout, pair, n, weights_bytes, memory, n_seq, n_ubatch)
        for n in contexts
        for pair in pairs
    )
    largest: tuple[Largest, ...] = ()
    if memory is not None:
        limit = layout.n_ctx_train or max(contexts)
        largest = tuple(
            Largest(pair, _largest(layout, pair, memory - weights_bytes, limit, n_seq, n_ubatch))
            for pair in pairs
            if pair.runs
        )
    choice = default_types(header, layout)
    notes = (*layout.notes, *(_beyond(layout, contexts)))
    return Plan(
        layout, weights_bytes, n_seq, n_ubatch, contexts, memory, pairs, rows, largest, choice, notes
    )  # fmt: skip


def choose_num_ctx(header: Header, memory: int | None) -> tuple[int, str]:
    """A context length for a Modelfile and the reason for it.

    Counted with an f16 cache, which every runtime allocates that does not read the tags, and the
    file's own size as the weights.
    """
    layout = layout_of(header)
    limit = layout.n_ctx_train
    if not layout.cached:
        value = min(limit or DEFAULT_NUM_CTX, DEFAULT_NUM_CTX)
        return value, "no K/V cache grows with it" if layout.layers else "; ".join(layout.notes)
    if memory is None:
        limit = min(limit or DEFAULT_NUM_CTX, DEFAULT_NUM_CTX)
        value, size = _power_of_two(layout, limit, DEFAULT_KV)
        reason = f"an f16 cache of {format_bytes(size)}"
        if value < limit:
            return value, f"{reason}; {format_context(2 * value)} would take more than 4 GiB"
        trained = "all that the model was trained for" if limit == layout.n_ctx_train else "a start"
        return value, f"{reason}; {trained}"
    room = memory - header.size
    value = _largest(
        layout, make_pair(layout, "standard", F16, F16), room, limit or 1 << 20, 1, 512
    )
    value -= value % 1024 if value > 4096 else 0
    if value < MIN_NUM_CTX:
        value = min(MIN_NUM_CTX, limit or MIN_NUM_CTX)
        return value, f"the least that is of use; more does not fit in {format_bytes(memory)}"
    return value, f"the most that fits in {format_bytes(memory)} with an f16 cache"


def read_model(path: Path) -> tuple[Header, int]:
    """Header with the model's keys, and bytes of all its files: a set of shards counts as a whole."""
    shards = find_shards(path)
    return read_header(shards[0]), sum(shard.stat().st_size for shard in shards)


def overhead_of(n_ctx: int, n_seq: int, n_ubatch: int) -> int:
    """Bytes beside weights and cache: an assumption, with the f16 mask of a batch over the context."""
    return OVERHEAD + 2 * n_ctx * n_seq * n_ubatch


def overhead_text(n_ubatch: int) -> str:
    """The assumption of `overhead_of` in words."""
    return (
        f"{format_bytes(OVERHEAD)} for program and activations and {2 * n_ubatch} B per token of "
        "context for the mask (an assumption: it differs by backend)"
    )


def _contexts(layout: Layout, wanted: Sequence[int] | None) -> tuple[int, ...]:
    if wanted:
        return tuple(sorted(set(wanted)))
    limit = layout.n_ctx_train
    if not limit:
        return CONTEXTS
    return tuple(sorted({n for n in CONTEXTS if n <= limit} | {min(limit, CONTEXTS[-1])}))


def _beyond(layout: Layout, contexts: Iterable[int]) -> Iterable[str]:
    if layout.n_ctx_train and max(contexts) > layout.n_ctx_train:
        yield f"the model was trained for {format_context(layout.n_ctx_train)} tokens"


def _row(
    layout: Layout, pair: Pair, n_ctx: int, weights: int, memory: int | None, n_seq: int, n_ubatch: int
) -> Row:  # fmt: skip
    if not pair.runs:
        return Row(pair, n_ctx, None, None, None)
    size = _size(layout, pair, n_ctx, n_seq, n_ubatch)
    total = weights + size.total + overhead_of(n_ctx, n_seq, n_ubatch)
    return Row(pair, n_ctx, size, total, None if memory is None else total <= memory)


def _size(layout: Layout, pair: Pair, n_ctx: int, n_seq: int, n_ubatch: int) -> KvSize:
    k, v = pair.types
    return kv_bytes(layout, n_ctx, k=k, v=v, n_ubatch=n_ubatch, n_seq=n_seq)


def _largest(layout: Layout, pair: Pair, room: int, limit: int, n_seq: int, n_ubatch: int) -> int:
    """The largest context, a multiple of 256 or `limit` itself, whose cache and overhead fit in `room`."""

    def fits(n: int) -> bool:
        overhead = overhead_of(n, n_seq, n_ubatch)
        return _size(layout, pair, n, n_seq, n_ubatch).total + overhead <= room

    if fits(limit):
        return limit
    low, high = 0, limit // 256
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * 256) else (low, middle)
    return low * 256


def _power_of_two(layout: Layout, limit: int, most: int) -> tuple[int, int]:
    """The largest of limit, limit/2, ... whose f16 cache takes at most `most`, and what it takes."""
    value = limit
    while True:
        size = kv_bytes(layout, value, k=F16, v=F16).total
        if size <= most or value // 2 < MIN_NUM_CTX:
            return value, size
        value //= 2


def _json_names(names: tuple[str, ...]) -> str | list[str]:
    return names[0] if len(names) == 1 else list(names)


def _row_json(row: Row) -> dict[str, Any]:
    pair, size = row.pair, row.size
    return {
        "context": row.n_ctx,
        "origin": pair.origin,
        "type_k": _json_names(pair.type_k),
        "type_v": _json_names(pair.type_v),
        "effective_k": _json_names(pair.effective_k),
        "effective_v": _json_names(pair.effective_v),
        "unusable": pair.unusable,
        "kv_bytes": size.total if size else None,
        "k_bytes": size.k if size else None,
        "v_bytes": size.v if size else None,
        "state_bytes": size.state if size else None,
        "by_kind": {str(kind): n for kind, n in size.by_kind.items()} if size else None,
        "total_bytes": row.total,
        "fits": row.fits,
    }


def _unusable_json(layout: Layout) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name, cache_type in CACHE_TYPES.items():
        reasons = {side: unusable(layout, cache_type, side) for side in ("k", "v")}
        if any(reasons.values()):
            found[name] = {side: reason for side, reason in reasons.items() if reason}
    return found
