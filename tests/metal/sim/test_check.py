"""`metal check` on a small tree of our own: verdicts, exit codes, and nothing passed that did not run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]
HEADER = """
typedef struct { int64_t ne0; float start; float step; } ggml_metal_kargs_arange;
typedef struct { int64_t val; } ggml_metal_kargs_memset;
"""
KERNELS = """
#include <metal_stdlib>
#include "ggml-metal-impl.h"
using namespace metal;

kernel void kernel_arange_f32(constant ggml_metal_kargs_arange & args, device float * y,
                              ushort i [[thread_index_in_threadgroup]],
                              ushort n [[threads_per_threadgroup]]) {
  for (int k = i; k < args.ne0; k += n) {
    y[k] = args.start + args.step * k;
  }
}
kernel void kernel_memset_i64(constant ggml_metal_kargs_memset & args, device long * y,
                              uint i [[thread_position_in_grid]]) {
  y[i] = args.val;
}
kernel void kernel_nobody_knows(device float * y) { y[0] = 0; }
"""
ARGS = "typedef struct {"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree like llama.cpp's with three kernels."""
    folder = tmp_path / "tree" / "ggml" / "src" / "ggml-metal"
    (folder / "kernels").mkdir(parents=True)
    (folder / "ggml-metal-impl.h").write_text(HEADER)
    (folder / "kernels" / "small.metal").write_text(KERNELS)
    return tmp_path / "tree"


@pytest.fixture
def run(run_cli: Run, workshop, monkeypatch) -> Run:
    """The command, with the tests' cache and compiler."""
    from tqconvert.metal import build, compiler

    monkeypatch.setattr(compiler, "find_compiler", lambda _: workshop.compiler)
    real = build.Workshop
    monkeypatch.setattr(build, "Workshop", lambda c, _cache, env: real(c, workshop.cache, env))
    return lambda *args: run_cli("metal", "check", *map(str, args))


def change(tree: Path, old: str, new: str) -> None:
    """Plant a mistake."""
    path = tree / "ggml" / "src" / "ggml-metal" / "kernels" / "small.metal"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_good_tree(run: Run, tree: Path) -> None:
    """What ran is told apart from what only compiled."""
    code, out, _ = run(tree)
    assert code == 0
    assert out.splitlines() == [
        "1 of 1 files compile, 3 kernels",
        "2 cases over 2 kernels: 2 passed, 0 with known defects of upstream, 0 failed",
        "1 kernels have no case: compiled, not run",
        *out.splitlines()[3:],
    ]
    code, out, _ = run(tree, "--json")
    document = json.loads(out)
    assert (code, document["schema"], document["ok"]) == (0, "tqconvert.metal.check/1", True)
    assert document["not_covered"] == ["kernel_nobody_knows"]
    assert [c["title"] for c in document["cases"]] == ["kernel_arange_f32", "kernel_memset_i64"]
    assert document["counts"]["run"] == 2
    assert run(tree, "-q")[:2] == (0, "")


def test_the_folder_itself(run: Run, tree: Path) -> None:
    """It may be named instead of the tree."""
    assert run(tree / "ggml" / "src" / "ggml-metal", "--plain")[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "told", "failed"),
    [
        ("args.step * k", "args.step * (k + 1)", "kernel_arange_f32: differs from NumPy by", "arange_f32"),
        ("args.val;", "args.val + (i == 3);", "kernel_memset_i64: differs from NumPy by", "memset_i64"),
        ("k < args.ne0", "k <= args.ne0", "small.metal:10: device_out_of_bounds in kernel_arange_f32", "arange_f32"),
        ("y[i] = args.val", "y[i] = args.nothing", "error: no member named 'nothing'", ""),
    ],
)  # fmt: skip
def test_planted_mistakes(run: Run, tree: Path, old: str, new: str, told: str, failed: str) -> None:
    """Wrong numbers, wrong accesses, and what does not compile: exit code 1."""
    change(tree, old, new)
    code, out, _ = run(tree)
    assert code == 1
    assert told in out
    assert run(tree, "-q")[1].split() == ([f"kernel_{failed}"] if failed else [])


def test_a_selection(run: Run, tree: Path) -> None:
    """Only what the expression finds is counted and run."""
    code, out, _ = run(tree, "--kernels", "arange")
    assert code == 0
    assert "1 of 1 files compile, 1 kernels\n1 cases over 1 kernels: 1 passed" in out


def test_nothing_ran(run: Run, tree: Path) -> None:
    """That is no success."""
    code, out, _ = run(tree, "--kernels", "nobody")
    assert code == 1
    assert "0 cases over 0 kernels" in out
    assert "no kernel has a name" not in out
    code, out, _ = run(tree, "--kernels", "absent")
    assert code == 1
    assert out.endswith("no kernel has a name that --kernels 'absent' finds\n")


def test_usage(run: Run, tree: Path, tmp_path: Path) -> None:
    """A bad expression, and no tree."""
    code, _, err = run(tree, "--kernels", "(")
    assert (code, "--kernels '('" in err) == (2, True)
    code, _, err = run(tmp_path)
    assert code == 5
    assert "no ggml-metal-impl.h" in err
    assert "hint: give a folder ggml-metal" in err


def test_no_compiler(run_cli: Run, tree: Path, monkeypatch) -> None:
    """Exit code 8, with what to install."""
    from tqconvert.metal import compiler

    monkeypatch.setattr(compiler, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    code, _, err = run_cli("metal", "check", str(tree))
    assert code == 8
    assert "hint: pip install ziglang, or: apt-get install clang-19" in err
