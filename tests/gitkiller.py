"""Kill a command of the patch queue before every write and every git process that writes.

    gitkiller.py PRISTINE STATES ARGUMENT...     `@` in an argument is the folder, also the working folder

Like `killer.py`, whose functions it uses; besides those of `tqconvert.fs` it arms `Git.run` and `Git.feed`. A kill after
a call is the kill before the next one. Writes of bytes are killed in the middle too.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import killer

from tqconvert import fs
from tqconvert.patches.git import Git

WRITES = {
    "fast-import", "update-index", "update-ref", "symbolic-ref", "worktree", "am", "read-tree", "reset",
    "init", "add", "commit", "commit-tree", "write-tree", "stash",
}  # fmt: skip
"""Git commands that change something."""
MAX_CALLS = 300


def states(pristine: Path, work: Path, *arguments: str) -> list[dict[str, str]]:
    """What a command leaves behind, killed at every step (runs this file as a program)."""
    import subprocess

    command = [sys.executable, __file__, str(pristine), str(work), *arguments]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=env)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def verb(args: tuple[str, ...]) -> str:
    """What a git command is called."""
    at = 0
    while args[at] == "-c":
        at += 2
    return args[at]


def _arm(number: int, when: str, tell: int) -> None:
    """The Nth write is the last call."""
    calls = 0

    def is_last(name: str) -> bool:
        nonlocal calls
        calls += 1
        if calls == number:
            os.write(tell, name.encode())
        return calls == number

    def wrap(name: str, real: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if is_last(name):
                if when == "middle":
                    args, kwargs = killer._half(name, args, kwargs)
                    real(*args, **kwargs)
                killer._die()
            return real(*args, **kwargs)

        return wrapped

    for name in killer.writers():
        setattr(fs, name, wrap(name, getattr(fs, name)))
    run = Git.run

    def run_git(self: Git, *args: str, **kwargs: Any) -> Any:
        name = verb(args)
        if name in WRITES and is_last(f"git {name}"):
            if when == "middle":
                os._exit(killer.NO_MIDDLE)
            killer._die()
        return run(self, *args, **kwargs)

    Git.run = run_git  # type: ignore[method-assign]
    feed = Git.feed

    def feed_git(self: Git, *args: str, data: Any, **kwargs: Any) -> Any:
        if is_last(f"git {verb(args)}"):
            if when == "middle":
                rows = list(data)
                feed(self, *args, data=rows[: len(rows) // 2], **kwargs)
            killer._die()
        return feed(self, *args, data=data, **kwargs)

    Git.feed = feed_git  # type: ignore[method-assign]


def _run(pristine: Path, work: Path, arguments: list[str]) -> list[dict[str, str]]:
    # Imported once, before the children.
    import tqconvert.cli
    from tqconvert.patches.change import abort, apply_queue, export, rebase, refresh, unapply  # noqa: F401

    tqconvert.cli.build_app()
    found = []
    for number in range(1, MAX_CALLS):
        for when in ("before", "middle"):
            folder = work / f"{number}-{when}"
            shutil.copytree(pristine, folder, symlinks=True)
            given = [a.replace("@", str(folder)) for a in arguments]
            status, call = killer.killed(_arm, number, when, given, folder)
            if status == -signal.SIGKILL:
                found.append({"folder": str(folder), "call": call, "when": when})
                continue
            shutil.rmtree(folder)
            if not call:
                return found
            if status != killer.NO_MIDDLE:
                raise SystemExit(f"{arguments} ended with {status} at {number} {when} {call}")
    raise SystemExit(f"{arguments}: no end after {MAX_CALLS} writes")


if __name__ == "__main__":
    json.dump(_run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]), sys.stdout)
