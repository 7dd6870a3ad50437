"""The lint of the patches: each code is found by a fault that is put in, and ours are clean."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patches.releases import Release
from tqconvert.cli import main
from tqconvert.errors import NotFoundError
from tqconvert.patches.checkout import find_checkout
from tqconvert.patches.header import FIELDS, parse_header
from tqconvert.patches.lint import lint
from tqconvert.patches.lint_codes import CODES
from tqconvert.patches.series import find_patches

HEADER = """\
Subject: Add a thing
TQ-Id: tq-{scope}-{name}
Origin: tqconvert
Forwarded: no
Why-Kept: feature
Why: the tests need it,
 in two lines
Drop-When: never
Applies-To: v0.30+
SPDX-License-Identifier: MIT
---
"""
DIFF = """\
diff --git a/ggml/src/x.c b/ggml/src/x.c
index {one}..{two} 100644
--- a/ggml/src/x.c
+++ b/ggml/src/x.c
@@ -1,2 +1,3 @@
 a
+b
 c
""".format(one="1" * 40, two="2" * 40)
LOCK = next(p for p in sorted((find_patches() / "legacy" / "upstream").glob("*.lock.json")))


def patch(name: str, scope: str = "all") -> str:
    """A sound patch."""
    return HEADER.format(name=name, scope=scope) + DIFF


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """An `ollama_patches` without a fault."""
    files = {
        "llama.cpp/series": "a.patch | b.patch [ggml]\n# a comment\nc.patch\n",
        "llama.cpp/a.patch": patch("a"), "llama.cpp/b.patch": patch("b"), "llama.cpp/c.patch": patch("c"),
        "modern/ollama-go/series": "go.patch\n",
        "modern/ollama-go/go.patch": patch("go", "modern"),
        "files/ggml/src/x.h": "int x;\n",
        f"legacy/upstream/{LOCK.name}": LOCK.read_text(),
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / "q" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "q"


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    """A fault: `old` becomes `new` in a file."""

    def put(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old.encode() in data, (name, old)
        (folder / name).write_bytes(data.replace(old.encode(), new.encode(), 1))

    return put


def put(name: str, text: str | bytes) -> Callable[[Path], None]:
    """A fault: a file that should not be there."""

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def empty(folder: Path) -> None:
    """No patch left."""
    for path in [*folder.rglob("*.patch"), *folder.rglob("series")]:
        path.unlink()


def folder_for_file(folder: Path) -> None:
    """A patch that cannot be read."""
    (folder / "llama.cpp" / "a.patch").unlink()
    (folder / "llama.cpp" / "a.patch").mkdir()


NEW = "diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+x\n"
A = "llama.cpp/a.patch"
FAULTS: list[tuple[str, Callable[[Path], None], str, int]] = [
    ("PQ001", empty, ".", 0),
    ("PQ002", folder_for_file, A, 0),
    ("PQ101", edit("llama.cpp/series", "c.patch", "c.diff"), "llama.cpp/series", 3),
    ("PQ101", edit("llama.cpp/series", "[ggml]", "[cuda]"), "llama.cpp/series", 1),
    ("PQ101", edit("llama.cpp/series", "a.patch", "../a.patch"), "llama.cpp/series", 1),
    ("PQ102", edit("llama.cpp/series", "c.patch", "d.patch"), "llama.cpp/series", 3),
    ("PQ103", edit("llama.cpp/series", "c.patch", ""), "llama.cpp/c.patch", 0),
    ("PQ104", edit("llama.cpp/series", "c.patch", "c.patch\na.patch"), "llama.cpp/series", 4),
    ("PQ104", edit("llama.cpp/series", "| b.patch", "| a.patch"), "llama.cpp/series", 1),
    ("PQ105", put("llama.cpp/0001-d.patch", patch("d")), "llama.cpp/0001-d.patch", 0),
    *[("PQ201", edit(A, f"\n{key}:", "\nX:") if key != "Subject" else edit(A, "Subject:", "X:"), A, 0)
      for key in FIELDS],
    ("PQ202", edit(A, "Why-Kept: feature", "Why-Kept: because"), A, 5),
    ("PQ202", edit(A, "Forwarded: no", "Forwarded: later"), A, 4),
    ("PQ202", edit(A, "Origin: tqconvert", "Origin: somebody"), A, 3),
    ("PQ202", edit(A, "v0.30+", "all of them"), A, 9),
    ("PQ202", edit(A, "tq-all-a", "tq-all-A b"), A, 2),
    ("PQ202", edit(A, "Drop-When: never", "Drop-When:"), A, 8),
    ("PQ203", edit(A, "Add a thing", "x" * 66), A, 1),
    ("PQ204", edit("llama.cpp/b.patch", "tq-all-b", "tq-all-a"), "llama.cpp/b.patch", 2),
    ("PQ204", edit("modern/ollama-go/go.patch", "tq-modern", "tq-legacy"), "modern/ollama-go/go.patch", 2),
    ("PQ205", edit(A, "---\n", "Origin: tqconvert\n---\n"), A, 11),
    ("PQ206", edit(A, "---\n", "no field\n---\n"), A, 11),
    ("PQ206", edit(A, "Drop-When", "Drop-when"), A, 8),
    ("PQ301", edit(A, "Forwarded: no\n", "Forwarded: no\r\n"), A, 4),
    ("PQ301", edit(A, "+b\n", "+b\r\n"), A, 18),
    ("PQ301", edit("llama.cpp/series", "c.patch\n", "c.patch\r\n"), "llama.cpp/series", 3),
    ("PQ301", edit(A, "x.c b/ggml/src/x.c\n", "x.c b/ggml/src/x.c\r\n"), A, 12),
    ("PQ302", edit(A, " c\n", " c\n\n"), A, 20),
    ("PQ302", edit(A, " c\n", " c"), A, 18),
    ("PQ303", edit(A, "+b\n", "+<<<<<<< HEAD\n"), A, 18),
    ("PQ303", edit(A, "+b\n", "+>>>>>>> x\n"), A, 18),
    ("PQ304", edit(A, "+b\n", "+b \n"), A, 18),
    ("PQ304", edit(A, "+b\n", "+\t\n"), A, 18),
    ("PQ305", put(A, patch("a").encode().replace(b"thing", b"th\xffng")), A, 1),
    ("PQ401", edit(A, "1,2 +1,3", "1,2 +1,4"), A, 20),
    ("PQ401", edit(A, "--- a/", "--- "), A, 14),
    ("PQ402", edit(A, "a/ggml/src/x.c b/ggml/src/x.c", "a/../x.c b/../x.c"), A, 12),
    ("PQ402", edit(A, "a/ggml/src/x.c b/ggml/src/x.c", "a/.git/x b/.git/x"), A, 12),
    ("PQ403", edit(A, "100644", "120000"), A, 13),
    ("PQ403", put(A, patch("a").partition("index")[0] + "GIT binary patch\nliteral 0\n"), A, 13),
    ("PQ404", edit(A, "1" * 40, "1" * 9), A, 0),
    ("PQ405", put(A, HEADER.format(scope="all", name="a")), A, 0),
    ("PQ501", put("files/ggml/src/.x.c.swp", ""), "files/ggml/src/.x.c.swp", 0),
    ("PQ502", put(A, HEADER.format(scope="all", name="a") + NEW.format("ggml/src/x.h")), "files/ggml/src/x.h", 0),
    ("PQ601", edit(f"legacy/upstream/{LOCK.name}", "tqconvert.release-lock/1", "x"), f"legacy/upstream/{LOCK.name}", 0),
    ("PQ601", put("modern/upstream/x.lock.json", "{"), "modern/upstream/x.lock.json", 0),
    ("PQ602", put("legacy/upstream/x.lock.json", LOCK.read_text()), "legacy/upstream/x.lock.json", 0),
]  # fmt: skip


def test_a_sound_folder_has_no_findings(queue: Path) -> None:
    """And what was looked at is counted."""
    found = lint(queue)
    assert found.findings == ()
    assert found.ok
    assert (found.series, found.patches, found.new_files, found.locks) == (2, 4, 1, 1)


@pytest.mark.parametrize(("code", "fault", "path", "line"), FAULTS)
def test_a_fault_is_found(
    queue: Path, code: str, fault: Callable[[Path], None], path: str, line: int
) -> None:
    """With its code, file and line."""
    fault(queue)
    found = lint(queue)
    assert (path, line, code) in {(f.path, f.line, f.code) for f in found.findings}, found.findings
    assert not found.ok


@pytest.mark.parametrize("where", ["files/ggml/src/ggml-other/x.c", A])
def test_what_ollama_would_remove_is_found(queue: Path, release: Release, where: str) -> None:
    """A new file of ggml outside of the filters, laid over the tree or made by a [ggml] patch."""
    text = HEADER.format(scope="all", name="a") + NEW.format("ggml/src/ggml-other/y.c")
    put(where, text if where == A else "x\n")(queue)
    layout = find_checkout(release.ollama).layout
    assert [(f.code, f.path) for f in lint(queue, layout).findings] == [("PQ406", where)]
    assert lint(queue).findings == ()
    assert "PQ406" in lint(queue).not_covered[0]


def test_much_context_is_noted_and_does_not_fail(queue: Path) -> None:
    """More than three lines in a row, above or below."""
    edit(A, "1,2 +1,3 @@\n a\n", "1,5 +1,6 @@\n 1\n 2\n 3\n a\n")(queue)
    found = lint(queue)
    assert [f.code for f in found.findings] == ["PQ407"]
    assert found.ok


def test_every_code_is_tried() -> None:
    """By a fault above."""
    tried = {code for code, *_ in FAULTS} | {"PQ406", "PQ407"}
    assert tried == set(CODES)


def test_all_faults_are_told_at_once(queue: Path) -> None:
    """Of one file and of several, in their order."""
    edit(A, "Why-Kept: feature\n", "Subject: x\n")(queue)
    edit("llama.cpp/series", "c.patch", "d.patch")(queue)
    codes = [(f.path, f.code) for f in lint(queue).findings]
    assert codes == [
        (A, "PQ201"),
        (A, "PQ205"),
        ("llama.cpp/c.patch", "PQ103"),
        ("llama.cpp/series", "PQ102"),
    ]


def test_ours_are_clean() -> None:
    """Everything that is shipped."""
    found = lint(find_patches())
    assert [f for f in found.findings if f.severity == "error"] == []
    assert found.patches > 15
    assert found.locks > 20


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Exit code 5."""
    with pytest.raises(NotFoundError):
        lint(tmp_path / "x")


def test_folded_lines_belong_to_their_field() -> None:
    """And what is no field is named by its number."""
    header = parse_header(patch("a").replace("---\n", "stray\n---\n").encode())
    assert header.get("Why") == "the tests need it, in two lines"
    assert header.strange == (11,)
    assert [line.key for line in header.lines] == list(FIELDS)


def test_the_command_in_its_three_modes(queue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text with path:line, JSON, and the essential."""
    edit(A, "Forwarded: no\n", "Forwarded: maybe\n")(queue)
    assert main(["ollama-build", "lint", str(queue)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("llama.cpp/a.patch:4: PQ202 error: Forwarded: 'maybe' (expected no,")
    assert "faulty, 2 series, 4 patches, 1 new files, 1 locks" in out
    assert main(["ollama-build", "lint", str(queue), "-q"]) == 1
    assert capsys.readouterr().out == "PQ202 llama.cpp/a.patch 4\n"
    assert main(["ollama-build", "lint", str(queue), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "tqconvert.ollama-build.lint/1"
    assert document["ok"] is False
    assert [f["code"] for f in document["findings"]] == ["PQ202"]
    assert main(["ollama-build", "lint", "-q"]) == 0
    assert re.fullmatch(r"(PQ407 .*\n)*", capsys.readouterr().out)
