"""The NumPy reference of the turbo types: transform, bytes, errors, products."""

import re
from pathlib import Path

import numpy as np
import pytest
from golden.turbo import make as golden
from hypothesis import given, settings
from hypothesis import strategies as st

from tqconvert.errors import UsageError
from tqconvert.kv.types import CACHE_TYPES
from tqconvert.turbo import codec
from tqconvert.turbo.codebook import CODEBOOKS
from tqconvert.turbo.qjl import ResidualSketch

TYPES = tuple(CODEBOOKS)
NMSE = {"turbo4": 0.0085, "turbo3": 0.034, "turbo2": 0.121}
FILES = Path(__file__).parents[2] / "ollama_patches/files/ggml/src"


def normal(n, m=128, seed=0):
    """[n, m] normal values."""
    return np.random.default_rng(seed).normal(size=(n, m)).astype(np.float32)


def test_hadamard_is_the_matrix():
    """The butterflies equal the Sylvester matrix."""
    h = np.ones((1, 1))
    while len(h) < 128:
        h = np.block([[h, h], [h, -h]])
    x = normal(3).astype(np.float64)
    assert np.allclose(codec.hadamard(x), x @ h.T)


def test_rotation_is_orthonormal_and_inverted():
    """Norms stay, and the inverse comes back."""
    x = normal(50)
    y = codec.rotate(x)
    assert np.allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-5)
    assert np.allclose(codec.rotate_inverse(y), x, atol=1e-5)


def test_signs_equal_the_c_table():
    """splitmix64 from seed 42 gives the bytes that ggml-turbo.c holds."""
    packed = np.packbits(codec.SIGNS > 0, bitorder="little")
    table = re.findall(r"SIGNS\(0x([0-9a-f]{2})\)", (FILES / "ggml-turbo.c").read_text())
    assert [int(b, 16) for b in table] == list(packed)


@pytest.mark.parametrize("name", TYPES)
def test_sizes_are_those_of_the_structs(name):
    """kv/types.py, the reference and the static_asserts of ggml-turbo.h agree."""
    size = codec.quantize(name, normal(1))[0].size
    header = (FILES / "ggml-turbo.h").read_text()
    stated = re.search(rf"sizeof\(block_{name}\)\s*==\s*(\d+)", header)
    assert stated
    assert size == CACHE_TYPES[name].bytes == int(stated[1])


@pytest.mark.parametrize("name", TYPES)
def test_error_of_normal_data(name):
    """The scale search leaves less than Lloyd-Max alone; the norm is kept to fp16."""
    x = normal(4000)
    y = codec.dequantize(name, codec.quantize(name, x))
    assert np.square(x - y).sum() / np.square(x).sum() <= NMSE[name]
    assert np.allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-3)


@pytest.mark.parametrize("name", TYPES)
def test_golden_bytes(name):
    """The stored bytes are what the reference makes of the stored rows."""
    data = golden.PATH.read_bytes()
    n, m = np.frombuffer(data, "<i4", 2)
    x = np.frombuffer(data, "<f4", n * m, 8).reshape(n, m)
    offset = 8 + 4 * n * m
    for other in golden.TYPES:
        size = int(n) * int(m) // 128 * CACHE_TYPES[other].bytes
        if other == name:
            want = np.frombuffer(data, np.uint8, size, offset)
            assert np.array_equal(codec.quantize(name, x).reshape(-1), want)
        offset += size
    assert offset == len(data)


@pytest.mark.parametrize("name", TYPES)
def test_a_block_by_hand(name):
    """One spike rotates to 128 equal magnitudes: all codes are one magnitude with H's signs."""
    x = np.zeros(128, np.float32)
    x[77] = -3.5
    codes, gains = codec.encode(name, x)
    book = CODEBOOKS[name]
    mags = {abs(book.values[c]) for c in codes[0]}
    assert len(mags) == 1
    step = 3.5 / (mags.pop() * np.sqrt(128))
    assert gains[0] == np.float16(32 * step)
    assert np.allclose(codec.dequantize(name, codec.quantize(name, x)), x, atol=2e-3)


@pytest.mark.parametrize("name", TYPES)
def test_pack_and_unpack_are_inverse(name):
    """Every code survives at every place."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, len(CODEBOOKS[name].values), (64, 128)).astype(np.uint8)
    gains = rng.normal(size=64).astype(np.float16)
    back, kept = codec.unpack(name, codec.pack(name, codes, gains))
    assert np.array_equal(back, codes)
    assert np.array_equal(kept, gains)


@pytest.mark.parametrize("name", TYPES)
@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-25, 25))
def test_scaling_by_a_power_of_two_changes_only_the_gain(name, seed, exponent):
    """Codes depend on the direction alone."""
    x = normal(2, seed=seed)
    codes, _ = codec.encode(name, x)
    scaled, _ = codec.encode(name, np.ldexp(x, exponent))
    assert np.array_equal(codes, scaled)


@pytest.mark.parametrize("name", TYPES)
def test_zero_tiny_huge_and_no_number(name):
    """Zeros stay zeros, a gain saturates, NaN and infinity stay visible in their own block."""
    zero = np.zeros((1, 256), np.float32)
    assert not codec.dequantize(name, codec.quantize(name, zero)).any()
    tiny = np.full((1, 128), 1e-30, np.float32)
    assert not codec.dequantize(name, codec.quantize(name, tiny)).any()
    huge = codec.dequantize(name, codec.quantize(name, normal(1) * np.float32(1e30)))
    assert np.isfinite(huge).all()
    assert np.abs(huge).max() > 1e4
    for bad in (np.nan, np.inf, -np.inf):
        x = normal(1, 256)
        x[0, 200] = bad
        y = codec.dequantize(name, codec.quantize(name, x))
        assert np.isfinite(y[0, :128]).all()
        assert np.isnan(y[0, 128:]).all()


def test_a_rotation_before_does_not_cancel_ours():
    """The signs keep an unsigned Hadamard transform of the graph from undoing the type's own."""
    spikes = np.zeros((8, 128), np.float32)
    spikes[np.arange(8), np.arange(8) * 13] = 4
    spikes += 0.05 * normal(8)
    x = codec.hadamard(spikes) / np.float32(np.sqrt(128))
    y = codec.dequantize("turbo4", codec.quantize("turbo4", x))
    assert np.square(x - y).sum() / np.square(x).sum() <= 2 * NMSE["turbo4"]


@pytest.mark.parametrize("name", TYPES)
def test_products_with_a_query(name):
    """Products in the rotated domain equal those of the decoded keys, to the query's 8 bits."""
    k, q = normal(200, 256), normal(1, 256, seed=9)[0]
    data = codec.quantize(name, k)
    want = codec.dequantize(name, data) @ q
    assert np.abs(codec.dot(name, data, q) - want).max() <= 0.02 * np.abs(want).max()


@pytest.mark.parametrize("name", TYPES)
def test_rotated_decoding_is_the_rotation_of_the_values(name):
    """What attention sums is the rotated value."""
    data = codec.quantize(name, normal(20))
    assert np.allclose(
        codec.dequantize_rotated(name, data), codec.rotate(codec.dequantize(name, data)), atol=1e-5
    )


@pytest.mark.parametrize("shape", [(3, 64), (3, 200), ()])
def test_rows_that_are_not_blocks_are_refused(shape):
    """A head dimension that 128 does not divide is an error, not padding."""
    with pytest.raises(UsageError, match="multiples of 128"):
        codec.quantize("turbo4", np.zeros(shape, np.float32))


def test_other_types_and_torn_bytes_are_refused():
    """Names and sizes are checked."""
    with pytest.raises(UsageError, match="not a turbo type"):
        codec.quantize("q8_0", normal(1))
    with pytest.raises(UsageError, match="not a turbo type"):
        codec.dequantize("f16", np.zeros((1, 66), np.uint8))
    with pytest.raises(UsageError, match="multiples of 66"):
        codec.dequantize("turbo4", np.zeros((1, 65), np.uint8))


def test_the_residual_sketch_is_unbiased_but_noisier_than_a_bit_of_codebook():
    """QJL's estimate of q.residual has no bias; spending its bit on the codebook is better."""
    k, q = normal(3000, seed=4), normal(1, seed=5)[0]
    sketch = ResidualSketch(seed=1)
    three = codec.dequantize("turbo3", codec.quantize("turbo3", k))
    estimate = three @ q + sketch.dot(sketch.encode(k - three), q)
    four = codec.dequantize("turbo4", codec.quantize("turbo4", k)) @ q
    exact = k @ q
    bias = (estimate - exact).mean() / exact.std()
    assert abs(bias) < 0.02
    assert np.square(four - exact).mean() < np.square(estimate - exact).mean()
