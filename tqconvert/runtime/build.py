"""Builds: copies of sources in the cache, patched, compiled, published.

    CACHE/builds/ID/        work: the patched trees, cmake's folder, build.log
    CACHE/builds/ID.lock    held while somebody works there
    CACHE/runtimes/ID/      a finished build: bin/, lib/, build.json, build.log

ID is a hash of everything that makes a difference. A finished build gets its name by one rename, so it
is there as a whole or not at all; the work of an interrupted one is gone on with.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tqconvert import __version__, fs
from tqconvert.errors import StorageError
from tqconvert.patches.series import find_patches
from tqconvert.progress import Steps
from tqconvert.runtime import publish
from tqconvert.runtime.embed import GO_FILE, c_header, go_file
from tqconvert.runtime.golang import find_go
from tqconvert.runtime.locate import Runtime, open_build, runtimes_folder
from tqconvert.runtime.lock import held
from tqconvert.runtime.manifest import Build, NamedHash, Origin, Part, Program
from tqconvert.runtime.recipe import Site, Tools
from tqconvert.runtime.request import Inputs, Request, Target, Variant
from tqconvert.runtime.source import Source
from tqconvert.runtime.toolchain import find_toolchain, this_cpu

WORK_BYTES = 512 << 20
"""More than a build takes while it runs: 192 MiB measured for llama.cpp, more with other flags."""


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What will be built, or was: then `existing` is the finished build."""

    request: Request
    inputs: Inputs
    tools: Tools
    id: str
    existing: Runtime | None

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
    """What the request means on this machine. Sources are laid into the cache, nothing else is written.

    Raises NotFoundError, PatchError, BadSeriesError, IntegrityError, ToolMissingError, NetworkError,
    StorageError.
    """
    chain, cpu = find_toolchain(request.env), this_cpu()
    patches = request.patches or find_patches()
    if request.target is Target.OLLAMA:
        from tqconvert.runtime.ollama import ollama_inputs

        inputs = ollama_inputs(request, patches, note)
    else:
        from tqconvert.runtime.llamacpp import llama_cpp_inputs

        inputs = llama_cpp_inputs(request, patches, note)
    native = request.variant is Variant.NATIVE
    tools = Tools(chain, cpu, native, find_go(request.env) if inputs.go else None)
    name = _id(request, inputs, tools)
    existing = open_build(runtimes_folder(request.cache) / name)
    return BuildPlan(request, inputs, tools, name, existing)


def _id(request: Request, inputs: Inputs, tools: Tools) -> str:
    chain, cpu = tools.chain, tools.cpu
    key = {
        "target": request.target, "scope": request.scope, "series": inputs.series,
        "trees": [[t.name, t.source.tree, t.id] for t in inputs.trees], "release": inputs.release,
        "flags": inputs.flags, "recipe": inputs.recipe.revision, "environment": dict(chain.flags), "machine": cpu.machine,
        "cc": [chain.cc, chain.cc_version], "cxx": [chain.cxx, chain.cxx_version],
        "go": [tools.go.version, *tools.go.settings] if tools.go else None, "cpu": cpu.id if tools.native else None,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def apply_build(plan: BuildPlan, *, jobs: int, steps: Steps) -> Built:
    """Build what is planned, unless it is there. Raises BuildFailedError, LockedError, StorageError."""
    if plan.existing:
        publish.touch(plan.existing.folder)
        return Built(plan.existing, fresh=False)
    with held(plan.work.with_suffix(".lock"), f"build {plan.id}") as lock:
        done = open_build(plan.folder)  # by another process, in the meantime
        if done:
            return Built(done, fresh=False)
        try:
            _require_space(plan)
            began = time.monotonic()
            manifest = _manifest(plan)
            _prepare(plan, manifest)
            programs, partial = _compile(plan, lock, jobs=jobs, steps=steps)
            finished = _manifest(plan, programs, time.monotonic() - began)
            publish.publish(partial, plan.folder, finished, plan.work / "build.log")
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


def _prepare(plan: BuildPlan, manifest: Build) -> None:
    """Make the patched copies, with the manifest in, unless they are there as they must be."""
    for tree in plan.inputs.trees:
        whole = tree
        if plan.inputs.manifest and plan.inputs.manifest[0] == tree.name:
            whole = whole.with_file(plan.inputs.manifest[1], c_header(manifest.inner()))
        elif plan.inputs.manifest and plan.inputs.go == tree.name:
            whole = whole.with_file(GO_FILE, go_file(manifest.inner()))
        kept = publish.is_prepared(plan.work, whole)
        # make takes half an object file, left by a killed compiler, for a whole one; ninja's log does not.
        if not kept or plan.tools.chain.generator != "Ninja":
            shutil.rmtree(plan.work / "build", ignore_errors=True)
        if not kept:
            publish.prepare(plan.work, whole)


def _compile(
    plan: BuildPlan, lock: int, *, jobs: int, steps: Steps
) -> tuple[tuple[Program, ...], Path]:  # fmt: skip
    work, inputs = plan.work, plan.inputs
    log = work / "build.log"
    log.write_bytes(b"")
    site = Site(
        work=work, log=log, lock=lock, env=plan.request.env, tools=plan.tools, flags=inputs.flags,
        jobs=jobs, steps=steps, offline=plan.request.offline,
    )  # fmt: skip
    artifacts = inputs.recipe.compile(site, _version(plan))
    partial = work / "runtime"
    programs = publish.collect(artifacts, partial)
    if command := inputs.recipe.probe():
        publish.probe(partial, command, plan.request.env)
    return programs, partial


def _version(plan: BuildPlan) -> str:
    """What the programs tell of themselves: the source, and the patched tree's id if there are patches."""
    inputs = plan.inputs
    ours = inputs.trees[0].id[:8] if inputs.patches else ""
    if plan.request.target is Target.OLLAMA:
        # What follows a plus does not make a version older than its release, as a minus would.
        found = re.fullmatch(r"v?(\d+\.\d+\.\d+(?:-[\w.]+)?)", inputs.release or "")
        return (found[1] if found else "0.0.0") + (f"+tq{ours}" if ours else "")
    name = (inputs.source.commit or inputs.source.tree)[:9]
    return name + (f"-tq{ours}" if ours else "")


def _manifest(plan: BuildPlan, programs: tuple[Program, ...] = (), seconds: float = 0.0) -> Build:
    inputs, chain, cpu, native = plan.inputs, plan.tools.chain, plan.tools.cpu, plan.tools.native
    first, *others = inputs.trees
    go = {"go": plan.tools.go.version} if plan.tools.go else {}
    return Build(
        id=plan.id,
        target=plan.request.target,
        scope=plan.request.scope,
        variant=plan.request.variant,
        tool=f"tqconvert {__version__}",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        source=_origin(inputs.source),
        series=inputs.series,
        patches=tuple(NamedHash(p.name, p.sha256) for p in inputs.patches),
        new_files=tuple(NamedHash(f.path, f.sha256) for f in inputs.new_files),
        tree=first.id,
        flags=inputs.flags,
        environment=dict(chain.flags),
        compiler={"cc": chain.cc_version, "cxx": chain.cxx_version, "generator": chain.generator, **go},
        cpu={
            "machine": cpu.machine, "flags": list(cpu.flags) if native else None,
            "id": cpu.id if native else None,
        },
        programs=programs,
        release=inputs.release,
        base=inputs.base,
        upstream=tuple(NamedHash(p.name, p.sha256) for p in inputs.upstream),
        llama_cpp=Part(_origin(others[0].source), others[0].id) if others else None,
    )  # fmt: skip


def _origin(source: Source) -> Origin:
    return Origin(source.kind, source.name, source.tree, source.commit, source.archive_sha256)
