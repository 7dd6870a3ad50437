"""One .metal file to a shared library for the CPU, kept in a cache by content."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory

from tqconvert.errors import BuildFailedError, NotFoundError
from tqconvert.fs import storage_error
from tqconvert.metal.compiler import Compiler, compiler_environment
from tqconvert.metal.rewrite import Rewritten, rewrite
from tqconvert.runtime.process import end_group, start_group

CPU = Path(__file__).parent / "cpu"
"""Shim, runtime and checker: a part of what is compiled."""
_EMPTY_HEADERS = ("metal_stdlib", "metal_tensor", "stdint.h", "stddef.h")
_CHECKS = ("array-bounds", "local-bounds", "alignment", "shift-exponent", "integer-divide-by-zero")
_DEFINES = ("__METAL__=1", "__METAL_MACOS__=1", "__METAL_VERSION__=400")
_FLAGS = (
    "-x", "c++", "-std=c++17", "-fPIC", "-w", "-fno-exceptions", "-fno-rtti", "-fdeclspec",
    "-nostdinc++", "-fno-strict-aliasing", "-fno-omit-frame-pointer", "-gline-tables-only",
    "-gdwarf-4",
    # Every operation on half rounds, as on the GPU; clang's own choice computes in float.
    "-Xclang", "-ffloat16-excess-precision=none",
)  # fmt: skip
_CHECK_FLAGS = (
    "-fsanitize=thread", "-mllvm", "-tsan-instrument-func-entry-exit=0",
    "-fno-vectorize", "-fno-slp-vectorize",
    # An index that unrolling makes a number is gone, with its array, before anyone looks at it.
    "-fno-unroll-loops",
    # One kind each, and past the driver: zig's has its own mind about undefined behaviour.
    *(f for kind in _CHECKS for f in ("-Xclang", f"-fsanitize={kind}",
                                      "-Xclang", f"-fsanitize-recover={kind}")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unit:
    """What to compile, and how."""

    path: Path
    includes: tuple[Path, ...] = ()
    defines: tuple[str, ...] = ("GGML_METAL_HAS_BF16=1",)
    keep: str | None = None
    """Regular expression; instantiations with other host names are left out. Saves most of the time."""
    checked: bool = True
    """Check every memory access; three to five times as slow to run."""
    fast_math: bool = False
    """Let the compiler reorder and contract float arithmetic, as Metal's does by default."""


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled unit."""

    library: Path
    unit: Unit
    source: Rewritten

    @property
    def names(self) -> tuple[str, ...]:
        """Host names of the kernels, those that `keep` left out excepted."""
        return tuple(k.host_name for k in self.source.kernels)


@dataclass(frozen=True, slots=True)
class Workshop:
    """The compiler, and where its results are kept."""

    compiler: Compiler
    cache: Path
    """The folder `metal` in the cache of tqconvert."""
    env: Mapping[str, str]

    def rewritten(self, unit: Unit) -> Rewritten:
        """The unit as C++; nothing is compiled. Raises NotFoundError, BuildFailedError."""
        return rewrite(self._preprocess(unit), keep=unit.keep)

    def build(self, unit: Unit) -> Program:
        """The unit compiled, or what an earlier run has kept of it.

        Raises NotFoundError, BuildFailedError with the compiler's first errors, KernelSourceError.
        """
        source = self.rewritten(unit)
        flags = (*self._flags(unit), *(_CHECK_FLAGS if unit.checked else ()))
        text = f'#include "msl_shim.h"\n{source.text}'
        parts = ["msl_rt.cpp", *(["msl_chk.cpp"] if unit.checked else [])]
        key = _digest(self.compiler.version, flags, text, *(_cpu_text(p) for p in _cpu_files()))
        library = self.cache / "lib" / f"{unit.path.stem}-{key}.so"
        if library.exists():
            return Program(library, unit, source)
        objects = [self._part(p) for p in parts]
        with self._scratch() as scratch:
            cpp, obj, out = (Path(scratch, n) for n in ("unit.cpp", "unit.o", "unit.so"))
            cpp.write_text(text, "utf-8")
            self._run([*flags, f"-I{CPU}", "-c", str(cpp), "-o", str(obj)], unit.path, scratch)
            self._run(
                [*_LINK, str(obj), *map(str, objects), "-o", str(out), "-lm"], unit.path, scratch
            )
            _keep(out, library)
        return Program(library, unit, source)

    def verify(self, unit: Unit) -> Rewritten:
        """The unit, compiled as far as it takes to know that all its kernels do; no code is made.

        Raises what `build` does.
        """
        source = self.rewritten(unit)
        text = f'#include "msl_shim.h"\n{source.text}'
        flags = self._flags(unit)
        headers = (_cpu_text(name) for name in ("msl_shim.h", "msl_abi.h"))
        key = _digest(self.compiler.version, flags, text, *headers)
        marker = self.cache / "lib" / f"{unit.path.stem}-{key}.ok"
        if not marker.exists():
            with self._scratch() as scratch:
                cpp = Path(scratch, "unit.cpp")
                cpp.write_text(text, "utf-8")
                # Not -fsyntax-only: zig wants a file to come out, and the front end's is soon written.
                stop = ("-Xclang", "-disable-llvm-passes", "-emit-llvm", "-c")
                out = ("-o", str(Path(scratch, "unit.bc")))
                self._run([*flags, *stop, f"-I{CPU}", str(cpp), *out], unit.path, scratch)
            marker.parent.mkdir(parents=True, exist_ok=True)  # it may have been cleaned meanwhile
            marker.touch()
        return source

    def _flags(self, unit: Unit) -> tuple[str, ...]:
        math = ("-ffast-math", "-ffp-contract=fast") if unit.fast_math else ("-ffp-contract=off",)
        level = "-O1" if unit.checked else "-O2"
        return (*_FLAGS, *self.compiler.machine_flags(), *math, level)

    def _part(self, name: str) -> Path:
        """The object file of the runtime or of the checker."""
        flags = (*_FLAGS, *self.compiler.machine_flags(), "-O2")
        key = _digest(self.compiler.version, flags, _cpu_text("msl_abi.h"), _cpu_text(name))
        kept = self.cache / "lib" / f"{Path(name).stem}-{key}.o"
        if not kept.exists():
            with self._scratch() as scratch:
                obj = Path(scratch, "part.o")
                self._run(
                    [*flags, f"-I{CPU}", "-c", str(CPU / name), "-o", str(obj)], CPU / name, scratch
                )
                _keep(obj, kept)
        return kept

    def _preprocess(self, unit: Unit) -> str:
        """The unit with its own includes resolved; those of the system are empty."""
        path = unit.path.absolute()
        if not path.is_file():
            raise NotFoundError(f"{unit.path}: no such file")
        # One place for all: it is named in the line markers, and so in every key.
        empty = self.cache / "empty"
        with self._scratch() as scratch:
            empty.mkdir(exist_ok=True)
            for name in _EMPTY_HEADERS:
                (empty / name).touch()
            folders = (str(empty), *(str(f.absolute()) for f in unit.includes))
            return self._run(
                [
                    "-E", "-x", "c++", "-std=c++17", "-nostdinc",
                    *(f"-D{d}" for d in (*_DEFINES, *unit.defines)),
                    *(f"-I{f}" for f in folders), str(path),
                ],
                unit.path, scratch,
            )  # fmt: skip

    def _scratch(self) -> TemporaryDirectory[str]:
        try:
            (self.cache / "lib").mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise storage_error(e, self.cache) from e
        return TemporaryDirectory(dir=self.cache, prefix="work-")

    def _run(self, arguments: Sequence[str], subject: Path, scratch: str) -> str:
        """What the compiler prints. Raises BuildFailedError with its first errors."""
        env = compiler_environment(self.env, self.compiler, self.cache, scratch)
        # In the root folder, so that no path in the line table depends on where this runs.
        process = start_group(
            [*self.compiler.argv, *arguments], env=env, cwd="/", stdout=PIPE, stderr=PIPE
        )
        try:
            out, err = process.communicate()
        finally:
            end_group(process)
        if process.returncode:
            lines = err.decode("utf-8", "replace").splitlines()
            errors = [line for line in lines if "error" in line] or lines[-5:]
            raise BuildFailedError("\n".join([f"{subject}: does not compile", *errors[:8]]))
        return out.decode("utf-8", "replace")


_LINK = ("-shared", "-fPIC", "-Wl,-Bsymbolic") if os.uname().sysname != "Darwin" else ("-shared",)


def _cpu_files() -> list[str]:
    return sorted(p.name for p in CPU.iterdir() if p.suffix in (".h", ".cpp"))


def _cpu_text(name: str) -> str:
    return (CPU / name).read_text("utf-8")


def _digest(*parts: str | tuple[str, ...]) -> str:
    h = hashlib.sha256()
    for part in parts:
        for piece in (part,) if isinstance(part, str) else part:
            h.update(piece.encode() + b"\0")
        h.update(b"\1")
    return h.hexdigest()[:20]


def _keep(made: Path, kept: Path) -> None:
    """Move what was made to its place in the cache; another process may do the same."""
    part = kept.with_name(f"{kept.name}.{os.getpid()}")
    try:
        shutil.move(made, part)
        part.replace(kept)
    except OSError as e:
        raise storage_error(e, kept) from e
