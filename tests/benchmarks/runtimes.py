"""The runtime that benchmarks measure: the newest build, or the folder of TQCONVERT_RUNTIME."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqconvert.errors import MeasureFailedError
from tqconvert.runtime.locate import Runtime, find_runtime, list_runtimes
from tqconvert.settings import load_settings


def runtime_with(program: str) -> Runtime:
    """The runtime in force that has the program. Raises NotFoundError with how to build one."""
    settings = load_settings(os.environ, Path.cwd())
    return find_runtime(settings.cache, settings.runtime, program=program)


def portable_with(program: str) -> Runtime | None:
    """The newest build for any x86-64 with AVX2, if there is one with the program."""
    settings = load_settings(os.environ, Path.cwd())
    found = [
        r for r in list_runtimes(settings.cache)
        if r.build and r.build.variant == "portable" and program in {p.name for p in r.build.programs}
    ]  # fmt: skip
    return max(found, key=lambda r: r.build.date if r.build else "", default=None)


def name_of(runtime: Runtime) -> str:
    """Version and id for a table's title."""
    build = runtime.build
    return (
        f"{build.version}, build {build.id[:12]}" if build else f"a build in {runtime.folder.name}/"
    )


def output_of(argv: list[str], *, env: dict[str, str] | None = None) -> str:
    """What a program prints on stdout. Raises MeasureFailedError with its last words."""
    done = subprocess.run(
        argv, capture_output=True, text=True, errors="replace", check=False,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).splitlines()[-6:])
        raise MeasureFailedError(f"{argv[0]}: ended with {done.returncode}\n{last}")
    return done.stdout


def tqconvert_json(*arguments: object) -> dict[str, Any]:
    """The document that a command prints with --json. Raises MeasureFailedError."""
    argv = [sys.executable, "-m", "tqconvert", *map(str, arguments), "--json"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    document = json.loads(done.stdout or "{}")
    if done.returncode or not isinstance(document, dict):
        message = document.get("error", {}).get("message", "")
        raise MeasureFailedError(f"{' '.join(argv[2:5])}: ended with {done.returncode}: {message}")
    return document
