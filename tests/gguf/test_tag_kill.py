"""`tag` and `untag` killed at every write: the next command always ends with the right bytes.

104 kills on ext4 and tmpfs, and those of reflinks where btrfs can be mounted.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import images
import killer
import pytest
from builders import LLAMA, gguf_bytes

from tqconvert.gguf.header import parse_header
from tqconvert.gguf.tags import KvTags, render_page

ORIGINAL = gguf_bytes({**LLAMA, "tokenizer.tokens": ["word"] * 3000}, {"a": (64, 64), "b": (32, 8)})
HEADER = parse_header(ORIGINAL, len(ORIGINAL))
LONG = json.dumps({"corpus": "x" * 2600})
"""Evidence that reaches over the half of the page, so that half a write tears it."""

TAGGED = render_page(HEADER, KvTags("q8_0", "turbo4")) + ORIGINAL
RETAGGED = (
    render_page(HEADER, KvTags("turbo4", "turbo4", evidence=LONG.replace(": ", ":"))) + ORIGINAL
)
TAG = ("--type-k", "q8_0", "--type-v", "turbo4")
RETAG = ("--type-k", "turbo4", "--type-v", "turbo4", "--evidence", "@/evidence.json")

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ram() -> Iterator[Path]:
    """A folder on tmpfs, which has neither range insertion nor reflinks."""
    import tempfile

    shm = Path("/dev/shm")
    if not shm.is_dir():
        pytest.skip("needs a tmpfs at /dev/shm")
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        yield Path(folder)


def pristine(folder: Path, content: bytes) -> Path:
    """A folder with one model and the evidence of it."""
    made = folder / "pristine"
    made.mkdir()
    (made / "m.gguf").write_bytes(content)
    (made / "evidence.json").write_text(LONG)
    return made


def check_all(
    run_cli: Cli, folder: Path, content: bytes, command: tuple[str, ...], tagged: bytes, tag: tuple[str, ...]
) -> list[tuple[str, str]]:  # fmt: skip
    """Kill `command` at every write; then `tag` gives `tagged` and `untag` the original, each time.

    The result is (function, when) of each kill.
    """
    states = killer.states(pristine(folder, content), folder / "states", *command)
    for state in states:
        kept = Path(state["folder"])
        other = kept.with_name(kept.name + "-untag")
        shutil.copytree(kept, other)
        options = [a.replace("@", str(kept)) for a in tag]
        assert run_cli("tag", kept / "m.gguf", *options)[0] == 0, state
        assert (kept / "m.gguf").read_bytes() == tagged, state
        assert run_cli("untag", other / "m.gguf")[0] == 0, state
        assert (other / "m.gguf").read_bytes() == ORIGINAL, state
        for left in (kept, other):
            assert {p.name for p in left.iterdir()} == {"m.gguf", "evidence.json"}, state
    return [(state["call"], state["when"]) for state in states]


def needs_insert(folder: Path) -> None:
    """Skip where the test's folder cannot grow files at their start."""
    from tqconvert import fs

    if not fs.can_insert(folder, 4096):
        pytest.skip("needs insert-range (ext4, xfs) in the temporary folder")


def test_insert_killed_at_each_of_7_points(run_cli: Cli, tmp_path: Path) -> None:
    """Range insertion, page write and sync: 7 kills, half a page written among them."""
    needs_insert(tmp_path)
    kills = check_all(
        run_cli, tmp_path, ORIGINAL, ("tag", "@/m.gguf", *RETAG), RETAGGED, RETAG
    )  # fmt: skip
    assert kills == [
        ("insert_range", "before"), ("insert_range", "after"), ("write_at", "before"),
        ("write_at", "middle"), ("write_at", "after"), ("sync", "before"), ("sync", "after"),
    ]  # fmt: skip


@pytest.mark.parametrize("before", [TAGGED, bytes(4096) + ORIGINAL], ids=["tagged", "interrupted"])
def test_edit_killed_at_each_of_5_points(run_cli: Cli, tmp_path: Path, before: bytes) -> None:
    """The one page write of an edit, and of the end of an interrupted tag: 5 kills each."""
    needs_insert(tmp_path)
    kills = check_all(run_cli, tmp_path, before, ("tag", "@/m.gguf", *RETAG), RETAGGED, RETAG)
    assert [call for call, _ in kills] == ["write_at"] * 3 + ["sync"] * 2


@pytest.mark.parametrize("before", [TAGGED, bytes(4096) + ORIGINAL], ids=["tagged", "interrupted"])
def test_collapse_killed_at_each_of_4_points(run_cli: Cli, tmp_path: Path, before: bytes) -> None:
    """Range removal and sync of untag and of a repair: 4 kills each."""
    needs_insert(tmp_path)
    kills = check_all(run_cli, tmp_path, before, ("untag", "@/m.gguf"), TAGGED, TAG)
    assert [call for call, _ in kills] == ["collapse_range"] * 2 + ["sync"] * 2


def test_edit_without_range_operations_killed_at_each_of_5_points(run_cli: Cli, ram: Path) -> None:
    """A torn page where the file system cannot take it out: 5 kills, repaired by a copy."""
    kills = check_all(run_cli, ram, TAGGED, ("tag", "@/m.gguf", *RETAG), RETAGGED, RETAG)
    assert [call for call, _ in kills] == ["write_at"] * 3 + ["sync"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "before", "n_kills"),
    [
        (("tag", "@/m.gguf", *TAG), ORIGINAL, 20),
        (("untag", "@/m.gguf"), TAGGED, 17),
        (("untag", "@/m.gguf"), bytes(4096) + ORIGINAL, 17),
    ],
    ids=["tag", "untag", "repair"],
)
def test_copy_killed_at_each_point(
    run_cli: Cli, ram: Path, command: tuple[str, ...], before: bytes, n_kills: int
) -> None:
    """A copy that takes the old file's name: 20 kills of tag, 17 of untag and of a repair."""
    kills = check_all(run_cli, ram, before, command, TAGGED, TAG)
    assert ("copy_range", "middle") in kills
    assert ("replace", "before") in kills
    assert len(kills) == n_kills


@pytest.mark.slow
def test_reflink_killed_at_each_point(run_cli: Cli, tmp_path: Path) -> None:
    """Shared data on btrfs, which has no range insertion: 15 kills of tag, 13 of untag."""
    with images.mounted("btrfs", tmp_path) as root:
        for name, before, command in (
            ("tag", ORIGINAL, ("tag", "@/m.gguf", *TAG)),
            ("untag", TAGGED, ("untag", "@/m.gguf")),
        ):
            (root / name).mkdir()
            kills = check_all(run_cli, root / name, before, command, TAGGED, TAG)
            assert ("clone_range", "after") in kills
            assert "copy_range" not in {call for call, _ in kills}
            assert len(kills) >= 13, kills


@pytest.mark.slow
def test_writing_another_file_killed_at_each_point(run_cli: Cli, tmp_path: Path) -> None:
    """`-o`: the source never changes, the other file is absent or right, the next run ends the work; 20 kills."""
    made = pristine(tmp_path, ORIGINAL)
    command = ("tag", "@/m.gguf", *TAG, "-o", "@/out.gguf")
    states = killer.states(made, tmp_path / "states", *command)
    for state in states:
        folder = Path(state["folder"])
        out = folder / "out.gguf"
        assert (folder / "m.gguf").read_bytes() == ORIGINAL, state
        assert not out.exists() or out.read_bytes() == TAGGED, state
        assert run_cli("tag", folder / "m.gguf", *TAG, "-o", out, "--yes")[0] == 0, state
        assert out.read_bytes() == TAGGED, state
        assert len(list(folder.iterdir())) == 3, state
    assert len(states) == 20


def test_every_function_that_writes_is_armed() -> None:
    """The functions at which commands are killed are all of `tqconvert.fs` but the named readers."""
    armed = killer.writers()
    assert {"insert_range", "collapse_range", "write_at", "copy_range", "replace", "sync"} <= set(
        armed
    )
    from tqconvert import fs

    assert all(hasattr(fs, name) for name in killer.READERS)
