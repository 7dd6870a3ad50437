"""The fingerprint of Gemma 3 270M's weights, 235 MiB in 236 tensors, from the page cache.

Ours over `tqconvert --version`, whole processes, beside coreutils' sha256sum of the file; and in this
process beside one thread of hashlib, the library that both of them use.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.rows import Row, fastest, gemma, measure, seconds
from tqconvert.gguf.fingerprint import fingerprint_of
from tqconvert.store.hashing import hash_file

RUNS = 9
BAR_SHA256SUM, BAR_HASHLIB = 1.0, 0.75


def run(work: Path) -> list[Row]:
    """Rows for the command and for the function."""
    del work
    model = gemma()
    program = [sys.executable, "-m", "tqconvert"]
    rounds = [
        (
            measure([*program, "--version"]),
            measure([*program, "fingerprint", model, "-q"]),
            measure(["sha256sum", model]),
        )
        for _ in range(RUNS)
    ]
    base, ours, peer = (fastest(runs) for runs in zip(*rounds, strict=True))
    over_s = ours.seconds - base.seconds
    own_s, plain_s = _best(lambda: fingerprint_of(model)), _best(lambda: hash_file(Path(model)))
    return [
        Row("fingerprint Gemma, over --version", f"+{seconds(over_s)}",
            f"sha256sum {seconds(peer.seconds)}", f"{peer.seconds / over_s:.1f}x", f">= {BAR_SHA256SUM}x",
            peer.seconds / over_s >= BAR_SHA256SUM),
        Row("  the function alone", seconds(own_s), f"hashlib {seconds(plain_s)}",
            f"{plain_s / own_s:.2f}x", f">= {BAR_HASHLIB}x", plain_s / own_s >= BAR_HASHLIB),
    ]  # fmt: skip


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
