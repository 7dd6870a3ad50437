"""What each layer of a model keeps per token and per sequence."""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class LayerKind(StrEnum):
    """What a layer's memory grows with."""

    FULL = "full"
    """K and V of every token of the context."""
    SLIDING = "sliding"
    """K and V of the last `window` tokens."""
    CHUNKED = "chunked"
    """K and V of the current chunk of `window` tokens."""
    LATENT = "latent"
    """One compressed vector per token that stands for K and V (MLA)."""
    RECURRENT = "recurrent"
    """A state of fixed size per sequence."""
    PARALLEL = "full+recurrent"
    """Attention and a recurrent state side by side in one layer."""
    SHARED = "shared"
    """Reads the cache of an earlier layer and has none of its own."""
    NONE = "none"
    """No cache: feed-forward only, an encoder, or a next-token-prediction layer."""


class Layer(NamedTuple):
    """One layer as the runtime sees it."""

    number: int
    kind: LayerKind
    n_head: int
    n_head_kv: int
    head_dim_k: int
    head_dim_v: int
    window: int = 0
    stores_v: bool = True
    state_r: int = 0
    """f32 values per sequence of a recurrent layer's history: convolution, token shift."""
    state_s: int = 0
    """f32 values per sequence of the recurrent state itself."""
    indexer_k: int = 0
    """Values per token of the sparse-attention indexer's own key cache."""
    indexer_v: int = 0
    is_nextn: bool = False
    """A next-token-prediction layer behind the model proper."""

    @property
    def has_cache(self) -> bool:
        """Whether the layer has K (and V) of its own."""
        return self.kind not in (LayerKind.RECURRENT, LayerKind.SHARED, LayerKind.NONE)

    @property
    def state_values(self) -> int:
        """f32 values per sequence."""
        return self.state_r + self.state_s

    @property
    def k_values(self) -> int:
        """Values of K per token."""
        return self.head_dim_k * self.n_head_kv if self.has_cache else 0

    @property
    def v_values(self) -> int:
        """Values of V per token."""
        return self.head_dim_v * self.n_head_kv if self.has_cache and self.stores_v else 0


class Layout(NamedTuple):
    """All layers of a model. Where `known` is false, every layer counts as full attention: an upper bound."""

    architecture: str
    layers: tuple[Layer, ...]
    n_ctx_train: int
    known: bool
    notes: tuple[str, ...] = ()
    is_mla: bool = False
    flash_attention: bool = True
    """False where the runtime refuses flash attention and with it a quantized V."""

    @property
    def kinds(self) -> dict[LayerKind, int]:
        """Number of layers of each kind, next-token-prediction layers left out."""
        counts = Counter(layer.kind for layer in self.layers if not layer.is_nextn)
        return {kind: counts[kind] for kind in LayerKind if counts[kind]}

    @property
    def cached(self) -> tuple[Layer, ...]:
        """The layers that have K of their own."""
        return tuple(layer for layer in self.layers if layer.k_values)

    @property
    def gqa_ratio(self) -> float:
        """The largest number of query heads that share a K/V head; 0 without attention."""
        return max((layer.n_head / layer.n_head_kv for layer in self.cached), default=0.0)

    def describe(self) -> str:
        """One line: `15 sliding (window 512) + 3 full layers, 4 heads, 1 K/V head x 256`."""
        parts = [self._describe_kind(kind, n) for kind, n in self.kinds.items()]
        text = " + ".join(parts) + " layers" if parts else "no layers"
        if self.cached:
            text += f", {_span(x.n_head for x in self.cached)} heads"
            text += f", {_span(x.n_head_kv for x in self.cached)} K/V x {self._dims()}"
        nextn = sum(layer.is_nextn for layer in self.layers)
        return f"{text}, {nextn} next-token-prediction left out" if nextn else text

    def _describe_kind(self, kind: LayerKind, n: int) -> str:
        windows = {layer.window for layer in self.layers if layer.kind is kind and layer.window}
        return f"{n} {kind} (window {_span(windows)})" if windows else f"{n} {kind}"

    def _dims(self) -> str:
        k = _span(layer.head_dim_k for layer in self.cached)
        v = _span(layer.head_dim_v for layer in self.cached if layer.stores_v)
        return k if k == v or not v else f"{k}/{v}"


def _span(values: Iterable[int]) -> str:
    """`8`, or `4-8` where they differ."""
    numbers = sorted(set(values))
    if not numbers:
        return ""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
