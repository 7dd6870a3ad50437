"""What is measured: a model with its pairs of cache types, checked against its header."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqconvert.digest import digest_path
from tqconvert.errors import MeasureFailedError, NotFoundError, UsageError
from tqconvert.gguf.header import Header, read_header
from tqconvert.gguf.shards import find_shards
from tqconvert.kv.arch import layout_of
from tqconvert.kv.layers import Layout
from tqconvert.kv.pairs import Pair, make_pair, tagged_pair
from tqconvert.kv.size import kv_bytes
from tqconvert.kv.types import F16, parse_cache_type
from tqconvert.runtime.server import KvBuffer

FLOOR = "bf16"
"""Cache type of the noise floor: as exact as f16, but rounded elsewhere."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model file and what its header says."""

    path: Path
    header: Header = field(repr=False)
    layout: Layout = field(repr=False)

    @property
    def n_vocab(self) -> int:
        """Words of its vocabulary. Raises NotFoundError: without one there is no text to score."""
        entry = self.header.entries.get("tokenizer.ggml.tokens")
        if entry is None or not entry.n_elements:
            raise NotFoundError(f"{self.path}: has no vocabulary (tokenizer.ggml.tokens)")
        return entry.n_elements

    @property
    def tags(self) -> Pair | None:
        """The pair that its tags mean."""
        return tagged_pair(self.header, self.layout)

    def pair(self, type_k: str, type_v: str, origin: str = "requested") -> Pair:
        """One type per side. Raises UsageError for types that the model cannot use."""
        pair = make_pair(self.layout, origin, parse_cache_type(type_k), parse_cache_type(type_v))
        if pair.unusable:
            raise UsageError(
                f"{pair.name}: {pair.unusable}", hint="tqconvert plan shows what can be used"
            )
        return pair

    def bits(self, pair: Pair, n_ctx: int) -> float | None:
        """Bits per value of K and V, on average over what the cache holds."""
        k, v = pair.types
        own = kv_bytes(self.layout, n_ctx, k=k, v=v)
        f16 = kv_bytes(self.layout, n_ctx, k=F16, v=F16)
        whole = f16.k + f16.v
        return F16.bits * (own.k + own.v) / whole if whole else None


def open_subject(path: Path) -> Subject:
    """The model in a file or in the first of its shards. Raises what reading a header raises."""
    header = read_header(path)
    return Subject(path, header, layout_of(header))


def digests_of(subject: Subject) -> tuple[str, ...]:
    """sha256 of each file of the model: reads all of it."""
    return tuple(digest_path(shard).hex for shard in find_shards(subject.path))


def choose_pairs(
    subject: Subject, texts: Sequence[str], type_k: str | None, type_v: str | None
) -> tuple[Pair, ...]:
    """The pairs to measure: those given as K/V, that of --type-k and --type-v, else that of the tags.

    Raises UsageError, also if nothing is given and the model has no tags.
    """
    pairs = [subject.pair(*_halves(text)) for text in texts]
    tags = subject.tags
    if type_k is not None or type_v is not None:
        k, v = type_k or _uniform(tags, "k"), type_v or _uniform(tags, "v")
        pairs.append(subject.pair(k, v))
    if not pairs:
        if tags is None:
            raise UsageError(
                f"{subject.path}: has no tags that name cache types", hint="--pair q8_0/turbo4"
            )
        pairs.append(tags)
    return tuple(dict.fromkeys(pairs))


def check_caches(pair: Pair, caches: Sequence[KvBuffer]) -> None:
    """Compare the types of the runtime's log with those asked for. Raises MeasureFailedError."""
    for side, names in (("k", pair.effective_k), ("v", pair.effective_v)):
        used = {cache.type_k if side == "k" else cache.type_v for cache in caches}
        # How a log tells a cache of several types is the runtime's affair; that it is not f16, ours.
        mixed = len(set(names)) > 1
        expected = used != {"f16"} if mixed else used == set(names)
        if used and not expected:
            raise MeasureFailedError(
                f"{pair.name}: the runtime's {side.upper()} cache is {', '.join(sorted(used))}",
                hint="types by layer need a runtime that obeys tags" if mixed else None,
            )


def pair_json(
    subject: Subject, pair: Pair, n_ctx: int, caches: Sequence[KvBuffer]
) -> dict[str, Any]:
    """The part of a document; `kv_mib` is what the runtime's log says that it allocated."""
    bits = subject.bits(pair, n_ctx)
    return {
        "name": pair.name,
        "type_k": _names(pair.effective_k),
        "type_v": _names(pair.effective_v),
        "origin": pair.origin,
        "bits_per_value": None if bits is None else round(bits, 4),
        "kv_mib": round(sum(cache.mib for cache in caches), 2) if caches else None,
    }


def _names(names: tuple[str, ...]) -> str | list[str]:
    return names[0] if len(names) == 1 else list(names)


def _uniform(tags: Pair | None, side: str) -> str:
    """The tag's type of a side that was not given, f16 without one."""
    names = ("f16",) if tags is None else (tags.effective_k if side == "k" else tags.effective_v)
    if len(set(names)) > 1:
        raise UsageError(
            f"--type-{side}: needed, as the tags name a type for each layer", hint="--pair K/V"
        )
    return names[0]


def _halves(text: str) -> tuple[str, str]:
    k, slash, v = text.partition("/")
    if not (k and slash and v):
        raise UsageError(f"--pair {text}: not a pair (expected K/V, such as q8_0/turbo4)")
    return k, v
