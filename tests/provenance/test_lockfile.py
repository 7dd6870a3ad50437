"""The lock file's bytes: stable, sorted, atomic, and refused where they are not its own."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from builders import tiny_gguf
from hypothesis import given
from hypothesis import strategies as st
from killer import states

from tqconvert.digest import Digest
from tqconvert.errors import BadLockError, NotFoundError, StorageError, TqError
from tqconvert.provenance.lockfile import (
    LockedModel,
    parse_lock,
    read_lock,
    render_lock,
    update_lock,
)

HEXES = st.text("0123456789abcdef", min_size=64, max_size=64).map(Digest)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
TYPES = TEXTS | st.lists(TEXTS, min_size=1, max_size=4).map(tuple)
MODELS = st.builds(
    LockedModel, target=TEXTS, name=TEXTS, source_manifest=HEXES, result_manifest=HEXES, tool=TEXTS,
    source=HEXES, result=HEXES, size=st.integers(0, 1 << 60), type_k=TYPES, type_v=TYPES,
)  # fmt: skip


def model(target: str, n: int = 1) -> LockedModel:
    """A tagged model."""
    a, b, c, d = (Digest(f"{n * 4 + i:064x}") for i in range(4))
    return LockedModel(
        target, target.removesuffix("-tq"), a, b, "tqconvert 1.2.3", c, d, 9, "q8_0", "turbo4"
    )


def test_the_bytes_by_hand() -> None:
    """One field a line, models by the name of the result; no digest stands where there is no GGUF."""
    bare = LockedModel("a:1", "a:1", Digest("0" * 64), Digest("1" * 64), "tqconvert 1")
    assert render_lock([model("b:1-tq"), bare]).decode() == (
        "# Written by `tqconvert pull NAME --lock`, checked by `tqconvert pull --locked`.\n"
        "# Belongs into version control; to drop a model, remove its block.\n"
        "version = 1\n"
        "\n"
        "[[model]]\n"
        'target = "a:1"\n'
        'name = "a:1"\n'
        f'source_manifest = "sha256:{0:064x}"\n'
        f'result_manifest = "sha256:{"1" * 64}"\n'
        "bytes = 0\n"
        'tool = "tqconvert 1"\n'
        "\n"
        "[[model]]\n"
        'target = "b:1-tq"\n'
        'name = "b:1"\n'
        f'source = "sha256:{6:064x}"\n'
        f'source_manifest = "sha256:{4:064x}"\n'
        f'result = "sha256:{7:064x}"\n'
        f'result_manifest = "sha256:{5:064x}"\n'
        "bytes = 9\n"
        'type_k = "q8_0"\n'
        'type_v = "turbo4"\n'
        'tool = "tqconvert 1.2.3"\n'
    )


@given(st.lists(MODELS, max_size=4, unique_by=lambda m: m.target), st.randoms())
def test_what_is_written_is_read(models: list[LockedModel], dice: random.Random) -> None:
    """Any names and types come back; the order in which models are given does not matter."""
    data = render_lock(models)
    assert set(parse_lock(data, subject="x")) == set(models)
    dice.shuffle(models)
    assert render_lock(models) == data
    assert render_lock(parse_lock(data, subject="x")) == data


@given(st.binary(max_size=300), st.integers(0, 2000), st.integers(0, 40))
def test_no_bytes_crash_the_reader(noise: bytes, at: int, cut: int) -> None:
    """Noise in a good file: an error of ours, or a file that is as good."""
    data = render_lock([model("a:1-tq"), model("b:1-tq", 2)])
    broken = data[:at] + noise + data[at + cut :]
    try:
        found = parse_lock(broken, subject="x")
    except TqError as e:
        assert isinstance(e, BadLockError)
    else:
        assert parse_lock(render_lock(found), subject="x") == found


GOOD = render_lock([model("a:1-tq")]).decode()
BAD = {
    "conflict": ("<<<<<<< HEAD\n" + GOOD, "merge conflict"),
    "json": ('{"version": 1}', "not TOML"),
    "bytes": ("\xff".encode("latin-1"), "not TOML"),
    "version": (GOOD.replace("version = 1", "version = 2"), "version 2"),
    "true": (GOOD.replace("version = 1", "version = true"), "version True"),
    "none": (GOOD.replace("version = 1", ""), "version None"),
    "field": (GOOD + "later = 1\n", "unknown field later"),
    "top": ("other = 1\n" + GOOD, "unknown field other"),
    "table": ("version = 1\n[model]\na = 1\n", "no array of tables"),
    "twice": (GOOD + GOOD.partition("version = 1\n")[2], "a:1-tq is there twice"),
    "digest": (GOOD.replace("sha256:", "md5:"), "not a digest"),
    "half": ("\n".join(x for x in GOOD.split("\n") if not x.startswith("source =")), "go together"),
    "no target": (GOOD.replace("target =", "tool2 ="), "unknown field tool2"),
    "types": (GOOD.replace('type_k = "q8_0"\n', ""), "type_k and type_v go together"),
    "type": (GOOD.replace('"q8_0"', "[]"), "expected a cache type"),
    "size": (GOOD.replace("bytes = 9", "bytes = -9"), "expected a number of bytes"),
    "long": ("#" * (5 << 20), "more than"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_files_are_refused_and_kept(tmp_path: Path, case: str) -> None:
    """The error names file and reason; an update leaves such a file alone."""
    data, word = BAD[case]
    path = tmp_path / "tqconvert.lock"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    before = path.read_bytes()
    with pytest.raises(BadLockError, match=word) as e:
        read_lock(path)
    assert str(path) in e.value.message
    with pytest.raises(BadLockError):
        update_lock(path, model("c:1-tq"))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["tqconvert.lock"]


def test_an_update_touches_its_model_alone(tmp_path: Path) -> None:
    """Others keep their lines; the same again writes nothing; the file's mode stays."""
    path = tmp_path / "tqconvert.lock"
    assert update_lock(path, model("b:1-tq"))
    path.chmod(0o664)
    assert update_lock(path, model("a:1-tq"))
    before, stamp = path.read_text(), path.stat()
    assert not update_lock(path, model("a:1-tq"))
    assert path.stat().st_ino == stamp.st_ino
    assert update_lock(path, model("a:1-tq", 5))
    now = path.read_text().splitlines()
    changed = [line for line in now if line not in before.splitlines()]
    assert [line.partition(" ")[0] for line in changed] == [
        "source", "source_manifest", "result", "result_manifest",
    ]  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o664
    assert os.listdir(tmp_path) == ["tqconvert.lock"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """The file that the link leads to is written."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "tqconvert.lock"
    link.symlink_to("real/models.lock")
    update_lock(link, model("a:1-tq"))
    assert link.is_symlink()
    assert len(read_lock(tmp_path / "real/models.lock")) == 1


def test_no_file_and_no_folder(tmp_path: Path) -> None:
    """Missing is `not found` with the command that writes it; a folder that is missing is I/O."""
    with pytest.raises(NotFoundError, match="no such file"):
        read_lock(tmp_path / "x")
    with pytest.raises(StorageError):
        update_lock(tmp_path / "none" / "x", model("a:1"))


def test_many_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    """Five processes put five models each into one file: all are there."""
    path = tmp_path / "tqconvert.lock"
    code = (
        "import sys; from pathlib import Path; from test_lockfile import model;"
        "from tqconvert.provenance.lockfile import update_lock;"
        "[update_lock(Path(sys.argv[1]), model(f'{sys.argv[2]}:{i}-tq')) for i in range(5)]"
    )
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path), f"m{n}"], env=env)
        for n in range(5)
    ]
    assert [process.wait(60) for process in running] == [0] * 5
    assert len(read_lock(path)) == 25
    assert os.listdir(tmp_path) == ["tqconvert.lock"]


@pytest.mark.slow
def test_killed_at_every_write(tmp_path: Path, run_cli) -> None:
    """Old bytes or new ones, never torn; the next run ends right and leaves nothing beside them."""
    pristine, work = tmp_path / "pristine", tmp_path / "work"
    pristine.mkdir()
    work.mkdir()
    tiny_gguf(pristine / "m.gguf")
    update_lock(pristine / "tqconvert.lock", model("other:1-tq"))
    arguments = ("pull", "@/m.gguf", "--as", "mine", "--store", "@/store", "--lock", "-q",
                 "--lock-file", "@/tqconvert.lock")  # fmt: skip
    filled = [a.replace("@", str(pristine)) for a in arguments if a != "--lock"]
    assert run_cli(*filled)[0] == 0
    old = (pristine / "tqconvert.lock").read_bytes()
    found = states(pristine, work, *arguments)
    assert {"write_at", "sync", "replace"} <= {s["call"] for s in found}
    news = set()
    for state in found:
        folder = Path(state["folder"])
        data = (folder / "tqconvert.lock").read_bytes()
        names = [m.target for m in read_lock(folder / "tqconvert.lock")]
        assert data == old or names == ["mine:latest", "other:1-tq"], state
        news.add(data == old)
        assert run_cli(*(a.replace("@", str(folder)) for a in arguments))[0] == 0
        assert [m.target for m in read_lock(folder / "tqconvert.lock")] == [
            "mine:latest",
            "other:1-tq",
        ]
        assert sorted(os.listdir(folder)) == ["m.gguf", "store", "tqconvert.lock"], state
    assert news == {True, False}
