"""Apple's Metal compiler, by xcrun: each file to AIR, as CMake and as an embedded library would see it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT

from tqconvert.errors import ToolMissingError
from tqconvert.runtime.process import end_group, output_of, require_program, start_group

LANGUAGES = ("metal3.1", "metal3.2", "metal4.0")
"""Versions of the language, oldest first; those that the installed compiler does not know are left out."""
BF16 = "GGML_METAL_HAS_BF16=1"
_HINT = "install Xcode, then: xcodebuild -downloadComponent MetalToolchain"


@dataclass(frozen=True, slots=True)
class Compiled:
    """One run of the compiler."""

    path: Path
    language: str
    defines: tuple[str, ...]
    ok: bool
    log: str
    """What it printed; warnings too."""

    @property
    def warnings(self) -> int:
        """Number of warnings."""
        return self.log.count(" warning: ")


@dataclass(frozen=True, slots=True)
class Xcrun:
    """The compiler of an SDK."""

    program: str
    env: Mapping[str, str]
    version: str
    sdk: str = "macosx"

    def compile(
        self, path: Path, out: Path, *, includes: Sequence[Path], language: str,
        defines: Sequence[str] = (BF16,), timeout_s: float = 900,
    ) -> Compiled:  # fmt: skip
        """Compile a file to `out`. Raises ToolMissingError if the compiler does not run."""
        argv = [
            self.program, "-sdk", self.sdk, "metal", f"-std={language}", "-O3", "-Wall", "-Wextra",
            *(f"-D{d}" for d in defines), *(f"-I{p}" for p in includes), "-c", str(path), "-o",
            str(out),
        ]  # fmt: skip
        process = start_group(argv, env=self.env, stdout=PIPE, stderr=STDOUT)
        try:
            text, _ = process.communicate(timeout=timeout_s)
        finally:
            end_group(process)
        log = (text or b"").decode("utf-8", "replace")
        return Compiled(path, language, tuple(defines), process.returncode == 0, log)

    def link(self, airs: Iterable[Path], out: Path) -> str:
        """Make a metallib; what the linker printed. Raises ToolMissingError if it fails."""
        argv = [self.program, "-sdk", self.sdk, "metallib", *map(str, airs), "-o", str(out)]
        return output_of(argv, self.env, timeout_s=900)

    def symbols(self, library: Path) -> frozenset[str]:
        """Names of the functions in a metallib or AIR file. Raises ToolMissingError."""
        text = output_of([self.program, "-sdk", self.sdk, "metal-nm", str(library)], self.env)
        fields = (line.split() for line in text.splitlines())
        return frozenset(f[-1] for f in fields if len(f) >= 2 and f[-2] in ("T", "t"))  # noqa: PLR2004


def find_xcrun(env: Mapping[str, str]) -> Xcrun:
    """The installed compiler. Raises ToolMissingError."""
    try:
        program = require_program(env, "xcrun")
        version = output_of([program, "-sdk", "macosx", "metal", "--version"], env)
    except ToolMissingError as e:
        raise ToolMissingError(f"Apple's Metal compiler: {e.message}", hint=_HINT) from None
    return Xcrun(program, env, version.splitlines()[0].strip() if version else "")
