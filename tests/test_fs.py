"""What `tqconvert.fs` promises, also where the operating system has less to offer."""

import os
from pathlib import Path

import pytest

from tqconvert import fs
from tqconvert.errors import StorageError


@pytest.mark.parametrize("bare", [False, True], ids=["with pread", "without"])
def test_bytes_at_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: bool) -> None:
    """Reads and writes at offsets are the same with pread and pwrite and, as on Windows, without."""
    for name in ("pread", "pwrite", "preadv", "copy_file_range") if bare else ():
        monkeypatch.delattr(os, name)
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    try:
        fs.write_at(fd, b"0123456789", 5)
        fs.write_at(fd, b"ab", 0)
        assert fs.read_at(fd, 100, 0) == b"ab\0\0\x000123456789"
        buffer = memoryview(bytearray(4))
        assert fs.read_into(fd, buffer, 13) == 2
        assert bytes(buffer[:2]) == b"89"
        fs.copy_range(fd, other, src_offset=5, dst_offset=1, length=10)
        assert fs.read_at(other, 100, 0) == b"\x000123456789"
        fs.shift_down(fd, 5, 10)
        assert path.read_bytes() == b"0123456789"
    finally:
        os.close(fd)
        os.close(other)


def test_a_source_that_ends_early_is_an_error(tmp_path: Path) -> None:
    """Copying more bytes than there are does not loop and does not pretend."""
    (tmp_path / "a").write_bytes(b"12345")
    with (tmp_path / "a").open("rb") as a, (tmp_path / "b").open("wb") as b, pytest.raises(OSError):
        fs.copy_range(a.fileno(), b.fileno(), src_offset=0, dst_offset=0, length=10)


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """Old bytes or new bytes, and no temporary file left."""
    target = tmp_path / "f"
    fs.write_atomic(target, b"old")
    with pytest.raises(StorageError):
        fs.write_atomic(tmp_path / "missing" / "f", b"new")
    fs.write_atomic(target, b"new")
    assert target.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_errors_of_the_disk_say_what_to_do() -> None:
    """ENOSPC and EACCES come with a next step."""
    assert "free space" in (fs.storage_error(OSError(28, "x"), "f").hint or "")
    assert "may write" in (fs.storage_error(OSError(13, "x"), "f").hint or "")


def test_what_a_killed_write_left_is_written_over(tmp_path: Path) -> None:
    """The temporary name of a file is always the same, so nothing is left after the next write."""
    target = tmp_path / "f"
    (tmp_path / fs._temporary_name(target)).write_bytes(b"torn, and longer than the new bytes")
    fs.write_atomic(target, b"new")
    assert target.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_temporary_file_in_use_is_waited_for_and_not_removed(tmp_path: Path) -> None:
    """Another process writes it: what sweeps leaves it alone, who needs it waits and then says so."""
    temporary = tmp_path / "t"
    with fs.alone(temporary) as own:
        fs.write_at(own.fd, b"x", 0)
        assert not fs.remove_idle(temporary)
        with pytest.raises(BlockingIOError), fs.alone(temporary, timeout_s=0.05):
            pass
        assert temporary.read_bytes() == b"x"
    assert fs.remove_idle(temporary)
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_file_of_somebody_else_is_not_written_into(tmp_path: Path) -> None:
    """A second name of another file under the temporary name: that file keeps its bytes."""
    target, other = tmp_path / "f", tmp_path / "other"
    other.write_bytes(b"precious")
    os.link(other, tmp_path / fs._temporary_name(target))
    fs.write_atomic(target, b"new")
    assert other.read_bytes() == b"precious"
    assert target.read_bytes() == b"new"
    (tmp_path / fs._temporary_name(target)).symlink_to(other)
    with pytest.raises(StorageError):
        fs.write_atomic(target, b"newer")
    assert other.read_bytes() == b"precious"
