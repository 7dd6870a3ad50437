"""Run the benchmarks and print one table: `python -m tests.benchmarks [NAME...]` (`make bench`)."""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.rows import Row
from tqconvert.cli.output import table

NAMES = ("help", "header", "tag", "pull")


def render(rows: Sequence[Row]) -> str:
    """The table: work, ours, peer, ratio, bar, verdict."""
    head = ("work", "ours", "peer", "ratio", "bar", "verdict")
    body = [(r.work, r.ours, r.peer, r.ratio, r.bar, "ok" if r.ok else "MISSED") for r in rows]
    return table([head, *body])


def main(argv: Sequence[str]) -> int:
    """Run the named benchmarks (default: all); 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--work", type=Path, help="folder for large files (default: temporary)")
    options = parser.parse_args(argv)
    here = Path(__file__).parent
    rows: list[Row] = []
    for name in options.names or [n for n in NAMES if (here / f"bench_{n}.py").exists()]:
        module = importlib.import_module(f"tests.benchmarks.bench_{name}")
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=options.work, prefix="tqconvert-bench-") as work:
            rows += module.run(Path(work))
    print(render(rows))
    return 0 if all(r.ok for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
