"""What a kernel costs, told without a GPU: bytes it loads from device memory, operations it executes.

The kernel is compiled to LLVM's intermediate code, loops unrolled as the GPU's compiler unrolls them and
nothing vectorised; each basic block then counts itself, each load reports its address. Operations are those
of arithmetic: floating-point (a fused multiply-add is one), integer, comparisons, conversions, selections.
Addresses, loads and stores, and functions across lanes are counted apart. That is a proxy: it knows nothing
of registers, latency or occupancy. It compares two kernels on the same work.
"""

import ctypes
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqconvert.errors import BuildFailedError, KernelSourceError
from tqconvert.metal.build import CPU, Unit, Workshop
from tqconvert.metal.compiler import compiler_environment
from tqconvert.metal.launch import Launch

_FLAGS = (
    "-x", "c++", "-std=c++17", "-fPIC", "-w", "-fno-exceptions", "-fno-rtti", "-fdeclspec",
    "-nostdinc++", "-fno-strict-aliasing", "-Xclang", "-ffloat16-excess-precision=none", "-O2",
    "-ffp-contract=on", "-fno-vectorize", "-fno-slp-vectorize", "-mllvm", "-unroll-threshold=100000",
)  # fmt: skip
_ARITHMETIC = re.compile(
    r"= (?:tail )?(?:fadd|fsub|fmul|fdiv|fneg|fcmp|add|sub|mul|[us]div|[us]rem|shl|[la]shr|and|or|xor|icmp"
    r"|select|[us]itofp|fpto[us]i|fpext|fptrunc|trunc|[sz]ext"
    r"|call (?:\w+ )*(?:float|half|i\d+) @(?:llvm\.(?!expect|lifetime)|expf|tanhf|powf))\b"
)
_LOAD = re.compile(
    r"= load (?:volatile )?(<\d+ x (?:half|float|i\d+)>|half|float|double|i\d+), ptr (%[\w.]+|@[\w.]+),"
)
_OTHERS = re.compile(r"@_ZN5metal")
"""Functions of the shim, those across lanes among them."""
_LABEL = re.compile(r"^(?:[\w.]+):")
_COLLECTIVE = re.compile(r"call .*@(?:_ZN5metal|msl_)\w*(?:coll|barrier|lane)")
_RUNTIME = r"""
#include "msl_abi.h"
extern "C" uint64_t msl_cost_blocks[];
MSL_EXPORT uint64_t msl_cost_bytes[32] = {};
static char *low[32], *high[32];
static int n_buffers;
extern "C" void msl_chk_begin(void **b, size_t *s, const uint8_t *, int n, uint32_t, msl::Area, msl::Area, msl::Area) {
  n_buffers = n;
  for (int i = 0; i < n && i < 32; i++) low[i] = (char *)b[i], high[i] = (char *)b[i] + (b[i] ? s[i] : 0);
}
extern "C" void msl_cost_block(uint32_t i) { msl_cost_blocks[i]++; }
extern "C" void msl_cost_load(char *a, uint32_t n) {
  for (int i = 0; i < n_buffers && i < 32; i++)
    if (a >= low[i] && a < high[i]) msl_cost_bytes[i] += n;
}
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one launch, all threads together."""

    bytes_loaded: tuple[int, ...]
    """By buffer index."""
    arithmetic: int
    across_lanes: int
    """Functions of a simdgroup and barriers, each thread's counted."""


@dataclass(frozen=True, slots=True)
class _Block:
    arithmetic: int
    across_lanes: int


def measure(workshop: Workshop, unit: Unit, launch: Launch, arrays: Mapping[str, Any]) -> Cost:
    """The cost of one launch, which runs in this process: for kernels that have passed their check.

    Raises BuildFailedError, KernelSourceError.
    """
    source = workshop.rewritten(unit)
    found = next((k for k in source.kernels if k.host_name == launch.kernel), None)
    if found is None:
        raise KernelSourceError(f"{launch.kernel}: not in {unit.path.name}")
    with TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "unit.cpp").write_text(f'#include "msl_shim.h"\n{source.text}', "utf-8")
        (work / "cost.cpp").write_text(_RUNTIME, "utf-8")

        def compile_(*arguments: str) -> None:
            _run(workshop, [*arguments, f"-I{CPU}"])

        flags = (*_FLAGS, *workshop.compiler.machine_flags())
        compile_(*flags, "-S", "-emit-llvm", str(work / "unit.cpp"), "-o", str(work / "unit.ll"))
        text, blocks = _instrument((work / "unit.ll").read_text("utf-8"))
        (work / "unit.ll").write_text(text, "utf-8")
        parts = []
        for path in (work / "cost.cpp", CPU / "msl_rt.cpp"):
            parts.append(str(work / f"{path.stem}.o"))
            compile_(*flags, "-c", str(path), "-o", parts[-1])
        parts.append(str(work / "unit.o"))
        compile_("-O0", "-fPIC", "-c", str(work / "unit.ll"), "-o", parts[-1])
        library = work / "cost.so"
        _run(workshop, ["-shared", "-fPIC", "-Wl,-Bsymbolic", *parts, "-o", str(library), "-lm"])
        return _launch(library, launch, arrays, blocks)


def _run(workshop: Workshop, arguments: list[str]) -> None:
    env = compiler_environment(workshop.env, workshop.compiler, workshop.cache)
    done = subprocess.run(
        [*workshop.compiler.argv, *arguments], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildFailedError("\n".join(done.stderr.splitlines()[:8]))


def _instrument(text: str) -> tuple[str, list[_Block]]:
    """The text with counting calls in the kernel and what it calls, and what the blocks hold."""
    lines, out, blocks = text.splitlines(), list[str](), list[_Block]()
    inside = False
    for line in lines:
        if line.startswith("define ") and not _OTHERS.search(line):
            inside = True
            out.append(line)
            block: list[str] = []
            continue
        if not inside:
            out.append(line)
            continue
        if _LABEL.match(line) or line == "}":
            out += _counted(block, blocks)
            block = []
            out.append(line)
            inside = line != "}"
        else:
            block.append(line)
    if not blocks:
        raise KernelSourceError("the compiled code holds no kernel")
    n = len(blocks)
    out += [
        "declare void @msl_cost_block(i32)",
        "declare void @msl_cost_load(ptr, i32)",
        f"@msl_cost_blocks = global [{n} x i64] zeroinitializer",
    ]
    return "\n".join(out) + "\n", blocks


def _counted(block: list[str], blocks: list[_Block]) -> Iterator[str]:
    """The lines of a block with a call behind its phis and one before each load."""
    if not any(line.strip() for line in block):
        yield from block
        return
    start = next(i for i, b in enumerate(block) if b.strip() and " = phi " not in b)
    arithmetic = sum(1 for b in block if _ARITHMETIC.search(b))
    lanes = sum(1 for b in block if _COLLECTIVE.search(b))
    for i, line in enumerate(block):
        if i == start:
            yield f"  call void @msl_cost_block(i32 {len(blocks)})"
        if m := _LOAD.search(line):
            yield f"  call void @msl_cost_load(ptr {m[2]}, i32 {_size(m[1])})"
        yield line
    blocks.append(_Block(arithmetic, lanes))


def _size(kind: str) -> int:
    if m := re.match(r"<(\d+) x (\w+)>", kind):
        return int(m[1]) * _size(m[2])
    return {"half": 2, "float": 4, "double": 8}.get(kind) or max(1, int(kind[1:]) // 8)


def _launch(library: Path, launch: Launch, arrays: Mapping[str, Any], blocks: list[_Block]) -> Cost:
    import numpy as np

    so = ctypes.CDLL(str(library))
    so.msl_error.restype = ctypes.c_char_p
    so.msl_clear_constants()
    for index, value in launch.constants.items():
        so.msl_set_constant(index, int(value).to_bytes(8, "little", signed=value < 0), 8)
    kept = {
        n: np.array(np.frombuffer(a, np.uint8) if isinstance(a, bytes) else a)
        for n, a in arrays.items()
    }
    bound = [kept[s.array] if s else None for s in launch.buffers]
    n = len(bound)
    addresses = (ctypes.c_void_p * n)(*(None if b is None else b.ctypes.data for b in bound))
    sizes = (ctypes.c_size_t * n)(*(0 if b is None else b.nbytes for b in bound))
    tg = (ctypes.c_size_t * max(1, len(launch.threadgroup)))(*launch.threadgroup)
    so.msl_launch(
        launch.kernel.encode(), addresses, sizes, n, tg, len(launch.threadgroup),
        (ctypes.c_uint32 * 3)(*launch.grid), (ctypes.c_uint32 * 3)(*launch.threads),
    )  # fmt: skip
    if error := so.msl_error():
        raise KernelSourceError(f"{launch.kernel}: {error.decode()}")
    times = (ctypes.c_uint64 * len(blocks)).in_dll(so, "msl_cost_blocks")
    loaded = (ctypes.c_uint64 * 32).in_dll(so, "msl_cost_bytes")
    return Cost(
        tuple(loaded[:n]),
        sum(t * b.arithmetic for t, b in zip(times, blocks, strict=True)),
        sum(t * b.across_lanes for t, b in zip(times, blocks, strict=True)),
    )
