"""Who else has a file: locks, and leases, which tell whether somebody has it open."""

import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCKED_BYTE = 1 << 43
"""Windows locks bytes, and against reading too: one that no model reaches (8 TiB)."""

position = threading.Lock()
"""Where a file has one position for all threads (Windows), one of them at a time moves it."""


def has_linux_fcntl() -> bool:
    """Whether the calls of fcntl are there that Linux alone has."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        import fcntl  # noqa: F401 - a Python may be built without it
    except ImportError:
        return False
    return True


def lock(fd: int) -> bool:
    """Take the file's lock for this process; False where such locks do not exist.

    flock, or a byte far behind the file's end on Windows (not run there). Raises BlockingIOError if
    another process has it. It ends when `fd` is closed.
    """
    try:
        import fcntl
    except ImportError:
        return _lock_byte(fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _lock_byte(fd: int) -> bool:
    try:
        import msvcrt
    except ImportError:
        return False
    locking, mode = getattr(msvcrt, "locking"), getattr(msvcrt, "LK_NBLCK")  # noqa: B009 - Windows
    with position:
        before = os.lseek(fd, 0, os.SEEK_CUR)
        try:
            os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
            locking(fd, mode, 1)
        except OSError as e:
            if e.errno in (errno.EACCES, errno.EDEADLK):
                raise BlockingIOError(errno.EAGAIN, "locked by another process") from None
            return False
        finally:
            os.lseek(fd, before, os.SEEK_SET)
    return True


def written_elsewhere(fd: int) -> bool:
    """Whether another descriptor has the file open for writing; False where nobody can tell.

    A read lease is refused while there is a writer. Source: fcntl(2), F_SETLEASE.
    """
    if not has_linux_fcntl():
        return False
    import fcntl
    import signal

    try:
        # Whoever opens the file in between is announced by a signal that does nothing by default.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as e:
        return e.errno in (errno.EAGAIN, errno.EBUSY)
    return False


@contextmanager
def write_lease(fd: int) -> Iterator[bool]:
    """Hold a write lease: nobody else has the file open now, and whoever opens it waits for us.

    Yields False where leases do not exist (not Linux, network file systems, not the owner).
    Raises BlockingIOError if the file is open elsewhere. Source: fcntl(2), F_SETLEASE.
    """
    if not has_linux_fcntl():
        yield False
        return
    import fcntl
    import signal

    try:
        # The kernel announces a waiting opener by SIGIO, whose default is to end the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as e:
        if e.errno in (errno.EAGAIN, errno.EBUSY):
            raise BlockingIOError(errno.EAGAIN, "the file is open elsewhere") from None
        yield False
        return
    try:
        yield True
    finally:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
