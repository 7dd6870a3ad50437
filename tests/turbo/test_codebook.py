"""Codebooks: Lloyd-Max gives the integers, and a table that is too narrow is found in any tree."""

import math
from pathlib import Path

import numpy as np
import pytest

from tqconvert.errors import CheckFailedError, NotFoundError
from tqconvert.turbo.codebook import (
    CODEBOOKS,
    DISTORTION_BOUND,
    distortion,
    judge,
    lloyd_max,
    read_codebooks,
    verify_codebook,
    verify_tree,
)

SOURCE = Path(__file__).parents[2] / "ollama_patches/files/ggml/src/ggml-turbo.c"


@pytest.mark.parametrize("book", CODEBOOKS.values(), ids=CODEBOOKS)
def test_the_tables_are_lloyd_max_rounded_to_int8(book):
    """Every entry is the nearest integer to Lloyd's level times the unit."""
    computed = [level * book.unit for level in lloyd_max(book.bits)]
    assert [round(v) for v in computed] == list(book.values)
    assert max(abs(a - b) for a, b in zip(computed, book.values, strict=True)) < 0.5


@pytest.mark.parametrize(("bits", "mse"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_lloyd_max_has_the_distortion_of_max_1960(bits, mse):
    """Table 1 of J. Max, Quantizing for minimum distortion, IRE Trans. IT-6 (1960)."""
    assert distortion(lloyd_max(bits)) == pytest.approx(mse, rel=1e-3)


def test_distortion_is_what_a_sample_measures():
    """The integral agrees with a million normal values."""
    x = np.random.default_rng(0).normal(size=1_000_000)
    levels = np.array(lloyd_max(3))
    nearest = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, x)]
    assert distortion(levels) == pytest.approx(np.mean((x - nearest) ** 2), rel=0.01)


@pytest.mark.parametrize("book", CODEBOOKS.values(), ids=CODEBOOKS)
def test_rounding_to_int8_stays_within_the_bound(book):
    """Our own tables pass, close to Lloyd-Max."""
    verdict = verify_codebook(book.values, book.unit, name="ours")
    assert verdict.mse <= distortion(lloyd_max(book.bits)) * 1.001
    assert verdict.mse <= DISTORTION_BOUND[book.bits]


@pytest.mark.parametrize("book", CODEBOOKS.values(), ids=CODEBOOKS)
@pytest.mark.parametrize("factor", [0.61, 0.72, 1.4])
def test_a_table_of_the_wrong_width_fails(book, factor):
    """A table that spans 0.61, 0.72 or 1.4 times what it should is named with its figures."""
    values = [v * factor for v in book.values]
    with pytest.raises(CheckFailedError, match=r"mean squared error .* spans"):
        verify_codebook(values, book.unit, name="fork")


@pytest.mark.parametrize(
    ("values", "unit"),
    [([1, 2, 3], 1), ([-1, 1, 0, 2], 1), ([-3, -1, 1, math.nan], 1), ([-3, -1, 1, 3], 0)],
)
def test_what_is_no_codebook_is_refused(values, unit):
    """Wrong length, order, numbers or unit."""
    with pytest.raises(CheckFailedError, match="not 4, 8 or 16 ascending"):
        judge(values, unit)


def test_the_c_source_holds_the_same_tables():
    """ggml-turbo.c and the reference cannot drift apart."""
    assert read_codebooks(SOURCE) == CODEBOOKS
    assert all(verdict.sound for verdict in verify_tree(SOURCE).values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("48, 62, 79, 104", "49, 52, 56, 63", "mean squared error"),
        ("48, 62, 79, 104", "29, 38, 48, 63", "ascending"),
        ("-114, -71", "-115, -71", "not our codebook"),
    ],
)
def test_a_changed_table_in_a_tree_is_found(tmp_path, old, new, message):
    """Narrower, or another integer: each is said."""
    text = SOURCE.read_text()
    assert old in text
    path = tmp_path / "ggml-turbo.c"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CheckFailedError, match=message):
        verify_tree(path)


def test_a_tree_without_tables_says_so(tmp_path):
    """Missing file, and a file without the three tables."""
    with pytest.raises(NotFoundError, match="No such file"):
        read_codebooks(tmp_path / "none.c")
    (tmp_path / "empty.c").write_text("int main;")
    with pytest.raises(NotFoundError, match="no codebook"):
        read_codebooks(tmp_path / "empty.c")
