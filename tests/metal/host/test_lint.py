"""The lint of kernels: sound ones pass, each planted fault is found under its code."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tqconvert.metal.lint import lint
from tqconvert.metal.lint_codes import CODES, finding
from tqconvert.patches.kernels import find_kernels
from tqconvert.patches.series import find_patches

SOUND = """\
#include <metal_stdlib>
using namespace metal;
#define N 32
constant float table[2] = { 1.0f, 2.0f };
constant bool twice [[function_constant(2200)]];
typedef struct {
    int n;
} args_t;
struct pair {
    float a, b;
    float sum() thread const { return a + b; }
};
template<typename T>
static inline void swap_them(thread T & a, thread T & b) { const T c = a*b; a = b; b = c; }
template<short D>
kernel void kernel_a(
        constant args_t & args,
        device const char * src,
        device float * dst,
        uint i [[thread_position_in_grid]]) {
    threadgroup float rows[N*2];
    threadgroup float * row = rows;
    device const float * from = (device const float *) (src + i*args.n);
    float a = from[0], b = 2.0f*table[0];
    swap_them(a, b);
    for (int k = 0; k*k < args.n; k++) { row[k] = a & 1 ? a : b; }
    dst[i] = twice ? a : b;
}
template [[host_name("kernel_a_64")]] kernel void kernel_a<64>(constant args_t &, device const char *, device float *, uint);
"""


def write_kernel(folder: Path, old: str = "", new: str = "") -> Path:
    """A folder with one file."""
    assert old in SOUND
    folder.mkdir(exist_ok=True)
    (folder / "a.metal").write_text(SOUND.replace(old, new, 1) if old else SOUND)
    return folder


def test_a_sound_file_passes(tmp_path: Path) -> None:
    """Products, masks, casts, templates and struct members are none of the faults."""
    assert lint(write_kernel(tmp_path / "k")).findings == ()


def test_our_kernels_pass() -> None:
    """Those that the patches bring."""
    folder = find_kernels(find_patches())
    assert folder is not None
    report = lint(folder)
    assert report.findings == ()
    assert len(report.files) >= 4


FAULTS = {
    "a pointer without address space": ("MT101", "device float * dst", "float * dst"),
    "a reference without address space": ("MT101", "thread T & b)", "T & b)"),
    "a cast without address space": ("MT101", "(device const float *)", "(const float *)"),
    "double": ("MT201", "float a, b;", "double a, b;"),
    "new": ("MT201", "2.0f*table[0]", "*new float"),
    "the standard library": ("MT201", "static inline void swap_them", "using std::swap;\nstatic inline void swap_them"),
    "goto": ("MT201", "swap_them(a, b);", "again: swap_them(a, b); goto again;"),
    "recursion": ("MT202", "const T c = a*b;", "const T c = a*b; swap_them(a, b);"),
    "a variable of the program": ("MT203", "constant float table", "float table"),
    "a float without f": ("MT204", "2.0f*table", "2.0*table"),
    "a newer type": ("MT301", "float a, b;", "bfloat a, b;"),
    "an array of any length": ("MT401", "rows[N*2]", "rows[args.n]"),
    "a threadgroup variable in a function": ("MT402", "{ const T c", "{ threadgroup T x[4]; const T c"),
    "too much threadgroup memory": ("MT403", "rows[N*2]", "rows[N*512]"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, tmp_path: Path) -> None:
    """Its code, at the line where it was planted, and nothing else."""
    code, old, new = FAULTS[fault]
    report = lint(write_kernel(tmp_path / "k", old, new))
    assert {f.code for f in report.findings} == {code}
    assert report.ok == (CODES[code][0] == "note")
    assert report.findings[0].path == "a.metal"
    assert report.findings[0].line


def test_nothing_to_look_at(tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    """A folder without kernels is a finding, no folder an error."""
    assert [f.code for f in lint(tmp_path).findings] == ["MN001"]
    assert run_cli("metal", "lint", tmp_path)[0] == 1
    assert run_cli("metal", "lint", tmp_path / "none")[0] == 5


def test_the_command(tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    """Text, JSON, quiet, and the exit codes."""
    code, out, _ = run_cli("metal", "lint")
    assert code == 0
    assert "ok, " in out
    bad = write_kernel(tmp_path / "k", "device float * dst", "float * dst")
    code, out, _ = run_cli("metal", "lint", bad, "--json")
    assert code == 1
    assert '"code": "MT101"' in out
    assert run_cli("metal", "lint", bad, "-q")[1] == "MT101 a.metal 19\n"


def test_a_finding_reads_like_a_compilers() -> None:
    """File, line, code, severity, text."""
    assert str(finding("a.metal", 3, "MT101", "x")) == "a.metal:3: MT101 error: x"
