"""Argument structs from a header: the compiler's paddings, and no silence about what is not known."""

import ctypes
import struct
from pathlib import Path

import pytest

from tqconvert.errors import KernelSourceError, NotFoundError
from tqconvert.metal.kargs import Struct, pack, parse_structs

HEADER = """
// typedef struct { int x; } ggml_metal_kargs_comment;
typedef struct {
    int32_t  ne00; // columns
    uint64_t nb01, nb02;
    int16_t  r[3];
    float    eps;
    bool     on;
} ggml_metal_kargs_one;
typedef struct{
    size_t n; /* of
    all */ int16_t last;
} ggml_metal_kargs_two;
"""


@pytest.fixture
def structs(tmp_path: Path) -> dict[str, Struct]:
    """The structs of the header above."""
    path = tmp_path / "impl.h"
    path.write_text(HEADER)
    return parse_structs(path)


def test_fields_lie_where_a_compiler_puts_them(structs: dict[str, Struct]) -> None:
    """Four bytes in front of the first uint64_t, two behind three shorts, three at the end."""
    one = structs["ggml_metal_kargs_one"]
    offsets = [getattr(one, f[0]).offset for f in one._fields_]
    assert offsets == [0, 8, 16, 24, 32, 36]
    assert ctypes.sizeof(one) == 40
    assert ctypes.sizeof(structs["ggml_metal_kargs_two"]) == 16
    assert list(structs) == ["ggml_metal_kargs_one", "ggml_metal_kargs_two"]


def test_packing_fills_the_rest_with_zeros(structs: dict[str, Struct]) -> None:
    """By the short name too."""
    got = pack(structs, "one", {"ne00": 7, "nb02": 1 << 40, "r": (1, 2, 3), "eps": 0.5, "on": True})
    assert got == struct.pack("<i4xQQ3h2xf?3x", 7, 0, 1 << 40, 1, 2, 3, 0.5, True)
    assert pack(structs, "ggml_metal_kargs_two", {}) == bytes(16)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("int a; simd_float4 b;", "kargs_x: 'simd_float4 b' is of a type that is not known"),
        ("int a; int b[N];", r"kargs_x: 'int b\[N\]' is not understood"),
        ("int a; float * p;", "is not understood"),
    ],
)
def test_what_is_not_known_is_an_error(tmp_path: Path, body: str, message: str) -> None:
    """A field that is left out would move all behind it."""
    path = tmp_path / "impl.h"
    path.write_text(f"typedef struct {{ {body} }} ggml_metal_kargs_x;\n")
    with pytest.raises(KernelSourceError, match=message):
        parse_structs(path)


def test_names_must_be_there(structs: dict[str, Struct], tmp_path: Path) -> None:
    """Structs, fields, the header."""
    with pytest.raises(KernelSourceError, match="three: no such struct"):
        pack(structs, "three", {})
    with pytest.raises(KernelSourceError, match="kargs_one: has no field ne09"):
        pack(structs, "one", {"ne09": 1})
    with pytest.raises(NotFoundError):
        parse_structs(tmp_path / "none.h")
