"""Preprocessed Metal source made C++ for a CPU, on tokens: nothing of it is parsed as a tree.

Kernels, their parameters, host names and function constants are found and put into tables that the
runtime reads (`cpu/msl_abi.h`). Not handled: default arguments in a kernel's parameter list, `kernel` in
macros that survive preprocessing, host names and indices that are not literals.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tqconvert.errors import KernelSourceError
from tqconvert.metal.tokens import Token, tokenize

PARAMETER_KINDS = {
    "buffer": "BUFFER", "threadgroup": "TGMEM", "thread_position_in_grid": "TPIG",
    "threadgroup_position_in_grid": "TGPIG", "thread_position_in_threadgroup": "TPITG",
    "threads_per_threadgroup": "TPTG", "threadgroups_per_grid": "TGPG", "threads_per_grid": "TPG",
    "thread_index_in_threadgroup": "TIITG", "thread_index_in_simdgroup": "TIISG",
    "simdgroup_index_in_threadgroup": "SGITG", "simdgroups_per_threadgroup": "SGPTG",
    "threads_per_simdgroup": "TPSG",
}  # fmt: skip
"""Attribute of a kernel's parameter -> its kind in `cpu/msl_abi.h`."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a kernel."""

    kind: str
    index: int
    """Of the buffer or the threadgroup memory; 0 for what the hardware gives."""
    text: str
    """The declaration, tokens joined by spaces."""

    @property
    def read_only(self) -> bool:
        """Whether the kernel may not write what it points to."""
        pointed = re.split(r"[*&]", self.text)[0].split()
        return "const" in pointed or "constant" in pointed


@dataclass(frozen=True, slots=True)
class Definition:
    """A kernel as it is defined, maybe a template."""

    name: str
    parameters: tuple[Parameter, ...]
    template: bool
    host_name: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be launched."""

    host_name: str
    expression: str
    """Name, or template-id, of the function."""
    definition: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A function constant."""

    name: str
    index: int


@dataclass(frozen=True, slots=True)
class Rewritten:
    """C++ source, and what it holds."""

    text: str
    kernels: tuple[Kernel, ...]
    definitions: dict[str, Definition]
    constants: tuple[Constant, ...]

    def parameters(self, host_name: str) -> tuple[Parameter, ...]:
        """Parameters of a kernel. Raises KeyError."""
        for kernel in self.kernels:
            if kernel.host_name == host_name:
                return self.definitions[kernel.definition].parameters
        raise KeyError(host_name)

    def to_json(self) -> dict[str, Any]:
        """Host names, parameters and constants, for other tools."""
        return {
            "kernels": [
                {
                    "name": k.host_name,
                    "parameters": [
                        {"kind": p.kind, "index": p.index, "text": p.text}
                        for p in self.definitions[k.definition].parameters
                    ],
                }
                for k in self.kernels
            ],
            "constants": [{"name": c.name, "index": c.index} for c in self.constants],
        }


@dataclass(slots=True)
class _Found:
    definitions: dict[str, Definition] = field(default_factory=dict)
    instances: list[Kernel] = field(default_factory=list)
    constants: list[tuple[str, str]] = field(default_factory=list)


def rewrite(text: str, *, keep: str | None = None) -> Rewritten:
    """C++ for the preprocessed `text`.

    Explicit instantiations whose host name `keep` does not match are left out: they are what takes
    long to compile. Raises KernelSourceError.
    """
    tokens = tokenize(text)
    code = [t for t in tokens if t.kind not in ("space", "line")]
    found = _Found()
    n = depth = 0
    while n < len(code):
        t = code[n]
        depth += (t.text == "{") - (t.text == "}")
        if t.text == "kernel":
            n = _take_kernel(code, n, keep, found)
            continue
        if t.kind == "attr" and t.attribute.startswith("function_constant"):
            _take_constant(code, n, found)
        elif t.text == "threadgroup" and _is_variable(code, n):
            _take_variable(code, n, local=depth > 0)
        n += 1
    return _assemble("".join(t.text for t in tokens), found)


def _take_constant(code: list[Token], n: int, found: _Found) -> None:
    """`code[n]` is the attribute behind the name; `constant` becomes what the launcher can set."""
    m = re.match(r"function_constant\((.*)\)$", code[n].attribute, re.DOTALL)
    if not m:
        raise KernelSourceError(f"[[{code[n].attribute}]]: not a function constant's index")
    found.constants.append((code[n - 1].text, m.group(1)))
    b = n - 1
    while b >= 0 and code[b].text != "constant":
        b -= 1
    if b >= 0:
        code[b].text = "MSL_FC"


def _take_variable(code: list[Token], n: int, *, local: bool) -> None:
    """`threadgroup` at `n` declares variables: the runtime hears of them where the threads come by."""
    code[n].text = "MSL_TGVAR"
    names, depth, end = list[str](), 0, n + 1
    while end < len(code) and code[end].text != ";":
        s = code[end].text
        depth += (s in ("[", "<", "(", "{")) - (s in ("]", ">", ")", "}"))
        if depth == 0 and code[end].kind == "id" and code[end + 1].text in ("[", ",", ";", "="):
            names.append(s)
        end += 1
    if local and end < len(code):
        code[end].text = ";" + "".join(f" MSL_TGUSE({name})" for name in names)


def _take_kernel(code: list[Token], n: int, keep: str | None, found: _Found) -> int:
    """Record what `kernel` at `n` starts: a definition, or, behind `template`, an instantiation.

    Returns where to go on.
    """
    b, attributes = n - 1, []
    while b >= 0 and code[b].kind == "attr":
        attributes.append(code[b].attribute)
        b -= 1
    before = code[b].text if b >= 0 else ""
    m, angle, ident = n + 1, 0, list[str]()
    while m < len(code):
        s = code[m].text
        if code[m].kind == "attr":
            attributes.append(code[m].attribute)
        elif s in ("<", ">"):
            angle += 1 if s == "<" else -1
            ident.append(s)
        elif angle == 0 and s in ("(", ";"):
            break
        elif angle == 0 and code[m].kind == "id" and not (ident and ident[-1] == "::"):
            ident = [s]
        else:
            ident.append(s)
        m += 1
    if m == len(code) or not ident:
        raise KernelSourceError("`kernel` without a name or a parameter list")
    name, host = ident[0], _host_name(attributes)
    if before != "template":
        parameters = describe(_parameters(code, m))
        found.definitions.setdefault(name, Definition(name, parameters, before == ">", host))
        return n + 1
    if keep and not re.search(keep, host or name):
        while code[m].text != ";":
            m += 1
        for t in code[b : m + 1]:
            t.text = "\n" * t.text.count("\n")
        return m + 1
    found.instances.append(Kernel(host or name, " ".join(ident), name))
    return n + 1


def _host_name(attributes: Iterable[str]) -> str:
    for a in attributes:
        if m := re.match(r'host_name\("(.*)"\)', a.replace(" ", "")):
            return m.group(1)
    return ""


def _parameters(code: list[Token], n: int) -> list[tuple[str, list[str]]]:
    """(text, attributes) of each parameter; `code[n]` is the opening parenthesis."""
    depth = angle = 0
    current: list[str] = []
    attributes: list[str] = []
    out = []
    for t in code[n:]:
        if t.kind == "attr":
            attributes.append(t.attribute)
            continue
        depth += (t.text == "(") - (t.text == ")")
        if depth == 0:
            break
        if t.text == "," and depth == 1 and angle == 0:
            out.append((" ".join(current), attributes))
            current, attributes = [], []
            continue
        if depth > 1 or t.text != "(":
            angle += (t.text == "<") - (t.text == ">")
            current.append(t.text)
    if current:
        out.append((" ".join(current), attributes))
    return out


def describe(parameters: list[tuple[str, list[str]]]) -> tuple[Parameter, ...]:
    """Kinds and indices: those that are given, and the next free buffer for the others."""
    given = (re.match(r"buffer\((\d+)\)", a) for _, attributes in parameters for a in attributes)
    used = {int(m.group(1)) for m in given if m}
    out, free = [], 0
    for text, attributes in parameters:
        kind, index = "", 0
        for a in attributes:
            m = re.match(r"(\w+)(?:\((\d+)\))?$", a.replace(" ", ""))
            if m and m.group(1) in PARAMETER_KINDS:
                kind, index = PARAMETER_KINDS[m.group(1)], int(m.group(2) or 0)
        if not kind:
            while free in used:
                free += 1
            used.add(free)
            kind, index = "BUFFER", free
        out.append(Parameter(kind, index, text))
    return tuple(out)


def _is_variable(code: list[Token], n: int) -> bool:
    """Whether `threadgroup` at `n` declares a variable of a body: no pointer, cast or parameter."""
    angle = 0
    for m in range(n + 1, len(code)):
        s = code[m].text
        if s in ("<", ">"):
            angle += 1 if s == "<" else -1
        elif angle == 0 and s in ("*", "&", "&&", ")", "(", "{", "}", ","):
            return False
        elif angle == 0 and s in ("[", ";", "="):
            typed = m - n >= 3 or (m - n >= 2 and code[m - 1].kind == "id")
            return typed and code[n - 1].text not in ("(", ",", "<")
    return False


def _index(name: str, text: str) -> int:
    """The value of an index: a sum of numbers, once macros are replaced."""
    if not re.fullmatch(r"[\s()]*\d+[\s()]*(?:\+[\s()]*\d+[\s()]*)*", text):
        raise KernelSourceError(f"{name}: [[function_constant({text})]] is not a number")
    return sum(map(int, re.findall(r"\d+", text)))


def _assemble(body: str, found: _Found) -> Rewritten:
    """The source with its tables behind it."""
    instantiated = {i.definition for i in found.instances}
    kernels = [
        Kernel(d.host_name or d.name, d.name, d.name)
        for d in found.definitions.values()
        if not d.template and d.name not in instantiated
    ] + found.instances
    missing = sorted({k.definition for k in kernels} - set(found.definitions))
    if missing:
        raise KernelSourceError(f"{missing[0]}: instantiated but not defined as a kernel")
    lines = ["\n"]
    for name in dict.fromkeys(k.definition for k in kernels):
        params = found.definitions[name].parameters
        rows = ", ".join(f"{{msl::{p.kind}, {p.index}, {p.read_only:d}}}" for p in params) or "{0}"
        lines.append(f"static const msl::Param msl_p_{name}[] = {{{rows}}};\n")
    lines.append("MSL_EXPORT const msl::KernelRecord msl_kernels[] = {\n")
    for k in kernels:
        count = len(found.definitions[k.definition].parameters)
        call = f"msl::K<&{k.expression}>::call"
        lines.append(f'  {{"{k.host_name}", {call}, msl_p_{k.definition}, {count}}},\n')
    lines.append("  {nullptr, nullptr, nullptr, 0}};\n")
    lines.append("MSL_EXPORT const msl::ConstantRecord msl_constants[] = {\n")
    for name, index in found.constants:
        row = f'"{name}", ({index}), (void *)&{name}, (int)sizeof({name})'
        lines.append(f"  {{{row}}},\n")
    lines.append("  {nullptr, 0, nullptr, 0}};\n")
    constants = tuple(Constant(n, _index(n, i)) for n, i in found.constants)
    return Rewritten(body + "".join(lines), tuple(kernels), found.definitions, constants)
