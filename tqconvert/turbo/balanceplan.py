"""What `tqconvert balance` would do to a model: D of each layer, and which bytes change by it."""

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from tqconvert import fs
from tqconvert.errors import InvalidGgufError, RefusedError
from tqconvert.gguf.state import Found
from tqconvert.gguf.tagplan import Method, look_at, new_file_method, new_target
from tqconvert.gguf.tags import BALANCE
from tqconvert.gguf.types import TensorType
from tqconvert.turbo import balance
from tqconvert.turbo.attention import Attention, Model, Part, read_attention
from tqconvert.turbo.kvstats import KvStats
from tqconvert.turbo.moments import Read, Sigma, estimate_moments
from tqconvert.turbo.rope import Pairing, partners
from tqconvert.turbo.scale_rows import can_scale, unscalable, wants_powers_of_two

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

K_MEAN = "turboquant.k_mean"

Mode = Literal["weights", "calibrated"]


class Edit(NamedTuple):
    """Rows of a tensor that are multiplied by a factor each."""

    tensor: str
    type: TensorType
    offset: int
    """From the start of the tensor data."""
    n_bytes: int
    factors: "Array"


class LayerPlan(NamedTuple):
    """One layer that keeps K: D by K/V head and channel, and what the theory makes of it."""

    number: int
    fold: str
    d: "Array"
    gain_db: float


class BalancePlan(NamedTuple):
    """A new file: `found` with `edits`, under keys that say so."""

    found: Found
    target: Path
    method: Method
    why: str
    mode: Mode
    pairing: Pairing
    layers: tuple[LayerPlan, ...]
    edits: tuple[Edit, ...]
    powers_of_two: bool
    k_mean: "Array | None"
    """Values of `turboquant.k_mean`: of all layers in order, those without a cache left out."""

    @property
    def folds(self) -> tuple[str, ...]:
        """`norms`, `rows`, or both."""
        return tuple(sorted({layer.fold for layer in self.layers}))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that change."""
        return tuple(dict.fromkeys(edit.tensor for edit in self.edits))

    @property
    def mean_gain_db(self) -> float:
        """The predicted gain, averaged over the layers."""
        return sum(layer.gain_db for layer in self.layers) / len(self.layers)


def plan_balance(
    path: str | os.PathLike[str] | Found,
    output: str | os.PathLike[str],
    *,
    replace: bool = False,
    stats: KvStats | None = None,
    mean: bool = True,
    exact: bool = False,
    sigma: Sigma = "rows",
) -> BalancePlan:
    """How `output` would become the balanced model; changes nothing.

    With `stats` D comes from what was measured, and the mean of K goes into the header (`mean`);
    without, it comes from the weights, by `sigma`. `exact`: powers of two only.
    Raises RefusedError for files and models that cannot be balanced, UnknownArchitectureError among
    them, and what `read_header` raises.
    """
    found = path if isinstance(path, Found) else look_at(path)
    _check_file(found)
    target = new_target(found, output, replace=replace)
    method, why = new_file_method(found, target)
    subject = str(found.path)
    model = read_attention(found.header, subject=subject)
    if stats and mean and model.has_sinks:
        raise RefusedError(
            f"{subject}: has attention sinks, which a mean taken out of K would outweigh",
            hint="--no-mean balances without it",
        )
    _check_types(model, subject)
    exact = exact or any(
        wants_powers_of_two(part.tensor.type)
        for layer in model.layers if layer.fold == "rows" for part in (*layer.k, *layer.q)
    )  # fmt: skip
    try:
        fd = fs.open_fd(found.path, os.O_RDONLY)
    except OSError as e:
        raise fs.storage_error(e, found.path) from e
    with closing(os.fdopen(fd, "rb")):
        read = _reader(fd, found)
        balanced = {
            layer.number: _layer(model, layer, read, stats, mean=mean, exact=exact, sigma=sigma)
            for layer in model.layers if layer.source == layer.number and _keeps(layer, stats)
        }  # fmt: skip
    edits = tuple(
        edit
        for layer in model.layers if layer.source in balanced
        for edit in _edits(layer, balanced[layer.source][0].d)
    )  # fmt: skip
    return BalancePlan(
        found, target, method, why, "calibrated" if stats else "weights", model.pairing,
        tuple(plan for plan, _ in balanced.values()), edits, exact,
        _k_mean(model, balanced) if stats and mean else None,
    )  # fmt: skip


def _check_file(found: Found) -> None:
    header, subject = found.header, found.path
    if found.kind == "interrupted":
        raise RefusedError(
            f"{subject}: an interrupted tag left it unreadable", hint=f"tqconvert untag {subject}"
        )
    if (header.integer("split.count") or 1) > 1:
        raise RefusedError(
            f"{subject}: is one of several shards (expected the whole model in one file)",
            hint=f"llama-gguf-split --merge {subject} OUT",
        )
    if header.byte_order != "little":
        raise RefusedError(f"{subject}: is big-endian", hint="gguf-convert-endian FILE little")
    done = header.text(BALANCE)
    if done not in (None, "none") or K_MEAN in header.entries:
        raise RefusedError(
            f"{subject}: is balanced already ({BALANCE} {done}); a second time is not the same",
            hint="balance the file that it was made from",
        )


def _check_types(model: Model, subject: str) -> None:
    for layer in model.layers:
        for part in (*layer.k, *layer.q):
            if not can_scale(part.tensor.type):
                raise unscalable(f"{subject}: {part.tensor.name}", part.tensor.type)


def _keeps(layer: Attention, stats: KvStats | None) -> bool:
    """Next-token-prediction layers have no cache in the main model, and nothing is measured there."""
    return layer.has_cache or stats is None or layer.number in stats.layers


def _reader(fd: int, found: Found) -> Read:
    start = found.start + found.header.data_start

    def read(offset: int, length: int) -> bytes:
        data = fs.read_at(fd, length, start + offset)
        if len(data) != length:
            raise InvalidGgufError(f"{found.path}: changed while it was read")
        return data

    return read


def _layer(
    model: Model, layer: Attention, read: Read, stats: KvStats | None, *, mean: bool, exact: bool,
    sigma: Sigma,
) -> "tuple[LayerPlan, Array | None]":  # fmt: skip
    """D of a layer that has K of its own, and the mean of its K in the balanced channels."""
    partner = partners(layer.dim, layer.n_rot, model.pairing)
    if stats:
        moments, floor = stats.moments(layer, centred=mean), balance.FLOOR_MEASURED
    else:
        moments, floor = estimate_moments(layer, read, sigma=sigma), balance.FLOOR_WEIGHTS
    d = balance.factors(moments, partner, floor=floor, shared=layer.shares_k)
    if exact and layer.fold == "rows":
        d = balance.powers_of_two(d)
    plan = LayerPlan(layer.number, layer.fold, d, balance.gain_db(moments, d))
    return plan, None if moments.k_mean is None else moments.k_mean * d


def _edits(layer: Attention, d: "Array") -> list[Edit]:
    """K's rows times D; Q's divided by the D of the K/V head that each of its heads reads."""
    inverse = (1 / d).repeat(layer.n_head // len(d), axis=0)
    return [
        *(_edit(part, d) for part in layer.k),
        *(_edit(part, inverse) for part in layer.q),
    ]


def _edit(part: Part, factors: "Array") -> Edit:
    """A norm that serves all heads takes the first head's factors: they are all alike then."""
    return Edit(
        part.tensor.name, part.tensor.type, part.offset, part.n * part.row_bytes,
        factors.reshape(-1)[: part.n],
    )  # fmt: skip


def _k_mean(model: Model, balanced: "dict[int, tuple[LayerPlan, Array | None]]") -> "Array":
    import numpy as np

    means = [
        values.reshape(-1)
        for layer in model.layers
        if layer.has_cache and layer.number in balanced
        for values in (balanced[layer.number][1],)
        if values is not None
    ]
    return np.concatenate(means)
