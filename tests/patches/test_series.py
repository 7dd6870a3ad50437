"""The series file, what it names, and how it is told from another."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqconvert.errors import BadSeriesError, NotFoundError
from tqconvert.patches.series import Entry, Scope, find_patches, parse_series, read_series

DIFF = "--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-a\n+b\n"


def queue(folder: Path, series: str, patches: dict[str, str], files: dict[str, str]) -> Path:
    """An `ollama_patches` folder."""
    (folder / "llama.cpp").mkdir(parents=True)
    (folder / "llama.cpp" / "series").write_text(series)
    for name, text in patches.items():
        (folder / "llama.cpp" / name).write_text(text)
    for name, text in files.items():
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_line_is_alternatives_and_a_tag() -> None:
    """Comments and empty lines do not count; no tag means the llama layer."""
    text = "# all\n\na.patch [ggml]\nb-1.patch | b-2.patch [ggml]  # two bases\nc.patch [llama]\nd.patch\n"
    assert parse_series(text) == (
        Entry(("a.patch",), ggml=True),
        Entry(("b-1.patch", "b-2.patch"), ggml=True),
        Entry(("c.patch",), ggml=False),
        Entry(("d.patch",), ggml=False),
    )


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("a.patch [metal]", "unknown tag"),
        ("../a.patch", "expected NAME.patch"),
        ("a.diff", "expected NAME.patch"),
        ("a.patch |", "expected NAME.patch"),
        ("a.patch\na.patch", "twice"),
        ("[ggml]", "expected NAME.patch"),
    ],
)
def test_bad_lines_are_named(line: str, what: str) -> None:
    """The error has file and line."""
    with pytest.raises(BadSeriesError, match=rf"series:\d: .*{what}"):
        parse_series(line)


@given(st.text(max_size=200))
def test_any_text_is_entries_or_an_error(text: str) -> None:
    """Nothing else happens."""
    try:
        entries = parse_series(text)
    except BadSeriesError:
        return
    assert all(name.endswith(".patch") for e in entries for name in e.alternatives)


def test_ggml_alone_takes_its_lines_and_files(tmp_path: Path) -> None:
    """A build of ggml gets no patch and no file of the layer above."""
    folder = queue(
        tmp_path / "q",
        "a.patch [ggml]\nb.patch\n",
        {"a.patch": DIFF.format("ggml/x.c"), "b.patch": DIFF.format("src/y.cpp")},
        {"ggml/src/t.c": "t", "tests/test-t.cpp": "t", "src/k.cpp": "k", "ggml/.t.c.swp": ""},
    )
    ggml, whole = read_series(folder, Scope.GGML), read_series(folder)
    assert [p.name for step in ggml.steps for p in step] == ["a.patch"]
    assert [f.path for f in ggml.new_files] == ["ggml/src/t.c", "tests/test-t.cpp"]
    assert [p.name for step in whole.steps for p in step] == ["a.patch", "b.patch"]
    assert [f.path for f in whole.new_files] == ["ggml/src/t.c", "src/k.cpp", "tests/test-t.cpp"]


def test_the_id_changes_with_every_byte(tmp_path: Path) -> None:
    """Names, contents, order, files and scope."""
    base = {"a.patch": DIFF.format("x"), "b.patch": DIFF.format("y")}
    series = "a.patch\nb.patch\n"
    variants = [
        (series, base, {"ggml/f": "1"}),
        ("b.patch\na.patch\n", base, {"ggml/f": "1"}),
        ("a.patch | b.patch\n", base, {"ggml/f": "1"}),
        (series, {**base, "b.patch": DIFF.format("z")}, {"ggml/f": "1"}),
        (series, base, {"ggml/f": "2"}),
        (series, base, {"ggml/g": "1"}),
    ]
    ids = {read_series(queue(tmp_path / str(i), *variant)).id for i, variant in enumerate(variants)}
    assert len(ids) == len(variants)


def test_a_patch_that_is_missing_is_named(tmp_path: Path) -> None:
    """With the series that names it."""
    with pytest.raises(NotFoundError, match=r"a\.patch: no such file \(named by .*series\)"):
        read_series(queue(tmp_path, "a.patch\n", {}, {}))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Subject: nothing\n", "changes no file"),
        (DIFF.format("../../etc/x"), "outside of the tree"),
    ],
)
def test_a_patch_must_change_the_tree(tmp_path: Path, text: str, what: str) -> None:
    """No diff, or a path that leads out, is refused before anything is run."""
    with pytest.raises(BadSeriesError, match=what):
        read_series(queue(tmp_path, "a.patch\n", {"a.patch": text}, {}))


def test_our_own_series_is_sound() -> None:
    """It parses, and every patch file is in it; what else must hold, the lint tells."""
    folder = find_patches()
    series = read_series(folder)
    patches = [p for step in series.steps for p in step]
    assert {p.name for p in patches} == {p.name for p in (folder / "llama.cpp").glob("*.patch")}
    assert b"\r" not in b"".join([*(p.data for p in patches), *(f.data for f in series.new_files)])
