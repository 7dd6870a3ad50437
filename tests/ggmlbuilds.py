"""Builds of ggml alone with our types, by instruction set and by base, kept outside the checkout.

A build is keyed by all that goes into it (tree, patches, options, compiler, the processor of a native one), so
a warm cache costs nothing.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tqconvert.patches.apply import plan_patched, write_changes
from tqconvert.patches.series import Scope, find_patches, read_series
from tqconvert.runtime.compile import build_environment
from tqconvert.runtime.source import fetch_pinned, open_source, pinned_archive
from tqconvert.runtime.toolchain import this_cpu
from tqconvert.runtime.tree import changed_id, copy_files
from tqconvert.settings import default_cache

PROJECT = Path(__file__).parent / "runtime" / "ggml"
BASES = {
    "0.3.18": "56e060193a4b54fb19ad80f7067a688c259c0224ca027efdfc97ab8a91b2b43d",
    "0.3.16": "34ed0f9bd9431af045bb63d9324ae620ad0536653740e9bb163a2e1fcb973be6",
}
"""sdists of llama-cpp-python whose trees lie on both sides of the base of the 34-patch Ollama -> sha256."""
_SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
_CROSS = "aarch64-linux-gnu"
_X86 = platform.machine() in ("x86_64", "AMD64")
# Read now: tests have an environment and a home of their own.
_ENV = dict(os.environ)
CACHE = Path(_ENV.get("TQCONVERT_CACHE") or default_cache())


@dataclass(frozen=True)
class Variant:
    """Options of cmake, and what has to be there."""

    options: tuple[str, ...] = ()
    base: str = "0.3.36"
    tools: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()
    x86: bool = False


_PLAIN = ("-DGGML_NATIVE=OFF",)
VARIANTS = {
    "native": Variant(),
    "avx2": Variant(
        (*_PLAIN, "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON"), x86=True
    ),
    "scalar": Variant(
        (*_PLAIN, *(f"-DGGML_{x}=OFF" for x in ("SSE42", "AVX", "AVX2", "FMA", "F16C", "BMI2"))),
        x86=True,
    ),
    "neon": Variant(
        (
            *_PLAIN,
            "-DCMAKE_SYSTEM_NAME=Linux",
            "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
            f"-DCMAKE_C_COMPILER={_CROSS}-gcc",
            f"-DCMAKE_CXX_COMPILER={_CROSS}-g++",
            "-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod",
        ),
        tools=(f"{_CROSS}-g++", "qemu-aarch64"),
        runner=("qemu-aarch64", "-L", f"/usr/{_CROSS}"),
    ),
    "sanitized": Variant(
        ("-DCMAKE_BUILD_TYPE=RelWithDebInfo", f"-DCMAKE_C_FLAGS={_SANITIZE}", f"-DCMAKE_CXX_FLAGS={_SANITIZE}")
    ),
    "base-0.3.18": Variant(base="0.3.18"),
    "base-0.3.16": Variant(base="0.3.16"),
}  # fmt: skip


def fetch_base(version: str) -> Path:
    """The sdist of a version, fetched by pip once and checked."""
    if version == "0.3.36":
        archive = pinned_archive(CACHE)
        if not archive.exists():
            fetch_pinned(CACHE, _ENV, offline=False)
        return archive
    name = f"llama_cpp_python-{version}.tar.gz"
    path = CACHE / "sdists" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path.with_suffix(".part")
        # ":all:" would compile cmake and ninja too, which pip needs to ask for metadata.
        command = [
            sys.executable, "-m", "pip", "download", "-q", "--no-deps",
            "--no-binary", "llama-cpp-python", "-d", str(target), f"llama-cpp-python=={version}",
        ]  # fmt: skip
        subprocess.run(command, check=True, env=_ENV)
        (target / name).rename(path)
        shutil.rmtree(target)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == BASES[version]
    return path


def build(name: str, plant: Callable[[Path], None] | None = None) -> tuple[str, ...]:
    """The command of `test-turbo` in a build of the variant; `plant` changes the patched tree first."""
    variant = VARIANTS[name]
    if variant.x86 and not _X86:
        pytest.skip("this machine is not an x86-64")
    for tool in ("cmake", *variant.tools):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    source = open_source(str(fetch_base(variant.base)), CACHE, _ENV)
    patched = plan_patched(source.root, read_series(find_patches(), Scope.GGML))
    compiler = subprocess.run(
        [variant.tools[0] if variant.tools else "c++", "--version"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    cpu = "" if "-DGGML_NATIVE=OFF" in variant.options else this_cpu().id
    parts = [changed_id(source.files, patched.files), *variant.options, compiler, cpu,
             (PROJECT / "CMakeLists.txt").read_text()]  # fmt: skip
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    work = CACHE / "ggml-tests" / (key if plant is None else f"{key}-planted")
    program = work / "build" / "test-turbo"
    done = work / "done"
    if plant is not None or not done.exists():
        # What was killed on its way may be another checkout's: cmake would not go on with it.
        shutil.rmtree(work, ignore_errors=True)
        copy_files(
            source.root,
            [p for p in source.files if p.startswith(("ggml/", "tests/"))],
            work / "tree",
        )
        write_changes(patched.files, work / "tree")
        if plant is not None:
            plant(work / "tree")
        _compile(work, variant.options)
        done.touch()
    return (*variant.runner, str(program))


def _compile(work: Path, options: tuple[str, ...]) -> None:
    command = ["cmake", "-S", str(PROJECT), "-B", str(work / "build"), f"-DTREE={work / 'tree'}"]
    if not any("BUILD_TYPE" in o for o in options):
        command.append("-DCMAKE_BUILD_TYPE=Release")
    if shutil.which("ninja"):
        command += ["-G", "Ninja"]
    if shutil.which("ccache"):
        command += [f"-DCMAKE_{x}_COMPILER_LAUNCHER=ccache" for x in ("C", "CXX")]
    steps = (
        [*command, *options],
        ["cmake", "--build", str(work / "build"), "-j2", "--target", "test-turbo"],
    )
    env = build_environment(_ENV, work)
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
