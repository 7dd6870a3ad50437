"""What one level of `verify` found."""

from typing import NamedTuple

INTEGRITY = 4
FINDING = 1
UNKNOWN_BASE = 5


class Check(NamedTuple):
    """One level: whether it holds, what it looked at, and what it could not look at."""

    level: str
    ok: bool | None
    """None: there was nothing to look at, or no means."""
    covered: str = ""
    not_covered: str = ""
    findings: tuple[str, ...] = ()
    code: int = INTEGRITY
    """Exit code if it does not hold."""


def check(
    level: str, covered: str, findings: list[str], not_covered: str = "", *, code: int = INTEGRITY
) -> Check:
    """A level that was looked at: it holds if nothing was found."""
    return Check(level, not findings, covered, not_covered, tuple(findings), code)


def skipped(level: str, reason: str) -> Check:
    """A level that could not be looked at."""
    return Check(level, None, not_covered=reason)


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
