"""The header of a model that is not here yet: a few megabytes by a range, for --dry-run.

It tells beforehand what the tags would be and what the cache would take, at the price of the header.
"""

from dataclasses import dataclass

from tqconvert.gguf.header import Header, read_header
from tqconvert.gguf.tags import CacheTypes
from tqconvert.kv.arch import layout_of
from tqconvert.kv.size import kv_bytes
from tqconvert.kv.types import F16, CacheType, parse_cache_type
from tqconvert.pull.choose import TagChoice, choose_tags
from tqconvert.pull.head import fetch_head
from tqconvert.pull.plan import PullPlan
from tqconvert.pull.run import SourceOf
from tqconvert.registry.http import Http

MOST_BYTES = 64 << 20
"""A header that is longer is left for the pull itself."""

USUAL_CONTEXT = 32768


@dataclass(frozen=True, slots=True)
class Peek:
    """What the header says will happen to the model, and bytes of its cache at `n_ctx` tokens."""

    choice: TagChoice
    n_ctx: int
    f16_bytes: int
    tagged_bytes: int


def peek(plan: PullPlan, source_of: SourceOf, http: Http) -> Peek | None:
    """The tags and the cache of the model that the plan is about; None where nothing is to be tagged.

    Raises what asking a server raises, InvalidGgufError and UsageError.
    """
    if plan.main is None or not plan.wish.tag:
        return None
    header = plan.header or _local(plan)
    if header is None:
        subject, source = f"model {plan.main.digest.short}", source_of(plan.main.digest)
        found = fetch_head(http, source, plan.main.size, subject, most=MOST_BYTES)
        if found is None:
            return None
        header = found[1]
    choice = choose_tags(header, plan.wish.type_k, plan.wish.type_v)
    layout = layout_of(header)
    n_ctx = min(layout.n_ctx_train or USUAL_CONTEXT, USUAL_CONTEXT)
    f16 = kv_bytes(layout, n_ctx, k=F16, v=F16).total
    tags = choice.tags
    tagged = (
        kv_bytes(layout, n_ctx, k=_types(tags.type_k), v=_types(tags.type_v)).total if tags else f16
    )
    return Peek(choice, n_ctx, f16, tagged)


def _types(names: CacheTypes) -> CacheType | tuple[CacheType, ...]:
    if isinstance(names, str):
        return parse_cache_type(names)
    return tuple(parse_cache_type(name) for name in names)


def _local(plan: PullPlan) -> Header | None:
    return read_header(plan.local) if plan.local else None
