"""Patches that are broken or mean harm: an error of ours that names the line, or what git makes of them."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.patches.cases import apply_with_git
from tests.patches.test_oracles_trees import Tree, problems
from tqconvert.errors import BadPatchError
from tqconvert.patches.diff import parse_diffs
from tqconvert.patches.place import place

EXAMPLES = int(os.environ.get("ORACLE_EXAMPLES", "25"))

HEAD = "diff --git a/f b/f\n--- a/f\n+++ b/f\n"
BODY = "@@ -1,3 +1,3 @@\n a\n-b\n+c\n d\n"
GOOD = HEAD + BODY
NINES = "9" * 5000

HOSTILE = [
    ("ends inside of a hunk", GOOD[:-3]),
    ("or one without its end", GOOD[:-1]),
    ("more lines than its header says", HEAD + BODY.replace("-1,3 +1,3", "-1,2 +1,2")),
    ("the patch ends inside", HEAD + BODY.replace("1,3", "1,4")),
    ("not a hunk header", HEAD + BODY.replace("-1,3", f"-{NINES},3")),
    ("not a hunk header", HEAD + BODY.replace("@@ -1,3 +", "@@ -1,-3 +")),
    ("not a hunk header", HEAD + BODY.replace(" @@\n", "\n")),
    ("the patch ends inside of", HEAD + BODY.replace("1,3", "1,999999999")),
    ("changes nothing", HEAD + "@@ -1,1 +1,1 @@\n a\n"),
    ("not a line of a hunk", HEAD + BODY.replace("-b", "?b")),
    ("after the end of the file", HEAD + BODY.replace(" a\n", " a\n\\ No newline at end of file\n")),
    ("CRLF line end", GOOD.replace("\n", "\r\n")),
    ("a hunk that changes no file", "--- a/f\n+++ b/f\n" + BODY),
    ("path without a/", GOOD.replace("a/f b/f", "f")),
    ("not a diff header", GOOD.replace("a/f b/f", "a/f b/g b/f")),
    ("path without a/", GOOD.replace("git a/f", "git f/f")),
    ("differ without a rename", GOOD.replace("b/f", "b/g")),
    ("names another file", GOOD.replace("+++ b/f", "+++ b/g")),
    ("names another file", GOOD.replace("+++ b/f", "+++ /dev/null")),
    ("expected /dev/null", GOOD.replace("--- a/f", "new file mode 100644\n--- a/f")),
    ("a file that is not there", GOOD.replace("--- a/f", "new file mode 100644\n--- /dev/null")),
    ("not a path inside", GOOD.replace("/f", "/../f")),
    ("not a path inside", GOOD.replace("a/f", "a//etc/f").replace("b/f", "b//etc/f")),
    ("not a path inside", GOOD.replace("/f", "/x/../../f")),
    ("not a path inside", GOOD.replace("/f", "/./f")),
    ("not a path inside", GOOD.replace("a/f b/f", '"a/\\000f" "b/\\000f"')),
    ("not a path inside", GOOD.replace("a/f b/f", '"a/x\\\\f" "b/x\\\\f"')),
    ("inside of a .git folder", GOOD.replace("/f", "/.git/hooks/post-checkout")),
    ("inside of a .git folder", GOOD.replace("/f", "/sub/.GIT/config")),
    ("inside of a .git folder", GOOD.replace("/f", "/git~1/config")),
    ("inside of a .git folder", GOOD.replace("/f", "/.git./config")),
    ("a quoted path does not end", GOOD.replace("--- a/f", '--- "a/f')),
    ("unknown escape", GOOD.replace("--- a/f", '--- "a/\\qf"')),
    ("mode 120000 is refused", "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc/passwd\n"),
    ("mode 160000 is refused", "diff --git a/s b/s\nindex 1234567..7654321 160000\n--- a/s\n+++ b/s\n@@ -1 +1 @@\n-x\n+y\n"),
    ("mode 100777 is refused", "diff --git a/f b/f\nold mode 100644\nnew mode 100777\n"),
    ("mode 040000 is refused", "diff --git a/f b/f\ndeleted file mode 040000\n"),
    ("binary patches are refused", "diff --git a/f b/f\nindex 1234567..7654321 100644\nGIT binary patch\nliteral 1\nIcmZ\n"),
    ("binary patches are refused", "diff --git a/f b/f\nBinary files a/f and b/f differ\n"),
    ("copies are refused", "diff --git a/f b/g\ncopy from f\ncopy to g\n"),
    ("one at a time", "diff --git a/f b/g\nnew file mode 100644\nrename from f\nrename to g\n"),
    ("no hunk", HEAD),
    ("no hunk", "diff --git a/f b/f\n"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "text"), HOSTILE)
def test_it_is_refused_with_its_line(what: str, text: str) -> None:
    """The error says what and where; it is one of ours."""
    with pytest.raises(BadPatchError, match=what) as caught:
        parse_diffs(text.encode(), "x.patch")
    assert caught.value.message.startswith("x.patch:")


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ('"a/\\303\\244"', "\u00e4"),
        ('"a/\\377"', "\udcff"),
        ('"a/\\t\\"x"', '\t"x'),
        ("a/x y", "x y"),
    ],
)
def test_names_in_any_encoding(raw: str, path: str) -> None:
    """Quoted as git quotes them; bytes that are no UTF-8 survive."""
    b = raw.replace("a/", "b/", 1)
    (diff,) = parse_diffs(f"diff --git {raw} {b}\n--- {raw}\n+++ {b}\n{BODY}".encode(), "x")
    assert (diff.old, diff.new) == (path, path)


def test_mail_around_a_diff_is_passed_over() -> None:
    """Header, text, statistics, signature; two mails in one file."""
    mail = f"From 0\nSubject: [PATCH] x\n\ntext\n---\n f | 2 +-\n\n{GOOD}-- \n2.39.5\n\n"
    assert len(parse_diffs((mail * 2).encode(), "x")) == 2
    assert parse_diffs(b"", "x") == ()


NASTY = [
    b"", b"@@ -1,1 +1,1 @@\n", b"@@ -99999999999,1 +1 @@\n", b"+x\n", b"-x\n", b" \n", b"\\ No newline at end of file\n",
    b"diff --git a/a.c b/a.c\n", b"rename from ../x\n", b"rename to a.c\n", b"new file mode 100644\n",
    b"deleted file mode 120000\n", b"old mode 100644\n", b"index 0000000..1111111 100644\n", b"--- a/a.c\n",
    b"+++ /dev/null\n", b"\xff\xfe\0\n", b"\r\n", b"-- \n", b'"\n',
]  # fmt: skip


@st.composite
def broken(draw: st.DrawFn) -> tuple[bytes, Tree]:
    """A patch for a made-up tree in which something is cut, doubled, moved, replaced."""
    series, tree = draw(problems(1))
    lines = b"".join(series).splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            del lines[at : at + draw(st.integers(1, 3))]
        elif kind == 1:
            lines.insert(at, draw(st.sampled_from(NASTY)))
        elif kind == 2:
            lines[at:at] = lines[at : at + 2]
        elif kind == 3 and at < len(lines):
            cut = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:cut] + draw(st.binary(max_size=3)) + lines[at][cut:]
        else:
            text = b"".join(lines)
            lines = text[: draw(st.integers(0, len(text)))].splitlines(keepends=True)
    return b"".join(lines), tree


@given(broken())
@settings(max_examples=EXAMPLES * 10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_but_an_error_of_ours_comes_of_it(problem: tuple[bytes, Tree]) -> None:
    """Whatever stands in a patch: it parses and is placed, or BadPatchError."""
    patch, tree = problem
    try:
        diffs = parse_diffs(patch, "x.patch")
    except BadPatchError:
        return
    for diff in diffs:
        place(tree.get(diff.path), diff)
        place(tree.get(diff.path), diff.reversed())


@given(broken())
@settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_what_git_cannot_read_we_do_not(tmp_path: Path, problem: tuple[bytes, Tree]) -> None:
    """Nothing is taken for a diff that git calls corrupt."""
    patch, _ = problem
    done = apply_with_git(tmp_path, patch, "--numstat")
    try:
        diffs = parse_diffs(patch, "x.patch")
    except BadPatchError:
        return
    if diffs:
        assert done.returncode == 0, (patch, done.stderr)
        assert len(done.stdout.splitlines()) == len(diffs)
