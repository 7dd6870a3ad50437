"""Our applier against git's and dulwich's: the same verdict and the same bytes.

Where the two disagree, git is right: dulwich looks at one place only. Run more cases with
`ORACLE_EXAMPLES=2000 pytest tests/patches/test_oracles.py`.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.patches.cases import (
    Case,
    apply_with_git,
    cases,
    git_joins_lines,
    reject_with_git,
    split,
)
from tqconvert.patches.diff import FileDiff, parse_diffs
from tqconvert.patches.place import Placement, place

EXAMPLES = int(os.environ.get("ORACLE_EXAMPLES", "25"))
oracle = settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip


def placed(case: Case) -> tuple[FileDiff, Placement]:
    """What our applier makes of a case."""
    (diff,) = parse_diffs(case.diff("f"), "f.patch")
    return diff, place(case.target, diff)


@given(st.lists(cases().filter(lambda c: c.diff("f")), min_size=1, max_size=24))
@oracle
def test_hunks_go_where_git_puts_them(tmp_path: Path, many: list[Case]) -> None:
    """The same bytes, offsets and number of hunks without a place, forward and in reverse."""
    named = {f"f{n}": case for n, case in enumerate(many)}
    targets = {name: case.target for name, case in named.items()}
    git = reject_with_git(tmp_path, targets, b"".join(c.diff(n) for n, c in named.items()))
    for name, case in named.items():
        diff, ours = placed(case)
        said = git[name]
        if git_joins_lines(diff) and said.data != ours.data:
            continue
        assert (ours.data, len(ours.failed)) == (said.data, said.rejected), case
        if all(h.old for h in diff.hunks):
            assert {n: o for n, o in enumerate(ours.offsets) if o} == said.offsets, case


@given(cases().filter(lambda c: c.lie == 0 and c.diff("f")))
@settings(max_examples=EXAMPLES * 8, deadline=None)
def test_what_dulwich_puts_in_place_we_put_there(case: Case) -> None:
    """A diff that goes on without offset gives dulwich's bytes.

    Otherwise dulwich gives none, for it searches nowhere, or it passes over an anchor: a hunk without
    context below belongs at the file's end, one at line 1 at its start.
    """
    patch = pytest.importorskip("dulwich.patch", reason="dulwich: not installed (extra `dev`)")
    diff, ours = placed(case)
    (parsed,) = patch.parse_unified_diff(case.diff("f"))
    lines = patch.apply_patch_hunks(parsed, split(case.target))
    theirs = None if lines is None else b"".join(lines)
    if ours.ok and not any(ours.offsets) and all(h.old for h in diff.hunks):
        assert theirs == ours.data
    elif not ours.ok and theirs is not None:
        assert any(not h.trailing or h.old_start <= 1 for h in diff.hunks)


@given(cases().filter(lambda c: c.diff("f")))
@settings(max_examples=EXAMPLES * 8, deadline=None)
def test_on_and_off_again_is_nothing(case: Case) -> None:
    """What goes on without offset comes off to the byte."""
    diff, ours = placed(case)
    if ours.ok and not any(ours.offsets) and all(h.old for h in diff.hunks):
        back = place(ours.data, diff.reversed())
        assert back.ok
        assert back.data == case.target


def test_a_last_line_without_end_is_not_joined_with_the_next(tmp_path: Path) -> None:
    """The one place where git's bytes are not wanted: it glues two lines together."""
    case = Case(b"a\nb\nc", b"a\nnew\nb\nc", b"a\nb\nc\nd\ne\n", 3, 0)
    git = reject_with_git(tmp_path, {"f": case.target}, case.diff("f"))["f"]
    assert git.data == b"a\nnew\nb\ncd\ne\n"
    assert placed(case)[1].failed == (0,)


def test_an_unended_file_takes_the_hunk_at_its_end(tmp_path: Path) -> None:
    """With and without a line end of its own, as git does."""
    for target in (b"x\na\nb\nc", b"a\nb\nc\n"):
        case = Case(b"a\nb\nc", b"a\nb\nnew", target, 1, 0)
        (tmp_path / "f").write_bytes(target)
        done = apply_with_git(tmp_path, case.diff("f"), "--check")
        assert placed(case)[1].ok == (done.returncode == 0), done.stderr
