"""What the host code of ggml's Metal backend asks of its kernels, read from its C++ without a compiler.

Two kinds of functions matter: those that form the name of a pipeline and give values to its function
constants (`ggml_metal_library_get_pipeline_*`), and those that bind arguments and launch (`ggml_metal_op_*`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from tqconvert.errors import NotFoundError
from tqconvert.metal.kernels import closing
from tqconvert.metal.source import Preprocessor, Token, code_tokens, evaluate

GETTER = "ggml_metal_library_get_pipeline_"
_ENCODER = "ggml_metal_encoder_"
_BIND = "ggml_metal_encoder_turbo_bind"
"""Ours, (encoder, pipeline, arguments, { buffers }): sets the pipeline, the arguments at 0 and the buffers from 1 on."""
_SETTER = re.compile(r"ggml_metal_cv_set_(int16|int32|bool)")
_TYPE = "(?:bf16|[fi][0-9]+|[it]?q[0-9]_[0-9A-Za-z]+|mxfp4|nvfp4|turbo[0-9])"
"""How ggml spells its types; anything wider would take kernel_mul_mm_id_f32_f32 for one of kernel_mul_mm."""
_PLACE = re.compile(r"%[hlz]*[a-z]")


_DIMENSIONS = 3


class Format(NamedTuple):
    """A name of a pipeline, with places for types and numbers."""

    text: str
    pattern: str
    """A regular expression that matches all names that it can become."""
    line: int

    def matches(self, name: str) -> bool:
        """Whether the host can form this name."""
        return re.fullmatch(self.pattern, name) is not None


class Getter(NamedTuple):
    """A function that makes a pipeline."""

    name: str
    """Without `ggml_metal_library_get_pipeline_`."""
    formats: tuple[Format, ...]
    constants: Mapping[int, str]
    """Index of each function constant that gets a value -> `int16`, `int32` or `bool`."""
    file: str
    line: int


class Launch(NamedTuple):
    """One dispatch."""

    function: str
    getters: frozenset[str]
    """Functions whose pipeline is set."""
    bound: frozenset[int]
    """Places of buffers and bytes that were bound since the launch before, or since the pipeline was set."""
    structs: Mapping[int, str]
    """Place -> type of the struct that is bound as bytes."""
    memory: frozenset[int]
    """Places of threadgroup memory that got a size."""
    file: str
    line: int
    threads: int | None
    """Of a threadgroup; None where the host computes them at run time."""
    thread_step: int
    """A number that they are a multiple of, as far as the expression tells: 32 for `32, nsg, 1`."""


def host_files(folder: Path) -> tuple[Path, ...]:
    """The host code that forms names or launches: upstream's, and ours where it is laid in.

    Raises NotFoundError.
    """
    names = ("ggml-metal-device.cpp", "ggml-metal-ops.cpp")
    missing = [n for n in names if not (folder / n).is_file()]
    if missing:
        raise NotFoundError(f"{folder / missing[0]}: no such file (expected ggml's Metal backend)")
    return (*(folder / n for n in names), *sorted(folder.glob("ggml-metal-turbo*.h")))


def read_getters(folder: Path) -> tuple[Getter, ...]:
    """All functions that make pipelines. Raises NotFoundError."""
    reader = _values(folder)
    found = []
    for path in host_files(folder):
        for name, _head, body in functions(_tokens(path)):
            if name.startswith(GETTER):
                found.append(_getter(name, body, reader, path))
    return tuple(g for g in found if g.formats)


def read_launches(folder: Path) -> tuple[Launch, ...]:
    """All launches. Raises NotFoundError."""
    reader = _values(folder)
    return tuple(
        launch
        for path in host_files(folder)
        for name, _, body in functions(_tokens(path))
        if not name.startswith(GETTER)
        for launch in _launches(name, _unfolded(body, path), reader, path)
    )


def _values(folder: Path) -> Preprocessor:
    """What the macros of the shared headers stand for."""
    reader = Preprocessor([folder, folder.parent], {})
    for path in (folder / "ggml-metal-impl.h", *sorted(folder.glob("ggml-metal-turbo*impl.h"))):
        if path.is_file():
            reader.read(path)
    return reader


def _tokens(path: Path) -> list[Token]:
    return code_tokens(path.read_text("utf-8", "replace"), str(path))


def functions(tokens: Sequence[Token]) -> Iterator[tuple[str, list[Token], list[Token]]]:
    """Name, parameters and body of each function at the outermost level, or in `extern "C"`."""
    i = 0
    while i < len(tokens):
        if tokens[i].text == "{":
            end = closing(tokens, i)
            if i and tokens[i - 1].text == ")":
                start = _opening(tokens, i - 1)
                name = tokens[start - 1].text if start else ""
                yield name, list(tokens[start + 1 : i - 1]), list(tokens[i + 1 : end])
            elif (i and tokens[i - 1].kind == "string") or tokens[i - 2].text == "namespace":
                i += 1
                continue
            i = end
        i += 1


def _opening(tokens: Sequence[Token], at: int) -> int:
    depth = 0
    for i in range(at, -1, -1):
        depth += (tokens[i].text == ")") - (tokens[i].text == "(")
        if depth == 0:
            return i
    return 0


def calls(tokens: Sequence[Token], prefix: str) -> Iterator[tuple[int, str, list[list[Token]]]]:
    """Place, name and arguments of each call of a function whose name begins with `prefix`."""
    for i, token in enumerate(tokens[:-1]):
        if token.kind == "name" and token.text.startswith(prefix) and tokens[i + 1].text == "(":
            yield i, token.text, arguments(tokens[i + 2 : closing(tokens, i + 1)])


def arguments(tokens: Sequence[Token]) -> list[list[Token]]:
    """What stands between the commas."""
    found: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        if token.text == "," and depth == 0:
            found.append([])
        else:
            found[-1].append(token)
    return found


def _getter(name: str, body: list[Token], reader: Preprocessor, path: Path) -> Getter:
    texts = _variables(body)
    formats: dict[str, Format] = {}

    def add(literal: Token, given: Sequence[Sequence[Token]]) -> None:
        text = literal.text[1:-1]
        for chosen in product(*(_choices(part, texts) for part in given)):
            pattern = _pattern(text, chosen)
            formats.setdefault(pattern, Format(text, pattern, literal.line))

    for _, _, given in calls(body, "snprintf"):
        literal = given[2] if len(given) > 2 else []
        if len(literal) == 1 and literal[0].text.startswith('"kernel_'):
            add(literal[0], given[3:])
    for values in texts.values():
        for value in values:
            if value is not None and value.text.startswith('"kernel_'):
                add(value, ())
    constants = {}
    for _, setter, given in calls(body, "ggml_metal_cv_set_"):
        kind = _SETTER.fullmatch(setter)
        index = evaluate(reader.expand(given[2])) if len(given) > 2 else None
        if kind and index is not None:
            constants[index] = kind[1]
    line = body[0].line if body else 0
    return Getter(name.removeprefix(GETTER), tuple(formats.values()), constants, str(path), line)


def _pattern(text: str, values: Sequence[str | None] = ()) -> str:
    """The expression for all that a format becomes; `values` are expressions for its first places."""
    pattern, at = "", 0
    for number, place in enumerate(_PLACE.finditer(text)):
        value = values[number] if number < len(values) else None
        anything = r"\d+" if place[0] == "%d" else _TYPE
        pattern += re.escape(text[at : place.start()]) + (anything if value is None else value)
        at = place.end()
    return pattern + re.escape(text[at:])


def _variables(body: Sequence[Token]) -> dict[str, list[Token | None]]:
    """Variable -> the literals that it is given, in any branch; None: something else as well."""
    found: dict[str, list[Token | None]] = {}
    for i, token in enumerate(body):
        if token.text != "=" or not i or body[i - 1].kind not in ("name", "punct"):
            continue
        end = next((e for e in range(i, len(body)) if body[e].text in (";", "{")), len(body))
        value = arguments(body[i + 1 : end])[0]
        literals: list[Token | None] = [t for t in value if t.kind == "string"]
        if literals:
            calls_too = any(t.text == "ggml_type_name" for t in value)
            at = body[i - 1].text if body[i - 1].kind == "name" else ""
            found.setdefault(at, []).extend([*literals, None] if calls_too else literals)
    for _, _, given in calls(body, "snprintf"):
        if len(given) > 2 and len(given[2]) == 1 and given[2][0].text.startswith('"_'):
            empty = given[2][0]._replace(text='""')
            found.setdefault(given[0][0].text, []).extend([empty, given[2][0]])
    return found


def _choices(part: Sequence[Token], texts: Mapping[str, list[Token | None]]) -> list[str | None]:
    """Expressions for what an argument can be; None: anything that its place takes."""
    literals: list[Token | None] = [t for t in part if t.kind == "string"]
    if not literals and len(part) == 1:
        literals = texts.get(part[0].text, [])
    found = [
        None if t is None else _pattern(t.text[1:-1])
        for t in literals
        if t is None or t.text != '"undefined"'
    ]
    return list(dict.fromkeys(found)) or [None]


def _unfolded(body: list[Token], path: Path) -> list[Token]:
    """The body with each call of _BIND as the calls that it stands for."""
    out: list[Token] = []
    done = 0
    for i, _, given in calls(body, _BIND):
        pipeline, args, _ = (" ".join(t.text for t in part) for part in given[1:])
        lines = [f"{_ENCODER}set_pipeline(enc, {pipeline});"]
        lines.append(f"{_ENCODER}set_bytes(enc, &{args}, sizeof({args}), 0);")
        for index, _ in enumerate(arguments(given[3][1:-1]), start=1):
            lines.append(f"{_ENCODER}set_buffer(enc, buffer, {index});")
        line = body[i].line
        out += body[done:i]
        out += [t._replace(line=line) for t in code_tokens("\n".join(lines), str(path))]
        done = closing(body, i + 1) + 1
    return out + body[done:]


class _Scope(NamedTuple):
    """Variables of one block."""

    pipelines: dict[str, set[str]]
    structs: dict[str, str]


def _launches(
    function: str, body: list[Token], reader: Preprocessor, path: Path
) -> Iterator[Launch]:
    everything = {t.text.removeprefix(GETTER) for t in body if t.text.startswith(GETTER)}
    scopes = [_Scope({}, {})]
    current: set[str] = set()
    bound: set[int] = set()
    memory: set[int] = set()
    structs: dict[int, str] = {}
    counters: dict[str, int] = {}
    launched = False
    for i, token in enumerate(body):
        if token.text == "{":
            scopes.append(_Scope({}, {}))
        elif token.text == "}" and len(scopes) > 1:
            scopes.pop()
        elif token.text == "=" and i:
            _assign(body, i, scopes)
        if token.text in ("=", "{") and i and [t.text for t in body[i + 1 : i + 2]] == ["0"]:
            counters[body[i - 1].text] = 0
        if token.text.startswith("ggml_metal_kargs_") and i + 1 < len(body):
            scopes[-1].structs[body[i + 1].text] = token.text
        elif token.text.startswith(_ENCODER) and i + 1 < len(body) and body[i + 1].text == "(":
            given = arguments(body[i + 2 : closing(body, i + 1)])
            index = _place(reader.expand(given[-1]), counters)
            match token.text.removeprefix(_ENCODER):
                case "set_pipeline":
                    name = given[1][0].text
                    # A lambda's parameter is none of them: then it is any that the function makes.
                    current = next(
                        (s.pipelines[name] for s in scopes[::-1] if name in s.pipelines), everything
                    )
                    if launched:
                        bound, memory, launched = set(), set(), False
                case "set_bytes" if index is not None:
                    name = given[1][-1].text
                    kind = next((s.structs[name] for s in scopes[::-1] if name in s.structs), "")
                    structs[index] = kind
                    bound.add(index)
                case "set_buffer" if index is not None:
                    structs.pop(index, None)
                    bound.add(index)
                case "set_threadgroup_memory_size" if index is not None:
                    memory.add(index)
                case "dispatch_threadgroups":
                    yield Launch(
                        function, frozenset(current), frozenset(bound),
                        dict(structs), frozenset(memory), str(path), token.line,
                        *_threads([reader.expand(part) for part in given[4:7]]),
                    )  # fmt: skip
                    launched = True
                case _:
                    pass


def _threads(sizes: Sequence[Sequence[Token]]) -> tuple[int | None, int]:
    """Threads of a threadgroup, if they are numbers, and the product of the numbers among their factors."""
    known, step = len(sizes) == _DIMENSIONS, 1
    for size in sizes:
        for factor in _factors(size):
            value = None if any(t.kind == "name" for t in factor) else evaluate(factor)
            known &= value is not None
            step *= value or 1
    return (step if known else None), step


def _factors(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """What a product multiplies; the whole, where it is a sum or anything else."""
    parts, depth = [list[Token]()], 0
    for token in tokens:
        depth += (token.text in "([") - (token.text in ")]")
        if depth == 0 and token.text == "*":
            parts.append([])
            continue
        if depth == 0 and token.text in ("+", "-", "/", "%", "?", "<<", ">>", "&", "|"):
            yield list(tokens)
            return
        parts[-1].append(token)
    yield from parts


def _place(tokens: Sequence[Token], counters: dict[str, int]) -> int | None:
    """A place in the argument table, as a number or as `counter++`; None if it is anything else."""
    if any(t.kind == "name" for t in tokens):
        name = tokens[0].text
        if [t.text for t in tokens[1:]] == ["++"] and name in counters:
            counters[name] += 1
            return counters[name] - 1
        return None
    return evaluate(tokens)


def _assign(body: Sequence[Token], at: int, scopes: Sequence[_Scope]) -> None:
    """Take in `[auto] name = get_pipeline_...(...)`, of one or both branches of `?:`."""
    getters = set()
    for token in body[at + 1 :]:
        if token.text in (";", "{", "}"):
            break
        if token.text.startswith(GETTER):
            getters.add(token.text.removeprefix(GETTER))
    if not getters:
        return
    name = body[at - 1].text
    declared = at >= 2 and body[at - 2].kind == "name" and body[at - 2].text != "return"
    if declared:
        scopes[-1].pipelines[name] = getters
        return
    for scope in scopes[::-1]:
        if name in scope.pipelines:
            scope.pipelines[name] |= getters
            return
    scopes[0].pipelines[name] = getters
