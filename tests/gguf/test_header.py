"""What the header reader returns, against what was written and against gguf-py."""

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from builders import (  # fmt: skip
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I64,
    LLAMA,
    STRING,
    U8,
    U16,
    U64,
    gguf_bytes,
    tiny_gguf,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tqconvert.errors import IncompleteHeaderError, NotFoundError
from tqconvert.gguf.header import Header, parse_header, read_header
from tqconvert.gguf.types import ValueType

ALL_KINDS: dict[str, Any] = {
    "general.architecture": "llama", "u8": (U8, 255), "i8": (I8, -128), "u16": (U16, 65535),
    "i16": (I16, -32768), "u32": 4294967295, "i64": (I64, -(1 << 63)), "u64": (U64, (1 << 64) - 1),
    "f32": (F32, 0.5), "f64": (F64, 0.1), "yes": True, "no": False, "text": "zwölf",
    "bytes": (STRING, b"\xff\xfe"), "numbers": [1, 2, 3], "flags": [True, False],
    "words": ["a", "", "ccc"], "none": [], "floats": [0.5, -2.0],
}  # fmt: skip


def read_bytes(data: bytes) -> Header:
    """Header of a whole file in memory."""
    return parse_header(data, len(data))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("big_endian", [False, True])
def test_every_kind_of_value(version: int, big_endian: bool) -> None:
    """All value types come back as written, in both versions and byte orders."""
    data = gguf_bytes(ALL_KINDS, {"t": (8, 3)}, version=version, big_endian=big_endian)
    header = read_bytes(data)
    assert header.version == version
    assert header.byte_order == ("big" if big_endian else "little")
    assert header.n_kv == len(ALL_KINDS)
    for key, value in ALL_KINDS.items():
        wanted = value[1] if isinstance(value, tuple) else value
        assert header.read(key) == (tuple(wanted) if isinstance(wanted, list) else wanted), key
    assert header.tensors[0].shape == (8, 3)
    assert header.tensors[0].n_bytes == 96


def test_entries_lie_end_to_end() -> None:
    """Entries cover the key section without gaps, so that a rewrite can copy them."""
    header = read_bytes(gguf_bytes(ALL_KINDS))
    at = 24
    for entry in header.entries.values():
        assert entry.start == at
        assert entry.start < entry.value_at <= entry.end
        at = entry.end
    assert at == header.kv_end
    assert header.infos_end <= header.data_start
    assert header.data_start % header.alignment == 0


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 8])
def test_strings_of_any_length_are_stepped_over(n: int, big_endian: bool) -> None:
    """The key after an array of strings is found, also where lengths need more than a byte."""
    for lengths in ((0, 255), (256, 1), (3, 257), (511, 512), (65536, 0)):
        words = ["\0" * lengths[i % 2] for i in range(n)]
        data = gguf_bytes({"words": words, "last": 7}, big_endian=big_endian)
        header = read_bytes(data)
        assert header.integer("last") == 7
        assert header.read("words") == tuple(words)


def test_long_arrays_are_read_only_when_asked_for(tmp_path: Path) -> None:
    """A vocabulary is stepped over at first, and read from the file by `read`."""
    words = [f"token {i}" for i in range(5000)]
    path = tiny_gguf(tmp_path / "m.gguf", {**LLAMA, "tokenizer.ggml.tokens": words})
    header = read_header(path)
    assert header.get("tokenizer.ggml.tokens") is None
    assert header.entries["tokenizer.ggml.tokens"].type_name == "array of 5000 string"
    assert header.read("tokenizer.ggml.tokens") == tuple(words)


def test_value_of_bytes_in_flight_cannot_be_read_later() -> None:
    """Without a file a stepped-over value is a typed error."""
    header = read_bytes(gguf_bytes({**LLAMA, "v": ["x"] * 2000}))
    with pytest.raises(NotFoundError, match="still arriving"):
        header.read("v")


def test_unknown_key_suggests_the_nearest() -> None:
    """A typo in a key names the key that was meant."""
    with pytest.raises(NotFoundError) as e:
        read_bytes(gguf_bytes(LLAMA)).read("general.architecure")
    assert e.value.hint == "did you mean general.architecture?"


def test_typed_getters_do_not_guess() -> None:
    """`text` gives texts, `integer` integers; another type is as good as absent."""
    header = read_bytes(gguf_bytes(ALL_KINDS))
    assert header.text("text") == "zwölf"
    assert header.text("bytes") == "\ufffd\ufffd"
    assert header.text("u32") is None
    assert header.integer("u32") == 4294967295
    assert header.integer("yes") is None
    assert header.integer("f32") is None
    assert header.arch("block_count") is None
    assert header.architecture == "llama"
    assert read_bytes(gguf_bytes({"x": 1})).architecture == ""


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment_of_the_file(alignment: int) -> None:
    """Data starts and tensors lie at multiples of general.alignment."""
    data = gguf_bytes(LLAMA, {"a": (3,), "b": (5,)}, alignment=alignment)
    header = read_bytes(data)
    assert header.alignment == alignment
    assert header.data_start % alignment == 0
    assert [t.offset for t in header.tensors] == [0, max(alignment, 16 if alignment == 8 else 0)]


def test_tensors_may_be_listed_in_any_order() -> None:
    """The table's order need not be that of the data."""
    body = b"".join(
        struct.pack("<Q", 1) + name + struct.pack("<IQIQ", 1, 8, 0, offset)
        for name, offset in ((b"b", 32), (b"a", 0))
    )
    data = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + body
    data += bytes(-len(data) % 32) + bytes(64)
    header = read_bytes(data)
    assert [t.name for t in header.tensors] == ["b", "a"]
    assert header.data_end == len(data)


_SCALARS = st.one_of(
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1).map(lambda n: (I64, n)),
    st.integers(0, 2**64 - 1).map(lambda n: (U64, n)),
    st.floats(allow_nan=False).map(lambda x: (F64, x)),
)
_VALUES = st.one_of(
    _SCALARS,
    st.lists(st.text(max_size=8), max_size=8),
    st.lists(st.integers(0, 2**32 - 1), max_size=8),
    st.lists(st.booleans(), max_size=8),
)
_KEYS = st.dictionaries(st.text(min_size=1, max_size=24), _VALUES, max_size=8)
_TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=20),
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(_KEYS, _TENSORS, st.sampled_from([2, 3]), st.booleans())
def test_round_trip(
    keys: dict[str, Any], tensors: dict[str, tuple[int, ...]], version: int, big_endian: bool
) -> None:
    """What a writer wrote is what the reader returns, whatever keys and shapes."""
    keys.pop("general.alignment", None)
    header = read_bytes(gguf_bytes(keys, tensors, version=version, big_endian=big_endian))
    for key, value in keys.items():
        wanted = value[1] if isinstance(value, tuple) else value
        assert header.get(key) == (tuple(wanted) if isinstance(wanted, list) else wanted)
    assert {t.name: t.shape for t in header.tensors} == tensors


def same_as_gguf_py(path: Path) -> int:
    """Compare every key and tensor of the file with gguf-py's reader; the number of comparisons."""
    reader, header = gguf.GGUFReader(path), read_header(path)
    own = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert list(own) == list(header.entries)
    for key, field in own.items():
        entry = header.entries[key]
        assert entry.start == field.offset, key
        assert [ValueType(t) for t in field.types] == (
            [entry.kind]
            if entry.element is None
            else [entry.kind, entry.element][: len(field.types)]
        ), key
        theirs = field.contents() if field.data else []
        ours = header.read(key)
        assert (list(ours) if entry.kind == ARRAY else ours) == theirs, key
    assert [t.name for t in reader.tensors] == [t.name for t in header.tensors]
    for a, b in zip(reader.tensors, header.tensors, strict=True):
        assert tuple(int(d) for d in a.shape) == b.shape, b.name
        assert a.tensor_type.name == b.type.name, b.name
        assert int(a.n_elements) == b.n_values, b.name
        assert int(a.n_bytes) == b.n_bytes, b.name
        assert int(a.data_offset) == header.data_start + b.offset, b.name
    assert reader.alignment == header.alignment
    assert int(reader.data_offset) == header.data_start
    return len(own) + len(header.tensors)


KEY_SETS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "kinds": {k: v for k, v in ALL_KINDS.items() if k not in ("none", "bytes")},
    "vocabulary": {**LLAMA, "tokenizer.ggml.tokens": [f"<{i}>" for i in range(3000)]},
    "one key": {"general.architecture": "x"},
    "floats": {"general.architecture": "x", "f": [1.5, float(np.float32(0.1))], "b": (BOOL, True)},
}


@pytest.mark.parametrize("name", KEY_SETS)
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("alignment", [32, 256])
def test_small_files_read_as_gguf_py_reads_them(
    tmp_path: Path, name: str, big_endian: bool, alignment: int
) -> None:
    """Keys, types, positions, tensors and alignment agree with gguf-py's reader."""
    path = tiny_gguf(
        tmp_path / "m.gguf", KEY_SETS[name], tensors={"a.weight": (32, 2), "b": (7,)},
        big_endian=big_endian, alignment=alignment,
    )  # fmt: skip
    assert same_as_gguf_py(path) >= 3


def test_a_file_that_gguf_py_wrote(tmp_path: Path) -> None:
    """gguf-py's writer, with quantized tensors, is read back the same."""
    path = tmp_path / "w.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_array("llama.attention.head_count_kv", [1, 0])
    writer.add_token_list(["a", "b"])
    for kind in ("Q8_0", "Q4_0", "Q5_1", "F16"):
        number = gguf.GGMLQuantizationType[kind]
        weights = np.arange(256, dtype=np.float32).reshape(2, 128) / 100
        writer.add_tensor(kind, gguf.quants.quantize(weights, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert same_as_gguf_py(path) == 8
    assert {t.name: t.type.name for t in read_header(path).tensors} == {
        k: k for k in ("Q8_0", "Q4_0", "Q5_1", "F16")
    }


@pytest.mark.slow
def test_gemma_reads_as_gguf_py_reads_it(gemma: Path) -> None:
    """Every key, the whole vocabulary and every tensor of a real model agree with gguf-py."""
    header = read_header(gemma)
    assert header.architecture == "gemma3"
    assert header.entries["tokenizer.ggml.tokens"].n_elements == 262_144
    assert same_as_gguf_py(gemma) == header.n_kv + len(header.tensors)
    assert sum(t.n_values for t in header.tensors) == 268_098_176
    assert header.data_end == header.size


@pytest.mark.parametrize("n", [0, 1, 3, 4, 23])
def test_the_first_bytes_of_a_longer_file_are_incomplete(n: int) -> None:
    """Come back with more: so it is below 24 bytes, as it is anywhere in the header."""
    data = gguf_bytes(LLAMA)
    with pytest.raises(IncompleteHeaderError):
        parse_header(data[:n], len(data))
