"""Second moments of K and Q, estimated from the weights alone or read from a calibration.

The input of a layer is taken as white behind its norm, so a projection's output has the energy of its
rows times the norm's weights. QK-norm makes each head's mean energy 1 and then multiplies by its own
weights: with `sigma="norm"` they alone count, with `sigma="rows"` the rows do as well (docs/balance.md
has what both gain).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from tqconvert.errors import RefusedError
from tqconvert.gguf.header import Tensor
from tqconvert.gguf.types import TENSOR_TYPES, TensorType
from tqconvert.turbo.attention import Attention, Part
from tqconvert.turbo.balance import Moments

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

Sigma = Literal["norm", "rows"]
Read = Callable[[int, int], bytes]
"""(offset from the tensor data's start, length) -> bytes."""

_CHUNK_VALUES = 1 << 21
"""Values of a projection that are dequantized at once."""

_SAMPLE_VALUES = 1024
"""Values of a row that its energy is estimated from."""

_SAMPLE_BLOCK = 32


class UnreadableTypeError(RefusedError):
    """Nothing here dequantizes the type of a tensor."""

    kind = "unreadable_type"


def estimate_moments(layer: Attention, read: Read, *, sigma: Sigma) -> Moments:
    """Second moments of one layer from its weights.

    Raises UnreadableTypeError for projections that nobody here dequantizes, where no norm can stand in.
    """
    if layer.fold == "rows":
        assert layer.wk is not None
        assert layer.wq is not None
        return Moments(
            _projected(layer, layer.wk, layer.k, read, heads=layer.n_head_kv),
            _projected(layer, layer.wq, layer.q, read, heads=layer.n_head),
        )
    k, q = _norm_energy(layer, layer.k, layer.n_head_kv, read), _norm_energy(
        layer, layer.q, layer.n_head, read
    )  # fmt: skip
    if sigma == "norm" or layer.wk is None or layer.wq is None:
        return Moments(k, q)
    try:
        return Moments(
            k * _normalised(layer, layer.wk, layer.k, read, heads=layer.n_head_kv),
            q * _normalised(layer, layer.wq, layer.q, read, heads=layer.n_head),
        )
    except UnreadableTypeError:
        return Moments(k, q)


def values_of(part: Part, read: Read) -> "Array":
    """[n]: the values of a vector. Raises RefusedError for a type nobody dequantizes."""
    import numpy as np

    data = np.frombuffer(read(part.offset, part.n * part.row_bytes), np.uint8)
    return _dequantize_f32(data[None], part.tensor).reshape(-1).astype(np.float64)


def row_energy(part: Part, weights: "Array | None", read: Read) -> "Array":
    """[n]: the squared length of each row of a projection times the input norm's weights.

    Long rows are sampled in blocks spread over them: factors are fourth roots of energies, so that one
    within 15 % moves a factor by 4 %, and the noise by .02 dB.
    """
    import numpy as np

    kind, n_in = part.tensor.type, part.row_values
    every = -(-n_in // _SAMPLE_VALUES)
    block = max(kind.values, _SAMPLE_BLOCK)
    if n_in % block or n_in // block < every:
        every, block = 1, kind.values
    inputs = np.ones(n_in) if weights is None else np.square(weights)
    squares = inputs.reshape(-1, block)[::every].reshape(-1).astype(np.float32)
    block_bytes = block // kind.values * kind.bytes
    rows = max(1, _CHUNK_VALUES // n_in)
    sums = np.empty(part.n)
    for first in range(0, part.n, rows):
        n = min(rows, part.n - first)
        data = np.frombuffer(
            read(part.offset + first * part.row_bytes, n * part.row_bytes), np.uint8
        )
        sample = data.reshape(n, -1, block_bytes)[:, ::every].reshape(n, -1)
        values = _dequantize_f32(sample, part.tensor)
        sums[first : first + n] = np.square(values, out=values) @ squares
    return sums


def _norm_energy(layer: Attention, parts: tuple[Part, ...], heads: int, read: Read) -> "Array":
    """[heads, dim]: the squared weights of a norm, which may serve all heads."""
    import numpy as np

    weights = np.square(values_of(parts[0], read)).reshape(-1, layer.dim)
    return np.broadcast_to(weights, (heads, layer.dim))


def _normalised(
    layer: Attention, part: Part, norm: tuple[Part, ...], read: Read, *, heads: int
) -> "Array":
    """[heads, dim]: the energy of what a norm makes of the projection, 1 on average over what it spans."""
    import numpy as np

    weights = _input_weights(layer, read)
    if layer.q_gated and part is layer.wq:  # each head's rows have as many of its gate behind them
        rows = [Part(part.tensor, 2 * layer.dim * h, layer.dim) for h in range(heads)]
    else:
        rows = [part]
    energy = np.concatenate([row_energy(p, weights, read) for p in rows]).reshape(heads, -1)
    spans_head = norm[0].n == layer.dim or len(norm[0].tensor.shape) > 1
    mean = energy.mean(axis=1, keepdims=True) if spans_head else energy.mean()
    # A head without weights stays as the norm leaves it.
    normalised: Array = np.divide(energy, mean, out=np.ones_like(energy), where=mean > 0)
    return normalised


def _projected(
    layer: Attention, part: Part, parts: tuple[Part, ...], read: Read, *, heads: int
) -> "Array":
    """[heads, dim]: the energy of a projection without a norm behind it, its bias included."""
    import numpy as np

    energy = row_energy(part, _input_weights(layer, read), read)
    for bias in parts[1:]:
        energy += np.square(values_of(bias, read))
    return energy.reshape(heads, layer.dim)


def _input_weights(layer: Attention, read: Read) -> "Array | None":
    norm = layer.input_norm
    return None if norm is None else values_of(Part(norm, 0, norm.n_values), read)


def _dequantize_f32(rows: "npt.NDArray[np.uint8]", tensor: Tensor) -> "npt.NDArray[np.float32]":
    """[n_rows, n]: the values of rows of bytes, a copy that may be changed."""
    import numpy as np

    kind = tensor.type
    if kind.name in ("F32", "F16"):
        return rows.view("<f4" if kind.name == "F32" else "<f2").astype(np.float32)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        values = dequantize(rows, GGMLQuantizationType(_number(kind)))
    except (NotImplementedError, ValueError):
        raise UnreadableTypeError(
            f"{tensor.name}: nothing here can dequantize {kind.name}",
            hint="quantize attn_q and attn_k to another type: llama-quantize --tensor-type",
        ) from None
    return np.array(values, np.float32)


def _number(kind: TensorType) -> int:
    """gguf-py's number of the type."""
    return max(number for number, known in TENSOR_TYPES.items() if known == kind)
