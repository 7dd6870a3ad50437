"""What launches on the CPU give: numbers, findings, and errors that leave the tool alive."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from tqconvert.errors import BuildFailedError, KernelSourceError, NotFoundError
from tqconvert.metal.build import Program, Unit, Workshop
from tqconvert.metal.launch import Launch, Slot, slots
from tqconvert.metal.simulate import Simulator

MICRO = Path(__file__).with_name("micro.metal")
ONE = (1, 1, 1)


@pytest.fixture(scope="module")
def micro(simulator: Simulator) -> Program:
    """The checked build of micro.metal."""
    return simulator.build(Unit(MICRO))


def scale(kernel: str = "scale_f32", **changes) -> Launch:
    """Doubling: the arguments' n is 4."""
    launch = {"buffers": slots("a", "y", "x"), "grid": (3, 1, 1), "threads": (32, 1, 1)}
    return Launch(kernel, **(launch | changes))


def arrays(dtype: type = np.float32, n: int = 96) -> dict:
    """0, 1, 2 .. and room for as many."""
    return {"a": struct.pack("<i", 4), "x": np.arange(n, dtype=dtype), "y": np.zeros(n, dtype)}


@pytest.mark.parametrize(
    ("kernel", "dtype"), [("scale_f32", np.float32), ("scale_f16", np.float16)]
)
def test_host_names_and_buffer_indices(simulator, micro, kernel, dtype) -> None:
    """Instantiations are found by host name; what has no index gets the first free one."""
    outcome = simulator.run(micro, scale(kernel), arrays(dtype))
    assert outcome.ok
    assert outcome.arrays["y"].dtype == dtype
    np.testing.assert_array_equal(outcome.arrays["y"], 2 * np.arange(96))


def test_arrays_that_are_given_stay_as_they_are(simulator, micro) -> None:
    """Outcomes hold arrays of their own."""
    given = arrays()
    simulator.run(micro, scale(), given)
    assert not given["y"].any()


def test_offsets_and_shared_arrays(simulator, micro) -> None:
    """A slot may begin inside an array; the next launch sees what the one before wrote."""
    first = scale(buffers=(Slot("a"), Slot("y", 4 * 96), Slot("x")), grid=ONE)
    second = scale(buffers=(Slot("a"), Slot("y"), Slot("y", 4 * 96)), grid=ONE)
    data = {**arrays(), "y": np.zeros(192, np.float32)}
    outcome = simulator.run_all([(micro, first), (micro, second)], data)
    np.testing.assert_array_equal(outcome.arrays["y"][:32], 4 * np.arange(32))
    np.testing.assert_array_equal(outcome.arrays["y"][96:128], 2 * np.arange(32))


def test_records_survive_json() -> None:
    """What is written is read back."""
    launch = scale(constants={7: True, 8: -3}, threadgroup=(16, 32))
    assert Launch.from_json(launch.to_json()) == launch
    with pytest.raises(KernelSourceError, match="not a launch record: KeyError 'buffers'"):
        Launch.from_json({"kernel": "k"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "scale_f64"}, "scale_f64: not in micro.metal"),
        ({"buffers": slots("a", "z", "x")}, "scale_f32: no array 'z'"),
        ({"buffers": slots("a", "y")}, "scale_f32: nothing at buffer 2"),
        ({"constants": {3: 1}}, "scale_f32: no function constant 3"),
    ],
)
def test_launches_that_do_not_fit(simulator, micro, change, message) -> None:
    """They are refused before anything runs."""
    with pytest.raises(KernelSourceError, match=message):
        simulator.run(micro, scale(**change), arrays())


def test_missing_threadgroup_memory(simulator, micro) -> None:
    """A kernel with threadgroup memory is not run without."""
    with pytest.raises(KernelSourceError, match="race_good: no threadgroup memory 0"):
        simulator.run(micro, Launch("race_good", slots("y"), ONE, (64, 1, 1)), arrays())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": (1025, 1, 1)}, r"1025 threads per threadgroup \(1 to 1024\)"),
        ({"threads": (0, 1, 1)}, r"0 threads per threadgroup"),
        ({"threadgroup": (32784,)}, r"32784 bytes of threadgroup memory \(at most 32768\)"),
    ],
)
def test_limits_of_a_gpu(simulator, micro, change, message) -> None:
    """What no GPU would launch is an error of the outcome."""
    outcome = simulator.run(micro, scale(**change), arrays(n=2048))
    assert not outcome.ok
    assert re.match(f"scale_f32: {message}", outcome.error)


@pytest.mark.parametrize(
    ("kernel", "kind"), [("past_end", "memory_fault"), ("division", "division_by_zero"),
                         ("tg_past_end", "threadgroup_out_of_bounds")]
)  # fmt: skip
def test_plain_code_that_faults(simulator, kernel, kind) -> None:
    """A guard page or a trap ends the child process: a finding with its line, and life goes on."""
    program = simulator.build(Unit(MICRO, checked=False))
    wanted = {"past_end": "x[i + 1]", "division": "(a.n - 4)", "tg_past_end": "s[i + 1] = i"}
    text = next(n for n, line in enumerate(MICRO.read_text().splitlines(), 1)
                if wanted[kernel] in line)  # fmt: skip
    buffers = {"past_end": "x y", "division": "a y", "tg_past_end": "y"}[kernel]
    data = {"a": struct.pack("<i", 4), "x": np.zeros(64, np.float32), "y": np.zeros(64, np.float32)}
    launch = Launch(kernel, slots(*buffers.split()), ONE, (64, 1, 1), threadgroup=(256,))
    outcome = simulator.run(program, launch, data)
    assert [(f.kind, f.line) for f in outcome.findings] == [(kind, text)]
    assert outcome.error == f"{kernel}: the kernel ended its process"
    assert simulator.run(program, scale(), arrays()).ok


def test_a_kernel_that_does_not_end(workshop: Workshop) -> None:
    """It is killed, and told."""
    with Simulator(workshop, timeout_s=0.5) as simulator:
        program = simulator.build(Unit(MICRO))
        outcome = simulator.run(program, Launch("forever", slots("y"), ONE, (1, 1, 1)), arrays())
        assert outcome.error == "forever: did not end within 0.5 s"
        assert simulator.run(program, scale(), arrays()).ok


def test_lock_step_hides_what_it_emulates(simulator, micro) -> None:
    """The numbers become right; the finding stays."""
    launch = Launch("in_step", slots("y"), ONE, (64, 1, 1), threadgroup=(256,))
    loose = simulator.run(micro, launch, arrays(n=64))
    level = simulator.run(micro, launch, arrays(n=64), level=True)
    np.testing.assert_array_equal(level.arrays["y"], np.arange(64) ^ 1)
    assert not np.array_equal(loose.arrays["y"], level.arrays["y"])
    assert {f.kind for f in level.findings} == {"simdgroup_race"}


def test_findings_say_where_and_how_often(simulator, micro) -> None:
    """One a line of source, with a count, the first threadgroup and thread."""
    launch = Launch("past_end", slots("x", "y"), (2, 1, 1), (32, 1, 1))
    data = {"x": np.zeros(40, np.float32), "y": np.zeros(64, np.float32)}
    (finding,) = simulator.run(micro, launch, data).findings
    assert (finding.count, finding.group, finding.thread) == (25, (1, 0, 0), 7)
    assert str(finding).startswith(f"{MICRO}:{finding.line}: device_out_of_bounds in past_end")
    assert finding.to_json()["count"] == 25


def test_what_does_not_compile_is_told_with_its_line(workshop: Workshop, tmp_path: Path) -> None:
    """The compiler's words name the .metal file."""
    source = tmp_path / "bad.metal"
    source.write_text("kernel void k(device float *y) {\n  y[0] = nothing;\n}\n")
    with pytest.raises(BuildFailedError, match=rf"{source}:2:\d+: error: .*'nothing'"):
        workshop.build(Unit(source))
    with pytest.raises(BuildFailedError, match="'nothing'"):
        workshop.verify(Unit(source))
    with pytest.raises(NotFoundError, match=r"none\.metal: no such file"):
        workshop.build(Unit(tmp_path / "none.metal"))


def test_what_is_compiled_once_is_kept(workshop: Workshop, tmp_path: Path) -> None:
    """By content and by options: another text or another build is another library."""
    source = tmp_path / "one.metal"
    source.write_text("kernel void k(device float *y) { y[0] = 1; }\n")
    first = workshop.build(Unit(source))
    before = first.library.stat().st_mtime_ns
    assert workshop.build(Unit(source)).library.stat().st_mtime_ns == before
    assert workshop.build(Unit(source, checked=False)).library != first.library
    source.write_text("kernel void k(device float *y) { y[0] = 2; }\n")
    assert workshop.build(Unit(source)).library != first.library


def test_halves_round_at_every_step(simulator: Simulator, tmp_path: Path) -> None:
    """As on the GPU: 2048 + 1 is 2048 in half, before 2048 is taken away again."""
    source = tmp_path / "half.metal"
    source.write_text(
        "kernel void k(device half *x, device half *y) { y[0] = (x[0] + x[1]) - x[0]; }\n"
        "kernel void lit(device half *y) { y[0] = 0.1h; y[1] = half(1.0/3); }\n"
    )
    program = simulator.build(Unit(source))
    data = {"x": np.array([2048, 1], np.float16), "y": np.ones(2, np.float16)}
    assert simulator.run(program, Launch("k", slots("x", "y"), ONE, ONE), data).arrays["y"][0] == 0
    got = simulator.run(program, Launch("lit", slots("y"), ONE, ONE), data).arrays["y"]
    np.testing.assert_array_equal(got, np.array([0.1, 1 / 3], np.float16))


def test_function_constants_are_set_for_each_launch(simulator: Simulator, tmp_path: Path) -> None:
    """And are 0 where a launch does not say."""
    source = tmp_path / "constants.metal"
    source.write_text(
        "constant short FC_n [[function_constant(40 + 2)]];\n"
        "constant bool FC_b [[function_constant(7)]];\n"
        "kernel void k(device int *y) { y[0] = FC_b ? FC_n : 99; }\n"
    )
    program = simulator.build(Unit(source))
    assert {c.name: c.index for c in program.source.constants} == {"FC_n": 42, "FC_b": 7}
    data = {"y": np.zeros(1, np.int32)}
    for constants, want in (({42: -5, 7: 1}, -5), ({42: 3}, 99), ({}, 99), ({7: 1}, 0)):
        launch = Launch("k", slots("y"), ONE, ONE, constants)
        assert simulator.run(program, launch, data).arrays["y"][0] == want


def test_a_library_that_does_not_load(simulator: Simulator, micro: Program, tmp_path: Path) -> None:
    """The reason is the error; nothing of it goes to the terminal."""
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    program = Program(broken, micro.unit, micro.source)
    outcome = simulator.run(program, scale(), arrays())
    assert outcome.error.startswith(f"scale_f32: OSError: {broken}: ")
    assert simulator.run(micro, scale(), arrays()).ok
