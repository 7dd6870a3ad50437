"""Ollama v0.17.1 to v0.24.0 compiled: Go with llama.cpp inside by cgo, and the CPU's ggml by CMake.

cgo compiles ggml-cpu for the plainest processor; the libraries beside the program, one a kind of
processor, are what a release computes with (CMakeLists.txt of v0.19.0).
"""

from pathlib import Path

from tqconvert.runtime.compile import (
    Job,
    build_environment,
    compile_targets,
    list_targets,
    reproducible,
)
from tqconvert.runtime.golang import GoJob, build_go, go_environment
from tqconvert.runtime.recipe import Artifact, Site

# What is copied out of cmake's folder must not look for its libraries there.
LEGACY_FLAGS = ("CMAKE_BUILD_TYPE=Release", "CMAKE_BUILD_RPATH_USE_ORIGIN=ON")
LDFLAGS = (
    # Go's own id of the build hashes paths that cgo is given (-I${SRCDIR}/...).
    "-s -w -buildid= -X=github.com/ollama/ollama/version.Version={version}"
    " -X=github.com/ollama/ollama/server.mode=release"
)
_VARIANTS = (
    (
        "zen4",
        {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16", "avx512vbmi"},
    ),
    ("icelake", {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512vbmi"}),
    ("skylakex", {"avx512f", "avx512cd", "avx512bw", "avx512vl", "avx512dq"}),
    ("alderlake", {"avx2", "fma", "f16c", "bmi2", "avx_vnni"}),
    ("haswell", {"avx2", "fma", "f16c", "bmi2"}),
    ("sandybridge", {"avx"}),
    ("sse42", {"sse4_2"}),
    ("x64", set[str]()),
)
"""Name of a library ggml-cpu-NAME and the processor's features that it needs, the best first."""


class Legacy:
    """One Go program, and the libraries of ggml's CPU backend."""

    revision = 1

    def compile(self, site: Site, version: str) -> tuple[Artifact, ...]:
        """Compile. Raises BuildFailedError, ToolMissingError, NetworkError, StorageError."""
        libraries = self._libraries(site)
        output = site.work / "out" / "ollama"
        output.parent.mkdir(exist_ok=True)
        src = site.work / "src"
        assert site.tools.go is not None
        job = GoJob(
            go=site.tools.go, tree=src, output=output, ldflags=LDFLAGS.format(version=version),
            log=site.log, env=go_environment(site.env, src, site.tools.chain, offline=site.offline),
            offline=site.offline, pass_fds=(site.lock,),
        )  # fmt: skip
        build_go(job, jobs=site.jobs, steps=site.steps)
        return (Artifact("ollama", output), *libraries)

    def probe(self) -> tuple[str, ...] | None:
        """The program tells its version without a server."""
        return ("ollama", "--version")

    def _libraries(self, site: Site) -> tuple[Artifact, ...]:
        build = site.work / "build"
        job = Job(
            tree=site.work / "src", build=build, log=site.log, toolchain=site.tools.chain,
            arguments=tuple(f"-D{x}" for x in site.flags),
            env=reproducible(build_environment(site.env, site.work), site.work), pass_fds=(site.lock,),
        )  # fmt: skip
        compile_targets(job, (), lambda _: False, jobs=site.jobs, steps=site.steps)
        present = list_targets(job)
        wanted = best_variant(present, set(site.tools.cpu.flags)) if site.tools.native else None
        compile_targets(
            job,
            ("ggml-base", wanted or "ggml-cpu"),
            lambda _: False,
            jobs=site.jobs,
            steps=site.steps,
        )
        folder = build / "lib" / "ollama"
        return tuple(Artifact(f"lib/ollama/{p.name}", p) for p in sorted(_libraries(folder)))


def best_variant(targets: set[str], flags: set[str]) -> str | None:
    """The best CPU library of those that can be built; None where the tree has one for all."""
    for name, needs in _VARIANTS:
        if f"ggml-cpu-{name}" in targets and needs <= flags:
            return f"ggml-cpu-{name}"
    return None


def _libraries(folder: Path) -> list[Path]:
    return [
        p for p in folder.glob("*") if p.is_file() and (".so" in p.name or p.suffix == ".dylib")
    ]
