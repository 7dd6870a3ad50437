"""Sizes, context lengths, runs of numbers: text to integers and back. Nothing else parses "24GiB" or "32k"."""

import re
from collections.abc import Iterable

from tqconvert.errors import UsageError

_BYTES = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*(?:([KMGT])(i?)B?|B)?", re.IGNORECASE)
_CONTEXT = re.compile(r"(\d{1,30})\s*([km]?)", re.IGNORECASE)
MAX_CONTEXT = 2**31 - 1
"""llama.cpp counts positions in 32 bits with a sign (include/llama.h, llama_pos)."""

_POWER = {"k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """Bytes of "24GiB", "24G", "500MB" or "1048576". K, M, G, T are binary, as model sizes are."""
    m = _BYTES.fullmatch(text.strip())
    if not m:
        raise UsageError(f"{text}: not a size (expected a number with KiB, MiB, GiB or TiB)")
    scale = 1024 ** _POWER[m[2].lower()] if m[2] else 1
    return int(float(m[1]) * scale)


def parse_context(text: str) -> int:
    """Tokens of "128k", "131072" or "1m". k and m are binary: 128k is 131072."""
    m = _CONTEXT.fullmatch(text.strip())
    if not m or int(m[1]) == 0:
        raise UsageError(f"{text}: not a context length (expected tokens, such as 32768 or 128k)")
    n: int = int(m[1]) * 1024 ** (_POWER[m[2].lower()] if m[2] else 0)
    if n > MAX_CONTEXT:
        raise UsageError(
            f"{text}: more than a runtime takes (expected at most {MAX_CONTEXT} tokens)"
        )
    return n


def format_bytes(n: int) -> str:
    """Bytes with one decimal in the largest binary unit that keeps the number at 1 or more."""
    size = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{n} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_mib(n: int) -> str:
    """Bytes as MiB with two decimals, the form of llama.cpp's log."""
    return f"{n / 2**20:.2f} MiB"


def format_context(n: int) -> str:
    """Tokens as 128k where they are whole multiples of 1024, else as they are."""
    return f"{n // 1024}k" if n and n % 1024 == 0 else str(n)


def format_count(n: int) -> str:
    """Parameters as 268.1M or 27.8B."""
    for scale, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n >= scale:
            return f"{n / scale:.1f}{unit}"
    return str(n)


def format_runs(numbers: Iterable[int]) -> str:
    """Sorted numbers as runs: `0-4, 6-10`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
