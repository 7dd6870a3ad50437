"""Rows scaled through the scales of their blocks, for every type, against gguf-py's dequantizer."""

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from tqconvert.errors import RefusedError
from tqconvert.gguf.types import TENSOR_TYPES, TensorType
from tqconvert.turbo.scale_rows import (
    HALVES_AT,
    Rounding,
    can_scale,
    scale_rows,
    wants_powers_of_two,
)

N_ROWS, N_BLOCKS = 16, 3
NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items() if number != 4}
KINDS = {name: TENSOR_TYPES[number] for name, number in NUMBERS.items()}
FLOATS = {"F32": "<f4", "F16": "<f2"}
SCALED = [name for name in HALVES_AT if name not in ("Q1_0", "Q2_0")]
"""gguf-py has no dequantizer of the two left out."""


def random_rows(kind: TensorType, *, low: float = 1e-3, high: float = 1e-2) -> bytes:
    """Blocks of random bytes whose fp16 numbers lie between `low` and `high`."""
    random = np.random.default_rng(1)
    if kind.name in FLOATS:
        return random.normal(0, high, (N_ROWS, 32)).astype(FLOATS[kind.name]).tobytes()
    blocks = random.integers(0, 256, (N_ROWS, N_BLOCKS, kind.bytes), dtype=np.uint8)
    for at in HALVES_AT.get(kind.name, ()):
        numbers = random.uniform(low, high, (N_ROWS, N_BLOCKS, 1)).astype("<f2")
        blocks[:, :, at : at + 2] = numbers.view(np.uint8)
    if kind.name == "MXFP4":
        blocks[:, :, 0] = random.integers(100, 130, blocks.shape[:2])
    if kind.name == "BF16":
        values = random.normal(0, high, (N_ROWS, 32)).astype(np.float32)
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return blocks.tobytes()


def values_of(kind: TensorType, data: bytes) -> NDArray[np.float64]:
    """The rows by gguf-py."""
    rows = np.frombuffer(data, FLOATS.get(kind.name, np.uint8)).reshape(N_ROWS, -1)
    number = gguf.GGMLQuantizationType(NUMBERS[kind.name])
    return gguf.quants.dequantize(rows, number).astype(np.float64)


@pytest.mark.parametrize("name", [*SCALED, "F16", "F32"])
def test_a_factor_costs_one_rounding_of_the_scales(name: str) -> None:
    """Scaled rows equal the factor times the old ones to 2^-10 of the largest value of the row."""
    kind, factors = KINDS[name], np.exp(np.random.default_rng(2).normal(0, 1, N_ROWS))
    data = random_rows(kind)
    new, rounding = scale_rows(data, kind, factors, subject="t")
    assert len(new) == len(data)
    expected = values_of(kind, data) * factors[:, None]
    error = np.abs(values_of(kind, new) - expected) / np.abs(expected).max(axis=1, keepdims=True)
    assert error.max() <= 2**-10
    assert 0 < rounding.largest <= 2**-11 * 1.001
    assert 0 < rounding.rms < (2**-9 if name == "F16" else 2**-11)
    assert rounding.n_subnormal == 0 or name == "F16"


@pytest.mark.parametrize("name", [*SCALED, "F16", "F32", "BF16", "MXFP4"])
def test_powers_of_two_are_exact(name: str) -> None:
    """Not a bit of any value differs from the factor times the old one."""
    kind, factors = KINDS[name], np.exp2(np.random.default_rng(2).integers(-3, 4, N_ROWS))
    data = random_rows(kind, low=0.01, high=0.1)
    new, rounding = scale_rows(data, kind, factors, subject="t")
    expected = values_of(kind, data) * factors[:, None]
    normal = np.abs(expected) > (2**-14 if name == "F16" else 0)
    assert (values_of(kind, new)[normal] == expected[normal]).all()
    assert rounding.largest == 0
    back, _ = scale_rows(new, kind, 1 / factors, subject="t")
    if name != "F16":
        assert back == data


def test_every_type_of_published_files_is_scaled_or_refused_by_name() -> None:
    """All legacy types, K-quants and IQ types are; what is not, is named with the tensor."""
    assert {k for k in KINDS if not can_scale(KINDS[k])} == {
        "Q8_1", "Q8_K", "IQ1_M", "NVFP4", "I8", "I16", "I32", "I64", "F64",
    }  # fmt: skip
    assert {k for k in KINDS if wants_powers_of_two(KINDS[k])} == {"BF16", "MXFP4"}
    with pytest.raises(RefusedError, match=r"m.gguf: blk.0.attn_k.weight: rows of type NVFP4"):
        scale_rows(b"", KINDS["NVFP4"], np.ones(1), subject="m.gguf: blk.0.attn_k.weight")


@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "F16", "BF16"])
def test_a_scale_that_does_not_fit_is_refused(name: str) -> None:
    """Infinity in a weight would be silent."""
    kind = KINDS[name]
    factors = np.full(N_ROWS, 2.0**126 if name == "BF16" else 1e9)
    with pytest.raises(RefusedError, match="t: a scale times its factor does not fit"):
        scale_rows(
            random_rows(kind, high=10 if name != "BF16" else 100), kind, factors, subject="t"
        )


def test_e8m0_scales_have_ends_and_take_no_other_factor() -> None:
    """0 to 254; a block of zeros may have any scale."""
    kind = KINDS["MXFP4"]
    block = bytes([1]) + bytes([0x77] * 16)
    with pytest.raises(RefusedError, match="does not fit"):
        scale_rows(block, kind, np.array([0.25]), subject="t")
    zero, _ = scale_rows(bytes([1]) + bytes(16), kind, np.array([0.25]), subject="t")
    assert zero == bytes(17)
    with pytest.raises(RefusedError, match="powers of two only"):
        scale_rows(block, kind, np.array([0.3]), subject="t")


def test_subnormal_scales_are_counted_and_keep_what_their_format_holds() -> None:
    """Below 2^-14 fp16 steps are 2^-24: the error is at most half of one."""
    kind = KINDS["Q6_K"]
    data = random_rows(kind, low=2e-5, high=5e-5)
    new, rounding = scale_rows(data, kind, np.full(N_ROWS, 0.7), subject="t")
    at = HALVES_AT["Q6_K"][0]
    old_d, new_d = (
        np.frombuffer(d, np.uint8).reshape(-1, kind.bytes)[:, at : at + 2].copy().view("<f2")
        for d in (data, new)
    )
    assert rounding.n_subnormal > 0
    assert rounding.largest == 0, "none of them is normal"
    assert np.abs(new_d.astype(np.float64) - old_d.astype(np.float64) * 0.7).max() <= 1.001 * 2**-25


def test_nan_and_infinity_pass_through() -> None:
    """They are in no sane file, and not ours to change; they count nowhere."""
    old = np.array([[np.nan, np.inf, 0, 1]], "<f2")
    new, rounding = scale_rows(old.tobytes(), KINDS["F16"], np.array([3.0]), subject="t")
    assert np.frombuffer(new, "<f2").astype(float)[1:].tolist() == [np.inf, 0, 3]
    assert rounding == Rounding(0, 0, 1, 0)
