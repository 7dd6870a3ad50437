"""Open and fully check the header of Gemma 3 270M, with its vocabulary of 262,144 tokens.

Ours over `tqconvert --version`, whole processes; the peer is gguf-py's GGUFReader, opened in a
process of its own whose import of gguf and numpy is not counted.
"""

import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.rows import Row, fastest, gemma, measure, mebibytes, seconds
from tqconvert.gguf.header import read_header

BAR_S, BAR_BYTES, BAR_RATIO = 0.050, 15 << 20, 100
RUNS = 25
PEER = (
    "import sys, time, gguf; began = time.perf_counter(); gguf.GGUFReader(sys.argv[1]);"
    "print(time.perf_counter() - began)"
)


def run(work: Path) -> list[Row]:
    """Rows for time, memory and the ratio to gguf-py."""
    del work
    model = gemma()
    program = [sys.executable, "-m", "tqconvert"]
    # In turns, so that a busy moment of the machine falls on both.
    pairs = [
        (measure([*program, "--version"]), measure([*program, "inspect", model]))
        for _ in range(RUNS)
    ]
    base, ours = (fastest(runs) for runs in zip(*pairs, strict=True))
    over_s, over_bytes = ours.seconds - base.seconds, ours.rss_bytes - base.rss_bytes
    peer = subprocess.run(
        [sys.executable, "-c", PEER, model], capture_output=True, text=True, check=True
    )
    peer_s, own_s = float(peer.stdout), _read_s(model)
    version = f"--version {seconds(base.seconds)}"
    return [
        Row("inspect Gemma, over --version", f"+{seconds(over_s)}", version, "",
            f"<= +{seconds(BAR_S)}", over_s <= BAR_S),
        Row("  its memory, over --version", f"+{mebibytes(over_bytes)}",
            f"--version {mebibytes(base.rss_bytes)}", "", f"<= +{mebibytes(BAR_BYTES)}",
            over_bytes <= BAR_BYTES),
        Row("open and check Gemma's header", seconds(own_s), f"GGUFReader {seconds(peer_s)}",
            f"{peer_s / own_s:.0f}x", f">= {BAR_RATIO}x", peer_s / own_s >= BAR_RATIO),
    ]  # fmt: skip


def _read_s(path: Path) -> float:
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        read_header(path)
        times.append(time.perf_counter() - began)
    return min(times)
