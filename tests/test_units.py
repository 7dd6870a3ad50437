"""Sizes and context lengths as users write them."""

import pytest

from tqconvert.errors import UsageError
from tqconvert.units import format_bytes, format_context, format_count, parse_bytes, parse_context


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("24GiB", 24 << 30),
        ("24G", 24 << 30),
        ("24gb", 24 << 30),
        ("1.5 MiB", 3 << 19),
        ("12", 12),
        ("7B", 7),
    ],
)
def test_sizes_are_binary(text: str, n: int) -> None:
    """K, M and G are powers of 1024, with or without iB."""
    assert parse_bytes(text) == n


@pytest.mark.parametrize(("text", "n"), [("128k", 131072), ("32768", 32768), ("1M", 1 << 20)])
def test_contexts_are_tokens(text: str, n: int) -> None:
    """128k is 131072 tokens."""
    assert parse_context(text) == n


@pytest.mark.parametrize("text", ["", "GiB", "-1G", "1.2.3", "10 apples", "9" * 5000])
def test_nonsense_is_refused(text: str) -> None:
    """Text that is no size is a usage error that quotes it."""
    with pytest.raises(UsageError, match="expected"):
        parse_bytes(text)
    with pytest.raises(UsageError, match="expected"):
        parse_context(text or "0")


@pytest.mark.parametrize("text", ["2147483648", "2048m", "9" * 30])
def test_contexts_end_where_positions_do(text: str) -> None:
    """No runtime takes more than 2^31 - 1 tokens; a size for more would be no answer."""
    assert parse_context("2147483647") == 2**31 - 1
    with pytest.raises(UsageError, match="at most 2147483647 tokens"):
        parse_context(text)


def test_formats() -> None:
    """One decimal, binary units; contexts in k where they are whole."""
    assert format_bytes(253113024) == "241.4 MiB"
    assert format_bytes(500) == "500 B"
    assert format_context(131072) == "128k"
    assert format_context(1000) == "1000"
    assert format_count(268_098_176) == "268.1M"
