"""Run cases in the simulator and compare: `check_turbo`."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqconvert.errors import NotFoundError
from tqconvert.metal.build import Program, Unit
from tqconvert.metal.kargs import Struct, parse_structs
from tqconvert.metal.launch import Finding
from tqconvert.metal.simulate import Simulator

if TYPE_CHECKING:
    from tqconvert.metal.turbo.cases import Case

OWN = "ggml-metal-turbo"
"""Stem of our kernel file and of its headers."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where kernels are compiled from: a tree, or our file beside upstream's."""

    units: tuple[Path, ...]
    includes: tuple[Path, ...]
    structs: Mapping[str, Struct]
    checked: bool = True
    fast_math: bool = False

    def programs(self, simulator: Simulator, kernels: Iterable[str]) -> dict[str, Program]:
        """Kernel -> program; only these kernels are compiled. Raises NotFoundError, BuildFailedError."""
        wanted = sorted(set(kernels))
        found: dict[str, Program] = {}
        for path in self.units:
            unit = self._unit(path, wanted)
            names = {k.host_name for k in simulator.workshop.rewritten(unit).kernels}
            mine = [k for k in wanted if k in names and k not in found]
            if mine:
                program = simulator.build(self._unit(path, mine))
                found |= dict.fromkeys(mine, program)
        if missing := [k for k in wanted if k not in found]:
            raise NotFoundError(f"{missing[0]}: no such kernel in {self.units[0].parent}")
        return found

    def own_unit(self) -> Unit:
        """Our kernel file, all of it."""
        return Unit(self.units[0], self.includes, checked=self.checked, fast_math=self.fast_math)

    def with_options(self, *, checked: bool, fast_math: bool = False) -> "Sources":
        """The same sources for another kind of build."""
        return replace(self, checked=checked, fast_math=fast_math)

    def _unit(self, path: Path, kernels: Sequence[str]) -> Unit:
        keep = f"^(?:{'|'.join(map(re.escape, kernels))})$"
        return Unit(path, self.includes, keep=keep, checked=self.checked, fast_math=self.fast_math)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a case."""

    case: "Case"
    error: float
    """Relative error of attention; differing bytes of blocks."""
    bar: float
    findings: tuple[Finding, ...]
    failure: str = ""
    """Why a launch could not end."""

    @property
    def ok(self) -> bool:
        """Whether the numbers are right and nothing was found."""
        return self.error <= self.bar and not self.findings and not self.failure

    def __str__(self) -> str:
        problems = [*map(str, self.findings), *([self.failure] if self.failure else [])]
        verdict = "ok" if self.ok else "FAILED"
        return "\n  ".join([f"{self.case.name}: {verdict}, error {self.error:.2g}", *problems])


def own_sources(metal: Path, upstream: Path, **options: bool) -> Sources:
    """Our kernels from the folder `metal`, with headers and helpers of upstream's ggml-metal folder.

    Raises NotFoundError where that folder is not one of kernels/*.metal.
    """
    structs = parse_structs(upstream / "ggml-metal-impl.h")
    helpers = upstream / "kernels" / "fa_aux.metal"
    if not helpers.is_file():
        raise NotFoundError(f"{helpers}: no such file")
    folders = (metal, upstream, upstream / "kernels", upstream.parent)
    return Sources((metal / f"{OWN}.metal", helpers), folders, structs, **options)


def check_turbo(
    simulator: Simulator, sources: Sources, cases: Sequence["Case"], *,
    progress: Callable[[Result], None] | None = None,
) -> list[Result]:  # fmt: skip
    """The result of each case. Raises what compiling raises."""
    from tqconvert.metal.turbo.launches import plan

    plans = [plan(case, sources.structs) for case in cases]
    programs = sources.programs(simulator, (la.kernel for p in plans for la in p.launches))
    results = []
    for case, planned in zip(cases, plans, strict=True):
        steps = [(programs[launch.kernel], launch) for launch in planned.launches]
        outcome = simulator.run_all(steps, planned.arrays)
        error = bar = 0.0
        for expected in planned.expected:
            error, bar = (
                _error(outcome.arrays[expected.array], expected.want, expected.bar),
                expected.bar,
            )
            if error > bar:
                break
        results.append(Result(case, error, bar, outcome.findings, outcome.error))
        if progress:
            progress(results[-1])
    return results


def _error(got: object, want: object, bar: float) -> float:
    import numpy as np

    from tqconvert.metal.turbo.reference import relative_error

    assert isinstance(got, np.ndarray)
    assert isinstance(want, np.ndarray)
    if bar:
        return relative_error(got, want)
    both_nan = np.isnan(got) & np.isnan(want) if got.dtype.kind == "f" else False
    bits = np.dtype(f"u{got.itemsize}")
    same = (got.view(bits) == want.astype(got.dtype).view(bits)) | both_nan
    return float(same.size - np.count_nonzero(same))
