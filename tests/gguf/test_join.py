"""Shards as one GGUF: byte for byte the file that was split, and what cannot be joined."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import I32, LLAMA, U16, gguf_bytes
from shards import split_gguf

from tqconvert.errors import InvalidGgufError
from tqconvert.gguf.header import parse_header
from tqconvert.gguf.join import Shard, join

TENSORS = {f"blk.{i}.w": (32, 1 + i) for i in range(7)}


def shards_of(files: dict[str, bytes]) -> list[Shard]:
    """The shards with their heads alone."""
    found = []
    for name, data in files.items():
        header = parse_header(data, len(data), subject=name)
        found.append(Shard(name, data[: header.data_start], header))
    return found


def whole(files: dict[str, bytes]) -> bytes:
    """The joined file, put together from its pieces."""
    joined = join(shards_of(files))
    out = bytearray(joined.size)
    out[: len(joined.header)] = joined.header
    for piece, data in zip(joined.pieces, files.values(), strict=True):
        assert piece.start + piece.length == len(data)
        out[piece.at : piece.at + piece.length] = data[piece.start :]
    return bytes(out)


@pytest.mark.parametrize("counts", [[7], [1, 6], [0, 3, 4], [1] * 7, [2, 2, 3]])
def test_joining_undoes_splitting(counts: list[int]) -> None:
    """The original comes back to the byte, also where the first shard has keys alone."""
    original = gguf_bytes({**LLAMA, "tokens": ["a", "bc"] * 40}, TENSORS)
    files = split_gguf(original, "m", counts)
    assert whole(files) == original


def test_random_splits() -> None:
    """50 random models and splits."""
    rng = random.Random(5)
    for _ in range(50):
        tensors = {f"t{i}": (32 * rng.randint(1, 3), rng.randint(1, 4)) for i in range(9)}
        original = gguf_bytes(LLAMA, tensors, fill=rng.randrange(99))
        cuts = sorted(rng.sample(range(10), rng.randint(1, 4)))
        counts = [b - a for a, b in zip([0, *cuts], [*cuts, 9], strict=True)]
        assert whole(split_gguf(original, "m", counts)) == original


def test_shards_that_gguf_py_wrote(tmp_path: Path) -> None:
    """The writer of gguf-py splits, its reader finds every tensor with its values in the whole."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    rng = np.random.default_rng(3)
    values = {f"t{i}": rng.random((3, 32 + 32 * i), np.float32) for i in range(5)}
    writer.add_block_count(2)
    for name, value in values.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files = {p.name: p.read_bytes() for p in sorted(tmp_path.glob("m-*.gguf"))}
    assert len(files) == 3
    (tmp_path / "whole.gguf").write_bytes(whole(files))
    reader: Any = gguf.GGUFReader(tmp_path / "whole.gguf")
    assert {t.name for t in reader.tensors} == set(values)
    for tensor in reader.tensors:
        assert np.array_equal(tensor.data, values[tensor.name])
    assert not [key for key in reader.fields if key.startswith("split.")]


def test_an_unpadded_end_is_padded() -> None:
    """A shard that ends with its last value and not with its padding leaves no gap."""
    original = gguf_bytes(LLAMA, {"a": (3, 3), "b": (5, 5)})
    files = split_gguf(original, "m", [1, 1])
    first, second = files
    files[first] = files[first][:-28]  # 36 bytes of values in 64
    joined = join(shards_of(files))
    assert [p.at for p in joined.pieces][1] == joined.pieces[0].at + 64
    assert joined.size == len(original)
    assert second in files


def test_shards_that_do_not_fit(tmp_path: Path) -> None:
    """Another model's shard, one with a tail, another alignment: each is named."""
    original = gguf_bytes(LLAMA, TENSORS)
    files = split_gguf(original, "m", [3, 4])
    names = list(files)
    with pytest.raises(InvalidGgufError, match=r"split\.no 1"):
        join(shards_of({names[1]: files[names[1]], names[0]: files[names[0]]}))
    other = split_gguf(gguf_bytes(LLAMA, {f"u{i}": (32,) for i in range(9)}), "m", [3, 6])
    with pytest.raises(InvalidGgufError, match=r"hold 9 tensors \(expected 7\)"):
        join(shards_of({names[0]: files[names[0]], names[1]: other[names[1]]}))
    tailed = {names[0]: files[names[0]] + b"tail" * 8, names[1]: files[names[1]]}
    with pytest.raises(InvalidGgufError, match="32 bytes behind its last tensor"):
        join(shards_of(tailed))
    keys = {"split.no": (U16, 1), "split.count": (U16, 2), "split.tensors.count": (I32, 7)}
    last = {k: v for k, v in TENSORS.items() if k >= "blk.3"}
    wide = {names[0]: files[names[0]], names[1]: gguf_bytes(keys, last, alignment=64)}
    with pytest.raises(InvalidGgufError, match="alignment 64, the first shard has 32"):
        join(shards_of(wide))
    assert not list(tmp_path.iterdir())
