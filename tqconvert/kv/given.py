"""Cache types for a model: those that the user gave, checked against it; else the policy's."""

from typing import NamedTuple

from tqconvert.errors import CheckFailedError, UsageError
from tqconvert.gguf.header import Header
from tqconvert.kv.layers import Layout
from tqconvert.kv.size import unusable, unusable_pair
from tqconvert.kv.types import parse_cache_type

CacheTypes = str | tuple[str, ...]


class ChosenTypes(NamedTuple):
    """Types of both sides, by the runtime's names, and why these."""

    type_k: CacheTypes
    type_v: CacheTypes
    reasons: tuple[str, ...]


def choose_types(header: Header, type_k: str | None, type_v: str | None) -> ChosenTypes:
    """Types of the model's cache from what the user wrote: a name, or one per layer with commas.

    A side that was not given comes from the policy, f16 where that names none. Raises UsageError for
    types that the model cannot use, CheckFailedError if the policy alone decides and advises against.
    """
    from tqconvert.kv.arch import layout_of

    layout = layout_of(header)
    k = None if type_k is None else check_given(layout, type_k, "k")
    v = None if type_v is None else check_given(layout, type_v, "v")
    reasons: tuple[str, ...] = ("given by hand",)
    if k is None or v is None:
        from tqconvert.kv.recommend import default_types

        policy = default_types(header, layout)
        if k is None and v is None and (policy.type_k is None or policy.type_v is None):
            raise CheckFailedError(
                f"{header.architecture}: not to be tagged: {'; '.join(policy.reasons)}",
                hint="name the types to do it all the same: --type-k TYPE --type-v TYPE",
            )
        reasons = policy.reasons if k is v else ("one side given by hand", *policy.reasons)
        k, v = k or policy.type_k or "f16", v or policy.type_v or "f16"
    if isinstance(k, str) and isinstance(v, str):
        problem = unusable_pair(layout, parse_cache_type(k), parse_cache_type(v))
        if problem:
            raise UsageError(f"{k}/{v}: {problem}", hint="tqconvert plan shows what can be used")
    return ChosenTypes(k, v, reasons)


def check_given(layout: Layout, text: str, side: str) -> CacheTypes:
    """The names in `text` as the runtime writes them. Raises UsageError for what the model cannot use."""
    names = tuple(parse_cache_type(part).name for part in text.split(","))
    n_layers = len(layout.layers)
    if len(names) > 1 and n_layers and len(names) != n_layers:
        raise UsageError(
            f"--type-{side}: {len(names)} types for {n_layers} layers",
            hint="one name goes for all layers",
        )
    for name in dict.fromkeys(names):
        own = layout
        if len(names) > 1:
            layers = tuple(x for x in layout.layers if names[x.number] == name)
            own = layout._replace(layers=layers)
        if problem := unusable(own, parse_cache_type(name), side):
            raise UsageError(
                f"--type-{side} {name}: {problem}", hint="tqconvert plan shows what can be used"
            )
    return names[0] if len(names) == 1 else names
