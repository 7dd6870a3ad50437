"""Kill a command at every write, each time on a fresh copy of a folder.

    killer.py EVERY PRISTINE STATES ARGUMENT...   `@` in an argument is the folder, also the working folder

For N = 1, 2, ... a child process runs the command line on a copy of PRISTINE and kills itself before, in
the middle of (half the bytes are written) and after the Nth call of a function of `tqconvert.fs` that
changes a file, until the command comes to its end; of long commands only of every EVERYth call. Each state stays in a folder of its own in STATES;
stdout is JSON: a list of {"folder", "call", "when"}.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqconvert import fs

READERS = {
    "Own", "alone", "can_clone", "can_insert", "expand_user", "free_bytes", "is_windows",
    "open_fd", "read_at", "read_into", "remove_open", "replace_open", "require_readable",
    "storage_error", "unsupported",
}  # fmt: skip
"""Public functions of `tqconvert.fs` that change no file; all others are armed."""

HALVES = ("write_at", "copy_range", "append")
MAX_CALLS = 200
NO_MIDDLE = 99


def writers() -> list[str]:
    """The functions at which a command is killed."""
    return [
        name
        for name, value in vars(fs).items()
        if callable(value) and getattr(value, "__module__", "") == fs.__name__
        and not name.startswith("_") and name not in READERS
    ]  # fmt: skip


def states(
    pristine: Path, work: Path, *arguments: str, every: int = 1
) -> list[dict[str, str]]:  # fmt: skip
    """What a command leaves behind, killed at every write (runs this file as a program)."""
    import subprocess

    command = [sys.executable, __file__, str(every), str(pristine), str(work), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(number: int, when: str, tell: int) -> None:
    """Wrap every writer; the Nth call of any of them is the last."""
    calls = 0

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != number:
                return real(*args, **kwargs)
            os.write(tell, name.encode())
            if when == "before":
                _die()
            if when == "middle":
                args, kwargs = _half(name, args, kwargs)
            try:
                return real(*args, **kwargs)
            finally:
                _die()

        return wrapped

    for name in writers():
        setattr(fs, name, wrap(name, getattr(fs, name)))


def _half(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The same call for the first half of the bytes."""
    if name not in HALVES:
        os._exit(NO_MIDDLE)
    if name == "copy_range":
        return args, {**kwargs, "length": kwargs["length"] // 2}
    fd, data, *offset = args
    return (fd, data[: len(data) // 2], *offset), kwargs


Arm = Callable[[int, str, int], None]
"""Makes the Nth write the last one; tells its name through a descriptor."""


def killed(arm: Arm, number: int, when: str, arguments: list[str], folder: Path) -> tuple[int, str]:
    """Exit status of the command in `folder`, and the function in which it was killed."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(folder)
        arm(number, when, write)
        from tqconvert.cli import main

        os._exit(main(arguments))
    os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(read) as f:
        return status, f.read()


def _run(every: int, pristine: Path, work: Path, arguments: list[str]) -> list[dict[str, str]]:
    # Imported once, before the children; pydantic is what Typer converts options with.
    import filelock  # noqa: F401
    import huggingface_hub.hf_api  # noqa: F401
    import urllib3  # noqa: F401
    from pydantic import TypeAdapter, fields  # noqa: F401

    import tqconvert.cli.tag
    import tqconvert.store.install  # noqa: F401

    tqconvert.cli.build_app()

    found = []
    for number in range(1, MAX_CALLS, every):
        for when in ("before", "middle", "after"):
            folder = work / f"{number}-{when}"
            shutil.copytree(pristine, folder)
            given = [a.replace("@", str(folder)) for a in arguments]
            status, call = killed(_arm, number, when, given, folder)
            if not call and status == 0:
                return found
            if status == -signal.SIGKILL:
                found.append({"folder": str(folder), "call": call, "when": when})
            elif status != NO_MIDDLE:
                raise SystemExit(f"{arguments} ended with {status} at {number} {when} {call}")
    raise SystemExit(f"{arguments}: no end after {MAX_CALLS} writes")


if __name__ == "__main__":
    _, number_, pristine_, work_, *rest = sys.argv
    json.dump(_run(int(number_), Path(pristine_), Path(work_), rest), sys.stdout)
