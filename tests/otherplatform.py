"""Run a command line with what another system lacks, as far as Linux can show it. Nothing ran on those systems.

    python tests/otherplatform.py windows|macos|bare ARGUMENT... [then ARGUMENT...]...

windows: `fcntl` and its kin cannot be imported; `os` lacks what it lacks there; descriptors are text unless opened
with O_BINARY; open and mapped files can be neither replaced nor removed; a read-only descriptor cannot be synced;
colons cannot stand in names. macos: no calls of Linux alone. bare: the modules are missing, nothing else.
"""

import builtins
import errno
import importlib
import os
import sys
import types
from pathlib import Path
from typing import Any

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline")
LINUX_CALLS = (
    "copy_file_range",
    "posix_fallocate",
    "O_TMPFILE",
    "preadv",
    "sendfile",
    "memfd_create",
)
UNIX_CALLS = (
    "pread", "pwrite", "fchmod", "fchown", "chown", "geteuid", "getuid", "getegid", "getgid", "killpg", "setsid",
    "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY", "mkfifo",
)  # fmt: skip
O_BINARY = 1 << 28
THEIRS = (
    "importlib.metadata", "ssl", "tempfile", "filelock", "platformdirs", "tqdm", "typer", "urllib3",
)  # fmt: skip
TEXT_IS_FINE = (os.devnull,)


def block_modules() -> None:
    """Make the modules of Unix impossible to import."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]


def remove(names: tuple[str, ...]) -> None:
    """Take the names out of `os`."""
    for name in names:
        if hasattr(os, name):
            delattr(os, name)


def _in_use(path: Any) -> bool:
    """Whether this process has the file open or mapped."""
    real = os.path.realpath(os.fspath(path))
    for fd in real_listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == real:
                return True
        except OSError:
            continue
    with real_open("/proc/self/maps") as f:
        return any(line.rstrip("\n").endswith(" " + real) for line in f)


real_listdir, real_open = os.listdir, builtins.open


def _sharing(path: Any) -> PermissionError:
    e = PermissionError(errno.EACCES, "The process cannot access the file", str(path))
    e.winerror = 32  # type: ignore[attr-defined]
    return e


def windows_files() -> None:
    """Make `os` treat files as Windows does."""
    flags: dict[int, int] = {}
    os.O_BINARY = O_BINARY  # type: ignore[attr-defined]
    opened, replaced, unlinked, fsync, mkdir = os.open, os.replace, os.unlink, os.fsync, os.mkdir

    def open_(path: Any, wanted: int, *args: Any, **kwargs: Any) -> int:
        _refuse_colon(path)
        fd = opened(path, wanted & ~O_BINARY, *args, **kwargs)
        assert wanted & O_BINARY or path in TEXT_IS_FINE or _is_lock(path), (
            f"{path}: opened without O_BINARY"
        )
        flags[fd] = wanted
        return fd

    def replace(src: Any, dst: Any) -> None:
        _refuse_colon(dst)
        for path in (src, dst):
            if _in_use(path):
                raise _sharing(path)
        replaced(src, dst)

    def unlink(path: Any, *args: Any, **kwargs: Any) -> None:
        if _in_use(path) and not _is_lock(path):
            raise _sharing(path)
        unlinked(path, *args, **kwargs)

    def sync(fd: int) -> None:
        if flags.get(fd, os.O_RDWR) & (os.O_RDWR | os.O_WRONLY) == 0:
            raise OSError(errno.EBADF, "Bad file descriptor")
        fsync(fd)

    def make(path: Any, *args: Any, **kwargs: Any) -> None:
        _refuse_colon(path)
        mkdir(path, *args, **kwargs)

    os.open, os.replace, os.rename, os.unlink, os.remove, os.fsync, os.mkdir = (
        open_, replace, replace, unlink, unlink, sync, make
    )  # fmt: skip


def _is_lock(path: Any) -> bool:
    """Whether the file is filelock's, which does otherwise on Windows."""
    return "locks" in Path(path).parts


def _refuse_colon(path: Any) -> None:
    if ":" in os.fspath(path):
        raise OSError(
            errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect"
        )


def main(platform: str, arguments: list[str]) -> int:
    """Make this process like the platform, then run the command lines in it, up to one that fails."""
    if platform == "bare":
        block_modules()
    # On those systems the packages of others take ways of their own, which are not what is looked at.
    for name in THEIRS if platform == "bare" else (*THEIRS, "psutil"):
        importlib.import_module(name)
    if platform != "bare":
        remove(LINUX_CALLS)
    if platform == "windows":
        block_modules()
        remove(UNIX_CALLS)
        windows_files()
    import tqconvert.cli
    from tqconvert import filelocks, fs

    tqconvert.cli.build_app()
    if platform == "windows":
        fs.sys = filelocks.sys = types.SimpleNamespace(platform="win32")  # type: ignore[attr-defined]
        fs.is_windows = lambda: True
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("tqconvert.") and hasattr(
                module, "is_windows"
            ):
                module.is_windows = fs.is_windows  # type: ignore[attr-defined]
    if platform == "macos":
        fs.sys = filelocks.sys = types.SimpleNamespace(platform="darwin")  # type: ignore[attr-defined]
    while arguments:
        n = arguments.index("then") if "then" in arguments else len(arguments)
        command, arguments = arguments[:n], arguments[n + 1 :]
        if code := tqconvert.cli.main(command):
            print(f"{' '.join(command)}: {code}", file=sys.stderr)
            return code
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main(sys.argv[1], sys.argv[2:]))
