"""Which tags a model gets: types given by hand, checked; else the policy's."""

from dataclasses import dataclass

from tqconvert.errors import UsageError
from tqconvert.gguf.header import Header
from tqconvert.gguf.tags import CacheTypes, KvTags, is_tagged, read_tags


@dataclass(frozen=True, slots=True)
class TagChoice:
    """Tags and why; None for models that are better left alone."""

    tags: KvTags | None
    reasons: tuple[str, ...]


def choose_tags(header: Header, type_k: CacheTypes | None, type_v: CacheTypes | None) -> TagChoice:
    """Tags for the model with this header. Raises UsageError for types it cannot use.

    A side that is not given comes from the policy (`kv.recommend.default_types`); the policy tags
    nothing where a family is known to lose too much.
    """
    from tqconvert.kv.arch import layout_of
    from tqconvert.kv.recommend import default_types
    from tqconvert.kv.size import unusable
    from tqconvert.kv.types import parse_cache_type

    if is_tagged(header):
        return _tagged_already(header, by_hand=bool(type_k or type_v))
    layout = layout_of(header)
    policy = default_types(header, layout)
    if type_k is None and type_v is None:
        if policy.type_k is None or policy.type_v is None:
            return TagChoice(None, policy.reasons)
        return TagChoice(KvTags(policy.type_k, policy.type_v), policy.reasons)
    k, v = type_k or policy.type_k or "f16", type_v or policy.type_v or "f16"
    for side, types in (("k", k), ("v", v)):
        for name in (types,) if isinstance(types, str) else types:
            if reason := unusable(layout, parse_cache_type(name), side):
                raise UsageError(
                    f"--type-{side} {name}: {reason}", hint="tqconvert plan shows what can be used"
                )
    return TagChoice(KvTags(k, v), ("types given by hand",))


def _tagged_already(header: Header, *, by_hand: bool) -> TagChoice:
    tags = read_tags(header)
    if by_hand:
        raise UsageError(
            "the model comes tagged already; other types cannot be put over it on the way",
            hint="pull it with --no-tag --to DIR, then: tqconvert tag FILE --type-k K --type-v V",
        )
    named = f"{tags.type_k}/{tags.type_v}" if tags else "none"
    return TagChoice(None, (f"the model comes tagged already ({named})",))
