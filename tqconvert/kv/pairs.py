"""Pairs of cache types to plan with: the usual ones, those asked for and those of a file's tags."""

from dataclasses import dataclass

from tqconvert.gguf.header import Header
from tqconvert.gguf.tags import read_tags
from tqconvert.kv.layers import Layout
from tqconvert.kv.size import Types, unusable, unusable_pair
from tqconvert.kv.types import CACHE_TYPES, CacheType, parse_cache_type

PAIRS = (
    ("f16", "f16"), ("q8_0", "q8_0"), ("q5_0", "q5_0"), ("q4_0", "q4_0"), ("q8_0", "turbo4"),
    ("q8_0", "turbo3"), ("turbo4", "turbo4"), ("turbo3", "turbo3"), ("turbo2", "turbo2"),
)  # fmt: skip
Names = tuple[str, ...]
"""One name for all layers, or one for each."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Types that somebody may ask for, and what the runtime makes of them."""

    origin: str
    """`standard`, `requested` or `tagged`."""
    type_k: Names
    type_v: Names
    effective_k: Names
    effective_v: Names
    unusable: str | None = None
    """Why the runtime refuses the pair, or what it replaces of a tag."""

    @property
    def runs(self) -> bool:
        """Whether a runtime starts with these types; of a tag it takes what it can."""
        return self.unusable is None or self.origin == "tagged"

    @property
    def name(self) -> str:
        """`q8_0/turbo4`; a mixture as `f16 x2 + turbo4 x14`."""
        return f"{_named(self.type_k)}/{_named(self.type_v)}"

    @property
    def types(self) -> tuple[Types, Types]:
        """What the runtime makes of K and V."""
        return _types(self.effective_k), _types(self.effective_v)

    @property
    def is_turbo(self) -> bool:
        """Whether it needs the patched runtime."""
        return any(CACHE_TYPES[n].is_turbo for n in self.effective_k + self.effective_v)


def make_pairs(
    header: Header, layout: Layout, type_k: str | None, type_v: str | None
) -> tuple[Pair, ...]:
    """The standard pairs, the one asked for and the one of the file's tags. Raises UsageError."""
    pairs = [make_pair(layout, "standard", CACHE_TYPES[k], CACHE_TYPES[v]) for k, v in PAIRS]
    if type_k is not None or type_v is not None:
        k, v = parse_cache_type(type_k or "f16"), parse_cache_type(type_v or "f16")
        pairs.append(make_pair(layout, "requested", k, v))
    if tagged := tagged_pair(header, layout):
        pairs.append(tagged)
    return tuple(pairs)


def make_pair(layout: Layout, origin: str, k: CacheType, v: CacheType) -> Pair:
    """One type per side for all layers."""
    names = (k.name,), (v.name,)
    return Pair(origin, *names, *names, unusable=unusable_pair(layout, k, v))


def tagged_pair(header: Header, layout: Layout) -> Pair | None:
    """The pair of the file's tags; what cannot be used of them is f16 on that side or layer."""
    tags = read_tags(header)
    if tags is None:
        return None
    type_k = (tags.type_k,) if isinstance(tags.type_k, str) else tags.type_k
    type_v = (tags.type_v,) if isinstance(tags.type_v, str) else tags.type_v
    effective_k, bad_k = _effective(layout, type_k, "k")
    effective_v, bad_v = _effective(layout, type_v, "v")
    problems = [p for p in (bad_k, bad_v) if p]
    if layout.is_mla and effective_k != effective_v:
        problems.append("MLA takes equal types only")
        effective_k = effective_v = ("f16",)
    reason = f"{'; '.join(problems)}: f16 instead" if problems else None
    return Pair("tagged", type_k, type_v, effective_k, effective_v, reason)


def _effective(layout: Layout, names: Names, side: str) -> tuple[Names, str | None]:
    """What of the names the runtime uses, and the first reason against the others."""
    if len(names) not in (1, len(layout.layers)):
        return ("f16",), f"{len(names)} types for {len(layout.layers)} layers"
    result, reason = [], None
    for name in names:
        problem = _refused(layout, name, side)
        reason = reason or problem
        result.append("f16" if problem else name)
    return tuple(result), reason


def _refused(layout: Layout, name: str, side: str) -> str | None:
    """Why not; the runtime compares names to the letter, other than our command line does."""
    found = CACHE_TYPES.get(name)
    return unusable(layout, found, side) if found else f"{name} is not a cache type"


def _types(names: Names) -> Types:
    types = tuple(CACHE_TYPES[name] for name in names)
    return types[0] if len(types) == 1 else types


def _named(names: Names) -> str:
    counts = {name: names.count(name) for name in names}
    if len(counts) == 1:
        return names[0]
    return " + ".join(f"{name} x{n}" for name, n in counts.items())
