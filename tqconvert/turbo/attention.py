"""The tensors of each layer that K and Q pass through last: where a factor per channel can be put.

With QK-norm that is the weight of the norm, else the rows of the projections and their biases.
"""

import re
from typing import Literal, NamedTuple

from tqconvert.errors import InvalidGgufError, RefusedError
from tqconvert.gguf.header import Header, Tensor
from tqconvert.kv.arch import layout_of
from tqconvert.kv.layers import Layer, LayerKind
from tqconvert.kv.rules import canonical
from tqconvert.turbo.rope import Pairing, UnknownArchitectureError, pairing_of

Fold = Literal["norms", "rows"]

_GATED_Q = frozenset({"qwen3next", "qwen35", "qwen35moe"})
"""Each head of attn_q has a gate behind it (src/models/qwen35.cpp:275)."""

_LAYER = re.compile(r"blk\.(\d+)\.(attn_(?:q|k|qkv|q_norm|k_norm|norm|norm_2)\.(?:weight|bias))")


class Part(NamedTuple):
    """Rows of a tensor, or values of a vector, that are channels of K or of Q in order."""

    tensor: Tensor
    first: int
    n: int

    @property
    def offset(self) -> int:
        """Where the rows begin, from the header's `data_start`."""
        return self.tensor.offset + self.first * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.tensor.n_bytes // (self.tensor.n_values // self.row_values)

    @property
    def row_values(self) -> int:
        """Values of one row: a projection's inputs, 1 in vectors."""
        return self.tensor.shape[0] if self.is_matrix else 1

    @property
    def is_matrix(self) -> bool:
        """Whether it is a projection; norms with a weight per head are vectors too."""
        return "norm" not in self.tensor.name and len(self.tensor.shape) > 1


class Attention(NamedTuple):
    """One layer's attention. K has `n_head_kv * dim` channels, Q `n_head * dim`."""

    number: int
    n_head: int
    n_head_kv: int
    dim: int
    n_rot: int
    fold: Fold
    k: tuple[Part, ...]
    """What is multiplied by D; empty where the layer reads the cache of `source`."""
    q: tuple[Part, ...]
    """What is divided by D."""
    wk: Part | None
    wq: Part | None
    """The projections, for estimates from the weights; `q_gated`: with gates between the heads."""
    q_gated: bool
    input_norm: Tensor | None
    source: int
    """The layer whose cache it reads: its own number but for shared caches."""
    has_cache: bool
    """Whether the runtime keeps K of it; next-token-prediction layers may have none."""

    @property
    def shares_k(self) -> bool:
        """Whether all heads of K have one factor, because one norm serves all."""
        return self.fold == "norms" and (
            not self.k or self.k[0].n == self.dim or self.q[0].n == self.dim
        )

    @property
    def has_weights(self) -> bool:
        """Whether both projections were found."""
        return self.wk is not None and self.wq is not None


class Model(NamedTuple):
    """All layers with attention, and how RoPE pairs their channels."""

    layers: tuple[Attention, ...]
    n_layers: int
    pairing: Pairing
    has_sinks: bool


def read_attention(header: Header, *, subject: str) -> Model:
    """The attention of a model. `subject` names the file.

    Raises UnknownArchitectureError, RefusedError for models that a balance cannot be folded into.
    """
    arch = header.architecture
    sections = header.arch("rope.dimension_sections")
    has_sections = isinstance(sections, tuple) and len(sections) > 1 and all(sections[:2])
    pairing = pairing_of(arch, mrope=has_sections)
    layout = layout_of(header)
    if not layout.known:
        raise UnknownArchitectureError(f"{subject}: {'; '.join(layout.notes)}")
    if layout.is_mla or any(x.kind is LayerKind.LATENT for x in layout.layers):
        raise RefusedError(
            f"{subject}: its cache holds a compressed latent (MLA), not channels of K"
        )
    tensors = _by_layer(header)
    n_own = next(
        (x.number for x in layout.layers if x.kind is LayerKind.SHARED), len(layout.layers)
    )
    layers = []
    for layer in layout.layers:
        own = tensors.get(layer.number, {})
        if not layer.n_head_kv or not layer.head_dim_k or not _has_attention(layer, own):
            continue
        source = layer.number
        if layer.kind is LayerKind.SHARED:
            # src/llama-model.cpp:2785: the last layer of the same kind that has a cache.
            source = n_own - (2 if _slides(header, layer.number) else 1)
        layers.append(_attention(header, layer, own, source, subject))
    if not layers:
        raise RefusedError(f"{subject}: has no attention layers with a K cache")
    return Model(
        tuple(layers), len(layout.layers), pairing,
        any("attn_sinks" in t.name for t in header.tensors),
    )  # fmt: skip


def _by_layer(header: Header) -> dict[int, dict[str, Tensor]]:
    """Layer -> name behind `blk.N.` -> tensor."""
    found: dict[int, dict[str, Tensor]] = {}
    for tensor in header.tensors:
        if match := _LAYER.fullmatch(tensor.name):
            found.setdefault(int(match[1]), {})[match[2]] = tensor
    return found


def _has_attention(layer: Layer, own: dict[str, Tensor]) -> bool:
    if layer.kind is LayerKind.RECURRENT:
        return False
    if layer.kind is LayerKind.SHARED:
        return "attn_q.weight" in own or "attn_q_norm.weight" in own
    return layer.has_cache or "attn_k.weight" in own or "attn_qkv.weight" in own


def _slides(header: Header, number: int) -> bool:
    pattern = header.arch("attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        return number < len(pattern) and bool(pattern[number])
    period = pattern if isinstance(pattern, int) and pattern else 5
    return number % period < period - 1


def _attention(
    header: Header, layer: Layer, own: dict[str, Tensor], source: int, subject: str
) -> Attention:
    n_k, n_q, dim = (
        layer.n_head_kv * layer.head_dim_k,
        layer.n_head * layer.head_dim_k,
        layer.head_dim_k,
    )
    where = f"{subject}: layer {layer.number}"
    if not layer.n_head or layer.n_head % layer.n_head_kv:
        raise RefusedError(f"{where}: {layer.n_head} heads for {layer.n_head_kv} K/V heads")
    wk, wq, gated = _projections(header, own, n_k, n_q, layer.n_head_kv * layer.head_dim_v)
    norms = [name in own for name in ("attn_k_norm.weight", "attn_q_norm.weight")]
    if source != layer.number:
        if not norms[1]:
            raise RefusedError(f"{where}: shares a cache and has no attn_q_norm")
        fold: Fold = "norms"
        k: tuple[Part, ...] = ()
        q = _vectors(own, "attn_q_norm", dim, n_q, where)
    elif all(norms):
        fold = "norms"
        k = _vectors(own, "attn_k_norm", dim, n_k, where)
        q = _vectors(own, "attn_q_norm", dim, n_q, where)
    elif any(norms):
        raise RefusedError(f"{where}: has only one of attn_k_norm and attn_q_norm")
    else:
        if header.arch("attention.clamp_kqv"):
            raise RefusedError(f"{where}: K and Q are clamped, at values that a factor would move")
        if wk is None or wq is None or gated:
            raise InvalidGgufError(
                f"{where}: no attn_k and attn_q, nor attn_qkv, with rows of {n_k} + {n_q} channels"
            )
        fold = "rows"
        k, q = (wk, *_biases(own, "k", wk, where)), (wq, *_biases(own, "q", wq, where))
    return Attention(
        layer.number, layer.n_head, layer.n_head_kv, dim, _n_rot(header, layer), fold, k, q, wk, wq,
        gated, own.get("attn_norm_2.weight", own.get("attn_norm.weight")), source, layer.has_cache,
    )  # fmt: skip


def _projections(
    header: Header, own: dict[str, Tensor], n_k: int, n_q: int, n_v: int
) -> tuple[Part | None, Part | None, bool]:
    """Rows of K and Q, and whether Q has gates; None where they are not as the runtime lays them out."""
    fused = own.get("attn_qkv.weight")
    if fused is not None and fused.shape[1:] == (n_q + n_k + n_v,):
        return Part(fused, n_q, n_k), Part(fused, 0, n_q), False
    k, q = own.get("attn_k.weight"), own.get("attn_q.weight")
    wk = Part(k, 0, n_k) if k and k.shape[1:] == (n_k,) else None
    if q and q.shape[1:] == (2 * n_q,) and canonical(header.architecture) in _GATED_Q:
        return wk, Part(q, 0, 2 * n_q), True
    return wk, Part(q, 0, n_q) if q and q.shape[1:] == (n_q,) else None, False


def _vectors(own: dict[str, Tensor], name: str, dim: int, n: int, where: str) -> tuple[Part, ...]:
    """Weight and bias of a norm over each head, with weights for all heads or for each."""
    parts = []
    for kind in ("weight", "bias"):
        tensor = own.get(f"{name}.{kind}")
        if tensor is None:
            continue
        if tensor.n_values not in (dim, n):
            raise RefusedError(
                f"{where}: {name}.{kind} has {tensor.n_values} values (expected {dim} or {n})"
            )
        parts.append(Part(tensor, 0, tensor.n_values))
    return tuple(parts)


def _biases(own: dict[str, Tensor], side: Literal["k", "q"], rows: Part, where: str) -> list[Part]:
    """The bias of the projection's rows; separate ones may stand beside a fused projection."""
    n_out = rows.tensor.shape[1]
    fused, single = own.get("attn_qkv.bias"), own.get(f"attn_{side}.bias")
    if fused is not None and rows.tensor.name.endswith("attn_qkv.weight"):
        bias, expected, part = fused, n_out, Part(fused, rows.first, rows.n)
    elif single is not None:
        bias, expected, part = single, rows.n, Part(single, 0, rows.n)
    else:
        return []
    if bias.n_values != expected:
        raise InvalidGgufError(
            f"{where}: {bias.name} has {bias.n_values} values (expected {expected})"
        )
    return [part]


def _n_rot(header: Header, layer: Layer) -> int:
    """Channels of a head that RoPE turns (llama_hparams::n_rot)."""
    width = header.arch("rope.dimension_count")
    if layer.window:
        own = header.arch("rope.dimension_count_swa")
        width = width if own is None else own
    return min(width, layer.head_dim_k) if isinstance(width, int) and width else layer.head_dim_k
