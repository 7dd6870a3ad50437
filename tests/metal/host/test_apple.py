"""The half that takes a Mac, against one of a few lines: what is asked of it, and what is made of its answers."""

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakemac import fake_metal, install_xcrun
from metalbackend import write_backend

from tqconvert.errors import KernelSourceError, NotFoundError, ToolMissingError
from tqconvert.metal.apple import bench, verify
from tqconvert.metal.apple.compiler import find_xcrun
from tqconvert.metal.apple.flatten import flatten
from tqconvert.metal.apple.gpu import Gpu
from tqconvert.metal.check.tree import MetalTree
from tqconvert.metal.launch import Launch, slots
from tqconvert.metal.simulate import Simulator
from tqconvert.metal.tree import find_metal
from tqconvert.metal.turbo.cases import RowsCase
from tqconvert.metal.turbo.launches import plan
from tqconvert.metal.turbo.plan import Plan

NAMES = ["kernel_scale_f32", "kernel_scale_f16", "kernel_fill"]
SCALE_F32 = '[[host_name("kernel_scale_f32")]]'

FIELDS = {
    "cpy": "nk0 ne00 ne01 ne02 ne03 nb00 nb01 nb02 nb03 ne0 ne1 ne2 ne3 nb0 nb1 nb2 nb3",
    "flash_attn_ext_vec": (
        "ne01 ne02 ne03 nb01 nb02 nb03 ne11 ne_12_2 ne_12_3 ns10 nb11 nb12 nb13 ns20 nb21 nb22 nb23 "
        "ne31 ne32 ne33 nb31 nb32 nb33 ne1 ne2 ne3 scale max_bias m0 m1 n_head_log2 logit_softcap"
    ),
    "flash_attn_ext_vec_reduce": "nrows",
}
"""Structs of arguments, of which the names of the fields matter here."""


def structs() -> dict[str, type[ctypes.Structure]]:
    """Argument structs with these fields."""
    floats = {"scale", "max_bias", "m0", "m1", "logit_softcap"}
    made = {}
    for name, fields in FIELDS.items():
        types = [(f, ctypes.c_float if f in floats else ctypes.c_int64) for f in fields.split()]
        title = f"ggml_metal_kargs_{name}"
        made[title] = type(title, (ctypes.Structure,), {"_fields_": types})
    return made


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A GPU with the kernel `add`."""
    monkeypatch.setitem(sys.modules, "Metal", fake_metal(["add"]))
    device = Gpu()
    device.load("", {})
    return device


def add(n: int, step: int, offset: int = 0) -> Launch:
    """A launch of `add`."""
    array = slots("x")[0]
    assert array is not None
    place = type(array)("x", offset)
    return Launch("add", (place,), (n, 1, 1), (1, 1, 1), {0: 1, 1: step}, (16,))


def test_launches_run_in_order_with_typed_constants(gpu: Gpu) -> None:
    """Integers of a record become the types that the library declares; results and times come back."""
    done = gpu.run([add(2, 3), add(1, 4, offset=4)], {"x": np.zeros(3, np.float32)})
    assert list(done.arrays["x"]) == [3, 7, 0]
    assert done.gpu_s == (0.5, 0.5)
    assert done.error == ""
    assert gpu.pipeline("add", {0: 1, 1: 3}).simd_width == 32


def test_what_cannot_run_is_said(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing value, an unknown kernel, too many threads, an error of the GPU."""
    with pytest.raises(KernelSourceError, match="function constant 1 has no value"):
        gpu.pipeline("add", {0: 1})
    with pytest.raises(KernelSourceError, match="none of the libraries"):
        gpu.pipeline("sub", {})
    with pytest.raises(KernelSourceError, match="newLibraryWithSource"):
        gpu.load("does_not_compile", {})
    for options, text in (({"max_threads": 0}, "at most 0"), ({"fails": True}, "out of bounds")):
        monkeypatch.setitem(sys.modules, "Metal", fake_metal(["add"], **options))
        other = Gpu()
        other.load("", {})
        assert text in other.run([add(1, 1)], {"x": np.zeros(1, np.float32)}).error


def test_what_validation_finds_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An access out of bounds fails no command buffer: Metal logs it, and the case that made it has failed."""
    logs = ("Invalid device load at offset 64, turbo.metal:12",)
    monkeypatch.setitem(sys.modules, "Metal", fake_metal(["add"], logs=logs))
    device = Gpu()
    device.load("", {})
    done = device.run([add(1, 1)], {"x": np.zeros(1, np.float32)})
    assert (done.error, done.messages) == ("", (f"add: {logs[0]}",))
    too_much = Launch("add", slots("x"), (1, 1, 1), (1, 1, 1), {0: 1, 1: 1}, (32784,))
    assert "32784 bytes" in device.run([too_much], {"x": np.zeros(1, np.float32)}).error


def test_every_file_is_compiled(tmp_path: Path) -> None:
    """In each language that the compiler knows, with bfloat and without; names are compared."""
    tree = write_backend(
        tmp_path / "tree", kernels_scale_metal=("SCALE(float, kernel_scale_f32)",
        f"template {SCALE_F32} kernel scale_t kernel_scale<float>;"),
    )  # fmt: skip
    env = {**os.environ, "PATH": f"{install_xcrun(tmp_path / 'bin')}:{os.environ['PATH']}"}
    xcrun = find_xcrun(env)
    assert xcrun.version.startswith("Apple metal version")
    steps = list(verify.compile_all(find_metal(tree), xcrun, tmp_path))
    assert [s.what for s in steps] == [
        "languages", "scale.metal metal3.1 bf16", "scale.metal metal3.1 no bf16",
        "scale.metal metal3.2 bf16", "scale.metal metal3.2 no bf16", "names in the library",
    ]  # fmt: skip
    assert steps[0].text == "metal3.1, metal3.2"
    assert [s.ok for s in steps[:-1]] == [True] * 5
    # the fake takes the template for a kernel: a name that the tokens do not give
    assert steps[-1].text == "kernel_scale: not read from the source"


def test_a_file_that_apple_refuses(tmp_path: Path) -> None:
    """The compiler's errors are handed on, and no library is made."""
    tree = write_backend(
        tmp_path / "tree", kernels_scale_metal=("kernel void kernel_fill", "/* does_not_compile */ kernel void kernel_fill"),
    )  # fmt: skip
    env = {**os.environ, "PATH": f"{install_xcrun(tmp_path / 'bin')}:{os.environ['PATH']}"}
    steps = list(verify.compile_all(find_metal(tree), find_xcrun(env), tmp_path))
    assert [s.ok for s in steps] == [True] + [False] * 4
    assert "explicit address space" in steps[1].text


def test_libraries_from_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Includes are put in; names that differ are told."""
    tree = find_metal(write_backend(tmp_path))
    monkeypatch.setitem(sys.modules, "Metal", fake_metal(NAMES))
    assert [s.ok for s in verify.load_all(tree, Gpu())] == [True]
    monkeypatch.setitem(sys.modules, "Metal", fake_metal(NAMES[:2]))
    (step,) = verify.load_all(tree, Gpu())
    assert step.text == "kernel_fill: not in the library"


def test_a_file_is_flattened(tmp_path: Path) -> None:
    """Each include once, without #pragma once; what is missing is named."""
    tree = find_metal(write_backend(tmp_path))
    text = flatten(tree.units[0], tree.includes)
    assert text.count("typedef struct") == 2
    assert '#include "' not in text
    assert "pragma once" not in text
    (tree.folder / "kernels" / "common.h").unlink()
    with pytest.raises(NotFoundError, match=r"includes common\.h"):
        flatten(tree.units[0], tree.includes)


def test_combinations_of_constants() -> None:
    """All of the booleans that a kernel reads, with the number of workgroups."""
    assert len(list(verify.turbo_constants({2200, 2201, 2202, 2203, 2204}))) == 32
    assert list(verify.turbo_constants({2204})) == [{2204: 1}, {2204: 32}]
    assert list(verify.turbo_constants(())) == [{}]


def test_pipelines_of_our_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few threads are a note; a pipeline that cannot be made is a fault."""
    tree = find_metal(
        write_backend(tmp_path, kernels_scale_metal=("void kernel_fill", "void kernel_fill_turbo4"))
    )
    constants = {"turbo_constants": lambda _: iter([{0: 0, 1: 1}, {0: 1, 1: 1}])}
    monkeypatch.setattr(verify, "turbo_constants", constants["turbo_constants"])
    monkeypatch.setitem(sys.modules, "Metal", fake_metal(["kernel_fill_turbo4"], max_threads=448))
    device = Gpu()
    (failed,) = verify.make_pipelines(tree, device)
    assert not failed.ok
    device.load("", {})
    (step,) = verify.make_pipelines(tree, device)
    assert (step.ok, step.note, step.text) == (True, True, "2 pipelines, at most 448 threads")


@pytest.mark.parametrize("wrong", [False, True])
def test_cases_are_compared_with_the_reference(wrong: bool) -> None:
    """What the GPU leaves is held against the same arrays and bars as the simulator's."""
    case = RowsCase("to_f32", "turbo4", 128, 2)
    planned = plan(case, structs())

    def run(launches: object, arrays: dict[str, np.ndarray]) -> object:
        left = dict(arrays)
        for e in planned.expected:
            left[e.array] = np.asarray(e.want).astype(arrays[e.array].dtype) + wrong
        return SimpleNamespace(arrays=left, error="", gpu_s=(0.001,), messages=logged)

    logged: tuple[str, ...] = ()
    device = SimpleNamespace(run=run)
    (step,) = verify.run_cases(device, structs(), [case])  # type: ignore[arg-type]
    assert step.ok is not wrong
    # the simulator's arrays are told beside it, and are no verdict
    zeros = {e.array: np.zeros_like(planned.arrays[e.array]) for e in planned.expected}
    (step,) = verify.run_cases(device, structs(), [case], lambda _: zeros)  # type: ignore[arg-type]
    assert step.ok is not wrong
    assert "from the simulator" in step.text
    logged = ("Invalid device load",)
    (step,) = verify.run_cases(device, structs(), [case])  # type: ignore[arg-type]
    assert not step.ok
    assert "Invalid device load" in step.text


def test_times_of_caches() -> None:
    """Upstream's kernel for stock types, ours otherwise; the cache has the size of its types."""
    fake = SimpleNamespace(run=lambda *_: SimpleNamespace(gpu_s=(2.0, 1.0), error=""))
    pairs = (("q8_0", "q8_0"), ("q8_0", "turbo4"))
    rows = list(
        bench.measure(
            fake, structs(), dims=(128,), lengths=(64,), queries=(1,), pairs=pairs, rounds=3
        )
    )
    assert [(r.seconds, r.cache_bytes) for r in rows] == [(3.0, 64 * 8 * 272), (3.0, 64 * 8 * 202)]
    assert [r.moved_bytes for r in rows] == [4 * r.cache_bytes for r in rows]
    stock, _ = bench.decode(structs(), "q8_0", "q8_0", 128, 64, (32, 8))
    ours, _ = bench.decode(structs(), "q8_0", "turbo4", 128, 64, (32, 8))
    assert stock[0].kernel == "kernel_flash_attn_ext_vec_q8_0_dk128_dv128"
    assert stock[0].constants[420] == 8 * 4
    assert ours[0].kernel == "kernel_flash_attn_ext_vec_kq8_0_vturbo4_dk128_dv128"


def test_the_table_of_times(
    upstream: MetalTree,
    monkeypatch: pytest.MonkeyPatch,
    run_cli: Callable[..., tuple[int, str, str]],
) -> None:
    """Decode and prefill, each beside q8_0 and f16 of its shape; a prompt that other kernels take is refused."""

    def run(launches: list[Launch], _: object) -> SimpleNamespace:
        names = " ".join(launch.kernel for launch in launches)
        second = 0.5 if "turbo" in names else 2.0 if "q8_0" in names else 1.0
        return SimpleNamespace(gpu_s=(second,), error="")

    fake = SimpleNamespace(name="Fake M1", load=lambda *_: None, run=run)
    monkeypatch.setattr("tqconvert.metal.apple.gpu.Gpu", lambda: fake)
    options = ("--dim", "128", "--length", "64", "--prompt", "40")
    code, out, _ = run_cli("metal", "bench", upstream.folder, *options)
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 1 + 2 * len(bench.PAIRS) + 2
    decode = [line.split()[-2:] for line in lines[1 : 1 + len(bench.PAIRS)]]
    assert decode == [["0.50x", "1.00x"], ["1.00x", "2.00x"], *[["0.25x", "0.50x"]] * 5]
    assert [line.split()[5] for line in lines[1:-2]] == ["1"] * 7 + ["40"] * 7
    code, out, _ = run_cli("metal", "bench", upstream.folder, *options, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["rows"][0].keys() >= {"n_q", "seconds", "cache_bytes", "moved_bytes"}
    code, _, err = run_cli("metal", "bench", upstream.folder, "--prompt", "8")
    assert (code, "fewer than 32 queries" in err) == (2, True)


def test_the_simulator_runs_the_same_launches(tmp_path: Path, simulator: Simulator) -> None:
    """From the files of the tree; a kernel that none has is told."""
    tree = find_metal(write_backend(tmp_path))
    run = verify.simulator_of(tree, simulator)
    launch = Launch("kernel_sub", slots("x"), (1, 1, 1), (1, 1, 1))
    with pytest.raises(KernelSourceError, match="kernel_sub: in none of the files"):
        run(Plan({"x": np.zeros(4, np.float32)}, (launch,), ()))


def test_no_mac(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    """Both commands end with 8 and say what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "Metal", None)
    tree = write_backend(tmp_path / "tree")
    code, _, err = run_cli("metal", "gpu", tree)
    assert code == 8
    assert "Apple's Metal compiler" in err
    code, _, err = run_cli("metal", "bench", tree)
    assert code == 8
    assert "PyObjC" in err
    with pytest.raises(ToolMissingError):
        Gpu()


def test_documents_of_both_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., tuple[int, str, str]]
) -> None:
    """--json of `metal gpu` and `metal bench` on the Mac of a few lines: steps and rows as they came."""
    from tqconvert.cli.metal import mac

    tree = write_backend(tmp_path / "tree")
    monkeypatch.setitem(sys.modules, "Metal", fake_metal(NAMES))
    step = verify.Step("languages", ok=False, text="none")
    monkeypatch.setattr(mac, "_steps", lambda *_, **__: iter([step]))
    code, out, _ = run_cli("metal", "gpu", tree, "--no-validate", "--json")
    assert (code, json.loads(out)["steps"]) == (
        1,
        [{"what": "languages", "ok": False, "text": "none", "note": False}],
    )
    row = bench.Time("q8_0", "turbo4", 128, 64, 1, 0.5, 1000, 2000)
    monkeypatch.setattr(bench, "measure", lambda *_, **__: iter([row]))
    code, out, _ = run_cli("metal", "bench", tree, "--json")
    assert (code, json.loads(out)["rows"][0]["seconds"]) == (0, 0.5)
