"""A small language for the shape of JSON documents, and the JSON Schema and table that it means.

"text"                      a string; also digest, int, number, bool, types, any
"text?: what it is"         it may be null; what follows the colon is for people
"=new|replace: ..."         one of these words
{"name": ..., "why?": ...}  an object; a key with `?` may be missing; the key `*` is any key
["text: ..."]               an array
maybe({...})                an object or an array that may be null
say("...", {...})           an object or an array with a line for people
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DRAFT = "https://json-schema.org/draft/2020-12/schema"

_TYPES: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
    "int": {"type": "integer"},
    "number": {"type": "number"},
    "bool": {"type": "boolean"},
    "types": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    "any": {},
}
"""`types` are cache types: one for all layers, or one for each."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A shape with a line for people, or one that may be null."""

    shape: "Shape"
    about: str = ""
    nullable: bool = False


Shape = str | Mapping[str, "Shape"] | list["Shape"] | Noted


@dataclass(frozen=True, slots=True)
class Variant:
    """One form of a command's document; `when` says when it is printed ("" for the usual one)."""

    when: str
    shape: Mapping[str, Shape]


def maybe(shape: Shape, about: str = "") -> Noted:
    """The shape, or null."""
    return Noted(shape, about, nullable=True)


def say(about: str, shape: Shape) -> Noted:
    """The shape, with a line for people."""
    return Noted(shape, about)


def schema_of(shape: Shape, *, closed: bool = False) -> dict[str, Any]:
    """JSON Schema of the shape; a closed one allows no key that the shape does not name."""
    match shape:
        case Noted(inner, about, nullable):
            found = schema_of(inner, closed=closed)
            if nullable:
                found = {"anyOf": [found, {"type": "null"}]}
            return {**found, "description": about} if about else found
        case str():
            return _leaf(shape)
        case list():
            return {"type": "array", "items": schema_of(shape[0], closed=closed)}
        case _:
            return _object(shape, closed=closed)


def schema_of_document(
    name: str, variants: tuple[Variant, ...], *, closed: bool = False
) -> dict[str, Any]:
    """JSON Schema of all forms of the document whose `schema` is `name`."""
    forms = []
    for variant in variants:
        form = _object({"schema": f"={name}", **variant.shape}, closed=closed)
        forms.append({**form, "description": variant.when} if variant.when else form)
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def rows_of(shape: Shape, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(path, type, what it is) of every field: `fetch[].digest`."""
    about, nullable = "", ""
    while isinstance(shape, Noted):
        about, nullable = shape.about or about, "?" if shape.nullable else nullable
        shape = shape.shape
    match shape:
        case str():
            kind, told = _split(shape)
            yield path, kind.lstrip("=").replace("|", ", "), told or about
        case list():
            inner = list(rows_of(shape[0], f"{path}[]"))
            if len(inner) == 1 and inner[0][0] == f"{path}[]":
                _, kind, told = inner[0]
                yield path, f"array of {kind}{nullable}", about or told
            else:
                yield path, f"array{nullable}", about
                yield from (row for row in inner if row[0] != f"{path}[]")
        case _:
            if path:
                yield path, f"object{nullable}", about
            for key, value in shape.items():
                name = "*" if key == "*" else key
                optional = key.endswith("?")
                for row, kind, told in rows_of(value, f"{path}.{name.rstrip('?')}".lstrip(".")):
                    is_own = row == f"{path}.{name.rstrip('?')}".lstrip(".")
                    yield row, f"{kind}, optional" if optional and is_own else kind, told


def _object(shape: Mapping[str, Shape], *, closed: bool) -> dict[str, Any]:
    names = [key for key in shape if key != "*"]
    found: dict[str, Any] = {
        "type": "object",
        "properties": {k.rstrip("?"): schema_of(shape[k], closed=closed) for k in names},
        "required": [k for k in names if not k.endswith("?")],
    }
    if "*" in shape:
        found["additionalProperties"] = schema_of(shape["*"], closed=closed)
    elif closed:
        found["additionalProperties"] = False
    return found


def _leaf(text: str) -> dict[str, Any]:
    kind, about = _split(text)
    nullable = kind.endswith("?")
    kind = kind.rstrip("?")
    if kind.startswith("="):
        words = kind[1:].split("|")
        found: dict[str, Any] = {"const": words[0]} if len(words) == 1 else {"enum": words}
    else:
        found = dict(_TYPES[kind])
    if nullable:
        found = {"anyOf": [found, {"type": "null"}]}
    return {**found, "description": about} if about else found


def _split(text: str) -> tuple[str, str]:
    kind, _, about = text.partition(": ")
    return kind, about
