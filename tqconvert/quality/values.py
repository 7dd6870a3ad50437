"""Values that llama-perplexity prints, as numbers with their errors."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

Z_95 = 1.959964
"""Standard errors in half of a 95 % interval of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its standard error, for which the runtime takes tokens as independent.

    The error is nan where the runtime has none, as of the ratio of two equal perplexities.
    """

    value: float
    error: float

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - Z_95 * self.error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + Z_95 * self.error

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval."""
        return Z_95 * self.error

    def to_json(self) -> dict[str, float | None]:
        """value, error, low, high; null for what is no number."""
        parts = {"value": self.value, "error": self.error, "low": self.low, "high": self.high}
        return {name: finite(x) for name, x in parts.items()}


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Result of a run over a text."""

    ppl: Estimate
    running: tuple[float, ...]
    """Perplexity of the first 1, 2, ... chunks."""

    @property
    def n_chunks(self) -> int:
        """Chunks that were run."""
        return len(self.running)

    def to_json(self) -> dict[str, Any]:
        """The part of a document."""
        return {"ppl": self.ppl.to_json(), "running_ppl": [finite(x) for x in self.running]}


@dataclass(frozen=True, slots=True)
class Divergence:
    """Result of a run against a base."""

    ppl: Estimate
    ppl_base: Estimate
    ppl_ratio: Estimate
    """Of this run to the base, on the same tokens: its error is far below that of either."""
    kld: Estimate
    kld_percentiles: dict[str, float]
    """max, 99.9, 99, 95, 90, median, 10, 5, 1, 0.1, min over the scored tokens."""
    delta_p: Estimate
    """Mean change of the probability of the text's own token, percent."""
    delta_p_rms: Estimate
    same_top: Estimate
    """Share of tokens whose most probable successor is the base's, percent."""
    running_kld: tuple[float, ...]
    """Mean KLD of the first 1, 2, ... chunks."""

    @property
    def n_chunks(self) -> int:
        """Chunks that were run."""
        return len(self.running_kld)

    @property
    def kld_by_chunk(self) -> tuple[float, ...]:
        """Mean KLD of each chunk alone, as far as the five decimals of the running means tell."""
        sums = [0.0, *(mean * n for n, mean in enumerate(self.running_kld, start=1))]
        return tuple(b - a for a, b in itertools.pairwise(sums))

    def to_json(self) -> dict[str, Any]:
        """The part of a document."""
        return {
            "ppl": self.ppl.to_json(),
            "ppl_ratio": self.ppl_ratio.to_json(),
            "kld": self.kld.to_json(),
            "kld_percentiles": {name: finite(x) for name, x in self.kld_percentiles.items()},
            "kld_by_chunk": [finite(round(x, 5)) for x in self.kld_by_chunk],
            "same_top_percent": self.same_top.to_json(),
            "delta_p_percent": self.delta_p.to_json(),
            "delta_p_rms_percent": self.delta_p_rms.to_json(),
        }


def finite(x: float) -> float | None:
    """The number; None for nan and infinities, which JSON lacks."""
    return x if math.isfinite(x) else None
