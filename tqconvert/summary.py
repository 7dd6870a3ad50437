"""What a model's files say of it: the facts that `inspect` shows, sharded sets as one model."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tqconvert.gguf.header import Header, Tensor, read_header
from tqconvert.gguf.tags import BALANCE, KvTags, read_tags
from tqconvert.gguf.types import FILE_TYPES
from tqconvert.kv.arch import layout_of
from tqconvert.kv.layers import Layer, Layout
from tqconvert.units import format_runs


@dataclass(frozen=True)
class Summary:
    """A model by the headers of its files, in the order of the shards; the first has the keys."""

    headers: tuple[Header, ...]

    @property
    def header(self) -> Header:
        """The header with the keys."""
        return self.headers[0]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(h.path for h in self.headers if h.path is not None)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(h.size for h in self.headers)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors of all files."""
        return tuple(t for h in self.headers for t in h.tensors)

    @property
    def n_parameters(self) -> int:
        """Number of weights, counted from the tensors."""
        return sum(t.n_values for t in self.tensors)

    @cached_property
    def tensor_bytes(self) -> dict[str, int]:
        """Bytes by tensor type, the largest share first."""
        found: dict[str, int] = {}
        for t in self.tensors:
            found[t.type.name] = found.get(t.type.name, 0) + t.n_bytes
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def balance(self) -> str:
        """Which K/Q channel balance is folded into the weights: `none` where nobody says."""
        return self.header.text(BALANCE) or "none"

    @property
    def file_type(self) -> str:
        """Name of `general.file_type`; without the key, the tensor type with most bytes."""
        number = self.header.integer("general.file_type")
        if number is not None and number in FILE_TYPES:
            return FILE_TYPES[number]
        main = next(iter(self.tensor_bytes), "no tensors")
        if number is None:
            return f"mostly {main} (by its tensors)" if self.tensor_bytes else main
        return f"unknown file type {number}, mostly {main}"

    @cached_property
    def layout(self) -> Layout:
        """The layers. Raises InvalidGgufError for keys that no runtime accepts."""
        return layout_of(self.header)

    @cached_property
    def tags(self) -> KvTags | None:
        """The cache tags, None where there are none."""
        return read_tags(self.header)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know besides the figures."""
        notes = list(self.layout.notes)
        for h in self.headers:
            # Writers pad the last tensor as they pad the others.
            extra = h.size - h.data_end
            if h.tensors and extra >= h.alignment:
                notes.append(f"{h.path}: {extra} bytes after the last tensor")
        return tuple(notes)


class LayerGroup(NamedTuple):
    """Layers that are alike, by their numbers."""

    layer: Layer
    indices: tuple[int, ...]

    @property
    def span(self) -> str:
        """`0-4, 6-10`."""
        return format_runs(self.indices)


def layer_groups(layout: Layout) -> tuple[LayerGroup, ...]:
    """Layers put together where kind, heads, head dimensions and window agree."""
    groups: dict[tuple[object, ...], list[Layer]] = {}
    for x in layout.layers:
        alike = (x.kind, x.n_head, x.n_head_kv, x.head_dim_k, x.head_dim_v, x.window, x.is_nextn)
        groups.setdefault(alike, []).append(x)
    return tuple(LayerGroup(g[0], tuple(x.number for x in g)) for g in groups.values())


def read_summary(path: Path) -> Summary:
    """The model of which `path` is the file, or one shard.

    Raises NotFoundError if a shard is missing, InvalidGgufError if the shards are no set.
    """
    header = read_header(path)
    if (header.integer("split.count") or 1) == 1:
        return Summary((header,))
    from tqconvert.gguf.shards import find_shards

    return Summary(tuple(read_header(p) for p in find_shards(path)))
