"""The channel balance: a factor D per channel of K, whose inverse goes to Q.

The logits q.k stay. A rotated scalar quantizer spreads its error evenly over the channels, with an energy
proportional to that of what it stores; behind the 1/D of the query the noise of a logit is

    c/d * sum_i(D_i^2 k_i) * sum_i(q_i / D_i^2)        k, q: second moments per channel

which is smallest at D_i^4 = q_i / k_i. Channels that RoPE turns together share a factor, and so do those
that one weight serves: their moments are averaged first.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

FLOOR_WEIGHTS = 1e-4
"""Share of the mean that is added to estimated moments: weights of norms may be exactly 0."""

FLOOR_MEASURED = 1e-5


class Moments(NamedTuple):
    """Second moments of one layer's K and Q; Q's by query head, so H is a multiple of G."""

    k: "Array"
    """[G, dim], what D is made for: about the mean where the runtime subtracts it."""
    q: "Array"
    """[H, dim]"""
    k_mean: "Array | None" = None
    """[G, dim], after RoPE, where it was measured."""

    @property
    def q_by_group(self) -> "Array":
        """[G, dim]: the query heads that share a K/V head, averaged."""
        groups: Array = self.q.reshape(len(self.k), -1, self.k.shape[1]).mean(axis=1)
        return groups


def factors(
    moments: Moments, partner: "npt.NDArray[np.intp]", *, floor: float, shared: bool
) -> "Array":
    """[G, dim]: D of each channel, 1 on average over a head.

    `shared`: one norm serves all heads, so they get one D.
    """
    import numpy as np

    k, q = moments.k, moments.q_by_group
    if shared:
        k, q = k.mean(axis=0, keepdims=True), q.mean(axis=0, keepdims=True)
    d = (_pooled(q, partner, floor) / _pooled(k, partner, floor)) ** 0.25
    d /= d.mean(axis=1, keepdims=True)
    return np.broadcast_to(d, moments.k.shape).copy()


def powers_of_two(d: "Array") -> "Array":
    """The nearest powers of two, by ratio."""
    import numpy as np

    rounded: Array = np.exp2(np.rint(np.log2(d)))
    return rounded


def gain_db(moments: Moments, d: "Array") -> float:
    """How much less logit noise the formula above predicts, in dB; K's mean counts as K before."""
    k, q = moments.k, moments.q_by_group
    before = k if moments.k_mean is None else k + moments.k_mean**2
    ratio = _noise(before, q) / max(_noise(k * d**2, q / d**2), 1e-300)
    return 10 * math.log10(max(ratio, 1e-300))


def _noise(k: "Array", q: "Array") -> float:
    return float((k.sum(axis=1) * q.sum(axis=1)).sum())


def _pooled(moments: "Array", partner: "npt.NDArray[np.intp]", floor: float) -> "Array":
    """The mean of each pair, and the floor; ones where a head is all zero."""
    import numpy as np

    mean = moments.mean(axis=1, keepdims=True)
    pooled: Array = (moments + moments[:, partner]) / 2 + floor * mean
    return np.where(mean > 0, pooled, 1.0)
