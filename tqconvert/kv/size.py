"""Bytes of a KV cache, as llama.cpp allocates them.

Checked against its log in tests/golden/kv.toml.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tqconvert.errors import UsageError
from tqconvert.kv.layers import Layer, LayerKind, Layout
from tqconvert.kv.types import CACHE_TYPES, CacheType

PAD = 256
"""Contexts and windows are padded to this many cells (llama-context.cpp:290, llama-kv-cache-iswa.cpp:73)."""

Types = CacheType | Sequence[CacheType]
"""One type for all layers, or one per layer."""


class CacheSize(NamedTuple):
    """One cache of the runtime: a `llama_kv_cache: size =` line of its log."""

    name: str
    cells: int
    """Cells per sequence."""
    n_layers: int
    k: int
    v: int


class KvSize(NamedTuple):
    """Bytes of everything that grows with context and sequences."""

    caches: tuple[CacheSize, ...]
    by_kind: dict[LayerKind, int]
    """K and V by the kind of layer, indexers' caches with their layers; states under `recurrent`."""
    state: int
    """Recurrent states of all sequences, always f32."""

    @property
    def k(self) -> int:
        """Bytes of K."""
        return sum(cache.k for cache in self.caches)

    @property
    def v(self) -> int:
        """Bytes of V."""
        return sum(cache.v for cache in self.caches)

    @property
    def total(self) -> int:
        """Bytes of K, V and recurrent states."""
        return self.k + self.v + self.state


def kv_bytes(
    layout: Layout, n_ctx: int, *, k: Types, v: Types, n_ubatch: int = 512, n_seq: int = 1
) -> KvSize:
    """Bytes for `n_seq` sequences of `n_ctx` tokens each: `-c n_ctx*n_seq -np n_seq -ub n_ubatch`.

    Each sequence has its own stream of cells (llama-server's default for an explicit -np). Windows and
    chunks hold pad(min(n_ctx, window + n_ubatch), 256) cells; states are f32 and do not grow.
    Source: src/llama-kv-cache.cpp:209, llama-kv-cache-iswa.cpp:73, llama-memory-recurrent.cpp:101.
    Raises UsageError for a list of types whose length is not the number of layers.
    """
    k_of, v_of = _per_layer(layout, k), _per_layer(layout, v)
    cells = _cells_per_sequence(n_ctx, n_seq)
    # A batch is never longer than the context (llama-context.cpp:248).
    n_ubatch = min(n_ubatch, n_ctx * n_seq)
    by_kind: dict[LayerKind, int] = {}
    sums: dict[tuple[str, int], list[int]] = {}
    for layer in layout.layers:
        own = _window_cells(layer, cells, n_ubatch)
        rows = own * n_seq
        kt, vt = k_of(layer), v_of(layer)
        size_k, size_v = kt.size_of(layer.k_values) * rows, vt.size_of(layer.v_values) * rows
        if layer.k_values:
            _add(sums, ("window" if layer.window else "full", own), size_k, size_v)
        index_k, index_v = kt.size_of(layer.indexer_k), vt.size_of(layer.indexer_v)
        index_k, index_v = index_k * cells * n_seq, index_v * cells * n_seq
        if layer.indexer_k:
            _add(sums, ("indexer", cells), index_k, index_v)
        size = size_k + size_v + index_k + index_v
        if size:
            by_kind[layer.kind] = by_kind.get(layer.kind, 0) + size
    state = sum(layer.state_values for layer in layout.layers) * 4 * n_seq
    if state:
        by_kind[LayerKind.RECURRENT] = by_kind.get(LayerKind.RECURRENT, 0) + state
    caches = (CacheSize(name, own, n, a, b) for (name, own), (n, a, b) in sums.items())
    return KvSize(tuple(sorted(caches, key=lambda c: c.name)), by_kind, state)


def unusable(layout: Layout, cache_type: CacheType, side: str) -> str | None:
    """Why the type cannot hold side "k" or "v" of this model; None where it can.

    The runtime compares the block with the head dimension of every layer, stored or not
    (llama-context.cpp:3854), and refuses the whole context.
    """
    if not cache_type.is_quantized or not layout.cached:
        return None
    if side == "v" and not layout.flash_attention:
        return f"a quantized V needs flash attention, which {layout.architecture} does not get"
    if cache_type.is_turbo and layout.is_mla:
        return f"{cache_type.name} does not hold MLA's latent vectors"
    return _undivided(layout, cache_type, side)


def unusable_pair(layout: Layout, k: CacheType, v: CacheType) -> str | None:
    """Why the two types cannot be used together, or one of them not at all; None where they can."""
    for side, cache_type in (("k", k), ("v", v)):
        if reason := unusable(layout, cache_type, side):
            return reason
    if layout.is_mla and k != v:
        # llama-context.cpp:3835
        return "MLA keeps one vector for K and V: the runtime takes equal types only"
    return None


def usable_types(layout: Layout, side: str) -> tuple[str, ...]:
    """Names of the types that can hold this side."""
    return tuple(name for name, t in CACHE_TYPES.items() if unusable(layout, t, side) is None)


def _undivided(layout: Layout, cache_type: CacheType, side: str) -> str | None:
    for layer in layout.layers:
        dim = layer.head_dim_k if side == "k" else layer.head_dim_v
        if not layer.is_nextn and dim % cache_type.values:
            return _reason(
                cache_type, f"head dimension {dim} of {side.upper()} (layer {layer.number})"
            )
        indexer = layer.indexer_k if side == "k" else layer.indexer_v
        if indexer % cache_type.values:
            return _reason(cache_type, f"the indexer's {indexer} values (layer {layer.number})")
    return None


def _reason(cache_type: CacheType, what: str) -> str:
    return f"{cache_type.name} packs {cache_type.values} values, which does not divide {what}"


def _cells_per_sequence(n_ctx: int, n_seq: int) -> int:
    """Cells of one sequence; two paddings, one of the whole and one of the share (llama-context.cpp:290)."""
    return _pad(_pad(n_ctx * n_seq) // n_seq)


def _window_cells(layer: Layer, cells: int, n_ubatch: int) -> int:
    return _pad(min(cells, layer.window + n_ubatch)) if layer.window else cells


def _pad(n: int) -> int:
    return n + -n % PAD


def _per_layer(layout: Layout, types: Types) -> Callable[[Layer], CacheType]:
    if isinstance(types, CacheType):
        return lambda _: types
    if len(types) != len(layout.layers):
        raise UsageError(f"{len(types)} cache types for {len(layout.layers)} layers")
    return lambda layer: types[layer.number]


def _add(sums: dict[tuple[str, int], list[int]], key: tuple[str, int], k: int, v: int) -> None:
    entry = sums.setdefault(key, [0, 0, 0])
    entry[0] += 1
    entry[1] += k
    entry[2] += v
