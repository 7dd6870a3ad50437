"""The sink of results: one call in every mode, stdout and stderr compared."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tqconvert.cli.output import Output, print_error, table, types_text, visible
from tqconvert.errors import NotFoundError

MODES = {
    "human": Output("thing"),
    "json": Output("thing", json=True),
    "quiet": Output("thing", quiet=True),
    "json and quiet": Output("thing", json=True, quiet=True),
}
Check = Callable[..., None]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Make one call in all four modes and compare what came out of each: (stdout, stderr)."""

    def compare(call: Callable[[Output], None], **expected: tuple[str, str]) -> None:
        for mode, out in MODES.items():
            call(out)
            captured = capsys.readouterr()
            assert (captured.out, captured.err) == expected[mode.replace(" ", "_")], mode

    return compare


def test_result(check: Check) -> None:
    """Text for people, one document for programs, the essential value for $(...)."""
    document = json.dumps({"schema": "tqconvert.thing/1", "bytes": 5}, indent=2) + "\n"
    check(
        lambda out: out.result({"bytes": 5}, "five bytes", "5"),
        human=("five bytes\n", ""), json=(document, ""), quiet=("5\n", ""),
        json_and_quiet=(document, ""),
    )  # fmt: skip


def test_result_of_many_values(check: Check) -> None:
    """Quiet values come one a line; no values, no lines."""
    empty = json.dumps({"schema": "tqconvert.thing/1"}, indent=2) + "\n"
    check(
        lambda out: out.result({}, "", ["a", "b"]),
        human=("", ""), json=(empty, ""), quiet=("a\nb\n", ""), json_and_quiet=(empty, ""),
    )  # fmt: skip


def test_note_is_for_people(check: Check) -> None:
    """Notes go to stderr and only where people read."""
    check(
        lambda out: out.note("by the way"),
        human=("", "by the way\n"), json=("", ""), quiet=("", ""), json_and_quiet=("", ""),
    )  # fmt: skip


def test_warning_is_for_everybody(check: Check) -> None:
    """Warnings go to stderr in every mode, so stdout stays one document."""
    line = ("", "warning: look out\n")
    check(
        lambda out: out.warn("look out"),
        human=line, json=line, quiet=line, json_and_quiet=line,
    )  # fmt: skip


def test_error_in_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    """An error is two lines on stderr, or one document on stdout."""
    error: Any = NotFoundError("x.gguf: no such file", hint="tqconvert pull x")
    print_error(error, as_json=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: x.gguf: no such file\n  hint: tqconvert pull x\n"
    print_error(error, as_json=True)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {
        "schema": "tqconvert.error/1",
        "error": {
            "kind": "not_found", "message": "x.gguf: no such file", "hint": "tqconvert pull x",
        },
    }  # fmt: skip


def test_table() -> None:
    """Columns are aligned by spaces, rows may be short, no line ends in a space."""
    assert table([("a", "bb"), ("ccc",), ("d", "e", "f")], right=(1,)) == "a    bb\nccc\nd     e  f"
    assert table([("a", "b")], indent=2) == "  a  b"
    assert table([]) == ""


def test_types_are_counted() -> None:
    """One name for all layers, or how many layers have which."""
    assert types_text("q8_0") == "q8_0"
    assert types_text(("q8_0", "f16", "q8_0")) == "q8_0 x2 + f16 x1"


def test_what_a_terminal_would_obey_is_not_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in files of strangers reach people as text: errors always, results on a terminal."""
    name = "a\x1b[2J\x9b\u202eb\tc"
    assert (
        visible("\udcff\ud800\n") == "\udcff?\n"
    )  # a byte of a file name, and no character at all
    print_error(NotFoundError(name, hint=name), as_json=False)
    MODES["human"].warn(name)
    MODES["human"].result({}, name)
    captured = capsys.readouterr()
    shown = "a?[2J??b\tc"
    assert captured.err == f"error: {shown}\n  hint: {shown}\nwarning: {shown}\n"
    assert captured.out == name + "\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    MODES["human"].result({}, name)
    assert capsys.readouterr().out == shown + "\n"
