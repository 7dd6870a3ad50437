"""Which tags a model gets on its way: types given by hand, checked; else the policy's."""

from dataclasses import dataclass

from tqconvert.errors import CheckFailedError, UsageError
from tqconvert.gguf.header import Header
from tqconvert.gguf.tags import KvTags, is_tagged, read_tags


@dataclass(frozen=True, slots=True)
class TagChoice:
    """Tags and why; None for models that are better left alone."""

    tags: KvTags | None
    reasons: tuple[str, ...]


def choose_tags(header: Header, type_k: str | None, type_v: str | None) -> TagChoice:
    """Tags for the model with this header; a type is a name, or one per layer with commas.

    A model that the policy advises against, or that comes tagged, is left as it is and not refused:
    the pull goes on. Raises UsageError for types given by hand that the model cannot use.
    """
    from tqconvert.kv.given import choose_types

    by_hand = type_k is not None or type_v is not None
    if is_tagged(header):
        return _tagged_already(header, by_hand=by_hand)
    try:
        chosen = choose_types(header, type_k, type_v)
    except CheckFailedError as e:
        return TagChoice(None, (e.message,))
    return TagChoice(KvTags(chosen.type_k, chosen.type_v), chosen.reasons)


def _tagged_already(header: Header, *, by_hand: bool) -> TagChoice:
    tags = read_tags(header)
    if by_hand:
        raise UsageError(
            "the model comes tagged already; other types cannot be put over it on the way",
            hint="pull it with --no-tag --to DIR, then: tqconvert tag FILE --type-k K --type-v V",
        )
    named = f"{tags.type_k}/{tags.type_v}" if tags else "none"
    return TagChoice(None, (f"the model comes tagged already ({named})",))
