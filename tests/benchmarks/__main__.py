"""Run the benchmarks and print their tables: `python -m tests.benchmarks [NAME...]` (`make bench`)."""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.rows import Row, Table
from tqconvert.cli.output import table
from tqconvert.errors import TqError

NAMES = (
    "help", "header", "fingerprint", "tag", "pull", "hub", "push", "patch_queue", "kv_speed", "kv_quality",
)  # fmt: skip


def render(found: Sequence[Row | Table]) -> str:
    """The common table: work, ours, peer, ratio, bar, verdict; then those with columns of their own."""
    head = ("work", "ours", "peer", "ratio", "bar", "verdict")
    rows = [r for r in found if isinstance(r, Row)]
    body = [(r.work, r.ours, r.peer, r.ratio, r.bar, "ok" if r.ok else "MISSED") for r in rows]
    parts = [table([head, *body])] if rows else []
    parts += ["\n".join([t.title, table([t.head, *t.rows], right=range(1, len(t.head) - 2)), *t.notes])
              for t in found if isinstance(t, Table)]  # fmt: skip
    return "\n\n".join(parts)


def main(argv: Sequence[str]) -> int:
    """Run the named benchmarks (default: all); 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--work", type=Path, help="folder for large files (default: temporary)")
    options = parser.parse_args(argv)
    here = Path(__file__).parent
    rows: list[Row | Table] = []
    failed = False
    for name in options.names or [n for n in NAMES if (here / f"bench_{n}.py").exists()]:
        module = importlib.import_module(f"tests.benchmarks.bench_{name}")
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=options.work, prefix="tqconvert-bench-") as work:
            try:
                rows += module.run(Path(work))
            except TqError as e:
                hint = f"\n  hint: {e.hint}" if e.hint else ""
                print(f"{name}: {e.message}{hint}", file=sys.stderr)
                failed = True
    print(render(rows))
    return 0 if all(r.ok for r in rows) and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
