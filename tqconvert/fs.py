"""What the operating system does for files of gigabytes, one function each.

Every write that commands make goes through this module, so that a test can kill a process before
and after each of them. Linux calls answer OSError where the file system has no such operation; callers
choose the next method.
"""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqconvert.errors import NotFoundError, StorageError, UsageError
from tqconvert.filelocks import has_linux_fcntl, lock, position

COPY_STEP = 16 << 20
_FALLOC_FL_COLLAPSE_RANGE = 0x08  # linux/falloc.h
_FALLOC_FL_INSERT_RANGE = 0x20
_FICLONERANGE = 0x4020940D  # linux/fs.h
_F_FULLFSYNC = 51  # sys/fcntl.h of macOS
_UNSUPPORTED = {
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EINVAL,
    errno.EXDEV,
    errno.EPERM,
}
_OPEN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""For every file: not for programs that are started; on Windows bytes as they are, no line ends turned."""

_SHARING = (5, 32, 33)
"""Windows: access denied, sharing violation, lock violation. Virus scanners hold new files for a moment."""


def is_windows() -> bool:
    """Whether this is Windows; asked at each use, so that tests can say so."""
    return os.name == "nt"


def unsupported(e: OSError) -> bool:
    """Whether the error means that this file system or kernel lacks the operation."""
    return e.errno in _UNSUPPORTED


def storage_error(e: OSError, path: str | os.PathLike[str]) -> StorageError:
    """The error of an operation on `path`, in words, with the next step."""
    hint = None
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free space on that disk and run the same command again"
    elif e.errno == errno.EFBIG:
        hint = "raise the file size limit (ulimit -f) or choose another file system"
    elif getattr(e, "winerror", None) in _SHARING[1:]:
        hint = "end the program that has it open (Ollama, llama-server) and run the command again"
    elif e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "choose a folder that you may write to"
    return StorageError(f"{os.fspath(path)}: {os.strerror(e.errno or 0)}", hint=hint)


def expand_user(path: str | os.PathLike[str]) -> Path:
    """The path with `~` and `~name` replaced by that user's home; as it is where there is no such user.

    `Path.expanduser` raises RuntimeError there.
    """
    return Path(os.path.expanduser(path))


def require_readable(path: Path) -> None:
    """Raise NotFoundError if there is no such file, StorageError if this user may not read it."""
    try:
        found = path.exists()
        refused = found and not os.access(path, os.R_OK)
    except OSError as e:
        raise storage_error(e, path) from e
    if not found:
        raise NotFoundError(f"{path}: no such file")
    if refused:
        raise StorageError(f"{path}: this user may not read it")


def require_text(path: Path) -> None:
    """Raise as `require_readable` does, and UsageError for a folder."""
    require_readable(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder (expected a text file)")


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if not sys.platform.startswith("linux"):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    call = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(fd, mode, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def insert_range(fd: int, offset: int, length: int) -> None:
    """Move everything from `offset` on towards the end by `length` bytes, without copying.

    ext4 and xfs; `length` must be a multiple of the file system's block. Raises OSError elsewhere.
    """
    _fallocate(fd, _FALLOC_FL_INSERT_RANGE, offset, length)


def collapse_range(fd: int, offset: int, length: int) -> None:
    """Take `length` bytes out at `offset`, without copying; the inverse of `insert_range`."""
    _fallocate(fd, _FALLOC_FL_COLLAPSE_RANGE, offset, length)


def clone_range(src: int, dst: int, *, src_offset: int, dst_offset: int, length: int = 0) -> None:
    """Share `length` bytes (0: up to the end) of `src` with `dst`: xfs, btrfs. Raises OSError."""
    if not has_linux_fcntl():
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    import fcntl
    import struct

    fcntl.ioctl(dst, _FICLONERANGE, struct.pack("qQQQ", src, src_offset, length, dst_offset))


def clone_file(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """Make `dst`, which must not exist, a copy-on-write copy of `src`. Raises OSError.

    Linux: FICLONERANGE. macOS: clonefile(2), not run there.
    """
    if sys.platform == "darwin":
        import ctypes

        call = getattr(ctypes.CDLL(None, use_errno=True), "clonefile", None)
        if call is None or call(os.fsencode(src), os.fsencode(dst), 0):
            number = ctypes.get_errno() if call else errno.EOPNOTSUPP
            raise OSError(number, os.strerror(number))
        return
    if not sys.platform.startswith("linux"):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    a = open_fd(src, os.O_RDONLY)
    try:
        b = open_fd(dst, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            clone_range(a, b, src_offset=0, dst_offset=0)
        except OSError:
            os.unlink(dst)
            raise
        finally:
            os.close(b)
    finally:
        os.close(a)


def open_fd(path: str | os.PathLike[str], flags: int, mode: int = 0o600) -> int:
    """Descriptor of the file, for bytes, closed in programs that are started. Raises OSError."""
    return os.open(path, flags | _OPEN, mode)


def _pread(fd: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, length, offset)
    with position:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)


def _pwrite(fd: int, data: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, offset)
    with position:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view:
        n = _pwrite(fd, view, offset)
        view, offset = view[n:], offset + n


def append(fd: int, data: bytes) -> None:
    """Write to a file opened with O_APPEND, in one call: short lines are never torn by others."""
    os.write(fd, data)


def read_at(fd: int, length: int, offset: int) -> bytes:
    """Read `length` bytes at `offset`, fewer only at the end of the file."""
    parts = []
    while length:
        part = _pread(fd, length, offset)
        if not part:
            break
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)


def read_into(fd: int, buffer: memoryview, offset: int) -> int:
    """Read at `offset` into the buffer; the number of bytes, 0 at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    data = _pread(fd, len(buffer), offset)
    buffer[: len(data)] = data
    return len(data)


def shift_down(fd: int, offset: int, length: int) -> None:
    """Move `length` bytes at `offset` to the start of the file, and cut it off after them."""
    buffer = memoryview(bytearray(1 << 20))
    done = 0
    while done < length:
        n = read_into(fd, buffer[: length - done], offset + done)
        if not n:
            raise OSError(errno.EIO, "the file became shorter")
        write_at(fd, buffer[:n], done)
        done += n
    os.ftruncate(fd, length)


def sync(fd: int) -> None:
    """Put the file's bytes on the disk.

    On a Mac fsync ends in the drive's cache; F_FULLFSYNC does not (fsync(2), not run there). Windows
    refuses descriptors that are for reading: what those show is another's to put on the disk.
    """
    if sys.platform == "darwin":
        with suppress(OSError, ImportError):  # file systems that lack it, such as SMB
            import fcntl

            fcntl.fcntl(fd, getattr(fcntl, "F_FULLFSYNC", _F_FULLFSYNC))
            return
    try:
        os.fsync(fd)
    except OSError as e:
        if not (is_windows() and e.errno in (errno.EBADF, errno.EACCES)):
            raise


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Put the folder's names on the disk; a no-op where folders cannot be opened (Windows)."""
    if is_windows():
        return
    fd = open_fd(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """Give `src` the name `dst`, atomically, and put the names on the disk."""
    _replace(src, dst)
    sync_folder(os.path.dirname(os.path.abspath(dst)))


def rename(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """Give `src` the name `dst`, atomically; for many files whose operation is on record."""
    _replace(src, dst)


def _replace(src: str | os.PathLike[str], dst: str | os.PathLike[str], tries: int = 20) -> None:
    """os.replace; again for two seconds where Windows says that somebody has the file open."""
    for left in range(tries, -1, -1):
        try:
            os.replace(src, dst)
        except PermissionError as e:
            if not left or getattr(e, "winerror", None) not in _SHARING:
                raise
            time.sleep(0.1)
        else:
            return


def make_folders(folder: str | os.PathLike[str]) -> None:
    """Make the folder and those above it, where they are not there."""
    os.makedirs(folder, exist_ok=True)


def remove_folder(folder: str | os.PathLike[str]) -> None:
    """Remove the folder if it is there and empty."""
    with suppress(OSError):
        os.rmdir(folder)


def write_new(path: str | os.PathLike[str], data: bytes, mode: int) -> None:
    """Write a file that must not be there yet, with permission bits as the umask leaves them."""
    fd = open_fd(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        write_at(fd, data, 0)
    finally:
        os.close(fd)


def link(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """Give the file a second name."""
    os.link(src, dst)


def symlink(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """Make `dst` a symbolic link to `src`."""
    os.symlink(src, dst)


def remove(path: str | os.PathLike[str]) -> None:
    """Remove the file if it is there."""
    Path(path).unlink(missing_ok=True)


def write_atomic(
    path: str | os.PathLike[str], data: bytes, *, temporary_in: Path | None = None
) -> None:
    """Write a small file so that readers see the old or the new bytes, and a power cut neither torn.

    `temporary_in` is another folder of the same file system, for folders that other programs list.
    Raises StorageError; then the old file is as it was.
    """
    folder = temporary_in or os.path.dirname(os.path.abspath(path))
    temporary = os.path.join(folder, _temporary_name(path))
    try:
        with alone(temporary, timeout_s=10.0) as own:
            os.ftruncate(own.fd, 0)
            write_at(own.fd, data, 0)
            sync(own.fd)
            if hasattr(os, "fchmod"):
                os.fchmod(own.fd, 0o644)
            replace_open(own, temporary, path)
    except OSError as e:
        raise storage_error(e, path) from e


def _temporary_name(path: str | os.PathLike[str]) -> str:
    """Always the same for a path, so that the next run writes over what a killed one left."""
    import hashlib

    digest = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
    return f".tqconvert-{digest[:16]}.tmp"


def allocate(fd: int, length: int) -> None:
    """Reserve `length` bytes, so that a full disk is found before the first byte arrives.

    Where the file system cannot reserve, the file only gets its length. Raises OSError (ENOSPC).
    """
    if hasattr(os, "posix_fallocate"):
        try:
            _fallocate(fd, 0, 0, length)
        except OSError as e:
            if not unsupported(e):
                raise
        else:
            return
    os.ftruncate(fd, length)


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes that this user can still write in `folder`."""
    import shutil

    return shutil.disk_usage(folder).free


def copy_range(
    src: int, dst: int, *, src_offset: int, dst_offset: int, length: int,
    advance: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """Copy bytes between files, in the kernel where it can; `advance` gets the bytes of each step."""
    kernel = hasattr(os, "copy_file_range")
    while length:
        step = min(length, COPY_STEP)
        if kernel:
            try:
                n = os.copy_file_range(src, dst, step, src_offset, dst_offset)
            except OSError as e:
                if not unsupported(e):
                    raise
                kernel = False
                continue
        else:
            data = _pread(src, min(step, 1 << 20), src_offset)
            write_at(dst, data, dst_offset)
            n = len(data)
        if not n:
            raise OSError(errno.EIO, f"source ended {length} bytes early")
        length, src_offset, dst_offset = length - n, src_offset + n, dst_offset + n
        if advance:
            advance(n)


def truncate(fd: int, length: int) -> None:
    """Cut the file off, or extend it by zeros, at `length`."""
    os.ftruncate(fd, length)


def set_mode(fd: int, mode: int) -> None:
    """Give the file the permission bits `mode`; nothing where an open file has none (Windows)."""
    if hasattr(os, "fchmod"):
        os.fchmod(fd, mode)


def can_insert(folder: str | os.PathLike[str], length: int) -> bool:
    """Whether files in `folder` can grow at their start by `length` bytes, tried on a nameless one."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        with _nameless(folder) as fd:
            os.ftruncate(fd, 2 * length)
            _fallocate(fd, _FALLOC_FL_INSERT_RANGE, 0, length)
    except OSError:
        return False
    return True


def can_clone(folder: str | os.PathLike[str]) -> bool:
    """Whether files in `folder` can share data, tried on nameless ones."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        with _nameless(folder) as a, _nameless(folder) as b:
            os.ftruncate(a, 4096)
            clone_range(a, b, src_offset=0, dst_offset=4096)
    except OSError:
        return False
    return True


@contextmanager
def _nameless(folder: str | os.PathLike[str]) -> Iterator[int]:
    """An empty file in `folder` that has no name, or loses it at once, and goes when closed."""
    try:
        fd = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except (OSError, AttributeError):  # not Linux; file systems without O_TMPFILE, such as NFS
        import tempfile

        fd, name = tempfile.mkstemp(dir=folder)
        os.unlink(name)
    try:
        yield fd
    finally:
        os.close(fd)


class Own:
    """An open temporary file that no other process has meanwhile; closed once."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close it, and end its lock."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@contextmanager
def alone(path: str | os.PathLike[str], *, timeout_s: float = 0.0) -> Iterator[Own]:
    """The temporary file `path`, made if missing, for this process alone; gone after an error.

    What a killed process left in it is there. Raises BlockingIOError where another process has it for
    longer than `timeout_s`, OSError.
    """
    own = Own(_open_alone(path, time.monotonic() + timeout_s))
    try:
        try:
            yield own
        except BaseException:
            remove_open(own, path)
            raise
    finally:
        own.close()


def _open_alone(path: str | os.PathLike[str], until: float) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        fd = open_fd(path, flags)
        try:
            lock(fd)
        except BlockingIOError:
            os.close(fd)
            if time.monotonic() >= until:
                raise
            time.sleep(0.01)
            continue
        # Between open and lock the other process may have given the file its name, or removed it.
        found = os.fstat(fd)
        if os.path.lexists(path) and os.path.samestat(found, os.lstat(path)):
            if _is_own(found):
                return fd
            os.close(fd)
            os.unlink(path)
            continue
        os.close(fd)


def _is_own(found: os.stat_result) -> bool:
    """Whether nobody else has a hand on the file: its name can be known before it is made."""
    mine = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    return mine and found.st_nlink == 1


def replace_open(own: Own, src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """`replace` for an open file; Windows gives open files no other name, so there it is closed first."""
    if is_windows():
        own.close()
    replace(src, dst)


def remove_open(own: Own, path: str | os.PathLike[str]) -> None:
    """`remove` for an open file; Windows keeps the names of open files, so there it is closed first."""
    if is_windows():
        own.close()
    remove(path)


def remove_idle(path: str | os.PathLike[str]) -> bool:
    """Remove a temporary file that a killed process left; False if a process has it."""
    try:
        with alone(path) as own:
            remove_open(own, path)
    except BlockingIOError:
        return False
    return True
