"""Sharded sets: all files of a model from the name of any, and what does not belong together."""

from pathlib import Path
from typing import Any

import pytest
from builders import I32, LLAMA, U16, tiny_gguf

from tqconvert.errors import InvalidGgufError, NotFoundError
from tqconvert.gguf.shards import find_shards, is_shard_name


def make_set(folder: Path, count: int = 3, *, n_tensors: int | None = None) -> list[Path]:
    """A model in shards as gguf-split writes them, one tensor in each."""
    paths = []
    for i in range(count):
        keys: dict[str, Any] = {
            "split.no": (U16, i), "split.count": (U16, count),
            "split.tensors.count": (I32, count if n_tensors is None else n_tensors),
        }  # fmt: skip
        path = folder / f"model-Q4_K_M-{i + 1:05d}-of-{count:05d}.gguf"
        paths.append(
            tiny_gguf(path, {**(LLAMA if i == 0 else {}), **keys}, tensors={f"t{i}": (32, 2)})
        )
    return paths


def test_any_shard_names_all_in_order(tmp_path: Path) -> None:
    """First, middle and last give the same set."""
    paths = make_set(tmp_path)
    for path in paths:
        assert find_shards(path) == tuple(paths)


def test_a_plain_file_is_a_set_of_one(tmp_path: Path) -> None:
    """Also one whose split.count is 1, and one that is only named like a shard."""
    plain = tiny_gguf(tmp_path / "m.gguf")
    assert find_shards(plain) == (plain,)
    one = tiny_gguf(tmp_path / "one.gguf", {**LLAMA, "split.count": (U16, 1)})
    assert find_shards(one) == (one,)
    named = tiny_gguf(tmp_path / "m-00001-of-00002.gguf")
    assert find_shards(named) == (named,)


def test_links_to_a_store_keep_their_names(tmp_path: Path) -> None:
    """A Hugging Face snapshot: names beside each other, bytes elsewhere."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    links = []
    for path in make_set(tmp_path / "blobs"):
        link = tmp_path / "snapshot" / path.name
        link.symlink_to(path.rename(path.with_name(f"blob{len(links)}")))
        links.append(link)
    assert find_shards(links[1]) == tuple(links)


def test_an_interrupted_first_shard_is_found(tmp_path: Path) -> None:
    """Zeros in front of it do not hide the set from the command that repairs it."""
    paths = make_set(tmp_path)
    paths[0].write_bytes(bytes(4096) + paths[0].read_bytes())
    assert find_shards(paths[2]) == tuple(paths)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """The path that is not there, and of how many."""
    paths = make_set(tmp_path)
    paths[1].unlink()
    with pytest.raises(NotFoundError, match=r"00002-of-00003\.gguf: missing shard of 3"):
        find_shards(paths[0])


def test_a_name_that_does_not_fit_the_keys_is_an_error(tmp_path: Path) -> None:
    """The other shards cannot be found then."""
    path = make_set(tmp_path)[1]
    for name in ("other.gguf", "model-00003-of-00003.gguf", "model-00002-of-00004.gguf"):
        renamed = path.rename(tmp_path / "x").rename(tmp_path / name)
        with pytest.raises(InvalidGgufError, match=r"shard 2 of 3 .*-00002-of-00003\.gguf"):
            find_shards(renamed)
        path = renamed


def test_a_shard_of_another_set_is_an_error(tmp_path: Path) -> None:
    """By its number, its count, a tensor that stands twice, or the sum of tensors."""
    paths = make_set(tmp_path)
    good = paths[2].read_bytes()
    paths[2].write_bytes(paths[1].read_bytes())
    with pytest.raises(InvalidGgufError, match=r"split\.no 1, split\.count 3 \(expected 2, 3\)"):
        find_shards(paths[0])
    paths[2].write_bytes(good)
    tiny_gguf(paths[2], {"split.no": (U16, 2), "split.count": (U16, 3)}, tensors={"t0": (32, 2)})
    with pytest.raises(InvalidGgufError, match="in two shards"):
        find_shards(paths[0])
    with pytest.raises(InvalidGgufError, match=r"hold 3 tensors \(expected 7\)"):
        find_shards(make_set(tmp_path, n_tensors=7)[0])


def test_names_of_shards() -> None:
    """Five digits, as llama_split_path writes them."""
    assert is_shard_name("m-00001-of-00002.gguf")
    for name in ("m.gguf", "m-1-of-2.gguf", "-00001-of-00002.gguf", "m-00001-of-00002.bin"):
        assert not is_shard_name(name)
