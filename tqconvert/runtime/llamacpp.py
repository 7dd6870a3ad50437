"""The target `llama.cpp`: its programs, linked statically."""

import os
from collections.abc import Callable
from pathlib import Path

from tqconvert.errors import BuildFailedError
from tqconvert.patches.apply import plan_patched
from tqconvert.patches.series import Scope, read_series
from tqconvert.runtime.compile import Job, build_environment, compile_targets
from tqconvert.runtime.embed import C_HEADER
from tqconvert.runtime.recipe import Artifact, Site, Tree
from tqconvert.runtime.request import Inputs, Request, Variant
from tqconvert.runtime.source import SDIST, open_source

PROGRAMS = {
    Scope.ALL: (
        "llama-server", "llama-perplexity", "llama-bench", "llama-quantize", "test-backend-ops",
        "test-quantize-fns",
    ),
    Scope.GGML: ("test-backend-ops", "test-quantize-fns"),
}  # fmt: skip
OURS = ("llama-kv-stats", "test-turbo")
"""Built where the patched tree has them; the second is a prefix."""

FLAGS = (
    "CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=OFF", "GGML_METAL=OFF", "LLAMA_USE_PREBUILT_UI=OFF",
    "LLAMA_BUILD_UI=OFF", "LLAMA_OPENSSL=OFF", "LLAMA_BUILD_TESTS=ON", "LLAMA_BUILD_TOOLS=ON",
    "LLAMA_BUILD_SERVER=ON", "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_APP=OFF",
)  # fmt: skip


def llama_cpp_inputs(request: Request, patches: Path, note: Callable[[str], None]) -> Inputs:
    """The tree, its patches, its flags. Raises NotFoundError, PatchError, BadSeriesError, NetworkError."""
    series = read_series(patches, request.scope)
    source = open_source(
        request.source or SDIST, request.cache, request.env, offline=request.offline, note=note
    )
    native = request.variant is Variant.NATIVE
    flags = (*FLAGS, f"GGML_NATIVE={'ON' if native else 'OFF'}", *request.cmake_args)
    patched = plan_patched(source.root, series)
    return Inputs(
        source=source,
        trees=(Tree("src", source, patched.files),),
        patches=patched.patches,
        new_files=patched.new_files,
        series=series.id,
        flags=flags,
        recipe=LlamaCpp(request.scope, flags),
        manifest=("src", C_HEADER) if patched.new_files else None,
    )


class LlamaCpp:
    """Programs of llama.cpp, and ours."""

    revision = 1

    def __init__(self, scope: Scope, flags: tuple[str, ...]) -> None:
        self.scope = scope
        self._crossed = any("TOOLCHAIN_FILE" in x or "CMAKE_SYSTEM_" in x for x in flags)

    def compile(self, site: Site, version: str) -> tuple[Artifact, ...]:
        """Configure and build. Raises BuildFailedError, ToolMissingError, StorageError."""
        build = site.work / "build"
        job = Job(
            tree=site.work / "src",
            build=build,
            log=site.log,
            toolchain=site.tools.chain,
            arguments=tuple(f"-D{x}" for x in (*site.flags, f"LLAMA_BUILD_COMMIT={version}")),
            env=build_environment(site.env, site.work),
            pass_fds=(site.lock,),
        )
        names = compile_targets(
            job, PROGRAMS[self.scope], _is_ours, jobs=site.jobs, steps=site.steps
        )  # fmt: skip
        return tuple(Artifact(name, _built(build, name)) for name in names)

    def probe(self) -> tuple[str, ...] | None:
        """A build for a wrong processor dies here, not at the user's."""
        has_server = "llama-server" in PROGRAMS[self.scope]
        return ("llama-server", "--version") if has_server and not self._crossed else None


def _is_ours(name: str) -> bool:
    return name == OURS[0] or name.startswith(OURS[1])


def _built(build: Path, name: str) -> Path:
    """The program in cmake's folder; older trees have no common bin/."""
    for path in (build / "bin" / name, *sorted(build.rglob(name))):
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise BuildFailedError(f"{build}: {name} was built but is nowhere in it")
