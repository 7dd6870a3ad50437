"""The reference itself: against plain formulas, and why rotating back may come before the reduction."""

import numpy as np
import pytest

from tqconvert.metal.turbo import reference as ref
from tqconvert.metal.turbo import rows
from tqconvert.turbo import codec
from tqconvert.turbo.codebook import CODEBOOKS


@pytest.mark.parametrize("kind", ["f16", "q8_0", "turbo2", "turbo3", "turbo4"])
def test_encoded_rows_decode_to_about_themselves(kind: str) -> None:
    """Sizes are the types', errors are those of their bits."""
    x = np.random.default_rng(1).standard_normal((3, 5, 256)).astype(np.float32)
    data = ref.encode(kind, x)
    assert data.shape == (3, 5, ref.row_bytes(kind, 256))
    bound = {"f16": 1e-6, "q8_0": 1e-4, "turbo2": 0.125, "turbo3": 0.037, "turbo4": 0.0102}[kind]
    assert np.square(ref.decode(kind, data) - x).mean() < bound


def test_attention_by_hand() -> None:
    """Two keys with logits 0 and ln 3, a sink with logit 0: weights 1/5, 3/5 and nothing for the sink's 1/5."""
    q = np.zeros((1, 1, 1, 128), np.float32)
    q[..., 0] = 1
    k = np.zeros((1, 1, 2, 128))
    k[0, 0, 1, 0] = np.log(3)
    v = np.stack([np.full(128, 5.0), np.full(128, 10.0)])[None, None]
    plain = ref.attention(q, k, v, None, scale=1.0)
    assert np.allclose(plain, 5 / 4 + 30 / 4)
    sunk = ref.attention(q, k, v, None, scale=1.0, sinks=np.zeros(1, np.float32))
    assert np.allclose(sunk, 1 + 6)
    mask = np.full((1, 1, 1, 2), -np.inf, np.float16)
    assert not ref.attention(q, k, v, mask, scale=1.0).any()


def test_slopes_of_alibi() -> None:
    """Eight heads with bias 8: 1/2, 1/4, ... 1/256; beyond a power of two every other step of a finer row."""
    assert np.allclose(ref.slopes(8, 8.0)[3], 2.0 ** -np.arange(1, 9))
    assert np.allclose(ref.slopes(6, 8.0)[3][4:], 2.0 ** -np.array([1.0, 3.0]))


def test_rotating_back_commutes_with_the_reduction() -> None:
    """Rows of workgroups, weighed and added, may be rotated before or after: the same to 1e-14.

    The reduction multiplies whole rows by numbers and adds rows; the rotation is linear.
    """
    rng = np.random.default_rng(2)
    parts, weights = rng.standard_normal((32, 128)), np.exp(rng.standard_normal(32))
    signs = codec.SIGNS.astype(np.float64)

    def back(y: np.ndarray) -> np.ndarray:
        return codec.hadamard(y) * signs / np.sqrt(128)

    before = (weights[:, None] * back(parts)).sum(0) / weights.sum()
    after = back((weights[:, None] * parts).sum(0) / weights.sum())
    assert np.abs(before - after).max() < 1e-14


def test_logits_do_not_change_when_both_sides_are_rotated() -> None:
    """q.k is (R q).(R k): what allows keys to stay rotated."""
    rng = np.random.default_rng(3)
    q, k = rng.standard_normal((2, 128)).astype(np.float32)
    assert np.isclose(codec.rotate(q) @ codec.rotate(k), q @ k, rtol=1e-5)


@pytest.mark.parametrize("kind", rows.CLOSE)
def test_close_blocks_are_close(kind: str) -> None:
    """Two scales of the search whose scores agree in the upper half of their bits, the last of it set aside."""
    book = CODEBOOKS[kind]
    y = codec.hadamard(rows.close_blocks(kind) * codec.SIGNS)
    unit = codec.FIXED * book.unit / np.sqrt(np.square(y.astype(np.float64)).mean(1))
    size = np.abs(np.rint(y * unit.astype(np.float32)[:, None])).astype(np.int64)
    magnitudes, scores = np.array(book.magnitudes), []
    for scale in codec.SCALES:
        level = magnitudes[np.searchsorted(codec.thresholds(book, scale), size)]
        scores.append((size * level).sum(1) ** 2 / np.square(level).sum(1))
    for row in np.array(scores).T:
        first, second = np.unique(row)[-2:].view(np.uint64)
        assert first >> np.uint64(33) == second >> np.uint64(33)
