"""The structs that kernels take as arguments, from the tree's own header: the paddings are the compiler's."""

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqconvert.errors import KernelSourceError, NotFoundError

_TYPES: dict[str, Any] = {
    "int8_t": ctypes.c_int8, "uint8_t": ctypes.c_uint8, "int16_t": ctypes.c_int16,
    "uint16_t": ctypes.c_uint16, "int32_t": ctypes.c_int32, "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "size_t": ctypes.c_size_t,
    "int": ctypes.c_int32, "float": ctypes.c_float, "bool": ctypes.c_bool,
}  # fmt: skip
_STRUCT = re.compile(r"typedef\s+struct\s*\w*\s*\{([^{}]*)\}\s*(\w+_kargs_\w+)\s*;")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)

Struct = type[ctypes.Structure]


def parse_structs(path: Path) -> dict[str, Struct]:
    """Name (`ggml_metal_kargs_norm`) -> struct. Raises KernelSourceError, NotFoundError."""
    try:
        text = _COMMENT.sub("", path.read_text("utf-8"))
    except OSError as e:
        raise NotFoundError(f"{path}: {e.strerror}") from e
    found = {}
    for body, name in _STRUCT.findall(text):
        fields = []
        for declaration in filter(None, (d.strip() for d in body.split(";"))):
            fields += _fields(f"{path.name}: {name}", declaration)
        found[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return found


def _fields(where: str, declaration: str) -> list[tuple[str, Any]]:
    # A declaration that is left out would shift all that follow: what is not known is an error.
    m = re.fullmatch(r"(?:const\s+)?(\w+)\s+(.+)", declaration, re.DOTALL)
    kind = _TYPES.get(m.group(1)) if m else None
    if m is None or kind is None:
        raise KernelSourceError(f"{where}: {declaration!r} is of a type that is not known")
    out = []
    for item in m.group(2).split(","):
        one = re.fullmatch(r"\s*(\w+)\s*(?:\[\s*(\d+)\s*\])?\s*", item)
        if not one:
            raise KernelSourceError(f"{where}: {declaration!r} is not understood")
        out.append((one.group(1), kind * int(one.group(2)) if one.group(2) else kind))
    return out


def pack(structs: Mapping[str, Struct], name: str, values: Mapping[str, Any]) -> bytes:
    """Bytes of one struct; fields that are not named are 0. Raises KernelSourceError."""
    for full in (name, f"ggml_metal_kargs_{name}"):
        if full in structs:
            break
    else:
        raise KernelSourceError(f"{name}: no such struct in the header")
    struct = structs[full]()
    for key, value in values.items():
        if not hasattr(struct, key):
            raise KernelSourceError(f"{full}: has no field {key}")
        old = getattr(struct, key)
        setattr(struct, key, type(old)(*value) if isinstance(old, ctypes.Array) else value)
    return bytes(struct)
