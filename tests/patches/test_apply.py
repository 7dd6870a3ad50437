"""A series goes onto a tree, or says which patch and which file refuse it; the tree is only read."""

import subprocess
from pathlib import Path

import pytest

from tqconvert.errors import BadPatchError, PatchError
from tqconvert.patches.apply import Patched, plan_patched, write_changes
from tqconvert.patches.series import NewFile, Patch, Scope, Series

TREE = {"ggml/a.c": "one\ntwo\nthree\n", "ggml/b.c": "x\ny\nz\n", "src/c.cpp": "c\n"}
A = "Subject: change a\n\ndiff --git a/ggml/a.c b/ggml/a.c\n--- a/ggml/a.c\n+++ b/ggml/a.c\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n"
B = "diff --git a/ggml/b.c b/ggml/b.c\n--- a/ggml/b.c\n+++ b/ggml/b.c\n@@ -1,3 +1,4 @@\n x\n+new\n y\n z\n"
A_AGAIN = "diff --git a/ggml/a.c b/ggml/a.c\n--- a/ggml/a.c\n+++ b/ggml/a.c\n@@ -1,3 +1,3 @@\n one\n-TWO\n+2\n three\n"
OTHER = "diff --git a/ggml/a.c b/ggml/a.c\n--- a/ggml/a.c\n+++ b/ggml/a.c\n@@ -1,3 +1,3 @@\n eins\n-zwei\n+ZWEI\n drei\n"
MAKES = "diff --git a/ggml/new.c b/ggml/new.c\nnew file mode 100644\n--- /dev/null\n+++ b/ggml/new.c\n@@ -0,0 +1 @@\n+n\n"
REMOVES = "diff --git a/src/c.cpp b/src/c.cpp\ndeleted file mode 100644\n--- a/src/c.cpp\n+++ /dev/null\n@@ -1 +0,0 @@\n-c\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree that is no repository."""
    return make_tree(tmp_path / "tree")


def make_tree(root: Path) -> Path:
    """The files of TREE."""
    for name, text in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def plan(tree: Path, *steps: str | tuple[str, ...], files: dict[str, str] | None = None) -> Patched:
    """What patches make of the tree; a tuple is alternatives. They are named p0, p1a, p1b, ..."""
    made = [
        tuple(
            Patch(f"p{i}{chr(97 + j)}.patch", text.encode())
            for j, text in enumerate(step if isinstance(step, tuple) else (step,))
        )
        for i, step in enumerate(steps)
    ]
    new = tuple(NewFile(name, text.encode()) for name, text in (files or {}).items())
    return plan_patched(tree, Series(tuple(made), new, Scope.ALL))


def contents(root: Path) -> dict[str, str]:
    """Path -> text of all files."""
    return {
        p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()
    }  # fmt: skip


def test_patches_build_on_each_other(tree: Path, tmp_path: Path) -> None:
    """The result is that of all in order; the tree stays as it is until it is applied."""
    patched = plan(tree, A, B, A_AGAIN, MAKES, REMOVES, files={"ggml/t.h": "t\n"})
    assert contents(tree) == TREE
    assert sorted(patched.files) == ["ggml/a.c", "ggml/b.c", "ggml/new.c", "ggml/t.h", "src/c.cpp"]
    copy = make_tree(tmp_path / "copy")
    write_changes(patched.files, copy)
    assert contents(copy) == {
        "ggml/a.c": "one\n2\nthree\n", "ggml/b.c": "x\nnew\ny\nz\n", "ggml/new.c": "n\n",
        "ggml/t.h": "t\n",
    }  # fmt: skip


def test_a_patch_may_change_a_file_of_ours(tree: Path) -> None:
    """New files are there before the patches."""
    patched = plan(tree, A.replace("ggml/a.c", "ggml/t.c"), files={"ggml/t.c": TREE["ggml/a.c"]})
    assert patched.files == {"ggml/t.c": b"one\nTWO\nthree\n"}


def test_the_first_alternative_that_applies_is_used(tree: Path) -> None:
    """Not the one for another base, and not a second one."""
    patched = plan(tree, (OTHER, A), (B, B))
    assert [p.name for p in patched.patches] == ["p0b.patch", "p1a.patch"]


def test_offsets_are_found_and_fuzz_is_not_used(tree: Path) -> None:
    """Lines may have moved; a line of context that differs is a refusal."""
    middle = A.replace("-1,3 +1,3", "-9,3 +9,3")  # a hunk at line 1 is held to the file's start
    (tree / "ggml/a.c").write_text("0\n" * 40 + TREE["ggml/a.c"] + "9\n")
    assert plan(tree, middle).files["ggml/a.c"] == b"0\n" * 40 + b"one\nTWO\nthree\n9\n"
    (tree / "ggml/a.c").write_text("0\n" * 8 + "one\ntwo\nTHREE\n9\n")
    with pytest.raises(PatchError):
        plan(tree, middle)


def test_a_refusal_names_patch_file_and_way_out(tree: Path) -> None:
    """Of alternatives all are named; nothing is left behind."""
    with pytest.raises(PatchError) as caught:
        plan(tree, B, (OTHER, OTHER))
    assert caught.value.message == "p1a.patch: does not apply to ggml/a.c (nor does p1b.patch)"
    assert (caught.value.patch, caught.value.files) == ("p1a.patch", ("ggml/a.c",))
    assert "--ggml-only" in str(caught.value.hint)
    assert contents(tree) == TREE


def test_a_file_that_is_not_there(tree: Path) -> None:
    """The hint says that the tree is of another age."""
    (tree / "ggml/b.c").unlink()
    with pytest.raises(PatchError, match=r"p0a\.patch: does not apply to ggml/b\.c") as caught:
        plan(tree, B)
    assert "--source sdist" in str(caught.value.hint)


def test_a_tree_that_has_the_patch(tree: Path) -> None:
    """The hint says so; the same for a new file."""
    write_changes(plan(tree, A).files, tree)
    with pytest.raises(PatchError) as caught:
        plan(tree, A)
    assert "in this tree already" in str(caught.value.hint)
    with pytest.raises(PatchError, match=r"ggml/b\.c: is in the source already"):
        plan(tree, files={"ggml/b.c": "mine"})


def test_no_git_is_needed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches are put on in memory, deaf to PATH, to a repository above and to git's configuration."""
    subprocess.run(["git", "init", "-q", tree.parent], check=True)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert plan(tree, B.replace("+new", "+new  ")).files == {"ggml/b.c": b"x\nnew  \ny\nz\n"}


def test_a_patch_that_changes_nothing_is_refused(tree: Path) -> None:
    """Without a git-style header a diff would be passed over."""
    with pytest.raises(BadPatchError, match="changes no file"):
        plan(tree, B.partition("\n")[2])
