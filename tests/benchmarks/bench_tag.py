"""Tag a 4 GB file in place, against `tqconvert --version` and `gguf-new-metadata`.

    python -m tests.benchmarks.bench_tag [--work DIR] [--gib 4] [--runs 15]

The file has Gemma's keys (a vocabulary of 262,144 tokens) and one F16 tensor of random bytes, written and
synced. Every figure is that of a whole process, with a sync before it; tag and --version take turns and
the figure over --version is the fastest run less the fastest run. The peer writes its copy once.
"""

import argparse
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.rows import Measured, Row, fastest, gemma, measure, mebibytes, seconds
from tqconvert.gguf.header import read_header

F16 = 1
ROW = 1 << 12
BAR_S, BAR_RATIO = 0.050, 100
BAR_BYTES = 32 << 20
"""Memory over --version: the header's pages that were touched, and nothing that grows with the file."""

PEAK = (
    "import pathlib, sys; from tqconvert.cli import main; code = main(sys.argv[1:])\n"
    "status = pathlib.Path('/proc/self/status').read_text()\n"
    "print(status.split('VmHWM:')[1].split()[0], file=sys.stderr); sys.exit(code)"
)
"""A command that reports its own peak: ru_maxrss of a child begins at its parent's size (Linux)."""


def make_model(source: Path, target: Path, n_bytes: int) -> None:
    """A file with the keys of `source` and one F16 tensor of about `n_bytes` random bytes."""
    header = read_header(source)
    with source.open("rb") as f:
        keys = f.read(header.kv_end)
    n_rows = n_bytes // (2 * ROW)
    name = b"token_embd.weight"
    info = struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, ROW, n_rows, F16, 0)
    start = keys[:8] + struct.pack("<Q", 1) + keys[16:] + info
    block = os.urandom(8 << 20)
    with target.open("wb") as out:
        out.write(start + bytes(-len(start) % header.alignment))
        left = n_rows * ROW * 2
        while left:
            left -= out.write(block[:left])
        out.flush()
        os.fsync(out.fileno())


def run(work: Path, *, n_bytes: int = 4 * 10**9, runs: int = 15) -> list[Row]:
    """Rows for time, memory and the ratio to gguf-new-metadata."""
    model, copy = work / "bench.gguf", work / "bench-copy.gguf"
    make_model(gemma(), model, n_bytes)
    program: list[str | Path] = [sys.executable, "-m", "tqconvert"]
    base, tagged, edited, untagged = [], [], [], []
    for _ in range(runs):
        base.append(_after_sync([*program, "--version"]))
        tagged.append(_after_sync([*program, "tag", model]))
        edited.append(_after_sync([*program, "tag", model, "--type-k", "q8_0", "--type-v", "q8_0"]))
        untagged.append(_after_sync([*program, "untag", model]))
    own = statistics.median(r.seconds for r in tagged)
    peer_program = Path(sys.executable).parent / "gguf-new-metadata"
    peer = _after_sync([peer_program, "--force", "--general-name", "x", model, copy])
    began = time.perf_counter()
    os.sync()
    peer_s = peer.seconds + time.perf_counter() - began
    version = f"--version {seconds(fastest(base).seconds)}"
    over = _over(tagged, base)
    over_bytes = _peak("tag", model) - _peak("--version")
    ratio, size = peer_s / own, f"{model.stat().st_size / 1e9:.1f} GB"
    return [
        Row(f"tag {size} in place with fsync, over --version", f"+{seconds(over)}", version, "",
            f"<= +{seconds(BAR_S)}", over <= BAR_S),
        Row("  its memory, over --version", f"+{mebibytes(over_bytes)}",
            f"gguf-new-metadata {mebibytes(peer.rss_bytes)}", "", f"<= +{mebibytes(BAR_BYTES)}",
            over_bytes <= BAR_BYTES),
        Row("  the whole process", seconds(own), f"gguf-new-metadata {seconds(peer_s)}",
            f"{ratio:.0f}x", f">= {BAR_RATIO}x", ratio >= BAR_RATIO),
        Row("change the tags, over --version", f"+{seconds(_over(edited, base))}", "", "", "", ok=True),
        Row("untag, over --version", f"+{seconds(_over(untagged, base))}", "", "", "", ok=True),
    ]  # fmt: skip


def _after_sync(command: list[str | Path]) -> Measured:
    os.sync()
    measured = measure(command)
    if measured.code:
        raise RuntimeError(f"{command} ended with {measured.code}")
    return measured


def _peak(*arguments: str | Path) -> int:
    command = [sys.executable, "-c", PEAK, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(ran.stderr.split()[-1]) * 1024


def _over(ours: list[Measured], base: list[Measured]) -> float:
    """Fastest against fastest, as the other benchmarks of short work: noise only ever adds."""
    return fastest(ours).seconds - fastest(base).seconds


def main() -> int:
    """Print the rows; 1 if a bar is missed."""
    from tests.benchmarks.__main__ import render

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder for the file (default: temporary)")
    parser.add_argument("--gib", type=float, default=4e9 / 2**30)
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work, prefix="tqconvert-bench-") as work:
        rows = run(Path(work), n_bytes=int(args.gib * 2**30), runs=args.runs)
    print(render(rows))
    return 0 if all(r.ok for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
