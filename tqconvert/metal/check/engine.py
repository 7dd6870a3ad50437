"""Compile every kernel of a tree, run what there are cases for, compare with NumPy: `check`."""

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqconvert.errors import BuildFailedError, KernelSourceError
from tqconvert.metal.build import Program, Workshop
from tqconvert.metal.check.known import known, relies_on_step
from tqconvert.metal.check.tree import MetalTree
from tqconvert.metal.launch import Finding
from tqconvert.metal.rewrite import Rewritten
from tqconvert.metal.simulate import Outcome, Simulator
from tqconvert.progress import Steps

if TYPE_CHECKING:
    from tqconvert.metal.check.case import Bench, Case, Family


@dataclass(frozen=True, slots=True)
class UnitResult:
    """One source file."""

    file: Path
    kernels: tuple[str, ...]
    error: str = ""
    """The compiler's first errors; its kernels are not known then."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case that ran."""

    title: str
    kernels: tuple[str, ...]
    error: float
    """Largest error relative to the largest value."""
    tolerance: float
    level: bool
    """The numbers are right only with lanes that run in step."""
    findings: tuple[Finding, ...]
    problem: str
    """Why it is wrong, for people; empty where it passed."""
    seconds: float

    @property
    def known(self) -> bool:
        """Whether all that is wrong is a defect that is known upstream."""
        return bool(self.findings) and not self.problem

    @property
    def passed(self) -> bool:
        """Right numbers, and nothing found."""
        return not self.findings and not self.problem

    def to_json(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "title": self.title, "kernels": list(self.kernels), "passed": self.passed,
            "known": self.known, "error": self.error if self.error < 1e300 else None,
            "tolerance": self.tolerance, "level": self.level,
            "findings": [f.to_json() for f in self.findings], "problem": self.problem,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found."""

    units: tuple[UnitResult, ...]
    cases: tuple[CaseResult, ...]
    definitions: Mapping[str, str]
    """Kernel -> the function or template that it is made of."""
    not_run: tuple[str, ...]
    """Cases that this tree has no kernels, arguments or constants for, with the reason."""

    @property
    def kernels(self) -> tuple[str, ...]:
        """All host names that compile, sorted."""
        return tuple(sorted({k for u in self.units for k in u.kernels}))

    @property
    def run(self) -> frozenset[str]:
        """Kernels that ran in a case."""
        return frozenset(k for c in self.cases for k in c.kernels)

    @property
    def not_covered(self) -> tuple[str, ...]:
        """Kernels that compile and that no case ran."""
        return tuple(k for k in self.kernels if k not in self.run)

    @property
    def failed(self) -> bool:
        """Whether a unit does not compile, a case is wrong, or nothing ran."""
        wrong = any(u.error for u in self.units) or any(c.problem for c in self.cases)
        return wrong or not self.cases

    def families(self, names: Iterable[str]) -> int:
        """How many different functions or templates the kernels are made of."""
        return len({self.definitions[n] for n in names})


def check(
    tree: MetalTree, workshop: Workshop, *, kernels: str | None = None, checked: bool = True,
    fast_math: bool = False, jobs: int = 1, steps: Steps,
) -> Report:  # fmt: skip
    """Check the kernels whose host names `kernels` finds, all by default.

    Raises re.error for a bad expression, ToolMissingError.
    """
    from tqconvert.metal.check.families import FAMILIES

    pattern = re.compile(kernels or "")
    with ThreadPoolExecutor(jobs) as pool:
        sources = dict(zip(tree.sources, _verify(tree, workshop, pool, steps), strict=True))
        units = tuple(_unit(f, s, pattern) for f, s in sources.items())
        good = {f: s for f, s in sources.items() if isinstance(s, Rewritten)}
        cases, not_run = _cases(tree, good, FAMILIES, pattern, checked=checked)
        options = {"checked": checked, "fast_math": fast_math}
        found = _run(tree, workshop, good, cases, options, pool, steps)
    definitions = {k.host_name: k.definition for s in good.values() for k in s.kernels}
    return Report(units, tuple(found), definitions, tuple(not_run))


def _verify(
    tree: MetalTree, workshop: Workshop, pool: ThreadPoolExecutor, steps: Steps
) -> list[Rewritten | str]:
    """Each source rewritten, or why it does not compile."""
    done = _Counter(steps, len(tree.sources), "compile")

    def one(path: Path) -> Rewritten | str:
        try:
            return workshop.verify(tree.unit(path))
        except (BuildFailedError, KernelSourceError) as e:
            return e.message
        finally:
            done.add(path.name)

    return list(pool.map(one, tree.sources))


def _unit(file: Path, source: "Rewritten | str", pattern: re.Pattern[str]) -> UnitResult:
    if isinstance(source, str):
        return UnitResult(file, (), source)
    return UnitResult(
        file, tuple(k.host_name for k in source.kernels if pattern.search(k.host_name))
    )


def bench_of(tree: MetalTree, sources: Iterable[Rewritten]) -> "Bench":
    """What those who write cases need to know of a tree."""
    from tqconvert.metal.check.case import Bench

    found = list(sources)
    names = frozenset(k.host_name for s in found for k in s.kernels)
    constants = {c.name: c.index for s in found for c in s.constants}
    return Bench(tree.structs, tree.defines, constants, names)


def _cases(
    tree: MetalTree, sources: Mapping[Path, Rewritten], families: "Iterable[Family]",
    pattern: re.Pattern[str], *, checked: bool,
) -> "tuple[list[Case], list[str]]":  # fmt: skip
    """Cases that this tree can run, and what it cannot."""
    from tqconvert.metal.check.case import seeded

    bench = bench_of(tree, sources.values())
    names = bench.names
    cases: list[Case] = []
    not_run: list[str] = []
    if "kernel_mul_mm_f32_f32" in names and "FC_mul_mv_nsg" not in bench.constants:
        return [], ["all cases: this tree's host launches kernels otherwise (before October 2025)"]
    for family in families:
        title = f"{family.__module__.rpartition('.')[2]}.{family.__name__}"
        try:
            for case in family(seeded(bench, title)):
                used = [launch.kernel for launch in case.launches]
                if missing := [k for k in used if k not in names]:
                    not_run.append(f"{case.title}: no kernel {missing[0]}")
                elif not checked and any(map(relies_on_step, used)):
                    not_run.append(f"{case.title}: needs lanes in step, which plain code has not")
                elif any(pattern.search(k) for k in used):
                    cases.append(case)
        except KernelSourceError as e:
            not_run.append(f"{title}: {e.message}")
    return cases, not_run


def _run(
    tree: MetalTree, workshop: Workshop, sources: Mapping[Path, Rewritten], cases: "list[Case]",
    options: Mapping[str, bool], pool: ThreadPoolExecutor, steps: Steps,
) -> list[CaseResult]:  # fmt: skip
    """Results of all cases, in their order."""
    home = {k.host_name: f for f, s in sources.items() for k in s.kernels}
    wanted: dict[Path, set[str]] = {}
    for case in cases:
        for launch in case.launches:
            wanted.setdefault(home[launch.kernel], set()).add(launch.kernel)
    done = _Counter(steps, len(wanted), "build")

    def build(file: Path) -> Program:
        keep = f"^({'|'.join(map(re.escape, sorted(wanted[file])))})$"
        try:
            return workshop.build(tree.unit(file, keep=keep, **options))
        finally:
            done.add(file.name)

    programs = dict(zip(wanted, pool.map(build, wanted), strict=True))
    ran = _Counter(steps, len(cases), "run")
    local = threading.local()
    simulators: list[Simulator] = []

    def run(case: "Case") -> CaseResult:
        if not hasattr(local, "simulator"):
            local.simulator = Simulator(workshop)
            simulators.append(local.simulator)
        try:
            return run_case(local.simulator, case, lambda kernel: programs[home[kernel]])
        finally:
            ran.add(case.title)

    try:
        return list(pool.map(run, cases))
    finally:
        for simulator in simulators:
            simulator.close()


def run_case(
    simulator: Simulator, case: "Case", program_of: Callable[[str], Program]
) -> CaseResult:
    """The result of one case; run once more in lock step where the first run says that this may matter."""
    from tqconvert.metal.check.case import error_of

    steps = [(program_of(launch.kernel), launch) for launch in case.launches]
    names = tuple(dict.fromkeys(launch.kernel for launch in case.launches))
    outcome = simulator.run_all(steps, case.arrays)
    error, level = error_of(outcome.arrays[case.output], case.want), False
    if error > case.tolerance and any(f.kind == "simdgroup_race" for f in outcome.findings):
        again = simulator.run_all(steps, case.arrays, level=True)
        error_again = error_of(again.arrays[case.output], case.want)
        if error_again <= case.tolerance and not again.error:
            error, level = error_again, True
    problem = _problem(case, outcome, error)
    return CaseResult(
        case.title, names, error, case.tolerance, level, outcome.findings, problem, outcome.seconds
    )


def _problem(case: "Case", outcome: Outcome, error: float) -> str:
    """What is wrong beyond what is known upstream, in a line."""
    unknown = [f for f in outcome.findings if not known(f)]
    if unknown:
        more = f" (and {len(unknown) - 1} more places: --json)" if len(unknown) > 1 else ""
        return f"{unknown[0]}{more}"
    if outcome.error:
        return outcome.error
    if error > case.tolerance:
        if case.want.dtype == "uint8":
            return f"{error:g} of {case.want.size} bytes differ from NumPy"
        return f"differs from NumPy by {error:.1e} (at most {case.tolerance:.0e})"
    return ""


class _Counter:
    """Progress of things that threads finish."""

    def __init__(self, steps: Steps, total: int, label: str) -> None:
        self._steps, self._total, self._label = steps, total, label
        self._lock = threading.Lock()
        self._done = 0

    def add(self, name: str) -> None:
        with self._lock:
            self._done += 1
            self._steps.step(self._done, self._total, f"{self._label} {name}")
