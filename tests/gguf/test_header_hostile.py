"""Hostile and torn headers: one typed error each, at once, in little memory."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from builders import LLAMA, gguf_bytes, tiny_gguf
from hostile import CASES, MEMORY_BYTES, write
from hypothesis import given, settings
from hypothesis import strategies as st

from tqconvert.errors import InvalidGgufError, NotFoundError, TqError
from tqconvert.gguf.header import parse_header, read_header

SMALL = gguf_bytes({**LLAMA, "tokenizer.ggml.tokens": ["a", "bc", "", "def"], "n": [1, 2, 3]})


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What the reader said of each case, in one process with a memory limit and a clock."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = write(folder)
    script = Path(__file__).parents[1] / "hostile.py"
    done = subprocess.run(
        [sys.executable, script, folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = {row["file"]: row for row in map(json.loads, done.stdout.splitlines())}
    return {name: rows[path.name] for name, path in paths.items()}


@pytest.mark.parametrize("name", CASES)
def test_hostile_file_ends_in_its_typed_error(
    name: str, verdicts: dict[str, dict[str, object]]
) -> None:
    """Each file is accepted or refused as it must be, within a second and 100 MB."""
    row = verdicts[name]
    assert row["kind"] == CASES[name].kind, row["message"]
    assert row["seconds"] < 1
    assert row["rss"] < MEMORY_BYTES


def test_messages_name_the_file_and_what_is_wrong(
    verdicts: dict[str, dict[str, object]],
) -> None:
    """Messages begin with the file and quote the number that cannot be."""
    message = str(verdicts["unknown tensor type"]["message"])
    assert message.endswith(".gguf: tensor t: unknown type 99")
    assert "version 1 (expected 2 or 3)" in str(verdicts["version 1"]["message"])
    assert "overlaps a" in str(verdicts["tensors that overlap"]["message"])


@pytest.mark.parametrize("big_endian", [False, True])
def test_truncated_at_every_byte(tmp_path: Path, big_endian: bool) -> None:
    """A file cut after any byte but the last is refused with a typed error."""
    data = gguf_bytes(LLAMA, {"t": (8,)}, big_endian=big_endian)
    path = tmp_path / "cut.gguf"
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(InvalidGgufError):
            read_header(path)
    path.write_bytes(data)
    assert read_header(path).data_end == len(data)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_string_length_whose_lowest_byte_would_fit(wrong: int, big_endian: bool) -> None:
    """All eight bytes of a length count: one that only ends in the right byte leads outside."""
    data = bytearray(gguf_bytes({"words": ["ab", "cd", "ef"], "last": 7}, big_endian=big_endian))
    order = ">Q" if big_endian else "<Q"
    at = data.index(b"ab") - 8 + 10 * wrong
    for length in (2 + (1 << 40), 2 + (1 << 56), 2 + (1 << 63)):
        data[at : at + 8] = struct.pack(order, length)
        with pytest.raises(InvalidGgufError, match=f"words: a string reaches {at + 8 + length} in"):
            parse_header(bytes(data), len(data))


def test_bytes_in_flight_are_never_invalid_before_their_time() -> None:
    """Every prefix of a good header asks for more bytes and calls nothing invalid."""
    whole = parse_header(SMALL, len(SMALL))
    for n in range(len(SMALL)):
        try:
            header = parse_header(SMALL[:n], len(SMALL))
        except InvalidGgufError as e:
            assert e.kind == "truncated_gguf", (n, e.message)
        else:
            assert n >= whole.infos_end
            assert header.tensors == whole.tensors


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_damage_raises_nothing_but_our_errors(data: st.DataObject) -> None:
    """Overwritten, removed or inserted bytes give a header or a TqError, nothing else."""
    damaged = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        new = data.draw(st.binary(max_size=9))
        damaged[at : at + data.draw(st.integers(0, 9))] = new
    try:
        header = parse_header(bytes(damaged), len(damaged))
    except TqError:
        return
    assert header.data_end <= len(damaged)
    assert all(e.end <= len(damaged) for e in header.entries.values())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_after_the_magic(noise: bytes) -> None:
    """Noise behind a valid start gives a header or a TqError."""
    raw = SMALL[:24] + noise
    try:
        parse_header(raw, len(raw))
    except TqError as e:
        assert e.message


def test_not_a_file(tmp_path: Path) -> None:
    """A missing file, a folder, a pipe and a device are named as such, and nothing blocks."""
    import os

    os.mkfifo(tmp_path / "pipe")
    for path, problem in (
        (tmp_path / "missing.gguf", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/zero"), "no regular file"),
        (tiny_gguf(tmp_path / "m.gguf") / "x", "no such file"),
    ):
        with pytest.raises(NotFoundError, match=problem):
            read_header(path)


def test_read_after_the_file_shrank(tmp_path: Path) -> None:
    """A stepped-over value that is no longer in the file is an error, not short data."""
    path = tiny_gguf(tmp_path / "m.gguf", {**LLAMA, "tokenizer.ggml.tokens": ["ab"] * 2000})
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InvalidGgufError, match="changed while it was read"):
        header.read("tokenizer.ggml.tokens")
