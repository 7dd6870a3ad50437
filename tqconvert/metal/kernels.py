"""The kernels of `.metal` sources as the host sees them: names, parameters, function constants.

Read from tokens, without a compiler. A kernel is either a function with its own name or an explicit
instantiation of a template under `[[host_name("...")]]`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqconvert.metal.source import Preprocessor, Token, evaluate

DEFINES = {"__METAL_VERSION__": "310", "GGML_METAL_HAS_BF16": "1"}
"""Macros of a Mac with bfloat, on the newest language version that every build of the runtime asks for."""

_OPEN, _CLOSE = "([{", ")]}"


class Parameter(NamedTuple):
    """A parameter of a kernel."""

    name: str
    type: str
    """Without address space, `const`, `&` and `*`."""
    space: str
    """`constant`, `device`, `threadgroup`, or empty for what the GPU fills in."""
    place: int | None
    """Place in the argument table of buffers, or of threadgroup memory."""
    builtin: str
    """The attribute that names what the GPU fills in, such as `thread_index_in_simdgroup`."""


class Constant(NamedTuple):
    """A function constant."""

    place: int
    type: str
    line: int


class Function(NamedTuple):
    """A `kernel` function."""

    name: str
    parameters: tuple[Parameter, ...]
    uses: frozenset[str]
    """All names in its body."""
    template: bool
    host: str
    """The name under which the host finds it; for a template, that of its instantiations instead."""
    file: str
    line: int


class Unit(NamedTuple):
    """One `.metal` file with all that it includes."""

    path: str
    kernels: Mapping[str, Function]
    """Host name -> function."""
    constants: Mapping[str, Constant]
    functions: Mapping[str, frozenset[str]]
    """Name of any other function -> names in its body."""
    duplicates: tuple[tuple[str, Token], ...]
    """Host names that stand in it twice."""
    unresolved: tuple[Token, ...]
    """Host names of templates that are not there."""
    missing: tuple[Token, ...]
    """Quoted includes that are not there."""
    cache: dict[str, dict[str, Constant]]
    """Function -> the constants that it reads, as far as they were asked for."""

    def constants_of(self, host: str) -> dict[str, Constant]:
        """The function constants that a kernel reads, itself or through what it calls."""
        function = self.kernels[host]
        if function.name not in self.cache:
            self.cache[function.name] = self._constants_of(function)
        return self.cache[function.name]

    def _constants_of(self, function: Function) -> dict[str, Constant]:
        seen: set[str] = set()
        todo = [function.uses]
        while todo:
            for name in todo.pop() - seen:
                seen.add(name)
                if name in self.functions:
                    todo.append(self.functions[name])
        return {n: c for n, c in self.constants.items() if n in seen}


def read_unit(path: Path, folders: Sequence[Path]) -> Unit:
    """The kernels of a file. Raises NotFoundError."""
    reader = Preprocessor(folders, DEFINES)
    tokens = reader.read(path)
    found = _Reader(tokens)
    kernels: dict[str, Function] = {}
    duplicates: list[tuple[str, Token]] = []
    unresolved: list[Token] = []
    for host, name, place in found.instances:
        function = found.kernels.get(name)
        if function is None:
            unresolved.append(place)
            continue
        if host in kernels:
            duplicates.append((host, place))
        kernels[host] = function
    for function in found.kernels.values():
        if not function.template:
            kernels[function.host] = function
    return Unit(
        str(path), kernels, found.constants, found.functions, tuple(duplicates),
        tuple(unresolved), tuple(reader.missing), {},
    )  # fmt: skip


class _Reader:
    """Goes through the declarations of a file at its outermost level."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.kernels: dict[str, Function] = {}
        self.instances: list[tuple[str, str, Token]] = []
        self.constants: dict[str, Constant] = {}
        self.functions: dict[str, frozenset[str]] = {}
        for head, body in self._declarations():
            self._take(head, body)

    def _declarations(self) -> Iterator[tuple[list[Token], list[Token] | None]]:
        """Each declaration: tokens up to its body or semicolon, and the body."""
        head: list[Token] = []
        i = 0
        while i < len(self.tokens):
            token = self.tokens[i]
            if token.text in "([":
                end = closing(self.tokens, i)
                head += self.tokens[i : end + 1]
                i = end + 1
            elif token.text == "{":
                end = closing(self.tokens, i)
                body = list(self.tokens[i + 1 : end])
                i = end + 1
                if any(t.text == "namespace" for t in head):
                    yield from _Reader(body)._declarations()  # noqa: SLF001 - its own kind
                    head = []
                elif _is_value(head):
                    head += [token]  # a value or a struct: the declaration ends at its semicolon
                else:
                    yield head, body
                    head = []
            elif token.text == ";":
                yield head, None
                head = []
                i += 1
            else:
                head.append(token)
                i += 1

    def _take(self, head: list[Token], body: list[Token] | None) -> None:
        plain, attributes = split_attributes(head)
        texts = [t.text for t in plain]
        if body is None and texts[:1] == ["template"] and "kernel" in texts and texts[1] != "<":
            host = _host_name(attributes)
            at = len(texts) - 1 - texts[::-1].index("kernel")
            name = next(
                (
                    t
                    for i, t in enumerate(texts)
                    if i > at + 1 and texts[i + 1 : i + 2] in (["<"], ["("])
                ),
                texts[-1],
            )
            if host:
                self.instances.append((host, name, plain[0]))
        elif (
            body is None
            and (attribute := attributes.get("function_constant"))
            and "constant" in texts
        ):
            index = evaluate(attribute)
            if index is not None:
                self.constants[texts[-1]] = Constant(index, texts[-2], plain[0].line)
        elif body is not None and "(" in texts:
            self._function(plain, attributes, body)

    def _function(
        self, head: list[Token], attributes: Mapping[str, Sequence[Token]], body: list[Token]
    ) -> None:
        template = head[0].text == "template"
        start = _template_end(head) if template else 0
        at = next((i for i in range(start, len(head)) if head[i].text == "("), None)
        if at is None or at == 0:
            return
        name = head[at - 1]
        uses = frozenset(t.text for t in body if t.kind == "name")
        if any(t.text == "kernel" for t in head[start:at]):
            end = closing(head, at)
            parameters = tuple(_parameters(head[at + 1 : end]))
            host = _host_name(attributes) or name.text
            function = Function(name.text, parameters, uses, template, host, name.file, name.line)
            # Variants under #if leave one; overloads of one name do not occur among kernels.
            self.kernels[name.text] = function
        known = self.functions.get(name.text, frozenset())
        self.functions[name.text] = known | uses | {t.text for t in head if t.kind == "name"}


def closing(tokens: Sequence[Token], at: int) -> int:
    """The place of the bracket that closes the one at `at`; the last token if none does."""
    depth = 0
    for i in range(at, len(tokens)):
        text = tokens[i].text
        if text in ("(", "[", "{"):
            depth += 1
        elif text in (")", "]", "}"):
            depth -= 1
            if depth == 0:
                return i
    return len(tokens) - 1


def split_attributes(
    tokens: Sequence[Token],
) -> tuple[list[Token], dict[str, Sequence[Token]]]:
    """The tokens without `[[...]]`, and name -> arguments of those attributes.

    Those of parameters come along with the rest: only names that are told apart matter to the callers.
    """
    plain: list[Token] = []
    attributes: dict[str, Sequence[Token]] = {}
    i = depth = 0
    while i < len(tokens):
        text = tokens[i].text
        if text == "[" and i + 1 < len(tokens) and tokens[i + 1].text == "[" and depth == 0:
            end = closing(tokens, i)
            inner = tokens[i + 2 : end - 1]
            if inner:
                attributes[inner[0].text] = inner[2:-1]
            i = end + 1
            continue
        # Inside of brackets attributes stay where they are: they are those of parameters.
        depth += (text in ("(", "{")) - (text in (")", "}"))
        plain.append(tokens[i])
        i += 1
    return plain, attributes


def _is_value(head: Sequence[Token]) -> bool:
    """Whether braces that follow belong to a value or a record, whose end is a semicolon."""
    start = _template_end(head) if head and head[0].text == "template" else 0
    words = {t.text for t in head[start:]}
    return "=" in words or (bool({"struct", "union", "enum", "class"} & words) and "(" not in words)


def _template_end(head: Sequence[Token]) -> int:
    depth = 0
    for i, token in enumerate(head):
        depth += {"<": 1, "<<": 2, ">": -1, ">>": -2}.get(token.text, 0)
        if depth == 0 and i > 0:
            return i + 1
    return len(head)


def _host_name(attributes: Mapping[str, Sequence[Token]]) -> str:
    given = attributes.get("host_name")
    return given[0].text[1:-1] if given and given[0].kind == "string" else ""


def _parameters(tokens: Sequence[Token]) -> Iterator[Parameter]:
    """The parameters of a kernel; places that are not given are counted up, as the compiler does."""
    free = {"buffer": 0, "threadgroup": 0}
    for part in _split(tokens):
        plain, attributes = split_attributes(part)
        texts = [t.text for t in plain]
        if not texts:
            continue
        space = next((s for s in ("constant", "device", "threadgroup") if s in texts), "")
        kind = "threadgroup" if space == "threadgroup" else "buffer"
        index = builtin = None
        if space:
            given = attributes.get(kind)
            index = evaluate(given) if given else free[kind]
            free[kind] = max(free[kind], (index or 0) + 1)
        else:
            builtin = next(iter(attributes), "")
        words = [t for t in texts[:-1] if t not in (space, "const", "&", "*", "volatile")]
        yield Parameter(texts[-1], " ".join(words), space, index, builtin or "")


def _split(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    part: list[Token] = []
    depth = 0
    for token in tokens:
        depth += (token.text in ("(", "[", "{", "<")) - (token.text in (")", "]", "}", ">"))
        if token.text == "," and depth == 0:
            yield part
            part = []
        else:
            part.append(token)
    yield part
