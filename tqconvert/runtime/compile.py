"""cmake and ninja on a prepared tree: the steps, their progress, and what their log says went wrong."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqconvert.errors import BuildFailedError, StorageError, ToolMissingError
from tqconvert.progress import Steps
from tqconvert.runtime.process import HINTS, output_of, run_logged
from tqconvert.runtime.toolchain import Toolchain

_STEP = re.compile(r"\[\s*(\d+)/(\d+)\] (.*)|\[\s*(\d+)%\] (.*)")
_ERROR = re.compile(
    r"^CMake Error|: (?:fatal )?error: |\berror: (?!\()|undefined reference|internal compiler error"
    r"|^(?:ninja|c\+\+|g\+\+|cc|collect2|make.*): (?:fatal )?error|: \*\*\* "
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_KILLED = re.compile(r"Killed signal terminated program|signal 9|out of memory allocating")
_OLD = re.compile(r"CMake (\S+) or higher is required")


@dataclass(frozen=True, slots=True)
class Job:
    """What is compiled where."""

    tree: Path
    build: Path
    log: Path
    toolchain: Toolchain
    arguments: tuple[str, ...]
    """For cmake: `-DNAME=VALUE`."""
    env: Mapping[str, str]
    pass_fds: tuple[int, ...] = ()


def compile_targets(
    job: Job, required: Sequence[str], optional: Callable[[str], bool], *, jobs: int, steps: Steps
) -> tuple[str, ...]:
    """Configure and build; the names of the programs that were built.

    Those that `optional` accepts are built where the tree has them. A build folder from an interrupted
    run is gone on with. Raises BuildFailedError, StorageError, ToolMissingError.
    """
    steps.step(0, 0, "cmake")
    _run(job, "configure", _configure(job), steps)
    present = list_targets(job)
    missing = [name for name in required if name not in present]
    if missing:
        raise BuildFailedError(
            f"{job.tree}: this source has no target {', '.join(missing)}",
            hint="--ggml-only builds the types and their tests on trees of any age",
        )
    wanted = (*required, *sorted(name for name in present if optional(name)))
    if not wanted:
        return ()
    command = [job.toolchain.cmake, "--build", str(job.build), "--parallel", str(jobs), "--target"]
    _run(job, "compile", [*command, *wanted], steps)
    return wanted


def install_component(job: Job, component: str, steps: Steps) -> None:
    """Install what was built into the prefix that was configured. Raises BuildFailedError."""
    command = [job.toolchain.cmake, "--install", str(job.build), "--component", component]
    _run(job, "install", command, steps)


def _configure(job: Job) -> list[str]:
    tools = job.toolchain
    launcher = []
    if tools.ccache and not any("COMPILER_LAUNCHER" in x for x in job.arguments):
        launcher = [f"-DCMAKE_{x}_COMPILER_LAUNCHER={tools.ccache}" for x in ("C", "CXX")]
    return [
        tools.cmake, "-S", str(job.tree), "-B", str(job.build), "-G", tools.generator,
        f"-DCMAKE_C_COMPILER={tools.cc}", f"-DCMAKE_CXX_COMPILER={tools.cxx}", *launcher,
        *job.arguments,
    ]  # fmt: skip


def build_environment(env: Mapping[str, str], work: Path) -> dict[str, str]:
    """The user's environment without what changes a build behind our back.

    An outer make's job server, git variables and a repository above the cache (its commit would become
    the build's version) are hidden; ccache sees paths relative to `work`, which differs by build.
    """
    hidden = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "CMAKE_GENERATOR", "NINJAFLAGS"}
    kept = {k: v for k, v in env.items() if k not in hidden and not k.startswith("GIT_")}
    return {
        **kept, "LC_ALL": "C", "NINJA_STATUS": "[%f/%t] ", "CCACHE_BASEDIR": str(work),
        "CCACHE_NOHASHDIR": "1", "GIT_CEILING_DIRECTORIES": str(work),
    }  # fmt: skip


NO_DATE = {"SOURCE_DATE_EPOCH": "0"}
"""What compilers take for __DATE__ and __TIME__."""


def reproducible(env: Mapping[str, str], work: Path) -> dict[str, str]:
    """The environment with what keeps the path of `work` and the time out of objects."""
    mapped = f"-ffile-prefix-map={work}=."
    flags = {name: f"{env.get(name, '')} {mapped}".strip() for name in ("CFLAGS", "CXXFLAGS")}
    return {**NO_DATE, **env, **flags}


def _run(job: Job, phase: str, command: Sequence[str], steps: Steps) -> None:
    def on_line(line: str) -> None:
        if found := _STEP.match(line):
            done, total, text, percent, named = found.groups()
            if percent is None:
                steps.step(int(done), int(total), _short(text))
            else:
                steps.step(int(percent), 100, _short(named))

    start = job.log.stat().st_size if job.log.exists() else 0
    code = run_logged(
        command, cwd=job.tree, env=job.env, log=job.log, on_line=on_line, pass_fds=job.pass_fds
    )
    if code:
        with job.log.open("rb") as f:
            f.seek(start)
            raise _failure(phase, code, f.read().decode("utf-8", "replace"), job.log)


def _short(text: str) -> str:
    """Name of the file that a step of ninja or make makes."""
    return os.path.basename(text.rsplit(" ", 1)[-1]).removesuffix(".o")


def _failure(phase: str, code: int, text: str, log: Path) -> Exception:
    """The error that the log of a failed step tells."""
    hint = f"the whole log: {log}"
    if old := _OLD.search(text):
        return ToolMissingError(f"cmake: too old (expected {old[1]} or newer)", hint=HINTS["cmake"])
    if full := _FULL.search(text):
        return StorageError(
            f"{log.parent}: {full[0]}",
            hint="free space on that disk, or set TQCONVERT_CACHE, and run this again",
        )
    if _KILLED.search(text):
        message = f"{phase} failed: a compiler was killed, most likely for want of memory"
        return BuildFailedError(message, hint=f"run it again with --jobs 1; {hint}")
    return BuildFailedError(f"{phase} failed ({code}): {first_error(text)}", hint=hint)


def first_error(text: str) -> str:
    """The first error of cmake, a compiler or a linker in the log, on one line; else its last line."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if _ERROR.search(line):
            if line.startswith("CMake Error"):  # the message is in the indented lines below
                rest = [x.strip() for x in lines[i + 1 : i + 5] if x.startswith("  ")]
                return " ".join([line, *rest])[:500]
            return line.strip()[:500]
    last = [line for line in lines if line.strip()]
    return last[-1].strip()[:500] if last else "nothing was printed"


def list_targets(job: Job) -> set[str]:
    """Names that can be built: what `cmake --build --target help` lists."""
    text = output_of(
        [job.toolchain.cmake, "--build", str(job.build), "--target", "help"], job.env, timeout_s=300
    )
    found = re.findall(r"^(?:\.\.\. )?([\w.+-]+)(?:: \w+)?(?: \(.*\))?$", text, re.MULTILINE)
    return set(found)
