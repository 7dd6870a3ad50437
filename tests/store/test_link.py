"""A file at a second path: which method is taken, and what it leaves."""

import errno
import os
from pathlib import Path

import pytest

from tqconvert import fs
from tqconvert.errors import StorageError
from tqconvert.store.link import DEFAULT_METHODS, LinkMethod, link_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of the user's."""
    path = tmp_path / "source.gguf"
    path.write_bytes(os.urandom(70_000))
    path.chmod(0o644)
    return path


def no_reflink(*args: object, **kwargs: object) -> None:
    """Stand for a file system without reflinks."""
    raise OSError(errno.EOPNOTSUPP, "no reflink here")


def test_symlinks_are_never_made_unasked() -> None:
    """The default order is reflink, hard link, copy."""
    assert DEFAULT_METHODS == (LinkMethod.REFLINK, LinkMethod.HARDLINK, LinkMethod.COPY)


def test_a_file_on_the_same_disk_is_not_copied(tmp_path: Path, source: Path) -> None:
    """Where the file system cannot share blocks, the second name is a hard link."""
    target = tmp_path / "target"
    method = link_file(source, target)
    assert target.read_bytes() == source.read_bytes()
    if method is LinkMethod.HARDLINK:
        assert target.samefile(source)
    else:
        assert method is LinkMethod.REFLINK
        assert target.stat().st_nlink == 1


def test_a_symlinked_source_gives_its_file_and_not_the_link(tmp_path: Path, source: Path) -> None:
    """A hard link to a symbolic link would break when the link moves."""
    pointer = tmp_path / "pointer.gguf"
    pointer.symlink_to(source.name)
    target = tmp_path / "target"
    link_file(pointer, target, methods=[LinkMethod.HARDLINK])
    assert not target.is_symlink()
    assert target.samefile(source)


def test_another_disk_gets_a_copy(source: Path) -> None:
    """Hard links and reflinks end at the file system's border."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == source.stat().st_dev:
        pytest.skip("needs a tmpfs at /dev/shm")
    target = shm / f"tqconvert-test-{os.getpid()}"
    steps: list[int] = []
    try:
        assert link_file(source, target, advance=steps.append) is LinkMethod.COPY
        assert target.read_bytes() == source.read_bytes()
        assert sum(steps) == 70_000
    finally:
        target.unlink(missing_ok=True)


def test_a_private_file_of_another_owner_is_copied(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama's service could not read a hard link to a file that its owner alone may read."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give a folder away")
    monkeypatch.setattr(fs, "clone_file", no_reflink)
    source.chmod(0o600)
    folder = tmp_path / "store"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    assert link_file(source, folder / "target") is LinkMethod.COPY


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_copy_leaves_no_target(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A disk that fills up while bytes are copied is an error, and half a file does not stay."""

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(fs, "copy_range", full)
    target = tmp_path / "target"
    with pytest.raises(StorageError, match="target"):
        link_file(source, target, methods=[LinkMethod.COPY])
    assert not target.exists()


def test_a_copy_that_cannot_fit_is_refused_before_its_first_byte(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says how much is needed and how much is free."""
    monkeypatch.setattr(fs, "free_bytes", lambda folder: 1000)
    with pytest.raises(StorageError, match=r"needs 68.4 KiB, 1000 B are free"):
        link_file(source, tmp_path / "target", methods=[LinkMethod.COPY])


def test_a_method_that_cannot_work_is_named_with_the_way_out(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--link reflink on a file system without it ends in a hint, not in a silent copy."""
    monkeypatch.setattr(fs, "clone_file", no_reflink)
    with pytest.raises(StorageError, match="by reflink") as e:
        link_file(source, tmp_path / "target", methods=[LinkMethod.REFLINK])
    assert "--link copy" in (e.value.hint or "")
