"""How long the patch queue takes beside git and Ollama's own Makefile, in the same run.

    python -m tests.benchmarks.bench_patch_queue --ollama TREE --base REPO [--far REPO:REV] [--rounds 5]

TREE is a legacy release of Ollama, REPO llama.cpp with the release's base checked out, REPO:REV llama.cpp some
1000 commits on. Without them a made-up release stands in, so that the commands are measured anywhere; the bars are
for the real one. Commands take turns, whole processes, medians; `over` is the time above `tqconvert --version`.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.rows import Measured, Row, measure, seconds

PROGRAM = Path(sys.executable).with_name("tqconvert")
STATUS_BAR, VERIFY_BAR, APPLY_BAR, APPLY_RATIO, FAR_BAR = 0.060, 0.120, 1.2, 0.6, 1.6


def run(
    work: Path, *, ollama: Path | None = None, base: Path | None = None, far: str | None = None,
    rounds: int = 5,
) -> list[Row]:  # fmt: skip
    """Rows for status, verify, apply and a far base."""
    if ollama is None or base is None:
        from tests.patches.releases import make_legacy

        made = make_legacy(work / "release")
        ollama, base, far = made.ollama, made.llama, f"{made.llama}:master"
        label = "made-up release"
    else:
        label = ollama.name
    rows = [
        _over(f"status, {label}", STATUS_BAR, rounds, "ollama-build", "status", ollama,
              peer=("git apply -R --check", lambda: _git_status(ollama))),
        _over(f"verify --level 2, {label}", VERIFY_BAR, rounds, "ollama-build", "verify", ollama,
              "--level", "2"),
        _apply(work, label, ollama, base, rounds),
    ]  # fmt: skip
    if far:
        rows.append(_far(label, ollama, far, rounds))
    return rows


def _over(
    work: str, bar: float, rounds: int, *args: str | Path,
    peer: tuple[str, Callable[[], Measured]] | None = None,
) -> Row:  # fmt: skip
    """A command's median over that of `--version`, runs taking turns."""
    plain, ours, theirs = [], [], []
    for _ in range(rounds):
        plain.append(measure([PROGRAM, "--version"]).seconds)
        ours.append(_checked(measure([PROGRAM, *args])).seconds)
        if peer:
            theirs.append(peer[1]().seconds)
    over = statistics.median(ours) - statistics.median(plain)
    other = statistics.median(theirs) if theirs else None
    return Row(
        work, f"+{seconds(over)}", f"{peer[0]} {seconds(other)}" if peer and other else "",
        f"{other / statistics.median(ours):.1f}x" if other else "", f"<= +{seconds(bar)}", over <= bar,
    )  # fmt: skip


def _checked(run: Measured) -> Measured:
    if run.code:
        raise RuntimeError(f"a measured command ended with {run.code}")
    return run


def _git_status(ollama: Path) -> Measured:
    """What Ollama's own apply-patch.cmake asks of git, for each patch on its own."""
    script = (
        'for p in "$1"/llama/patches/*.patch; do '
        'git apply -R --check --directory=x "$p" 2>/dev/null; done; true'
    )
    return measure(["sh", "-c", script, "sh", ollama], cwd=ollama)


def _apply(work: Path, label: str, ollama: Path, base: Path, rounds: int) -> Row:
    ours, theirs = [], []
    for number in range(rounds):
        tree = _fresh(base, work / f"ours{number}")
        ours.append(
            _checked(measure([PROGRAM, "ollama-build", "apply", tree, "--ollama", ollama])).seconds
        )
        shutil.rmtree(tree)
        tree = _fresh(base, work / f"theirs{number}")
        theirs.append(_checked(_make(ollama, tree)).seconds)
        shutil.rmtree(tree)
    mine, other = statistics.median(ours), statistics.median(theirs)
    return Row(
        f"apply all and ours to a fresh base, {label}", seconds(mine),
        f"make apply-patches {seconds(other)}", f"{mine / other:.2f}",
        f"<= {APPLY_BAR} s, <= {APPLY_RATIO}", mine <= APPLY_BAR and mine <= APPLY_RATIO * other,
    )  # fmt: skip


def _fresh(base: Path, to: Path) -> Path:
    """A clone with its own index and work tree; objects are shared."""
    _checked(measure(["git", "clone", "-q", "--shared", base, to]))
    return to


def _make(ollama: Path, tree: Path) -> Measured:
    """Ollama's own way: its Makefile where that has the target, else the same command for each patch."""
    makefile = ollama / "Makefile.sync"
    if "apply-patches" in makefile.read_text():
        for stamp in (ollama / "llama" / "patches").glob(".*.patched"):
            stamp.unlink()
        return measure(
            ["make", "-s", "-f", makefile, f"WORKDIR={tree}", "apply-patches"], cwd=ollama
        )
    script = (
        'for p in "$1"/llama/patches/*.patch; do '
        'git -c user.name=nobody -c user.email="<>" -C "$2" am -q -3 "$p" || exit 1; done'
    )
    return measure(["sh", "-c", script, "sh", ollama, tree])


def _far(label: str, ollama: Path, far: str, rounds: int) -> Row:
    repo, _, rev = far.rpartition(":")
    args = ("ollama-build", "status", ollama, "--onto", rev, "--git", repo)
    # Patches that conflict make the exit status 1: a verdict, no failure.
    times = [measure([PROGRAM, *args]) for _ in range(rounds)]
    if any(t.code not in (0, 1) for t in times):
        raise RuntimeError(f"status --onto ended with {times[0].code}")
    median = statistics.median(t.seconds for t in times)
    return Row(
        f"status --onto {rev}, {label}",
        seconds(median),
        "",
        "",
        f"<= {FAR_BAR} s",
        median <= FAR_BAR,
    )


def main() -> int:
    """Measure the trees on the command line, or those in the environment."""
    from tests.benchmarks.__main__ import render

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ollama", type=Path, default=os.environ.get("BENCH_OLLAMA"))
    parser.add_argument("--base", type=Path, default=os.environ.get("BENCH_LLAMA_CPP"))
    parser.add_argument("--far", metavar="REPO:REV", default=os.environ.get("BENCH_LLAMA_CPP_FAR"))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tqconvert-bench-") as work:
        rows = run(
            Path(work), ollama=given.ollama, base=given.base, far=given.far, rounds=given.rounds
        )
    print(render(rows))
    return 0 if all(r.ok for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
