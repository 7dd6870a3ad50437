"""The check that only a Mac can make: Apple's compiler on every file, and launch records on the GPU."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqconvert.errors import BuildFailedError, KernelSourceError
from tqconvert.metal.apple.compiler import BF16, LANGUAGES, Compiled, Xcrun
from tqconvert.metal.apple.flatten import flatten
from tqconvert.metal.apple.gpu import SIMD_WIDTH, Gpu, Pipeline, differing_names
from tqconvert.metal.kernels import read_unit
from tqconvert.metal.tree import MetalTree

if TYPE_CHECKING:
    from tqconvert.metal.simulate import Simulator
    from tqconvert.metal.turbo.cases import Case
    from tqconvert.metal.turbo.plan import Plan

_FULL = 1024
FC_TURBO = 2200
_N_BOOLEANS = 4
WORKGROUPS = FC_TURBO + 4
"""The function constants of our attention: four booleans from FC_TURBO on, then this number."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at."""

    what: str
    ok: bool
    text: str = ""
    note: bool = False
    """Worth knowing, no fault."""


@dataclass(frozen=True, slots=True)
class Report:
    """All of it."""

    compiler: str
    gpu: str
    steps: tuple[Step, ...]
    not_covered: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether something was looked at, and nothing failed."""
        return bool(self.steps) and all(s.ok for s in self.steps)

    def as_json(self) -> dict[str, Any]:
        """The report as an object of `--json`."""
        return {
            "ok": self.ok, "compiler": self.compiler, "gpu": self.gpu,
            "steps": [asdict(s) for s in self.steps], "not_covered": list(self.not_covered),
        }  # fmt: skip


Progress = Callable[[Step], None]


def compile_all(tree: MetalTree, xcrun: Xcrun, work: Path) -> Iterator[Step]:
    """Every file in every version of the language, with bfloat and without; then one library of all.

    Versions that the compiler does not know are no fault, as long as it knows one.
    Raises ToolMissingError.
    """
    known = [v for v in LANGUAGES if _knows(xcrun, v, work)]
    yield Step("languages", bool(known), ", ".join(known) or f"none of {', '.join(LANGUAGES)}")
    airs = []
    for path in tree.units:
        for language, defines in product(known, ((BF16,), ())):
            air = work / f"{path.stem}.{language}.{len(defines)}.air"
            done = xcrun.compile(
                path, air, includes=tree.includes, language=language, defines=defines
            )
            yield Step(_title(done), done.ok, _log(done), note=done.ok and done.warnings > 0)
            if done.ok and defines and language == known[0]:
                airs.append(air)
    if len(airs) == len(tree.units):
        library = work / "default.metallib"
        xcrun.link(airs, library)
        ours = {name for path in tree.units for name in read_unit(path, tree.includes).kernels}
        problems = differing_names(ours, xcrun.symbols(library))
        yield Step("names in the library", not problems, "\n".join(problems))


def _knows(xcrun: Xcrun, language: str, work: Path) -> bool:
    probe = work / "probe.metal"
    probe.write_text("kernel void probe() {}\n")
    return xcrun.compile(probe, work / "probe.air", includes=(), language=language).ok


def _title(done: Compiled) -> str:
    bf16 = "bf16" if done.defines else "no bf16"
    return f"{done.path.name} {done.language} {bf16}"


def _log(done: Compiled) -> str:
    if done.ok:
        return f"{done.warnings} warnings" if done.warnings else ""
    lines = [line for line in done.log.splitlines() if "error:" in line]
    return "\n".join(lines[:5] or done.log.splitlines()[:5])


def load_all(tree: MetalTree, gpu: Gpu) -> Iterator[Step]:
    """Every file compiled from source by the GPU's driver; its names are those that were read."""
    for path in tree.units:
        try:
            names = gpu.load(flatten(path, tree.includes), {"GGML_METAL_HAS_BF16": "1"})
        except KernelSourceError as e:
            yield Step(f"{path.name} from source", False, e.message)
            continue
        problems = differing_names(read_unit(path, tree.includes).kernels, names)
        yield Step(f"{path.name} from source", not problems, "\n".join(problems))


def turbo_constants(indices: Iterable[int]) -> Iterator[dict[int, int]]:
    """All combinations of our function constants, of those that a kernel reads."""
    used = sorted(indices)
    booleans = [i for i in used if i < FC_TURBO + _N_BOOLEANS]
    rest: list[dict[int, int]] = [{WORKGROUPS: n} for n in (1, 32) if WORKGROUPS in used] or [{}]
    for values in product((0, 1), repeat=len(booleans)):
        for more in rest:
            yield {**dict(zip(booleans, values, strict=True)), **more}


def make_pipelines(tree: MetalTree, gpu: Gpu) -> Iterator[Step]:
    """Pipelines of all our kernels, in all combinations; what of the GPU they leave unused."""
    for path in tree.units:
        unit = read_unit(path, tree.includes)
        for name in sorted(n for n in unit.kernels if "turbo" in n):
            indices = {c.place for c in unit.constants_of(name).values()}
            found: list[Pipeline] = []
            try:
                found += [gpu.pipeline(name, values) for values in turbo_constants(indices)]
            except KernelSourceError as e:
                yield Step(name, False, e.message)
                continue
            least = min(p.max_threads for p in found)
            wide = all(p.simd_width == SIMD_WIDTH for p in found)
            text = [f"{len(found)} pipelines"] if len(found) > 1 else []
            text += [f"at most {least} threads"] * (least < _FULL)
            text += [] if wide else [f"simdgroups of {found[0].simd_width}"]
            yield Step(name, wide and least >= SIMD_WIDTH, ", ".join(text), note=least < _FULL)


Simulate = Callable[["Plan"], Mapping[str, Any]]
"""Runs the same launches on the CPU: arrays by name. Raises KernelSourceError."""


def run_cases(
    gpu: Gpu, structs: Mapping[str, Any], cases: Iterable["Case"], simulate: Simulate | None = None
) -> Iterator[Step]:
    """The cases that the simulator runs, on the GPU, against the same reference.

    With `simulate` what the simulator makes of them is told beside it: where both are off, the reference is.
    """
    from tqconvert.metal.turbo.launches import plan

    for case in cases:
        planned = plan(case, structs)
        try:
            done = gpu.run(planned.launches, planned.arrays)
        except KernelSourceError as e:
            yield Step(case.name, False, e.message)
            continue
        simulated, silent = None, ""
        try:
            simulated = simulate(planned) if simulate else None
        except (KernelSourceError, BuildFailedError) as e:  # the GPU's verdict stands without it
            silent = f", the simulator: {e.message}"
        problem = done.error or "\n".join(done.messages[:3])
        worst, apart = 0.0, 0.0
        for expected in planned.expected:
            got = done.arrays[expected.array]
            error = _difference(got, expected.want, exact=not expected.bar)
            worst = max(worst, error)  # NaN stays
            if simulated is not None:
                other = simulated[expected.array]
                apart = max(apart, _difference(got, other, exact=not expected.bar))
            bar = max(expected.bar, expected.gpu_bar)
            if not error <= bar:
                problem = problem or f"{expected.array}: error {error:.2g}, at most {bar:.2g}"
        text = f"error {worst:.2g}, {1000 * sum(done.gpu_s):.2f} ms"
        text += f", {apart:.2g} from the simulator" if simulated is not None else silent
        yield Step(case.name, not problem, f"{problem}; {text}" if problem else text)


def _difference(got: Any, want: Any, *, exact: bool) -> float:
    """Relative error, or the part of the bytes that differ."""
    import numpy as np

    from tqconvert.metal.turbo.reference import relative_error

    if not exact:
        return relative_error(got, want)
    same = got.view(np.uint8) == np.asarray(want).astype(got.dtype).view(np.uint8)
    return 1 - float(np.mean(same))


def simulator_of(tree: MetalTree, simulator: "Simulator") -> Simulate:
    """Launches on the simulator, plain build, from the sources of the same tree."""
    home = {n: p for p in tree.units for n in read_unit(p, tree.includes).kernels}

    def run(planned: "Plan") -> Mapping[str, Any]:
        from tqconvert.metal.build import Unit

        steps = []
        for launch in planned.launches:
            if launch.kernel not in home:
                raise KernelSourceError(f"{launch.kernel}: in none of the files")
            keep = f"^{launch.kernel}$"
            unit = Unit(home[launch.kernel], tree.includes, keep=keep, checked=False)
            steps.append((simulator.build(unit), launch))
        outcome = simulator.run_all(steps, planned.arrays)
        if outcome.error:
            raise KernelSourceError(f"simulator: {outcome.error}")
        return outcome.arrays

    return run


VALIDATION = {
    "MTL_DEBUG_LAYER": "1",
    "MTL_DEBUG_LAYER_ERROR_MODE": "assert",
    "MTL_SHADER_VALIDATION": "1",
    "MTL_SHADER_VALIDATION_FAIL_MODE": "allow",
}
"""Environment under which Metal checks every call and access; read when the device is made."""

NOT_COVERED = (
    "GPUs other than this one",
    "races: the GPU's validation looks at addresses, not at the order of threads",
    "the pipelines of upstream's kernels beyond those that the cases launch",
)
