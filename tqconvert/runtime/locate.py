"""Find the programs of a build: in the cache, or in a folder that the user names."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqconvert.errors import BadManifestError, NotFoundError, StorageError
from tqconvert.runtime.manifest import NAME, Build, read_build
from tqconvert.runtime.toolchain import this_cpu

BUILD_HINT = "tqconvert ollama-build build --target llama.cpp --source sdist"
SERVER = "llama-server"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A folder with the programs of llama.cpp."""

    folder: Path
    build: Build | None
    """None for a build that is not ours."""

    def program(self, name: str) -> Path:
        """Path of one of its programs. Raises NotFoundError."""
        for path in (self.folder / "bin" / name, self.folder / name):
            if path.is_file() and os.access(path, os.X_OK):
                return path
        raise NotFoundError(f"{self.folder}: has no {name}", hint=BUILD_HINT)

    @property
    def has_turbo(self) -> bool | None:
        """Whether it has turbo types and obeys tags; None where nobody can tell."""
        return self.build.is_patched if self.build else None


def runtimes_folder(cache: Path) -> Path:
    """Where finished builds lie."""
    return cache / "runtimes"


def find_runtime(cache: Path, given: Path | None = None, *, program: str = SERVER) -> Runtime:
    """The runtime to use: the folder `given`, else the build in the cache that was last asked for and has `program`.

    Raises NotFoundError with the command that builds one.
    """
    if given is not None:
        return _open_given(given, program)
    usable = [r for r in list_runtimes(cache) if r.build and _has(r.build, program)]
    if not usable:
        raise NotFoundError(
            f"{runtimes_folder(cache)}: no build with {program} that runs on this machine",
            hint=BUILD_HINT,
        )
    return max(usable, key=lambda r: (r.folder / NAME).stat().st_mtime_ns)


def list_runtimes(cache: Path) -> Iterator[Runtime]:
    """Builds in the cache that are whole and made for this processor, in no order."""
    cpu = this_cpu()
    for folder in sorted(runtimes_folder(cache).glob(f"*/{NAME}")):
        runtime = open_build(folder.parent)
        if runtime is None or runtime.build is None:
            continue
        if runtime.build.cpu.get("id") in (None, cpu.id) and (
            runtime.build.cpu.get("machine") == cpu.machine
        ):
            yield runtime


def open_build(folder: Path) -> Runtime | None:
    """The build in `folder` if it is whole: a manifest, and every program with the size it tells."""
    try:
        build = read_build(folder)
    except (NotFoundError, BadManifestError, StorageError):
        return None
    for program in build.programs:
        try:
            if (folder / program.path).stat().st_size != program.bytes:
                return None
        except OSError:
            return None
    return Runtime(folder, build)


def _open_given(folder: Path, program: str) -> Runtime:
    """A folder of the user's, which needs no manifest."""
    folder = folder.expanduser()
    if folder.is_file():
        raise NotFoundError(f"{folder}: is a file (expected the folder with {program} in it)")
    try:
        build = read_build(folder)
    except NotFoundError:
        build = None
    runtime = Runtime(folder, build)
    runtime.program(program)
    return runtime


def _has(build: Build, program: str) -> bool:
    return any(p.name == program for p in build.programs)
