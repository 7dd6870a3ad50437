"""What a build is made with: compilers, cmake, ninja or make, ccache, and the processor it is for."""

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqconvert.errors import ConfigError, ToolMissingError
from tqconvert.runtime.process import HINTS, output_of, require_program

MEMORY_PER_JOB = 3 << 29
"""1.5 GiB: the largest translation units of llama-server take 1.2 GiB in g++ 12."""

_FLAG_VARIABLES = ("CFLAGS", "CXXFLAGS", "LDFLAGS", "CPPFLAGS")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Programs by absolute path, with what tells one from another."""

    cmake: str
    cc: str
    cxx: str
    cc_version: str
    cxx_version: str
    generator: str
    """cmake's name for it: `Ninja` or `Unix Makefiles`."""
    ccache: str | None
    flags: Mapping[str, str]
    """Variables of the environment that cmake takes compiler flags from."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor that `-march=native` means."""

    machine: str
    flags: tuple[str, ...]

    @property
    def id(self) -> str:
        """Equal where a native build of one machine runs on the other."""
        text = " ".join((self.machine, *self.flags))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_toolchain(env: Mapping[str, str]) -> Toolchain:
    """The programs that a build will use.

    Raises ToolMissingError with what to install, ConfigError for a CC or CXX that is no program.
    """
    cmake = require_program(env, "cmake")
    cc = _compiler(env, "CC", "cc", "gcc", "clang")
    cxx = _compiler(env, "CXX", "c++", "g++", "clang++")
    if shutil.which("ninja", path=env.get("PATH")):
        generator = "Ninja"
    else:
        require_program(env, "make", "gmake")
        generator = "Unix Makefiles"
    return Toolchain(
        cmake=cmake,
        cc=cc,
        cxx=cxx,
        cc_version=_version(cc, env),
        cxx_version=_version(cxx, env),
        generator=generator,
        ccache=shutil.which("ccache", path=env.get("PATH")),
        flags={name: env[name] for name in _FLAG_VARIABLES if env.get(name)},
    )


def _compiler(env: Mapping[str, str], variable: str, *names: str) -> str:
    """The compiler that the variable names, else the first of the usual ones."""
    given = env.get(variable, "").strip()
    if not given:
        return require_program(env, *names)
    found = shutil.which(given, path=env.get("PATH"))
    if found is None and len(given.split()) > 1:
        raise ConfigError(
            f"{variable}={given}: more than the name of a program",
            hint=f"flags belong in {'CFLAGS' if variable == 'CC' else 'CXXFLAGS'}; ccache is used unasked",
        )
    if found is None:
        raise ToolMissingError(f"{given}: not on PATH (named by {variable})", hint=HINTS[names[0]])
    return os.path.abspath(found)


def _version(compiler: str, env: Mapping[str, str]) -> str:
    text = output_of([compiler, "--version"], {**env, "LC_ALL": "C"})
    return text.strip().partition("\n")[0]


def this_cpu() -> Cpu:
    """The processor of this machine and its features, as the system names them."""
    machine = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return Cpu(machine, _sysctl_flags())
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return Cpu(machine, tuple(sorted(value.split())))
    return Cpu(machine, ())


def _sysctl_flags() -> tuple[str, ...]:
    """The name of an Apple processor, which tells its features."""
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True,
            check=False, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(done.stdout.split())


def default_jobs() -> int:
    """Compilers to run at a time: one for each processor that we may use, as far as memory goes."""
    import psutil

    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(n, psutil.virtual_memory().available // MEMORY_PER_JOB))
