"""The digest of a model's weights: what does not change it, what does, and what it says of changes."""

import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from builders import LLAMA, gguf_bytes, tiny_gguf

from tqconvert.digest import digest_bytes
from tqconvert.errors import InvalidGgufError, TruncatedGgufError
from tqconvert.gguf import fingerprint as module
from tqconvert.gguf.fingerprint import compare, fingerprint_files, fingerprint_of

Cli = Callable[..., tuple[int, str, str]]
NAMES = ("token_embd.weight", "blk.0.attn_k.weight", "blk.1.attn_k.weight", "output_norm.weight")


def weights(seed: int = 1) -> dict[str, np.ndarray]:
    """Four tensors of random values."""
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal((3, 32)).astype(np.float32) for n in NAMES}


def write(path: Path, tensors: dict[str, np.ndarray], *, shards: int = 0, **keys: int) -> Path:
    """The model by gguf-py, which pads, orders and splits as it does for everybody."""
    options = {"split_max_tensors": shards} if shards else {}
    writer = gguf.GGUFWriter(path, "llama", **options)
    for key, value in keys.items():
        writer.add_uint32(f"test.{key}", value)
    if "alignment" in keys:
        writer.add_custom_alignment(keys["alignment"])
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_text_is_what_the_page_says(tmp_path: Path) -> None:
    """Worked by hand: sorted lines of digest, type, shape, length of name, name; sha256 of them."""
    data = weights()
    found = fingerprint_of(write(tmp_path / "m.gguf", data))
    lines = [
        f"{digest_bytes(data[name].tobytes()).hex} F32 32,3 {len(name)} {name}\n"
        for name in sorted(NAMES)
    ]
    text = "tqconvert.fingerprint/1 little 4\n" + "".join(lines)
    assert found.text == text
    assert found.digest == digest_bytes(text.encode())


def test_metadata_alignment_and_order_do_not_enter(tmp_path: Path) -> None:
    """Other keys, another alignment, tensors in another order: the same weights."""
    data = weights()
    plain = fingerprint_of(write(tmp_path / "a.gguf", data))
    turned = dict(reversed(data.items()))
    assert fingerprint_of(write(tmp_path / "b.gguf", turned, alignment=256, more=7)) == plain


def test_shards_are_the_model(tmp_path: Path) -> None:
    """Split by gguf-py into two files: any shard gives the fingerprint of the whole; one alone does not."""
    data = weights()
    whole = fingerprint_of(write(tmp_path / "w.gguf", data))
    write(tmp_path / "s.gguf", data, shards=2)
    shards = sorted(tmp_path.glob("s-*.gguf"))
    assert len(shards) == 2
    assert [fingerprint_of(path) for path in shards] == [whole, whole]
    assert fingerprint_files(shards[:1]).digest != whole.digest


def test_tagging_keeps_it_and_so_does_a_torn_tag(tmp_path: Path, run_cli: Cli) -> None:
    """The page in front is no weight, whole or torn."""
    path = tiny_gguf(tmp_path / "m.gguf")
    before = fingerprint_of(path)
    assert run_cli("tag", path)[0] == 0
    assert fingerprint_of(path) == before
    with path.open("r+b") as f:
        f.seek(100)
        f.write(b"\xff" * 9)
    assert fingerprint_of(path) == before


@pytest.mark.parametrize("seed", range(20))
def test_any_byte_of_any_tensor_counts(tmp_path: Path, seed: int) -> None:
    """One bit of one byte: another fingerprint, and the tensor that holds it is named."""
    from tqconvert.gguf.header import read_header

    path = tiny_gguf(tmp_path / "m.gguf", tensors=dict.fromkeys(NAMES, (32, 3)))
    before = fingerprint_of(path)
    header = read_header(path)
    dice = random.Random(seed)
    tensor = dice.choice(header.tensors)
    at = header.data_start + tensor.offset + dice.randrange(tensor.n_bytes)
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    result = compare(before, fingerprint_of(path))
    assert not result.same
    assert [(c.name, c.what) for c in result.changed] == [(tensor.name, ("data",))]
    assert (result.n_equal, result.missing, result.added) == (3, (), ())


def test_padding_does_not_count(tmp_path: Path) -> None:
    """Bytes between tensors and behind the last belong to none."""
    data = gguf_bytes(LLAMA, {"a": (3,), "b": (3,)})
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    before = fingerprint_of(path)
    path.write_bytes(data[:-20] + b"\xff" * 20 + b"more")
    assert fingerprint_of(path) == before


def test_ones_at_the_end_of_a_shape_do_not_count(tmp_path: Path) -> None:
    """[32, 1, 1] is what llama.cpp writes as [32]; [1, 32] is another shape, and so is [32, 1, 2]."""
    found = {
        shape: fingerprint_of(tiny_gguf(tmp_path / "m.gguf", tensors={"a": shape})).digest
        for shape in ((32,), (32, 1), (32, 1, 1), (1, 32), (16, 2))
    }
    assert found[(32,)] == found[(32, 1)] == found[(32, 1, 1)]
    assert len(set(found.values())) == 3


def test_names_cannot_be_mistaken_for_lines(tmp_path: Path) -> None:
    """A name that holds a line of its own does not give the fingerprint of two tensors."""
    digest = "0" * 64
    one = fingerprint_of(tiny_gguf(tmp_path / "a.gguf", tensors={f"a\n{digest} F32 1 1 b": (1,)}))
    two = fingerprint_of(tiny_gguf(tmp_path / "b.gguf", tensors={"a": (1,), "b": (1,)}))
    assert one.text.count("\n") == two.text.count("\n")
    assert one.digest != two.digest


def test_byte_order_is_part_of_it(tmp_path: Path) -> None:
    """The bytes of a big-endian file are others: it says so and does not call them equal."""
    little = fingerprint_of(tiny_gguf(tmp_path / "l.gguf"))
    big = fingerprint_of(tiny_gguf(tmp_path / "b.gguf", big_endian=True))
    assert big.byte_order == "big"
    assert big.digest != little.digest


def test_a_tensor_in_two_files_is_no_model(tmp_path: Path) -> None:
    """Files that were named as a set by hand, but are none."""
    paths = [tiny_gguf(tmp_path / f"{i}.gguf") for i in range(2)]
    with pytest.raises(InvalidGgufError, match=r"token_embd.weight is in two"):
        fingerprint_files(paths)


def test_a_file_that_shrinks_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off under the reader: an error, no fingerprint, and no thread is left."""
    path = tiny_gguf(tmp_path / "m.gguf", tensors={"a": (1024, 1024), "b": (1024, 1024)})
    read = module.fs.read_into

    def cut(fd: int, buffer: memoryview, offset: int) -> int:
        os.truncate(path, 1 << 20)
        return read(fd, buffer, offset)

    before = threading.active_count()
    monkeypatch.setattr(module.fs, "read_into", cut)
    with pytest.raises(TruncatedGgufError, match="shorter"):
        fingerprint_of(path)
    assert threading.active_count() == before


def test_the_command_compares(tmp_path: Path, run_cli: Cli) -> None:
    """Equal 0, different 1; changed, missing and added tensors by name; a written-down digest too."""
    a = write(tmp_path / "a.gguf", weights())
    other = weights()
    for name in ("blk.0.attn_k.weight", "blk.1.attn_k.weight"):
        other[name] = other[name] * 2
    other["new.weight"] = other.pop("output_norm.weight")
    other["token_embd.weight"] = other["token_embd.weight"].astype(np.float16)
    b = write(tmp_path / "b.gguf", other)
    digest = run_cli("fingerprint", a, "-q")[1].strip()
    assert digest == str(fingerprint_of(a).digest)
    assert run_cli("fingerprint", a, "--against", digest)[0] == 0
    code, out, _ = run_cli("fingerprint", a, "--against", f"sha256:{'0' * 64}")
    assert (code, "other weights" in out) == (1, True)
    assert run_cli("fingerprint", a, "--against", "sha256:12")[0] == 2
    shutil.copyfile(a, tmp_path / "c.gguf")
    assert run_cli("fingerprint", tmp_path / "c.gguf", "--against", a)[0] == 0
    code, out, _ = run_cli("fingerprint", b, "--against", a)
    assert code == 1
    assert out.splitlines()[1:] == [
        f"other weights than {a}: 0 tensors are equal",
        "  changed  blk.*.attn_k.weight  layers 0-1  data",
        "  changed  token_embd.weight                F32 -> F16",
        "  missing  output_norm.weight",
        "  added    new.weight",
    ]
    code, out, _ = run_cli("fingerprint", b, "--against", a, "--tensors", "--json")
    document = json.loads(out)
    assert (code, document["same"], len(document["tensors"])) == (1, False, 4)
    assert [c["name"] for c in document["against"]["changed"]] == [*sorted(NAMES)[:2], NAMES[0]]
    assert document["against"]["missing"] == ["output_norm.weight"]


def test_a_model_of_the_store(tmp_path: Path, run_cli: Cli) -> None:
    """By name: the tagged model in the store against the file that it was pulled from."""
    path = tiny_gguf(tmp_path / "m.gguf")
    assert run_cli("pull", path, "--as", "mine")[0] == 0
    assert run_cli("fingerprint", "mine", "--against", path)[0] == 0
    assert run_cli("fingerprint", "nothing")[0] == 5
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    assert run_cli("fingerprint", tmp_path / "bad.gguf")[0] == 4


def test_gemma_tagged_and_balanced(gemma: Path, tmp_path: Path, run_cli: Cli) -> None:
    """A real model: tagging keeps the weights; balance changes norms of Q and K in all 18 layers."""
    tagged, balanced = tmp_path / "t.gguf", tmp_path / "b.gguf"
    assert run_cli("tag", gemma, "-o", tagged)[0] == 0
    assert run_cli("fingerprint", tagged, "--against", gemma)[0] == 0
    assert run_cli("balance", gemma, "-o", balanced)[0] == 0
    code, out, _ = run_cli("fingerprint", balanced, "--against", gemma, "--json")
    assert code == 1
    changed = [c["name"] for c in json.loads(out)["against"]["changed"]]
    assert len(changed) == 36
    assert all(name.endswith(("attn_k_norm.weight", "attn_q_norm.weight")) for name in changed)
