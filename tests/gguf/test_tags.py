"""The tag page: its bytes, its keys as gguf-py reads them, what is refused."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from builders import LLAMA, STRING, U8, U16, gguf_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from tqconvert.errors import RefusedError, UsageError
from tqconvert.gguf import tags as tags_module
from tqconvert.gguf.header import Header, parse_header, read_header
from tqconvert.gguf.tags import (
    BALANCE,
    KEYS,
    PAD,
    PAGE,
    TYPE_K,
    KvTags,
    is_tagged,
    is_whole,
    original_header,
    read_tags,
    render_page,
)

TAGS = KvTags("q8_0", "turbo4")
PER_LAYER = KvTags(("q8_0", "f16", "turbo4"), "turbo4", balance="weights", evidence='{"kld":0.01}')


def header_of(data: bytes) -> Header:
    """The header of a file in memory."""
    return parse_header(data, len(data))


def strings(field: Any) -> list[str]:
    """A string or an array of strings as gguf-py holds it."""
    return [bytes(field.parts[i]).decode() for i in field.data]


@pytest.mark.parametrize("big_endian", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("tags", [TAGS, PER_LAYER], ids=["plain", "per-layer"])
def test_gguf_py_reads_a_tagged_file_as_the_original_plus_the_keys(
    tmp_path: Path, big_endian: bool, version: int, tags: KvTags
) -> None:
    """Keys, types, tensors and data by gguf-py's reader, in both byte orders and versions."""
    original = gguf_bytes(
        {**LLAMA, "words": ["a", "b"]}, {"a": (32, 2), "b": (64,)}, version=version,
        big_endian=big_endian,
    )  # fmt: skip
    (tmp_path / "o.gguf").write_bytes(original)
    (tmp_path / "t.gguf").write_bytes(render_page(header_of(original), tags) + original)
    old, new = gguf.GGUFReader(tmp_path / "o.gguf"), gguf.GGUFReader(tmp_path / "t.gguf")

    assert new.endianess.name == ("BIG" if big_endian else "LITTLE")
    assert [k for k in new.fields if k not in old.fields] == list(KEYS)
    for key, expected in ((KEYS[0], tags.type_k), (KEYS[1], tags.type_v)):
        types = [gguf.GGUFValueType.STRING]
        if isinstance(expected, tuple):
            types = [gguf.GGUFValueType.ARRAY, *types]
        assert new.fields[key].types == types
        assert strings(new.fields[key]) == list(
            expected if isinstance(expected, tuple) else [expected]
        )
    schema = new.fields["turboquant.schema"]
    assert schema.types == [gguf.GGUFValueType.UINT32]
    assert schema.parts[schema.data[0]][0] == 1
    assert strings(new.fields["turboquant.balance"]) == [tags.balance]
    assert strings(new.fields["turboquant.evidence"]) == [tags.evidence]
    assert new.fields[PAD].types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT8]
    for key in old.fields:
        if not key.startswith("GGUF."):
            same = zip(old.fields[key].parts, new.fields[key].parts, strict=True)
            assert all(np.array_equal(a, b) for a, b in same), key
    assert [t.name for t in new.tensors] == [t.name for t in old.tensors]
    for a, b in zip(old.tensors, new.tensors, strict=True):
        assert b.data_offset == a.data_offset + PAGE
        assert a.data.tobytes() == b.data.tobytes()
    for reader in (old, new):
        reader.data._mmap.close()


def test_page_ends_with_its_checksum_and_the_pad_with_the_original_header() -> None:
    """4096 bytes; the last 32 are sha256 of the rest; the pad's last 24 bytes are the old header."""
    original = gguf_bytes(LLAMA)
    page = render_page(header_of(original), TAGS)
    assert len(page) == PAGE
    assert page[-32:] == hashlib.sha256(page[:-32]).digest()
    pad = header_of(page + original).entries[PAD]
    assert pad.end == PAGE + 24
    assert (page + original)[pad.end - 24 : pad.end] == original[:24]
    assert struct.unpack_from("<QQ", page, 8) == (1, len(LLAMA) + len(KEYS))


def test_a_change_of_any_byte_is_seen() -> None:
    """`is_whole` is false for a page with any one bit turned over, or cut."""
    page = render_page(header_of(gguf_bytes(LLAMA)), TAGS)
    assert is_whole(page)
    assert not is_whole(page[:-1])
    for at in range(0, PAGE, 37):
        assert not is_whole(page[:at] + bytes([page[at] ^ 1]) + page[at + 1 :])


def test_same_tags_give_the_same_bytes() -> None:
    """The page depends on the header and the tags alone."""
    header = header_of(gguf_bytes(LLAMA))
    assert render_page(header, TAGS) == render_page(header, KvTags("q8_0", "turbo4"))
    assert render_page(header, TAGS) != render_page(header, PER_LAYER)


keys = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda k: k not in KEYS),
    st.one_of(
        st.text(max_size=30), st.integers(0, 2**32 - 1), st.booleans(),
        st.lists(st.text(max_size=5), max_size=4), st.tuples(st.just(U8), st.integers(0, 255)),
        st.lists(st.integers(0, 9), max_size=70), st.binary(max_size=9).map(lambda b: (STRING, b)),
    ),
    max_size=12,
)  # fmt: skip
names = st.sampled_from(["q8_0", "turbo4", "turbo3", "f16"])
types = st.one_of(names, st.lists(names, min_size=1, max_size=40).map(tuple))


@settings(max_examples=150, deadline=None)
@given(
    keys=keys, n_tensors=st.integers(0, 3), version=st.sampled_from([2, 3]), big=st.booleans(),
    alignment=st.sampled_from([8, 32, 64, 4096]), k=types, v=types, evidence=st.text(max_size=300),
)  # fmt: skip
def test_any_header_gets_its_tags_and_gives_itself_back(
    keys: dict[str, Any], n_tensors: int, version: int, big: bool, alignment: int, k: Any, v: Any,
    evidence: str,
) -> None:  # fmt: skip
    """Tagged, the tags read back and the header behind the page is the original's."""
    keys.pop("general.alignment", None)
    tensors = {f"t{i}": (32, i + 1) for i in range(n_tensors)}
    original = gguf_bytes(keys, tensors, version=version, big_endian=big, alignment=alignment)
    header = header_of(original)
    tags = KvTags(k, v, evidence=json.dumps(evidence))
    tagged = header_of(render_page(header, tags) + original)
    assert is_tagged(tagged)
    assert read_tags(tagged) == tags
    assert original_header(tagged) == header
    assert not is_tagged(header)
    assert read_tags(header) is None


def test_alignment_larger_than_the_page_is_refused() -> None:
    """The reason names both numbers."""
    header = header_of(gguf_bytes(LLAMA, alignment=8192))
    with pytest.raises(RefusedError, match=r"alignment 8192 .* 4096"):
        render_page(header, TAGS)


@pytest.mark.parametrize("key", [key for key in KEYS if key != BALANCE])
def test_a_key_of_ours_in_the_original_is_refused(key: str) -> None:
    """A second one of the same name would make the file invalid."""
    header = header_of(gguf_bytes({**LLAMA, key: "x"}))
    with pytest.raises(RefusedError, match=f"already has {key}"):
        render_page(header, TAGS)


def test_tags_larger_than_the_page_are_refused_with_the_size() -> None:
    """The last size that fits, fits; one byte more names what it would take."""
    header = header_of(gguf_bytes(LLAMA))
    pad = header_of(render_page(header, TAGS) + gguf_bytes(LLAMA)).entries[PAD]
    room = pad.n_elements - 24 - 32
    fitting = '"' + "x" * (room - 2 + len(TAGS.evidence)) + '"'
    assert len(render_page(header, KvTags("q8_0", "turbo4", evidence=fitting))) == PAGE
    with pytest.raises(UsageError, match=r"need 4097 bytes .*4096"):
        render_page(header, KvTags("q8_0", "turbo4", evidence=fitting[:-1] + 'y"'))


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        (KvTags("", "f16"), "empty"),
        (KvTags((), "f16"), "empty"),
        (KvTags("f16", "f16", balance="half"), "balance"),
        (KvTags("f16", "f16", evidence="unmeasured"), "not JSON"),
    ],
)
def test_tags_that_are_none_are_refused(tags: KvTags, problem: str) -> None:
    """Empty names, an unknown balance, evidence that is no JSON."""
    with pytest.raises(UsageError, match=problem):
        render_page(header_of(gguf_bytes(LLAMA)), tags)


def test_measured_means_more_than_the_word_unmeasured() -> None:
    """A report is evidence; the word, nothing and broken JSON are none."""
    assert KvTags("f16", "f16", evidence='{"kld": 0.01}').measured
    for evidence in ('"unmeasured"', '""', "null", "{"):
        assert not KvTags("f16", "f16", evidence=evidence).measured


def test_tags_outside_a_page_are_read_but_are_no_page() -> None:
    """A header rewritten by another program keeps its keys; a missing side has the default f16."""
    header = header_of(gguf_bytes({**LLAMA, TYPE_K: "q8_0"}))
    tags = read_tags(header)
    assert tags is not None
    assert (tags.type_k, tags.type_v, tags.measured) == ("q8_0", "f16", False)
    assert not is_tagged(header)
    assert read_tags(header_of(gguf_bytes({**LLAMA, TYPE_K: (U16, 3)}))) is None


def test_the_docs_name_every_key() -> None:
    """docs/gguf-tags.md describes what this module writes."""
    docs = Path(__file__).parents[2] / "docs" / "gguf-tags.md"
    text = docs.read_text()
    assert all(f"`{key}`" in text for key in KEYS)
    assert str(tags_module.PAGE - tags_module.CHECK_SIZE) in text


def test_gemma_gets_a_page_without_its_vocabulary_being_read(gemma: Path) -> None:
    """A real header of 6.5 MB: the page's pad reaches exactly to its first key."""
    header = read_header(gemma)
    with gemma.open("rb") as f:
        start = f.read(header.data_start)
    tagged = parse_header(render_page(header, TAGS) + start, header.size + PAGE)
    assert is_tagged(tagged)
    assert next(e for k, e in tagged.entries.items() if k not in KEYS).start == PAGE + 24
