"""The keys that decide a cache's size, read the way llama.cpp reads them.

Source: llama_model_base::load_hparams, src/llama-model.cpp:1298 of llama.cpp 0c1e57098.
"""

from dataclasses import dataclass, field

from tqconvert.errors import InvalidGgufError
from tqconvert.gguf.header import Header
from tqconvert.kv.layers import LayerKind

MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS, src/llama-hparams.h:11."""

_MAX_VALUE = 1 << 24
"""No head count, head dimension or state size comes near; keeps hostile files from huge products."""


class MissingKeyError(Exception):
    """The runtime needs this key, and the file lacks it."""


class Keys:
    """The architecture's own keys; a wrong type counts as missing, an absurd value is an error."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.subject = str(header.path or "GGUF")

    def integer(self, name: str, default: int = 0) -> int:
        """Value of `<arch>.name`, or the default."""
        value = self.header.arch(name)
        if isinstance(value, bool) or not isinstance(value, int):
            return default
        return self._checked(name, value)

    def need(self, name: str) -> int:
        """Value of `<arch>.name`. Raises MissingKeyError."""
        if not isinstance(self.header.arch(name), int):
            raise MissingKeyError(f"{self.header.architecture}.{name}")
        return self.integer(name)

    def has(self, name: str) -> bool:
        """Whether the file has `<arch>.name`."""
        return self.header.arch(name) is not None

    def array(self, name: str) -> tuple[int, ...] | None:
        """Value of `<arch>.name` where it is an array of numbers or truths, else None."""
        value = self.header.arch(name)
        if not isinstance(value, tuple) or not all(isinstance(x, int) for x in value):
            return None
        return tuple(self._checked(name, int(x)) for x in value if isinstance(x, int))

    def per_layer(self, name: str, n: int, default: list[int]) -> list[int]:
        """Value of `<arch>.name` for each layer: an array of `n`, or one number for all."""
        values = self.array(name)
        if values is None:
            return [self.integer(name)] * n if self.has(name) else default
        if len(values) != n:
            raise InvalidGgufError(
                f"{self.subject}: {self.header.architecture}.{name} has {len(values)} elements "
                f"(expected {n}, one per layer)"
            )
        return list(values)

    def _checked(self, name: str, value: int) -> int:
        # Context lengths go into the tens of millions.
        limit = 1 << 31 if name == "context_length" else _MAX_VALUE
        if not 0 <= value <= limit:
            raise InvalidGgufError(f"{self.subject}: {self.header.architecture}.{name} is {value}")
        return value


# What is not used (comparing, printing) is not generated: 0.3 ms of every start.
@dataclass(slots=True, eq=False, repr=False)
class Hparams:
    """What `load_hparams` knows before and after the architecture's own part has run."""

    n_embd: int
    n_layer_all: int
    n_nextn: int
    n_head: list[int]
    n_head_kv: list[int]
    n_ff: list[int]
    k_full: int
    v_full: int
    k_swa: int
    v_swa: int
    is_swa: list[bool]
    is_recr: list[bool]
    window: int = 0
    window_kind: LayerKind | None = None
    attention_beside_state: bool = False
    """Each layer has attention and a state (Falcon-H1)."""
    n_layer_kv_from_start: int = -1
    """If not negative, only so many first layers have a cache of their own."""
    trunk_only: bool = False
    """Next-token-prediction layers get no cache."""
    is_mla: bool = False
    state_r: int = 0
    state_s: int = 0
    extra_state: dict[int, int] = field(default_factory=dict)
    """Layer -> further f32 values of state (qwen4exp's n-gram convolution)."""
    indexer: list[bool] = field(default_factory=list)
    indexer_k: int = 0
    indexer_v: int = 0
    flash_attention: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def n_layer(self) -> int:
        """Layers of the model proper (llama_hparams::n_layer)."""
        return self.n_layer_all - self.n_nextn


def read_hparams(keys: Keys) -> Hparams:
    """What all architectures have in common. Raises MissingKeyError, InvalidGgufError."""
    n_layer = keys.need("block_count")
    if not 0 < n_layer <= MAX_LAYERS:
        raise InvalidGgufError(
            f"{keys.subject}: {n_layer} layers (expected 1 to {MAX_LAYERS}, the runtime's limit)"
        )
    n_embd = keys.need("embedding_length")
    n_nextn = keys.integer("nextn_predict_layers")
    if n_nextn > n_layer:
        raise InvalidGgufError(f"{keys.subject}: {n_nextn} of {n_layer} layers predict next tokens")
    zeros = [0] * n_layer
    n_head = keys.per_layer("attention.head_count", n_layer, zeros)
    n_head_kv = keys.per_layer("attention.head_count_kv", n_layer, n_head)
    # Head dimensions are read only where the first layer has heads (llama-model.cpp:1435).
    even = n_embd // n_head[0] if n_head[0] else 0
    k_full = keys.integer("attention.key_length", even) if n_head[0] else 0
    v_full = keys.integer("attention.value_length", even) if n_head[0] else 0
    return Hparams(
        n_embd=n_embd,
        n_layer_all=n_layer,
        n_nextn=n_nextn,
        n_head=n_head,
        n_head_kv=list(n_head_kv),
        n_ff=keys.per_layer("feed_forward_length", n_layer, zeros),
        k_full=k_full,
        v_full=v_full,
        k_swa=keys.integer("attention.key_length_swa", k_full),
        v_swa=keys.integer("attention.value_length_swa", v_full),
        is_swa=[False] * n_layer,
        is_recr=[False] * n_layer,
        trunk_only=0 < n_nextn < n_layer,
    )
