"""Sums over K and Q of a model that ran over a text: the JSON of llama-kv-stats.

    {"schema": "tqconvert.kv-stats/1", "n_tokens": ..., "layers": [{"layer": 0, "head_dim": D, "n_head": H,
     "n_head_kv": G, "n_k": rows, "k_sum": [G*D], "k_sq": [G*D], "n_q": rows, "q_sum": [H*D], "q_sq": [H*D]}]}

K and Q are as attention sees them: after RoPE, in f32, the first positions of each chunk left out of K.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqconvert.errors import IntegrityError, NotFoundError, RefusedError
from tqconvert.fs import storage_error
from tqconvert.turbo.attention import Attention
from tqconvert.turbo.balance import Moments

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

SCHEMA = "tqconvert.kv-stats/1"


class BadStatsError(IntegrityError):
    """A document is not what llama-kv-stats writes."""

    kind = "bad_stats"


class LayerSums(NamedTuple):
    """Sums over one layer: K [n_head_kv, head_dim], Q [n_head, head_dim]."""

    number: int
    head_dim: int
    n_head: int
    n_head_kv: int
    n_k: int
    k_sum: "Array"
    k_sq: "Array"
    n_q: int
    q_sq: "Array"


class KvStats(NamedTuple):
    """What was measured, by layer."""

    subject: str
    n_tokens: int
    layers: dict[int, LayerSums]

    def moments(self, layer: Attention, *, centred: bool) -> Moments:
        """Second moments of a layer; `centred`: K's about its mean, which is given too.

        Raises RefusedError if the statistics are not of this model.
        """
        found = self.layers.get(layer.number)
        if found is None:
            raise RefusedError(
                f"{self.subject}: has no layer {layer.number}; it is of another model"
            )
        if (found.head_dim, found.n_head, found.n_head_kv) != (
            layer.dim, layer.n_head, layer.n_head_kv,
        ):  # fmt: skip
            raise RefusedError(
                f"{self.subject}: layer {layer.number} has {found.n_head} heads, {found.n_head_kv} K/V x "
                f"{found.head_dim} (expected {layer.n_head}, {layer.n_head_kv} x {layer.dim}); "
                "it is of another model"
            )
        k, q, mean = found.k_sq / found.n_k, found.q_sq / found.n_q, found.k_sum / found.n_k
        if not centred:
            return Moments(k, q)
        # Rounding may leave a variance just below 0 where K hardly moves.
        return Moments((k - mean**2).clip(min=0), q, mean)


def read_stats(path: str | os.PathLike[str]) -> KvStats:
    """The statistics in a file. Raises NotFoundError, StorageError, BadStatsError."""
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except OSError as e:
        raise storage_error(e, path) from e
    except ValueError as e:
        raise BadStatsError(f"{path}: not JSON ({e})") from None
    return parse_stats(text, subject=str(path))


def parse_stats(text: str, *, subject: str) -> KvStats:
    """The statistics in a JSON text; `subject` names it. Raises BadStatsError."""
    try:
        document = json.loads(text)
    except ValueError as e:
        raise BadStatsError(f"{subject}: not JSON ({e})") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BadStatsError(f"{subject}: not the output of llama-kv-stats (expected {SCHEMA})")
    rows = document.get("layers")
    if not isinstance(rows, list) or not rows:
        raise BadStatsError(f"{subject}: layers: not a list with a layer in it")
    layers = [_layer(row, f"{subject}: layers[{i}]") for i, row in enumerate(rows)]
    return KvStats(
        subject, _count(document, "n_tokens", subject), {layer.number: layer for layer in layers}
    )


def _layer(row: Any, where: str) -> LayerSums:
    if not isinstance(row, dict):
        raise BadStatsError(f"{where}: not an object")
    number = row.get("layer")
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise BadStatsError(f"{where}: layer: {number!r} (expected a number)")
    dim, n_head, n_kv, n_k, n_q = (
        _count(row, key, where) for key in ("head_dim", "n_head", "n_head_kv", "n_k", "n_q")
    )
    return LayerSums(
        number, dim, n_head, n_kv, n_k, _array(row, "k_sum", n_kv, dim, where, signed=True),
        _array(row, "k_sq", n_kv, dim, where), n_q, _array(row, "q_sq", n_head, dim, where),
    )  # fmt: skip


def _count(row: dict[str, Any], key: str, where: str) -> int:
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadStatsError(f"{where}: {key}: {value!r} (expected a number above 0)")
    return value


def _array(
    row: dict[str, Any], key: str, n: int, dim: int, where: str, *, signed: bool = False
) -> "Array":
    import numpy as np

    value = row.get(key)
    if not isinstance(value, list) or len(value) != n * dim:
        raise BadStatsError(f"{where}: {key}: not a list of {n} * {dim} numbers")
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError):
        raise BadStatsError(f"{where}: {key}: not all of it numbers") from None
    if array.ndim != 1 or not np.isfinite(array).all() or (not signed and (array < 0).any()):
        raise BadStatsError(f"{where}: {key}: numbers that no sum can be")
    return array.reshape(n, dim)
