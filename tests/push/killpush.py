"""Kill a push at every write of its notes, each time to a repository of its own; then push again.

    killpush.py STORE WORK HOST      stdout: JSON, a list of {"repository", "call", "when", "again"}

`again` is the document that the second push prints. What happens inside of an atomic write is tested
where those are.
"""

import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import killer

from tqconvert import fs

MAX_CALLS = 60
WRITES = ("write_atomic", "remove")


def arm(number: int, when: str, tell: int) -> None:
    """Make the Nth write of a note the last thing that this process does."""
    calls = 0

    def wrap(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: object, **kwargs: object) -> None:
            nonlocal calls
            calls += 1
            if calls == number:
                os.write(tell, name.encode())
                if when == "after":
                    real(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args, **kwargs)

        return wrapped

    for name in WRITES:
        setattr(fs, name, wrap(name, getattr(fs, name)))


def main(store: str, work: Path, host: str) -> list[dict[str, object]]:
    """All states, until a push comes to its end."""
    import filelock  # noqa: F401
    import urllib3  # noqa: F401
    from pydantic import TypeAdapter, fields  # noqa: F401

    import tqconvert.push.job  # noqa: F401
    from tqconvert.cli import build_app

    build_app()
    found: list[dict[str, object]] = []
    for number in range(1, MAX_CALLS):
        for when in ("before", "after"):
            repository = f"n{number}/{when}"
            folder = work / f"{number}-{when}"
            folder.mkdir(parents=True)
            os.environ["TQCONVERT_CACHE"] = str(folder / "cache")
            arguments = [
                "push", "tiny:1b", f"{host}/{repository}:1", "--store", store, "--chunk", "2MiB",
                "--json",
            ]  # fmt: skip
            status, call = killer.killed(arm, number, when, arguments, folder)
            if not call and status == 0:
                return found
            if status != -signal.SIGKILL:
                raise SystemExit(f"ended with {status} at {number} {when} {call}")
            again = _again(arguments)
            found.append({"repository": repository, "call": call, "when": when, "again": again})
    raise SystemExit(f"no end after {MAX_CALLS} writes")


def _again(arguments: list[str]) -> object:
    from tqconvert.cli import main as run

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run(arguments)
    if code:
        raise SystemExit(f"the second push ended with {code}: {printed.getvalue()}")
    return json.loads(printed.getvalue())


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))
