"""Build llama.cpp with our patches: a copy of the source in the cache, patched, compiled, published.

    CACHE/builds/ID/        work: src (the patched copy), build (cmake's folder), build.log
    CACHE/builds/ID.lock    held while somebody works there
    CACHE/runtimes/ID/      a finished build: bin/, build.json, build.log

ID is a hash of everything that makes a difference. A finished build gets its name by one rename, so it
is there as a whole or not at all; the work of an interrupted one is gone on with.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from tqconvert import __version__, fs
from tqconvert.digest import digest_path
from tqconvert.errors import BuildFailedError, StorageError
from tqconvert.patches.apply import Patched, apply_patched, plan_patched
from tqconvert.patches.series import Scope, Series, find_patches, read_series
from tqconvert.progress import Steps
from tqconvert.runtime.compile import Job, build_environment, compile_targets
from tqconvert.runtime.locate import Runtime, open_build, runtimes_folder
from tqconvert.runtime.lock import held
from tqconvert.runtime.manifest import NAME, Build, NamedHash, Origin, Program
from tqconvert.runtime.process import output_of
from tqconvert.runtime.source import Source, open_source
from tqconvert.runtime.toolchain import Cpu, Toolchain, find_toolchain, this_cpu
from tqconvert.runtime.tree import changed_id, copy_files, hash_files, tree_id

TARGET = "llama.cpp"
PROGRAMS = {
    Scope.ALL: (
        "llama-server", "llama-perplexity", "llama-bench", "llama-quantize", "test-backend-ops",
        "test-quantize-fns",
    ),
    Scope.GGML: ("test-backend-ops", "test-quantize-fns"),
}  # fmt: skip
OURS = ("llama-kv-stats", "test-turbo")
"""Built where the patched tree has them; the second is a prefix."""

WORK_BYTES = 512 << 20
"""More than a build takes while it runs: 192 MiB measured, more with other flags."""

_COMMON = (
    "CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "GGML_METAL=OFF", "LLAMA_USE_PREBUILT_UI=OFF",
    "LLAMA_BUILD_UI=OFF", "LLAMA_OPENSSL=OFF", "LLAMA_BUILD_TESTS=ON", "LLAMA_BUILD_TOOLS=ON",
    "LLAMA_BUILD_SERVER=ON", "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_APP=OFF",
)  # fmt: skip


class Variant(StrEnum):
    """Processors that a build runs on."""

    NATIVE = "native"
    PORTABLE = "portable"
    """x86-64 with AVX2, FMA and F16C; what the compiler makes by default elsewhere."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for."""

    source: str
    cache: Path
    env: Mapping[str, str]
    scope: Scope = Scope.ALL
    variant: Variant = Variant.NATIVE
    cmake_args: tuple[str, ...] = ()
    """`NAME=VALUE`; they win over ours."""
    patches: Path | None = None
    """A folder to use instead of our own `ollama_patches`."""
    offline: bool = False


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What will be built, or was: then `existing` is the finished build."""

    request: Request
    source: Source
    series: Series
    toolchain: Toolchain
    cpu: Cpu
    flags: tuple[str, ...]
    id: str
    existing: Runtime | None
    patched: Patched | None
    """None where the build exists."""

    @property
    def folder(self) -> Path:
        """Where the finished build lies."""
        return runtimes_folder(self.request.cache) / self.id

    @property
    def work(self) -> Path:
        """Where it is built."""
        return self.request.cache / "builds" / self.id


@dataclass(frozen=True, slots=True)
class Built:
    """A finished build."""

    runtime: Runtime
    fresh: bool
    """Whether it was built now."""


def plan_build(request: Request, *, note: Callable[[str], None] = lambda _: None) -> BuildPlan:
    """What the request means on this machine. Archives are unpacked, nothing else is written.

    Raises NotFoundError, PatchError, BadSeriesError, ToolMissingError, NetworkError, StorageError.
    """
    series = read_series(request.patches or find_patches(), request.scope)
    toolchain, cpu = find_toolchain(request.env), this_cpu()
    source = open_source(
        request.source, request.cache, request.env, offline=request.offline, note=note
    )
    native = request.variant is Variant.NATIVE
    flags = (*_COMMON, f"GGML_NATIVE={'ON' if native else 'OFF'}", *request.cmake_args)
    key = {
        "target": TARGET, "scope": request.scope, "tree": source.tree, "series": series.id,
        "flags": flags, "environment": dict(toolchain.flags), "machine": cpu.machine,
        "cc": [toolchain.cc, toolchain.cc_version], "cxx": [toolchain.cxx, toolchain.cxx_version],
        "cpu": cpu.id if native else None,
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    existing = open_build(runtimes_folder(request.cache) / name)
    patched = None if existing else plan_patched(source.root, series)
    return BuildPlan(
        request, source, series, toolchain, cpu, flags, name, existing, patched
    )  # fmt: skip


def apply_build(plan: BuildPlan, *, jobs: int, steps: Steps) -> Built:
    """Build what is planned, unless it is there. Raises BuildFailedError, LockedError, StorageError."""
    if plan.existing:
        # The build that was asked for last is the one that `serve` takes.
        with suppress(OSError):
            os.utime(plan.existing.folder / NAME)
        return Built(plan.existing, fresh=False)
    with held(plan.work.with_suffix(".lock"), f"build {plan.id}") as lock:
        done = open_build(plan.folder)  # by another process, in the meantime
        if done:
            return Built(done, fresh=False)
        try:
            _require_space(plan)
            prepared = _prepare(plan)
            began = time.monotonic()
            names = _compile(plan, prepared, lock, jobs=jobs, steps=steps)
            _publish(plan, names, prepared, time.monotonic() - began)
            shutil.rmtree(plan.work, ignore_errors=True)
        except OSError as e:
            raise fs.storage_error(e, e.filename or plan.work) from e
        finally:
            steps.finish()
    runtime = open_build(plan.folder)
    assert runtime is not None
    return Built(runtime, fresh=True)


def _require_space(plan: BuildPlan) -> None:
    plan.work.mkdir(parents=True, exist_ok=True)
    free = fs.free_bytes(plan.work)
    if free < WORK_BYTES and not (plan.work / "build").exists():
        raise StorageError(
            f"{plan.work}: {free >> 20} MiB free (expected {WORK_BYTES >> 20} MiB for a build)",
            hint="free space on that disk, or set TQCONVERT_CACHE to a folder on another",
        )


def _prepare(plan: BuildPlan) -> str:
    """Make the patched copy `src`, unless it is there as it must be; returns its tree's id."""
    assert plan.patched is not None
    expected = changed_id(plan.source.files, plan.patched.files)
    src, build = plan.work / "src", plan.work / "build"
    if src.is_dir() and tree_id(hash_files(src)) == expected:
        # make takes half an object file, left by a killed compiler, for a whole one; ninja's log does not.
        if plan.toolchain.generator != "Ninja":
            shutil.rmtree(build, ignore_errors=True)
        return expected
    partial = plan.work / "src.partial"
    for folder in (build, src, partial):
        shutil.rmtree(folder, ignore_errors=True)
    copy_files(plan.source.root, plan.source.files, partial)
    apply_patched(plan.patched, partial)
    if tree_id(hash_files(partial)) != expected:
        raise BuildFailedError(
            f"{plan.source.root}: changed while it was copied", hint="run this again"
        )
    fs.replace(partial, src)
    return expected


def _compile(
    plan: BuildPlan, prepared: str, lock: int, *, jobs: int, steps: Steps
) -> tuple[str, ...]:  # fmt: skip
    work = plan.work
    log = work / "build.log"
    log.write_bytes(b"")
    version = (plan.source.commit or plan.source.tree)[:9]
    ours = f"-tq{prepared[:8]}" if plan.series.steps else ""
    defines = (*plan.flags, f"LLAMA_BUILD_COMMIT={version}{ours}")
    job = Job(
        tree=work / "src",
        build=work / "build",
        log=log,
        toolchain=plan.toolchain,
        arguments=tuple(f"-D{x}" for x in defines),
        env=build_environment(plan.request.env, work),
        pass_fds=(lock,),
    )
    return compile_targets(
        job, PROGRAMS[plan.request.scope], _is_ours, jobs=jobs, steps=steps
    )  # fmt: skip


def _is_ours(name: str) -> bool:
    return name == OURS[0] or name.startswith(OURS[1])


def _publish(plan: BuildPlan, names: tuple[str, ...], prepared: str, seconds: float) -> None:
    """Put the programs and the manifest into a folder, and give it its name."""
    partial = plan.work / "runtime"
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "bin").mkdir(parents=True)
    programs = []
    for name in names:
        target = partial / "bin" / name
        shutil.copy2(_built(plan.work / "build", name), target)
        with target.open("rb") as f:
            fs.sync(f.fileno())
        programs.append(Program(name, target.stat().st_size, digest_path(target).hex))
    _try_out(plan, partial)
    shutil.copyfile(plan.work / "build.log", partial / "build.log")
    manifest = json.dumps(_manifest(plan, programs, prepared, seconds).to_json(), indent=2)
    fs.write_atomic(partial / NAME, manifest.encode() + b"\n")
    shutil.rmtree(plan.folder, ignore_errors=True)  # a build that is not whole
    fs.replace(partial, plan.folder)


def _built(build: Path, name: str) -> Path:
    """The program in cmake's folder; older trees have no common bin/."""
    for path in (build / "bin" / name, *sorted(build.rglob(name))):
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise BuildFailedError(f"{build}: {name} was built but is nowhere in it")


def _try_out(plan: BuildPlan, folder: Path) -> None:
    """Start the server for its version: a build for a wrong processor dies here, not at the user's."""
    program = folder / "bin" / "llama-server"
    crossed = any("TOOLCHAIN_FILE" in x or "CMAKE_SYSTEM_" in x for x in plan.flags)
    if program.exists() and not crossed:
        output_of([str(program), "--version"], plan.request.env)


def _manifest(plan: BuildPlan, programs: list[Program], prepared: str, seconds: float) -> Build:
    assert plan.patched is not None
    source, cpu = plan.source, plan.cpu
    native = plan.request.variant is Variant.NATIVE
    return Build(
        id=plan.id,
        target=TARGET,
        scope=plan.request.scope,
        variant=plan.request.variant,
        tool=f"tqconvert {__version__}",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        source=Origin(
            source.kind, source.name, source.tree, source.commit, source.archive_sha256
        ),
        series=plan.series.id,
        patches=tuple(NamedHash(p.name, p.sha256) for p in plan.patched.patches),
        new_files=tuple(NamedHash(f.path, f.sha256) for f in plan.patched.new_files),
        tree=prepared,
        flags=plan.flags,
        environment=dict(plan.toolchain.flags),
        compiler={
            "cc": plan.toolchain.cc_version, "cxx": plan.toolchain.cxx_version,
            "generator": plan.toolchain.generator,
        },
        cpu={
            "machine": cpu.machine, "flags": list(cpu.flags) if native else None,
            "id": cpu.id if native else None,
        },
        programs=tuple(programs),
    )  # fmt: skip
