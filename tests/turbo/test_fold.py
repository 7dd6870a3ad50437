"""The file that `balance` writes: its bytes, by gguf-py and by hand, and what a kill leaves."""

import json
import struct
from pathlib import Path

import gguf
import images
import killer
import numpy as np
import pytest
from turbo.attentions import FAMILIES, stats_of, write_family

from tqconvert import fs
from tqconvert.errors import LockedError, RefusedError, StorageError, UsageError
from tqconvert.gguf.header import read_header
from tqconvert.gguf.state import look
from tqconvert.gguf.tag import apply_tag, apply_untag, plan_tag, plan_untag
from tqconvert.gguf.tags import PAGE, KvTags, is_tagged, read_tags
from tqconvert.turbo.balanceplan import plan_balance
from tqconvert.turbo.fold import apply_balance
from tqconvert.turbo.kvstats import KvStats, parse_stats

FAMILY = FAMILIES["qwen3"]
TAGS = KvTags("turbo4", "turbo3", evidence='{"kld":0.01}')


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small qwen3."""
    return write_family(tmp_path / "m.gguf", FAMILY)


@pytest.fixture
def stats(file: Path) -> KvStats:
    """Statistics of it."""
    return parse_stats(json.dumps(stats_of(FAMILY, file)), subject="stats")


def fold(file: Path, out: Path, **options: object) -> Path:
    """Balance the file into `out`."""
    apply_balance(plan_balance(file, out, **options))  # type: ignore[arg-type]
    return out


def test_keys_and_tensors_by_gguf_py(file: Path, tmp_path: Path) -> None:
    """The input's keys and two more; all tensors where they were, all but the norms to the byte."""
    out = fold(file, tmp_path / "out.gguf")
    old, new = gguf.GGUFReader(file), gguf.GGUFReader(out)
    assert [key for key in new.fields if key not in old.fields] == [
        "turboquant.balance",
        "turboquant.header_pad",
    ]
    assert new.fields["turboquant.balance"].contents() == "weights"
    for key in old.fields:
        if not key.startswith("GGUF."):
            assert old.fields[key].contents() == new.fields[key].contents()
    changed = []
    for a, b in zip(old.tensors, new.tensors, strict=True):
        assert (a.name, a.tensor_type, a.shape.tolist()) == (
            b.name,
            b.tensor_type,
            b.shape.tolist(),
        )
        if not np.array_equal(a.data, b.data):
            changed.append(a.name)
    assert sorted(changed) == sorted(
        f"blk.{i}.attn_{s}_norm.weight" for i in range(2) for s in "qk"
    )
    assert out.stat().st_mode & 0o777 == 0o644


def test_data_keeps_its_place_in_a_block_of_the_file_system(file: Path, tmp_path: Path) -> None:
    """So that whole blocks can be shared, whatever the added keys are long."""
    place = read_header(file).data_start % 4096
    assert read_header(fold(file, tmp_path / "a.gguf")).data_start % 4096 == place


def test_same_input_same_bytes(file: Path, tmp_path: Path, stats: KvStats) -> None:
    """By any method, at any time."""
    for options in ({}, {"stats": stats}):
        a, b = (fold(file, tmp_path / name, **options) for name in ("a.gguf", "b.gguf"))
        assert a.read_bytes() == b.read_bytes()
        a.unlink()
        b.unlink()


def test_a_tagged_file_keeps_its_tags(file: Path, tmp_path: Path, stats: KvStats) -> None:
    """Page in front, the balance in the header behind it, and `untag` gives that file."""
    plain = fold(file, tmp_path / "plain.gguf", stats=stats)
    apply_tag(plan_tag(file, TAGS))
    out = fold(file, tmp_path / "out.gguf", stats=stats)
    header = read_header(out)
    assert is_tagged(header)
    assert look(out).kind == "tagged"
    assert read_tags(header) == TAGS._replace(balance="calibrated")
    assert out.read_bytes()[PAGE:] == plain.read_bytes()
    assert list(gguf.GGUFReader(out).fields).count("turboquant.balance") == 1
    apply_untag(plan_untag(out))
    assert out.read_bytes() == plain.read_bytes()


def test_tagging_a_balanced_file_tells_its_own_balance(file: Path, tmp_path: Path) -> None:
    """Whatever the tags say of it; changed and taken out like any other page."""
    out = fold(file, tmp_path / "out.gguf")
    before = out.read_bytes()
    for tags in (TAGS, KvTags("q8_0", "q8_0")):
        apply_tag(plan_tag(out, tags))
        assert read_tags(read_header(out)) == tags._replace(balance="weights")
        assert look(out).kind == "tagged"
        assert out.read_bytes()[PAGE:] == before
        assert struct.unpack_from("<Q", out.read_bytes(), 16)[0] == look(out).header.n_kv + 6
    apply_untag(plan_untag(out))
    assert out.read_bytes() == before
    assert plan_untag(out).method == "unchanged"


def test_a_balanced_file_is_not_balanced_again(file: Path, tmp_path: Path) -> None:
    """Tagged or not; a file that says `none` is."""
    out = fold(file, tmp_path / "out.gguf")
    with pytest.raises(RefusedError, match=r"is balanced already \(turboquant.balance weights\)"):
        plan_balance(out, tmp_path / "again.gguf")
    apply_tag(plan_tag(out, TAGS))
    with pytest.raises(RefusedError, match="is balanced already"):
        plan_balance(out, tmp_path / "again.gguf")
    writer_says_none = out.read_bytes()[PAGE:].replace(
        struct.pack("<Q", 7) + b"weights", struct.pack("<Q", 7) + b"none   "
    )
    assert writer_says_none != out.read_bytes()[PAGE:]


def test_keys_that_say_none_are_replaced(tmp_path: Path) -> None:
    """A key must not stand twice."""
    file = tmp_path / "m.gguf"
    write_family(tmp_path / "a.gguf", FAMILY)
    data = bytearray((tmp_path / "a.gguf").read_bytes())
    header = read_header(tmp_path / "a.gguf")
    added = struct.pack("<Q", 18) + b"turboquant.balance" + struct.pack("<IQ", 8, 4) + b"none"
    start = bytes(data[:16]) + struct.pack("<Q", header.n_kv + 1) + added
    start += bytes(data[24 : header.infos_end])
    start += bytes(-len(start) % 32)
    file.write_bytes(start + data[header.data_start :])
    out = fold(file, tmp_path / "out.gguf")
    fields = list(gguf.GGUFReader(out).fields)
    assert fields.count("turboquant.balance") == 1
    assert read_header(out).text("turboquant.balance") == "weights"


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "ext4"])
def test_shared_data_gives_the_same_bytes(
    file: Path, tmp_path: Path, kind: str, stats: KvStats
) -> None:
    """A reflink on file systems that have it, a copy elsewhere."""
    expected = fold(file, tmp_path / "out.gguf", stats=stats).read_bytes()
    with images.mounted(kind, tmp_path) as root:
        there = root / "m.gguf"
        there.write_bytes(file.read_bytes())
        plan = plan_balance(there, root / "out.gguf", stats=stats)
        result = apply_balance(plan)
        assert (plan.method, result.method) == (("copy" if kind == "ext4" else "reflink",) * 2)
        assert (root / "out.gguf").read_bytes() == expected
        assert there.read_bytes() == file.read_bytes()


def test_targets_that_must_stay_are_refused(file: Path, tmp_path: Path) -> None:
    """The file itself, a file that is there, a folder; with `replace` the second is replaced."""
    with pytest.raises(UsageError, match="is the file itself"):
        plan_balance(file, file, replace=True)
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    with pytest.raises(RefusedError, match="exists"):
        plan_balance(file, out)
    with pytest.raises(UsageError, match="is a folder"):
        plan_balance(file, tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        plan_balance(file, tmp_path / "none" / "out.gguf")
    assert out.read_bytes() == b"precious"
    assert read_header(fold(file, out, replace=True)).text("turboquant.balance") == "weights"


def test_an_input_that_changed_is_not_written(file: Path, tmp_path: Path) -> None:
    """The plan holds for what it looked at."""
    plan = plan_balance(file, tmp_path / "out.gguf")
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(LockedError, match="changed while the command ran"):
        apply_balance(plan)
    assert {p.name for p in tmp_path.iterdir()} == {"m.gguf"}


def test_a_full_disk_leaves_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room is asked for before the copy."""
    plan = plan_balance(file, tmp_path / "out.gguf")
    monkeypatch.setattr(fs, "can_clone", lambda _: False)
    monkeypatch.setattr(fs, "free_bytes", lambda _: 10)
    if fs.can_clone(tmp_path) or plan.method == "reflink":
        pytest.skip("needs a file system without reflinks (not btrfs)")
    with pytest.raises(StorageError, match="free"):
        apply_balance(plan)
    assert {p.name for p in tmp_path.iterdir()} == {"m.gguf"}


@pytest.mark.slow
def test_killed_at_every_write_it_leaves_nothing_or_all(file: Path, tmp_path: Path) -> None:
    """The input never changes; OUT is absent or whole; the next run ends with the right bytes."""
    expected = fold(file, tmp_path / "expected.gguf").read_bytes()
    pristine = tmp_path / "pristine"
    pristine.mkdir()
    (pristine / "m.gguf").write_bytes(file.read_bytes())
    command = ("balance", "@/m.gguf", "-o", "@/out.gguf")
    states = killer.states(pristine, tmp_path / "states", *command)
    assert len(states) > 15
    for state in states:
        kept = Path(state["folder"])
        assert (kept / "m.gguf").read_bytes() == file.read_bytes(), state
        out = kept / "out.gguf"
        assert not out.exists() or out.read_bytes() == expected, state
        fold(kept / "m.gguf", out, replace=True)
        assert out.read_bytes() == expected, state
        assert {p.name for p in kept.iterdir()} == {"m.gguf", "out.gguf"}, state
