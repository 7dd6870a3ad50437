"""The compiler that turns rewritten kernels into code: clang 19 or newer, or zig's from a wheel."""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tqconvert.errors import ToolMissingError
from tqconvert.runtime.process import output_of

OLDEST = 19
"""clang 16 has no arithmetic on __bf16; 17 and 18 are not tested."""
_NAMES = ("clang++", "clang++-22", "clang++-21", "clang++-20", "clang++-19")
HINT = "pip install ziglang, or: apt-get install clang-19"


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler that is new enough."""

    argv: tuple[str, ...]
    version: str
    """What it says of itself; a part of every cache key."""
    zig: bool

    def machine_flags(self) -> tuple[str, ...]:
        """Instructions to use: those every x86-64 of the last ten years has, else the default."""
        if os.uname().machine != "x86_64":
            return ()
        return ("-march=x86_64_v3" if self.zig else "-march=x86-64-v3",)


def find_compiler(env: Mapping[str, str]) -> Compiler:
    """The compiler to use: `TQCONVERT_CLANG`, a clang++ on PATH, or zig's. Raises ToolMissingError."""
    if named := env.get("TQCONVERT_CLANG"):
        found = _clang(named, env)
        if found is None:
            raise ToolMissingError(f"{named}: not clang {OLDEST} or newer", hint=HINT)
        return found
    for name in _NAMES:
        if (path := shutil.which(name, path=env.get("PATH"))) and (found := _clang(path, env)):
            return found
    if find_spec("ziglang") is not None:
        argv = (sys.executable, "-m", "ziglang", "cc")
        version = output_of([sys.executable, "-m", "ziglang", "version"], env).strip()
        return Compiler(argv, f"zig {version}", zig=True)
    raise ToolMissingError(f"clang++: none of version {OLDEST} or newer, and no ziglang", hint=HINT)


def _clang(path: str, env: Mapping[str, str]) -> Compiler | None:
    try:
        text = output_of([path, "--version"], env)
    except ToolMissingError:
        return None
    m = re.search(r"(Apple )?clang version (\d+)", text)
    # Apple counts otherwise: its 17 is about clang 19.
    if not m or int(m.group(2)) < (17 if m.group(1) else OLDEST):
        return None
    return Compiler((path,), text.splitlines()[0], zig=False)


def compiler_environment(
    env: Mapping[str, str], compiler: Compiler, cache: Path, scratch: str | None = None
) -> dict[str, str]:
    """The environment to run it in: zig keeps what it builds of its own under `cache`, the rest not."""
    kept = {k: v for k, v in env.items() if not k.startswith(("CPATH", "C_INCLUDE", "CPLUS_"))}
    if compiler.zig:
        kept["ZIG_GLOBAL_CACHE_DIR"] = str(cache / "zig")
        kept["ZIG_LOCAL_CACHE_DIR"] = os.path.join(scratch or cache, "zig")
    return {**kept, "LC_ALL": "C"}
