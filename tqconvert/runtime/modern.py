"""Ollama v0.30 and later compiled: llama-server by Ollama's CMake from the prepared llama.cpp, and Go.

`FETCHCONTENT_SOURCE_DIR_LLAMA_CPP` with `OLLAMA_LLAMA_CPP_SKIP_COMPAT_PATCH=ON` is the one way that links
the compat sources and leaves the given tree alone (llama/server/CMakeLists.txt:119-158 at v0.32.15); the
variable OLLAMA_LLAMA_CPP_SOURCE would override it without them.
"""

import sys
from pathlib import Path

from tqconvert.runtime.compile import (
    Job,
    build_environment,
    compile_targets,
    install_component,
    reproducible,
)
from tqconvert.runtime.golang import GoJob, build_go, go_environment
from tqconvert.runtime.legacy import LDFLAGS
from tqconvert.runtime.recipe import Artifact, Site

PROGRAMS = ("llama-server", "llama-quantize")
"""`ollama create` runs the second."""
_FOREIGN = ("OLLAMA_LLAMA_CPP_SOURCE", "OLLAMA_MLX_SOURCE")


def modern_flags(*, native: bool) -> tuple[str, ...]:
    """What Ollama's own presets set (llama/server/CMakePresets.json), for one processor or for all."""
    common = ("CMAKE_BUILD_TYPE=Release", "GGML_OPENMP=OFF", "OLLAMA_RUNNER_DIR=")
    if sys.platform == "darwin":
        return (
            *common, "BUILD_SHARED_LIBS=OFF", "GGML_BACKEND_DL=OFF", "GGML_NATIVE=OFF", "GGML_METAL=ON",
            "GGML_METAL_EMBED_LIBRARY=ON",
        )  # fmt: skip
    # GGML_NATIVE with GGML_BACKEND_DL is an error of ggml's CMake.
    if native:
        return (*common, "BUILD_SHARED_LIBS=ON", "GGML_BACKEND_DL=OFF", "GGML_NATIVE=ON")
    return (
        *common, "BUILD_SHARED_LIBS=ON", "GGML_BACKEND_DL=ON", "GGML_NATIVE=OFF",
        "GGML_CPU_ALL_VARIANTS=ON",
    )  # fmt: skip


class Modern:
    """llama-server with its libraries, and the Go program that starts it."""

    revision = 1

    def compile(self, site: Site, version: str) -> tuple[Artifact, ...]:
        """Compile. Raises BuildFailedError, ToolMissingError, NetworkError, StorageError."""
        out = site.work / "out"
        tree = site.work / "ollama"
        fixed = (
            f"CMAKE_INSTALL_PREFIX={out}",
            f"FETCHCONTENT_SOURCE_DIR_LLAMA_CPP={site.work / 'llama.cpp'}",
            "OLLAMA_LLAMA_CPP_SKIP_COMPAT_PATCH=ON",
            "FETCHCONTENT_FULLY_DISCONNECTED=ON",
        )
        env = reproducible(build_environment(site.env, site.work), site.work)
        job = Job(
            tree=tree / "llama" / "server", build=site.work / "build", log=site.log,
            toolchain=site.tools.chain, arguments=tuple(f"-D{x}" for x in (*site.flags, *fixed)),
            env={k: v for k, v in env.items() if k not in _FOREIGN}, pass_fds=(site.lock,),
        )  # fmt: skip
        compile_targets(job, PROGRAMS, lambda _: False, jobs=site.jobs, steps=site.steps)
        install_component(job, "llama-server", site.steps)
        output = out / "bin" / "ollama"
        output.parent.mkdir(parents=True, exist_ok=True)
        assert site.tools.go is not None
        go = GoJob(
            go=site.tools.go, tree=tree, output=output, ldflags=LDFLAGS.format(version=version),
            log=site.log, env=go_environment(site.env, tree, site.tools.chain, offline=site.offline),
            offline=site.offline, pass_fds=(site.lock,),
        )  # fmt: skip
        build_go(go, jobs=site.jobs, steps=site.steps)
        return (Artifact("ollama", output), *_installed(out / "lib" / "ollama"))

    def probe(self) -> tuple[str, ...] | None:
        """llama-server runs on this processor."""
        return ("lib/ollama/llama-server", "--version")


def _installed(folder: Path) -> tuple[Artifact, ...]:
    return tuple(
        Artifact(f"lib/ollama/{p.name}", p) for p in sorted(folder.glob("*")) if p.is_file()
    )
