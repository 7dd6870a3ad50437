"""The runtime on Arm: run under an emulator on Linux, compiled and linked for macOS."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tqconvert.metal import build
from tqconvert.metal.build import CPU, Unit, Workshop

HERE = Path(__file__).parent
CROSS = "aarch64-linux-gnu"


@pytest.fixture
def zig(workshop: Workshop):
    """A compiler for another machine: the command with its target."""
    pytest.importorskip("ziglang", reason="needs ziglang")
    env = {**workshop.env, "ZIG_GLOBAL_CACHE_DIR": str(workshop.cache / "zig")}

    def run(target: str, *args: object) -> None:
        argv = [sys.executable, "-m", "ziglang", "cc", "-target", target, *map(str, args)]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return run


def library(zig, workshop: Workshop, target: str, folder: Path, *, checked: bool = True) -> Path:
    """micro.metal for another machine."""
    source = folder / "unit.cpp"
    rewritten = workshop.rewritten(Unit(HERE / "micro.metal"))
    source.write_text(f'#include "msl_shim.h"\n{rewritten.text}', "utf-8")
    objects = []
    parts = [(source, build._CHECK_FLAGS if checked else ()), (CPU / "msl_rt.cpp", ())]
    for path, extra in (*parts, *([(CPU / "msl_chk.cpp", ())] if checked else [])):
        objects.append(folder / f"{path.stem}.o")
        zig(target, *build._FLAGS, "-O1", *extra, f"-I{CPU}", "-c", path, "-o", objects[-1])
    out = folder / "micro.so"
    zig(target, "-shared", "-fPIC", *objects, "-o", out, "-lm")
    return out


@pytest.mark.parametrize("checked", [True, False])
def test_it_links_for_macos(zig, workshop: Workshop, tmp_path: Path, checked: bool) -> None:
    """Sections, symbols and the switch of fibers are as Mach-O has them. Not run."""
    made = library(zig, workshop, "aarch64-macos", tmp_path, checked=checked)
    assert made.read_bytes()[:4] == bytes.fromhex("cffaedfe")


def test_it_runs_on_arm(zig, workshop: Workshop, tmp_path: Path) -> None:
    """Fibers, barriers, functions of simdgroups and the checker, under an emulator."""
    for tool in (f"{CROSS}-gcc", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    made = library(zig, workshop, CROSS, tmp_path)
    driver = tmp_path / "drive"
    subprocess.run([f"{CROSS}-gcc", HERE / "drive.c", "-o", driver, "-ldl"], check=True)
    kernels = ("local_good", "crossing_good", "in_step", "two_barriers", "branches_good")
    out = subprocess.run(
        ["qemu-aarch64", "-L", f"/usr/{CROSS}", driver, made, *kernels],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    told = [line for line in out if not line.startswith(("E", "F"))]
    assert told[:2] == ["local_good 0 126 0", "crossing_good 0 37 26"]
    assert told[4] == "branches_good 0 31 1520"
    found = {line.split("\t")[1] for line in out if line.startswith("F")}
    assert found == {"simdgroup_race", "uninitialised_threadgroup_read", "divergent_barrier"}
