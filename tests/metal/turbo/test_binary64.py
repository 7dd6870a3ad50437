"""Arithmetic of binary64 in integers: every bit is the processor's."""

from pathlib import Path

import numpy as np
import pytest

from tqconvert.metal.build import Unit
from tqconvert.metal.launch import Launch, slots
from tqconvert.metal.simulate import Simulator

SOURCE = Path(__file__).with_name("binary64.metal")
METAL = Path(__file__).parents[3] / "metal"
N = 20_000


def run(simulator: Simulator, kernel: str, out: type, *inputs: np.ndarray) -> np.ndarray:
    """What the kernel makes of the inputs, one thread a value."""
    program = simulator.build(Unit(SOURCE, (METAL,), checked=False))
    names = ["a", "b"][: len(inputs)]
    arrays = dict(zip(names, inputs, strict=True)) | {"out": np.zeros(N, out)}
    launch = Launch(kernel, slots(*names, "out"), (N // 100, 1, 1), (100, 1, 1))
    outcome = simulator.run(program, launch, arrays)
    assert outcome.ok, outcome.text()
    return outcome.arrays["out"]


def numbers(seed: int, spread: int) -> np.ndarray:
    """Positive doubles; a third have few bits, so that sums and quotients end in ties."""
    rng = np.random.default_rng(seed)
    m = 1 + rng.random(N)
    m[::3] = 1 + rng.integers(0, 64, len(m[::3])) / 64
    m[1::3] = np.nextafter(m[1::3], 3) + rng.integers(0, 8, len(m[1::3])) * 2.0**-52
    return np.ldexp(m, rng.integers(-spread, spread, N))


def bits(x: np.ndarray) -> np.ndarray:
    """The doubles as the kernels take them."""
    return x.view(np.uint64)


@pytest.mark.parametrize("spread", [2, 30, 60])
def test_sums(simulator: Simulator, spread: int) -> None:
    """Neighbouring and distant exponents, ties, zeros."""
    a, b = numbers(1, spread), numbers(2, spread)
    a[::50], b[::70] = 0, 0
    assert np.array_equal(run(simulator, "add", np.uint64, bits(a), bits(b)), bits(a + b))


@pytest.mark.parametrize("spread", [2, 60])
def test_quotients_and_roots(simulator: Simulator, spread: int) -> None:
    """Rounded once, from an exact remainder."""
    a, b = numbers(3, spread), numbers(4, spread)
    assert np.array_equal(run(simulator, "divide", np.uint64, bits(a), bits(b)), bits(a / b))
    assert np.array_equal(run(simulator, "root", np.uint64, bits(a)), bits(np.sqrt(a)))
    assert np.array_equal(run(simulator, "root", np.uint64, bits(b * b)), bits(np.sqrt(b * b)))


def test_squares_of_floats(simulator: Simulator) -> None:
    """Exact over the whole range of normal floats; zero and what is subnormal give zero."""
    rng = np.random.default_rng(5)
    x = np.ldexp(rng.uniform(-2, 2, N), rng.integers(-125, 127, N)).astype(np.float32)
    x[::100] = 0
    want = np.square(x.astype(np.float64))
    want[np.abs(x) < np.finfo(np.float32).tiny] = 0
    assert np.array_equal(run(simulator, "square", np.uint64, x), bits(want))


def test_integers(simulator: Simulator) -> None:
    """Up to 2**63, where they no longer fit into 53 bits."""
    rng = np.random.default_rng(6)
    n = rng.integers(0, 1 << 63, N, dtype=np.uint64) >> rng.integers(0, 63, N).astype(np.uint64)
    assert np.array_equal(run(simulator, "integer", np.uint64, n), bits(n.astype(np.float64)))


def test_to_float_and_to_half(simulator: Simulator) -> None:
    """Nearest even, ties among them; halves down to the smallest subnormal and up to 65504."""
    a = numbers(7, 100)
    a[:4000] = np.nextafter(np.float32(1), np.float32(2)) - 2.0**-24 * (np.arange(4000) % 3)
    # on a tie and next to one, on either side
    x = np.exp2(np.random.default_rng(9).uniform(-30, 30, 3000)).astype(np.float32)
    ties = (x.astype(np.float64) + np.nextafter(x, np.float32(np.inf))) / 2
    a[4000:13000] = np.ravel([np.nextafter(ties, 0), ties, np.nextafter(ties, np.inf)])
    assert np.array_equal(run(simulator, "to_float", np.float32, bits(a)), a.astype(np.float32))
    rng = np.random.default_rng(8)
    x = np.exp2(rng.uniform(-30, 15.99, N)).astype(np.float32)
    x[::3] = np.ldexp(rng.integers(1, 4096, len(x[::3])), rng.integers(-30, 3, len(x[::3])))
    x = np.minimum(x, np.float32(65504))
    want = x.astype(np.float16).view(np.uint16)
    assert np.array_equal(run(simulator, "to_half", np.uint16, x), want)
