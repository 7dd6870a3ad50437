"""Whole patches and series on made-up trees: the walk against `git apply --cached`, in git's own index."""

import os
from collections.abc import Mapping
from pathlib import Path

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.patches.cases import apply_with_git, edited, ended, git_joins_lines, hunks, words
from tests.patches.releases import git
from tqconvert.patches.diff import parse_diffs
from tqconvert.patches.files import Files, mapping_reader
from tqconvert.patches.layout import Plain
from tqconvert.patches.objects import blob_id
from tqconvert.patches.queue import Layer, Origin, Step
from tqconvert.patches.series import Patch
from tqconvert.patches.walk import Fit, apply_steps, reverse_steps

EXAMPLES = int(os.environ.get("ORACLE_EXAMPLES", "15"))
oracle = settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
Tree = dict[str, bytes]
NAMES = ["a.c", "b.c", "d/e.h", "space in name", "\u00e4\u4e2d.txt"]


def git_path(path: str, prefix: str = "") -> bytes:
    """The path as git writes it: quoted where it is not ASCII."""
    raw = os.fsencode(prefix + path)
    if raw.isascii():
        return raw
    return b'"' + b"".join(b"\\%03o" % c if c > 126 else bytes([c]) for c in raw) + b'"'


@st.composite
def changes(draw: st.DrawFn, tree: Tree) -> tuple[bytes, Tree]:
    """A patch of one to three files and the tree that it makes."""
    after, out = dict(tree), []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)):
        a, b = git_path(name, "a/"), git_path(name, "b/")
        tab = b"\t" if " " in name else b""
        if name not in tree:
            new = ended(draw, draw(st.lists(words, max_size=4)))
            out.append(b"diff --git %s %s\nnew file mode 100644\n" % (a, b))
            if new:
                out.append(b"--- /dev/null\n+++ %s%s\n" % (b, tab) + hunks(b"", new, 3))
            after[name] = new
            continue
        old = tree[name]
        kind = draw(st.sampled_from(["edit", "edit", "delete", "rename", "mode"]))
        new = draw(edited(old, 2))
        body = hunks(old, new, draw(st.sampled_from([1, 3])))
        sides = b"--- %s%s\n+++ %s%s\n" % (a, tab, b, tab)
        if kind == "delete":
            out.append(b"diff --git %s %s\ndeleted file mode 100644\n" % (a, b))
            if old:
                out.append(b"--- %s%s\n+++ /dev/null\n" % (a, tab) + hunks(old, b"", 3))
            del after[name]
        elif kind == "rename" and " " not in name and "moved.c" not in after:
            to = git_path("moved.c", "b/")
            out.append(b"diff --git %s %s\nsimilarity index 50%%\nrename from %s\nrename to moved.c\n"
                       % (a, to, git_path(name)))  # fmt: skip
            if body:
                out.append(b"--- %s\n+++ %s\n" % (a, to) + body)
            after["moved.c"] = new
            del after[name]
        elif kind == "mode":
            out.append(b"diff --git %s %s\nold mode 100644\nnew mode 100755\n" % (a, b))
            out.append(sides + body if body else b"")
            after[name] = new
        elif body:
            out.append(b"diff --git %s %s\n" % (a, b) + sides + body)
            after[name] = new
    return b"".join(out), after


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A few small files."""
    return {n: ended(draw, draw(st.lists(words, max_size=14)))
            for n in draw(st.lists(st.sampled_from(NAMES), min_size=2, unique=True))}  # fmt: skip


@st.composite
def problems(draw: st.DrawFn, most: int) -> tuple[list[bytes], Tree]:
    """A series of patches, stacked, and a tree like the one that it was made for."""
    start = tree = draw(trees())
    series = []
    for _ in range(draw(st.integers(1, most))):
        patch, tree = draw(changes(tree))
        if patch:
            assume(not any(git_joins_lines(d) for d in parse_diffs(patch, "made")))
            series.append(patch)
    target = {n: draw(edited(d, draw(st.sampled_from([0, 0, 2])))) for n, d in start.items()}
    if draw(st.integers(0, 4)) == 0:
        target.pop(draw(st.sampled_from(sorted(target))))
    if draw(st.integers(0, 4)) == 0:
        target["moved.c"] = b"x\n"
    return series, target


class Repository:
    """git with an index of its own, filled with a tree; patches are put on it one after the other."""

    def __init__(self, folder: Path, tree: Mapping[str, bytes]) -> None:
        if not (folder / ".git").exists():
            git(folder, "init", "-q")
        self.folder = folder
        self.env = {"GIT_INDEX_FILE": str(folder / "index")}
        (folder / "index").unlink(missing_ok=True)
        (folder / "blobs").mkdir(exist_ok=True)
        for n, data in enumerate(tree.values()):
            (folder / "blobs" / str(n)).write_bytes(data)
        if tree:
            names = [f"blobs/{n}" for n in range(len(tree))]
            git(folder, "hash-object", "-w", *names)
            info = [f"100644,{blob_id(d)},{n}" for n, d in tree.items()]
            arguments = [x for i in info for x in ("--cacheinfo", i)]
            git(folder, "update-index", "--add", *arguments, env=self.env)

    def apply(self, patch: bytes, *options: str) -> bool:
        """Whether git took the patch."""
        return (
            apply_with_git(self.folder, patch, "--cached", *options, env=self.env).returncode == 0
        )

    def tree(self) -> dict[str, tuple[str, str]]:
        """Path -> mode and id."""
        rows = git(self.folder, "ls-files", "-s", "-z", env=self.env).split("\0")
        return {r.partition("\t")[2]: (r[:6], r[7:47]) for r in rows if r}


def steps(series: list[bytes]) -> list[Step]:
    """The series as a queue."""
    return [
        Step((Patch(f"{n}.patch", p),), Origin.OURS, Layer.OLLAMA) for n, p in enumerate(series)
    ]


def ids(files: Files, names: list[str]) -> dict[str, str]:
    """Path -> id of what is there."""
    return {n: files.id(n) for n in names if files.get(n) is not None}


@given(problems(4))
@oracle
def test_a_series_ends_where_git_ends(tmp_path: Path, problem: tuple[list[bytes], Tree]) -> None:
    """Per patch the same verdict, at the end the same tree; a patch that conflicts is passed over."""
    series, target = problem
    files, repository = Files(mapping_reader(target)), Repository(tmp_path, target)
    fits = apply_steps(files, steps(series), Plain())
    assert [f.ok for f in fits] == [repository.apply(p) for p in series]
    there = repository.tree()
    assert ids(files, [*NAMES, "moved.c"]) == {n: i for n, (_, i) in there.items()}
    modes = {f.path: f.diff.new_mode for s in fits if s.ok for f in s.files if f.diff.new_mode}
    for path, mode in modes.items():
        assert path not in there or there[path][0] == mode or mode == "100644"


@given(problems(3), st.randoms(use_true_random=False))
@oracle
def test_series_in_another_order(
    tmp_path: Path, problem: tuple[list[bytes], Tree], r: object
) -> None:
    """What fails and what goes on in any order is what git says."""
    series, target = problem
    r.shuffle(series)  # type: ignore[attr-defined]
    files, repository = Files(mapping_reader(target)), Repository(tmp_path, target)
    fits = apply_steps(files, steps(series), Plain())
    assert [f.ok for f in fits] == [repository.apply(p) for p in series]
    assert ids(files, [*NAMES, "moved.c"]) == {n: i for n, (_, i) in repository.tree().items()}


@given(problems(4))
@settings(max_examples=EXAMPLES * 4, deadline=None)
def test_a_clean_series_comes_off_to_the_byte(problem: tuple[list[bytes], Tree]) -> None:
    """All of it, in reverse."""
    series, target = problem
    files = Files(mapping_reader(target))
    queue = steps(series)
    fits = apply_steps(files, queue, Plain())
    if all(f.fit is Fit.CLEAN for f in fits):
        assert len(reverse_steps(files, queue, Plain())) == len(queue)
        assert files.changes() == {}
