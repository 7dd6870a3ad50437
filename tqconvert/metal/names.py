"""Proof that host code and kernels agree: names, bound arguments, threadgroup memory, function constants.

Every name that the host can form has a kernel, and what a launch binds is what the kernel takes. Read
from the sources without a compiler, so it holds on any machine and for the tree that is really built.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tqconvert.findings import Finding
from tqconvert.metal.expect import Expected, expected_names
from tqconvert.metal.hostcode import Getter, Launch, read_getters, read_launches
from tqconvert.metal.kernels import Constant, Function, Unit, read_unit
from tqconvert.metal.lint_codes import finding
from tqconvert.metal.memory import LIMIT
from tqconvert.metal.tree import MetalTree, find_metal, listed_sources, loaded_libraries

_KINDS = {
    "short": "int16", "int16_t": "int16", "int": "int32", "int32_t": "int32", "bool": "bool",
}  # fmt: skip
_LANES, _MOST_THREADS = 32, 1024
_BY_SIMDGROUP = frozenset(
    {"thread_index_in_simdgroup", "simdgroup_index_in_threadgroup", "simdgroups_per_threadgroup"}
)


class Kernel(NamedTuple):
    """A kernel under its host name."""

    function: Function
    unit: Unit

    def constants(self, host: str) -> dict[str, Constant]:
        """The function constants that it reads."""
        return self.unit.constants_of(host)


class Report(NamedTuple):
    """What was read, and what is wrong."""

    tree: MetalTree
    kernels: int
    formats: int
    expected: int
    tuning_rows: int
    launches: int
    findings: tuple[Finding, ...]
    not_covered: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing but notes was found."""
        return not any(f.severity == "error" for f in self.findings)


def check_names(root: Path) -> Report:
    """Hold the host code of a tree against its kernels. Raises NotFoundError."""
    tree = find_metal(root)
    units = [read_unit(path, tree.includes) for path in tree.units]
    kernels = {host: Kernel(f, unit) for unit in units for host, f in unit.kernels.items()}
    getters = read_getters(tree.folder)
    launches = read_launches(tree.folder)
    expected = expected_names(tree, getters)
    by_getter = {
        g.name: sorted(k for k in kernels if any(f.matches(k) for f in g.formats)) for g in getters
    }
    findings = [
        *_sources(units),
        *_libraries(tree),
        *_missing(tree, expected, kernels),
        *_formats(getters, kernels),
        *_constants(getters, by_getter, kernels),
        *_launches(launches, by_getter, kernels),
        *_memory(tree, expected),
    ]
    reached = {name for names in by_getter.values() for name in names}
    findings += [
        finding(
            k.function.file, k.function.line, "MN401", f"{name} is in no form of name of the host"
        )
        for name, k in sorted(kernels.items())
        if name not in reached
    ]
    open_ = sum(x.threads is None and x.thread_step % _LANES != 0 for x in launches)
    unseen = [f"threads of {open_} launches: the host computes them at run time"] if open_ else []
    here = str(tree.folder) + "/"
    placed = {f._replace(path=f.path.removeprefix(here)): None for f in findings}
    return Report(
        tree, len(kernels), len({f.text for g in getters for f in g.formats}), len(expected.names),
        expected.rows, len(launches), tuple(placed), (*expected.not_covered, *unseen),
    )  # fmt: skip


def _sources(units: list[Unit]) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for unit in units:
        for name, at in unit.duplicates:
            yield finding(at.file, at.line, "MN103", name)
        for at in unit.unresolved:
            yield finding(at.file, at.line, "MN104", "the template is in none of the includes")
        for at in unit.missing:
            yield finding(at.file, at.line, "MN105", at.text)
        for name, function in unit.kernels.items():
            if name in seen and seen[name] != unit.path:
                where = Path(seen[name]).name
                yield finding(function.file, function.line, "MN103", f"{name}, also in {where}")
            seen[name] = unit.path
        indices: dict[int, str] = {}
        for name, constant in unit.constants.items():
            other = indices.setdefault(constant.place, name)
            if other != name:
                text = f"{constant.place} is {other} and {name}"
                yield finding(unit.path, constant.line, "MN303", text)


def _libraries(tree: MetalTree) -> Iterator[Finding]:
    if tree.single:
        return
    built = {name.removesuffix(".metal").replace("-", "_") for name in listed_sources(tree.folder)}
    loaded = set(loaded_libraries(tree.folder))
    for name in sorted(built ^ loaded):
        where = "CMakeLists.txt only" if name in built else "GGML_METAL_LIBS only"
        yield finding(str(tree.folder / "ggml-metal-device.m"), 0, "MN106", f"{name}: in {where}")


def _missing(
    tree: MetalTree, expected: Expected, kernels: Mapping[str, Kernel]
) -> Iterator[Finding]:
    for name, why in expected.names.items():
        if name not in kernels:
            yield finding(str(tree.folder / why.file), why.line, "MN101", f"{name} ({why.text})")


def _formats(getters: tuple[Getter, ...], kernels: Mapping[str, Kernel]) -> Iterator[Finding]:
    for getter in getters:
        for form in getter.formats:
            if not any(form.matches(name) for name in kernels):
                text = f"{form.text} of {getter.name}" + (
                    f" ({form.pattern})" if form.pattern != form.text else ""
                )
                yield finding(getter.file, form.line, "MN102", text)


def _constants(
    getters: tuple[Getter, ...],
    by_getter: Mapping[str, list[str]],
    kernels: Mapping[str, Kernel],
) -> Iterator[Finding]:
    given: dict[str, dict[int, str]] = {}
    for getter in getters:
        for name in by_getter[getter.name]:
            given.setdefault(name, {}).update(getter.constants)
    for getter in getters:
        for name in by_getter[getter.name]:
            # A name that two functions can form is the business of the one that knows its constants.
            for title, constant in kernels[name].constants(name).items():
                kind = given[name].get(constant.place)
                place = f"{title} ({constant.place}) of {name}"
                if kind is None:
                    text = f"{place}: {getter.name} gives it no value"
                    yield finding(getter.file, getter.line, "MN301", text)
                elif kind != _KINDS.get(constant.type, constant.type):
                    text = f"{place} is {constant.type}, {getter.name} gives it an {kind}"
                    yield finding(getter.file, getter.line, "MN302", text)


def _launches(
    launches: tuple[Launch, ...],
    by_getter: Mapping[str, list[str]],
    kernels: Mapping[str, Kernel],
) -> Iterator[Finding]:
    """What launches and kernels do not agree on.

    A getter makes several kernels, and a function launches several of them, each in a branch of its own.
    Which goes with which is not read: every launch must fit a kernel, and every kernel a launch.
    """
    uses: dict[str, list[Launch]] = {}
    for launch in launches:
        for getter in launch.getters:
            uses.setdefault(getter, []).append(launch)
        shapes = _shapes((n for g in launch.getters for n in by_getter.get(g, [])), kernels)
        yield from _closest([(launch, name) for name in shapes], kernels)
    for getter, names in by_getter.items():
        for name in _shapes(names, kernels):
            yield from _closest([(launch, name) for launch in uses.get(getter, [])], kernels)


def _shapes(names: Iterable[str], kernels: Mapping[str, Kernel]) -> list[str]:
    """One name for each list of parameters."""
    found: dict[tuple[object, ...], str] = {}
    for name in names:
        found.setdefault(kernels[name].function.parameters, name)
    return list(found.values())


def _closest(
    pairs: Iterable[tuple[Launch, str]], kernels: Mapping[str, Kernel]
) -> Iterator[Finding]:
    """The findings of the pair that has fewest."""
    best: list[Finding] | None = None
    for launch, name in pairs:
        found = [
            finding(launch.file, launch.line, code, f"{launch.function} launches {name}: {text}")
            for code, text in _bindings(launch, kernels[name].function)
        ]
        if best is None or _weight(found) < _weight(best):
            best = found
    yield from best or ()


def _weight(findings: list[Finding]) -> tuple[int, int]:
    return sum(f.severity == "error" for f in findings), len(findings)


def _bindings(launch: Launch, function: Function) -> Iterator[tuple[str, str]]:
    buffers = {p.place: p for p in function.parameters if p.space in ("constant", "device")}
    memory = {p.place for p in function.parameters if p.space == "threadgroup"}
    for index, parameter in buffers.items():
        if index is not None and index not in launch.bound:
            yield "MN201", f"{parameter.name} ({index}) is not bound"
        struct = launch.structs.get(index, "") if index is not None else ""
        if struct and "kargs" in parameter.type and struct != parameter.type:
            yield "MN203", f"{struct} is bound to {parameter.name}, a {parameter.type}"
    for index in sorted(launch.bound - {i for i in buffers if i is not None}):
        yield "MN202", f"{index} is bound"
    for place in sorted(i for i in memory if i is not None and i not in launch.memory):
        yield "MN204", f"threadgroup memory {place} gets no size"
    yield from _threads(launch, function)


def _memory(tree: MetalTree, expected: Expected) -> Iterator[Finding]:
    for code, sizes in (("MN205", expected.memory), ("MN206", expected.stock_memory)):
        for name, (size, why) in sizes.items():
            if size > LIMIT:
                text = f"{name} needs {size} bytes ({why.text})"
                yield finding(str(tree.folder / why.file), why.line, code, text)


def _threads(launch: Launch, function: Function) -> Iterator[tuple[str, str]]:
    """What is wrong with a number of threads that is a number in the source."""
    if launch.threads is None:
        return
    if launch.threads > _MOST_THREADS:
        yield "MN207", f"{launch.threads} threads, at most {_MOST_THREADS}"
    elif launch.threads % _LANES and any(p.builtin in _BY_SIMDGROUP for p in function.parameters):
        yield "MN207", f"{launch.threads} threads for a kernel that works by simdgroups of {_LANES}"
