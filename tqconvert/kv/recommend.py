"""Which cache types a model gets before anybody has measured it.

Policy and evidence: docs/kv-cache.md. A choice of this module is never a measured one.
"""

from typing import NamedTuple

from tqconvert.gguf.header import Header
from tqconvert.kv.layers import Layout
from tqconvert.kv.rules import canonical
from tqconvert.kv.size import unusable_pair
from tqconvert.kv.types import CACHE_TYPES

DENY = {
    "gemma4": "Gemma 4: q8_0 itself was measured at a mean KLD of 0.38, turbo4 at 2.25 (localbench)",
    "gpt-oss": "gpt-oss: every quantized K degrades it; median KLD 0.055 at q8_0/q8_0, 0.23 with a "
    "turbo4 K (llama-cpp-turboquant #305)",
}
"""Families whose cache stays f16, and the figures that say so."""

_UNMEASURED = "unmeasured: no report exists for this model"
_K_LEADS = (
    "K gets at least as many bits as V: at equal bits an error in K costs about 20 times more"
)


class TypeChoice(NamedTuple):
    """Types of both sides, or None for a cache that is to be left as the runtime makes it, and why."""

    type_k: str | None
    type_v: str | None
    reasons: tuple[str, ...]
    measured: bool = False


def default_types(header: Header, layout: Layout) -> TypeChoice:
    """The default tag: q8_0/turbo4, else q8_0/q8_0, else none."""
    if refusal := _refusal(header, layout):
        return TypeChoice(None, None, (refusal,))
    turbo = _problem(layout, "q8_0", "turbo4")
    if turbo is None:
        v_reason = "V at 4.125 bits: turbo4 saves 60 % of the cache together with a q8_0 K"
        return TypeChoice("q8_0", "turbo4", (_K_LEADS, v_reason, *_facts(layout), _UNMEASURED))
    plain = _problem(layout, "q8_0", "q8_0")
    if plain is None:
        reason = f"no turbo type: {turbo}"
        return TypeChoice("q8_0", "q8_0", (reason, _K_LEADS, *_facts(layout), _UNMEASURED))
    return TypeChoice(None, None, (f"no turbo type: {turbo}", f"no q8_0: {plain}"))


def _refusal(header: Header, layout: Layout) -> str | None:
    """Why the cache is to stay f16 whatever would fit."""
    if not layout.known:
        return "; ".join(layout.notes) or "unknown architecture"
    if not layout.cached:
        return "no K/V cache to quantize" + (f": {layout.notes[0]}" if layout.notes else "")
    for family, evidence in DENY.items():
        if canonical(header.architecture).startswith(family):
            return evidence
    return None


def _problem(layout: Layout, k: str, v: str) -> str | None:
    """Why the pair is not chosen; turbo on V only where K's heads would take it as well.

    The runtime would take K of 192 and V of 128, but kernels for turbo are written for equal heads.
    """
    types = CACHE_TYPES[k], CACHE_TYPES[v]
    return unusable_pair(layout, *types) or unusable_pair(layout, types[1], types[1])


def _facts(layout: Layout) -> tuple[str, ...]:
    """What about this model speaks for the choice, or against less."""
    facts = []
    ratio = layout.gqa_ratio
    if ratio >= 6:
        facts.append(
            f"{ratio:.0f} query heads share a K head (6 or more): never a low-bit K without a measurement"
        )
    elif ratio > 1:
        facts.append(f"{ratio:.0f} query heads share a K head")
    if layout.architecture.startswith("qwen2"):
        facts.append("Qwen2: a turbo4 K took Qwen2.5 7B from perplexity 6.58 to 218, q8_0 did not")
    dims = sorted({d for x in layout.cached for d in (x.head_dim_k, x.head_dim_v)})
    facts.append(f"head dimension {', '.join(str(d) for d in dims)}")
    if layout.is_mla:
        facts.append("MLA: one vector stands for K and V, so both sides have one type")
    return tuple(facts)
