"""The tables of GGUF's numbers, row by row against gguf-py's."""

import gguf

from tqconvert.gguf.types import FILE_TYPES, SCALAR_CODE, TENSOR_TYPES, ValueType
from tqconvert.gguf.values import SCALAR_SIZE

NEWER_THAN_GGUF_0_19 = {42: "Q2_0"}
OLLAMA_ONLY = {4: "MXFP4"}


def test_value_types() -> None:
    """Names and numbers of the value types."""
    assert {v.name: v.value for v in ValueType} == {v.name: v.value for v in gguf.GGUFValueType}
    assert set(SCALAR_CODE) == set(ValueType) - {ValueType.STRING, ValueType.ARRAY}
    sizes = {1: "BOOL UINT8 INT8", 2: "UINT16 INT16", 4: "UINT32 INT32 FLOAT32",
             8: "UINT64 INT64 FLOAT64"}  # fmt: skip
    assert {k.name: n for k, n in SCALAR_SIZE.items()} == {
        name: n for n, names in sizes.items() for name in names.split()
    }


def test_tensor_types() -> None:
    """Names, values and bytes per block of every tensor type that gguf-py knows."""
    theirs = {t.value: (t.name, *gguf.GGML_QUANT_SIZES[t]) for t in gguf.GGMLQuantizationType}
    ours = {n: (t.name, t.values, t.bytes) for n, t in TENSOR_TYPES.items()}
    assert {n: ours.get(n) for n in theirs} == theirs
    assert {n: t[0] for n, t in ours.items() if n not in theirs} == {
        n: name for n, name in (NEWER_THAN_GGUF_0_19 | OLLAMA_ONLY).items() if n not in theirs
    }


def test_file_types() -> None:
    """`general.file_type` names are those of llama.h, which are no tensor types: 15 is Q4_K_M."""
    theirs = {
        f.value: f.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for f in gguf.LlamaFileType
        if f.name != "GUESSED"
    }
    assert {n: FILE_TYPES.get(n) for n in theirs} == theirs
    assert FILE_TYPES[15] == "Q4_K_M"
    assert set(FILE_TYPES) - set(theirs) <= {41, 1024}
