"""Models in several files: `NAME-00001-of-00003.gguf` and the next.

The first shard holds the model's keys, so it alone is tagged. Source of the names and keys:
llama_split_path and llama_model_loader of llama.cpp (src/llama.cpp:545, src/llama-model-loader.cpp:595).
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tqconvert.errors import InvalidGgufError, NotFoundError
from tqconvert.gguf.header import Header
from tqconvert.gguf.state import look

_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def is_shard_name(path: str | os.PathLike[str]) -> bool:
    """Whether the file's name is that of a shard."""
    return _NAME.fullmatch(Path(path).name) is not None


def find_shards(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """All files of the model that `path` is a part of, in order; a plain file alone.

    Each shard's number, count and the sum of tensors must agree; the first may be as an interrupted
    `tag` left it. Raises NotFoundError that names a missing shard, InvalidGgufError for a set that
    does not belong together, and what `read_header` raises.
    """
    path = Path(path)
    header = look(path).header
    count = header.integer("split.count") or 1
    if count == 1:
        return (path,)
    paths = _paths(path, header, count)
    for shard in paths:
        if not shard.exists():
            raise NotFoundError(f"{shard}: missing shard of {count} of {paths[0].name}")
    check_set(paths, [header if shard == path else look(shard).header for shard in paths])
    return paths


def check_set(names: Sequence[str | Path], headers: Sequence[Header]) -> None:
    """Raise InvalidGgufError unless these, in this order, are all shards of one model."""
    for number, (shard, own) in enumerate(zip(names, headers, strict=True)):
        _check_numbers(shard, own, number, len(names))
    _check_tensors(names[0], headers)


def _paths(path: Path, header: Header, count: int) -> tuple[Path, ...]:
    """Paths of all shards beside this one, whose name must fit its keys."""
    number = header.integer("split.no") or 0
    name = _NAME.fullmatch(path.name)
    expected = f"-{number + 1:05d}-of-{count:05d}.gguf"
    if name is None or not path.name.endswith(expected):
        raise InvalidGgufError(
            f"{path}: is shard {number + 1} of {count} by its keys (expected a name ending in {expected})",
            hint="give the shards the names they were published under",
        )
    return tuple(
        path.with_name(f"{name['prefix']}-{i + 1:05d}-of-{count:05d}.gguf") for i in range(count)
    )


def _check_numbers(shard: str | Path, header: Header, number: int, count: int) -> None:
    own = (header.integer("split.no"), header.integer("split.count"))
    if own != (number, count):
        raise InvalidGgufError(
            f"{shard}: its keys say split.no {own[0]}, split.count {own[1]} (expected {number}, {count})"
        )


def _check_tensors(first: str | Path, headers: Sequence[Header]) -> None:
    """The tensors of all shards, each once, must be as many as the first one says."""
    expected = headers[0].integer("split.tensors.count")
    names = [tensor.name for header in headers for tensor in header.tensors]
    if len(set(names)) != len(names):
        raise InvalidGgufError(f"{first}: a tensor is in two shards; the set is mixed")
    if expected is not None and len(names) != expected:
        raise InvalidGgufError(
            f"{first}: the shards hold {len(names)} tensors (expected {expected})"
        )
