"""Where a source comes from: folders, archives, the pinned sdist; and what its id depends on."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tqconvert.digest import digest_path
from tqconvert.errors import (
    DigestMismatchError,
    IntegrityError,
    LockedError,
    NetworkError,
    NotFoundError,
    StorageError,
    ToolMissingError,
    UsageError,
)
from tqconvert.runtime import source
from tqconvert.runtime.lock import held
from tqconvert.runtime.source import Source, open_source
from tqconvert.runtime.tree import changed_id, hash_files, tree_id

TREE = {
    "CMakeLists.txt": "p\n", "ggml/CMakeLists.txt": "g\n", "ggml/include/ggml.h": "h\n",
    "docs/a.md": "d\n", "models/v.gguf": "v\n",
}  # fmt: skip
Change = Callable[[Path], object]


def make_tree(root: Path) -> Path:
    """A tree that passes for llama.cpp."""
    for name, text in TREE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def pack(path: Path, prefix: str, *extra: tarfile.TarInfo) -> Path:
    """A .tar.gz with the tree below `prefix`."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in TREE.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
        for info in extra:
            tar.addfile(info)
    return path


def opened(text: object, cache: Path) -> Source:
    """The source, without the network."""
    return open_source(str(text), cache, os.environ, offline=True)


def test_one_tree_has_one_id(tmp_path: Path) -> None:
    """As a folder, an unpacked sdist, an sdist and a plain archive."""
    cache = tmp_path / "cache"
    plain = make_tree(tmp_path / "llama.cpp")
    make_tree(tmp_path / "sdist" / "vendor" / "llama.cpp")
    found = [
        opened(plain, cache),
        opened(tmp_path / "sdist", cache),
        opened(pack(tmp_path / "s.tar.gz", "llama_cpp_python-1/vendor/llama.cpp/"), cache),
        opened(pack(tmp_path / "p.tar.gz", "llama.cpp-b1/"), cache),
    ]
    assert len({s.tree for s in found}) == 1
    assert [s.kind for s in found] == ["folder", "folder", "archive", "archive"]
    assert found[2].archive_sha256 == digest_path(tmp_path / "s.tar.gz").hex
    assert sorted(found[0].files) == [
        "CMakeLists.txt",
        "ggml/CMakeLists.txt",
        "ggml/include/ggml.h",
    ]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda r: (r / "docs/b.md").write_text("x"), True),
        (lambda r: (r / "build-x").mkdir() or (r / "build-x/o").write_text("x"), True),
        (lambda r: (r / ".git").mkdir() or (r / ".git/HEAD").write_text("x"), True),
        (lambda r: os.utime(r / "CMakeLists.txt", (1, 1)), True),
        (lambda r: (r / "ggml/include/ggml.h").write_text("x"), False),
        (lambda r: (r / "ggml/include/ggml.h").rename(r / "ggml/include/g.h"), False),
        (lambda r: (r / "src").mkdir() or (r / "src/new.cpp").write_text(""), False),
        (lambda r: (r / "ggml/build").mkdir() or (r / "ggml/build/x.c").write_text(""), False),
    ],
)
def test_what_the_id_depends_on(tmp_path: Path, change: Change, same: bool) -> None:
    """Paths and contents of what a build reads, nothing else."""
    root = make_tree(tmp_path)
    before = tree_id(hash_files(root))
    change(root)
    assert (tree_id(hash_files(root)) == before) is same


def test_the_id_after_changes_is_that_of_the_changed_tree(tmp_path: Path) -> None:
    """A file changed, one made, one removed."""
    root = make_tree(tmp_path)
    files = hash_files(root)
    changes = {
        "ggml/include/ggml.h": b"2",
        "ggml/new.c": b"n",
        "CMakeLists.txt": None,
        "docs/x": b"",
    }
    expected = changed_id(files, changes)
    (root / "ggml/include/ggml.h").write_text("2")
    (root / "ggml/new.c").write_text("n")
    (root / "CMakeLists.txt").unlink()
    assert tree_id(hash_files(root)) == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A pipe would be waited for without end, and Ctrl-C would not help."""
    root = make_tree(tmp_path / "t")
    files = hash_files(root)
    os.mkfifo(root / "ggml/pipe")
    (root / "ggml/gone").symlink_to("nowhere")
    assert hash_files(root) == files


def test_a_repository_tells_its_commit(tmp_path: Path) -> None:
    """And whether it has changes; the index is not rewritten."""
    root = make_tree(tmp_path / "llama.cpp")
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for args in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "base"]):
        subprocess.run([*git, *args], check=True)
    index = (root / ".git" / "index").read_bytes()
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert opened(root, tmp_path / "c").commit == head.stdout.strip()
    (root / "CMakeLists.txt").write_text("other")
    assert opened(root, tmp_path / "c").commit == f"{head.stdout.strip()}-dirty"
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    subprocess.run(["git", "-C", root, "config", "core.fsmonitor", str(hook)], check=True)
    assert opened(root, tmp_path / "c").commit == f"{head.stdout.strip()}-dirty"
    assert not (tmp_path / "ran").exists()
    assert (root / ".git" / "index").read_bytes() == index


def test_an_archive_is_unpacked_once_and_watched(tmp_path: Path) -> None:
    """What somebody changed in the cache is unpacked anew; a killed unpacking leaves nothing."""
    archive, cache = pack(tmp_path / "p.tar.gz", "x/"), tmp_path / "cache"
    first = opened(archive, cache)
    inode = first.root.stat().st_ino
    assert opened(archive, cache).root.stat().st_ino == inode
    (first.root / "CMakeLists.txt").write_text("edited")
    assert opened(archive, cache).tree == first.tree
    (first.root.parent / "tree-id").unlink()
    stale = first.root.parent.with_suffix(".partial")
    stale.mkdir()
    assert opened(archive, cache).tree == first.tree
    assert not stale.exists()
    with held(first.root.parent.with_suffix(".lock"), "x"), pytest.raises(LockedError):
        opened(archive, cache)


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    """A link in an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member",
    [
        link("x/src/evil", tarfile.SYMTYPE, "/etc"),
        link("x/src/evil", tarfile.SYMTYPE, "../../../out"),
        link("x/src/evil", tarfile.LNKTYPE, "/etc/passwd"),
        link("x/../../evil", tarfile.REGTYPE, ""),
        link("x/src/fifo", tarfile.FIFOTYPE, ""),
    ],
    ids=["absolute link", "link upwards", "hard link", "path upwards", "fifo"],
)
def test_an_archive_that_leads_out_is_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    """Nothing is written outside of the cache, and no tree is left."""
    archive, cache = pack(tmp_path / "p.tar.gz", "x/", member), tmp_path / "in" / "cache"
    with pytest.raises(IntegrityError):
        opened(archive, cache)
    assert not list(cache.rglob("llama.cpp"))
    assert {p.name for p in tmp_path.rglob("*")} == {"p.tar.gz", "in", "cache", "sources"} | {
        p.name for p in cache.rglob("*.lock")
    }


def test_what_is_no_source(tmp_path: Path) -> None:
    """Each with its own error."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.zip").write_text("")
    (tmp_path / "x.tar.gz").write_text("no archive")
    whole = pack(tmp_path / "y.tar.gz", "y/").read_bytes()
    (tmp_path / "y.tar.gz").write_bytes(whole[: len(whole) // 2])
    cache = tmp_path / "cache"
    with pytest.raises(NotFoundError, match=r"no llama\.cpp tree"):
        opened(tmp_path / "empty", cache)
    with pytest.raises(NotFoundError, match="no such folder or archive"):
        opened(tmp_path / "none", cache)
    with pytest.raises(UsageError, match="expected a folder, an archive"):
        opened(tmp_path / "x.zip", cache)
    for name in ("x.tar.gz", "y.tar.gz"):
        with pytest.raises(IntegrityError, match="not an archive"):
            opened(tmp_path / name, cache)


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive that plays the pinned sdist, and a pip that fetches it."""
    archive = pack(tmp_path / "index.tar.gz", "llama_cpp_python-0.3.36/vendor/llama.cpp/")
    sha256 = digest_path(archive).hex
    monkeypatch.setattr(source, "PINNED_SHA256", sha256)
    monkeypatch.setattr(source, "COMMITS", {sha256: "abc"})
    package = tmp_path / "fake" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import os, shutil, sys\n"
        "folder = sys.argv[sys.argv.index('--dest') + 1]\n"
        "if 'FULL' in os.environ:\n"
        "    sys.exit('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device')\n"
        "if 'PIP_INDEX_URL' not in os.environ:\n"
        "    sys.exit('ERROR: No matching distribution found for ' + sys.argv[-1])\n"
        f"shutil.copy(os.environ['PIP_INDEX_URL'], folder + '/{source.PINNED_FILE}')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    return archive


def test_the_pinned_sdist_is_fetched_once(
    pinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the user's pip settings; afterwards no network is needed."""
    monkeypatch.setenv("PIP_INDEX_URL", str(pinned))
    cache, said = tmp_path / "cache", []
    first = open_source("sdist", cache, os.environ, note=said.append)
    assert (first.kind, first.commit, said) == (
        "sdist",
        "abc",
        ["fetching llama-cpp-python==0.3.36"],
    )
    assert opened("sdist", cache).tree == first.tree
    assert [p.name for p in (cache / "sdists").iterdir()] == [source.PINNED_FILE]


def test_a_fetch_that_fails(pinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told in pip's own words; a full disk, no pip, --offline; another file's digest; nothing is kept."""
    cache = tmp_path / "cache"
    with pytest.raises(NetworkError, match="No matching distribution"):
        open_source("sdist", cache, os.environ)
    with pytest.raises(NetworkError, match="--offline forbids"):
        opened("sdist", cache)
    with pytest.raises(StorageError, match="No space left"):
        open_source("sdist", cache, {**os.environ, "FULL": "1"})
    with (
        monkeypatch.context() as patch,
        pytest.raises(ToolMissingError, match="pip: not installed"),
    ):
        patch.setattr("importlib.util.find_spec", lambda _: None)
        open_source("sdist", cache, os.environ)
    other = tmp_path / "other.tar.gz"
    shutil.copy(pinned, other)
    with other.open("ab") as f:
        f.write(b"x")
    monkeypatch.setenv("PIP_INDEX_URL", str(other))
    with pytest.raises(DigestMismatchError, match=digest_path(other).hex):
        open_source("sdist", cache, os.environ)
    assert list((cache / "sdists").iterdir()) == []


def test_a_damaged_sdist_in_the_cache(pinned: Path, tmp_path: Path) -> None:
    """It is not unpacked, and the hint says what to do."""
    cache = tmp_path / "cache"
    target = source.pinned_archive(cache)
    target.parent.mkdir(parents=True)
    target.write_bytes(pinned.read_bytes()[:-1])
    with pytest.raises(DigestMismatchError) as caught:
        opened("sdist", cache)
    assert str(target) in str(caught.value.hint)
