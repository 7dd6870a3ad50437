"""Does the checked build find each planted defect at its line, and nothing in the correct twins?"""

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from tqconvert.metal.build import Program, Unit
from tqconvert.metal.launch import Launch, slots
from tqconvert.metal.simulate import Simulator

MICRO = Path(__file__).with_name("micro.metal")
SOURCE = MICRO.read_text("utf-8")
KERNELS = re.findall(r"^kernel void (\w+)\(", SOURCE, re.MULTILINE)
N = 64


def expected() -> dict[str, tuple[str, int]]:
    """Kernel -> kind and line of the finding that it must have."""
    found, kernel, early = {}, "", None
    for number, line in enumerate(SOURCE.splitlines(), start=1):
        if m := re.match(r"kernel void (\w+)\(", line):
            kernel = m.group(1)
            if early:
                found[kernel], early = early, None
        if line.startswith("template"):
            kernel = ""  # what follows belongs to the kernel that calls it
        if m := re.search(r"// FIND: (\w+)$", line):
            if kernel:
                found[kernel] = (m.group(1), number)
            else:
                early = (m.group(1), number)
    return found


EXPECTED = expected()


def run(simulator: Simulator, kernel: str, *, checked: bool = True, level: bool = False):
    """The outcome of one kernel on 64 threads; buffers by the names of its parameters."""
    program = simulator.build(Unit(MICRO, checked=checked))
    arrays = {
        "a": struct.pack("<i", 4),
        "x": np.arange(N, dtype=np.float32),
        "y": np.zeros(N, np.float32),
    }
    return simulator.run(program, launch(program, kernel), arrays, level=level)


def launch(program: Program, kernel: str) -> Launch:
    """A launch of 64 threads with 256 bytes for each argument in threadgroup memory."""
    parameters = program.source.parameters(kernel)
    names = {p.index: p.text.split()[-1] for p in parameters if p.kind == "BUFFER"}
    buffers = slots(*(names.get(i) for i in range(max(names) + 1)))
    tg = (4 * N,) * sum(p.kind == "TGMEM" for p in parameters)
    grid = (2 if kernel.startswith("groups") else 1, 1, 1)
    return Launch(kernel, buffers, grid, (N, 1, 1), threadgroup=tg)


def test_each_defect_has_a_twin() -> None:
    """Nothing in the table below is forgotten."""
    assert EXPECTED.keys() == {k for k in KERNELS if f"{k}_good" in KERNELS}


@pytest.mark.parametrize("kernel", EXPECTED)
def test_a_planted_defect_is_found_at_its_line(simulator: Simulator, kernel: str) -> None:
    """Kind, file and line of the .metal source."""
    outcome = run(simulator, kernel)
    kind, line = EXPECTED[kernel]
    assert (kind, str(MICRO), line) in {(f.kind, f.file, f.line) for f in outcome.findings}
    assert not outcome.ok


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.endswith("_good")])
def test_a_correct_kernel_is_silent(simulator: Simulator, kernel: str) -> None:
    """In both builds, with lanes in step and without."""
    assert run(simulator, kernel).text() == ""
    assert run(simulator, kernel, level=True).text() == ""
    assert run(simulator, kernel, checked=False).text() == ""
