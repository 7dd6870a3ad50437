"""The scenarios of a patch stack, as StGit's tests list them, for this queue: each ends in an undo."""

from pathlib import Path

import pytest

from tests.patches.releases import ENV, Release, git
from tests.patches.test_rebase import CLASH, MOVED, OPS, new_base, rebased, resolve
from tests.patches.test_refresh import GGML_H, add_after
from tests.patches.trees import (
    OURS,
    files_of,
    litter,
    put_on,
    queue_of,
    repository,
    state_of,
    trailers,
)
from tqconvert.errors import RefusedError
from tqconvert.patches.change.abort import abort
from tqconvert.patches.change.edit import edit
from tqconvert.patches.change.export import check_export, export
from tqconvert.patches.change.import_patch import Wish, import_patch
from tqconvert.patches.change.rebase_end import go_on, skip
from tqconvert.patches.change.refresh import refresh
from tqconvert.patches.change.unapply import unapply

SERVER = "llm/server.go"


class Stack:
    """One tree with its patches, and how it was in the beginning."""

    def __init__(self, release: Release, ours: Path) -> None:
        self.release, self.root, self.ours = release, release.ollama, ours
        self.start = (state_of(self.root), files_of(ours))

    def push(self, to: str | None = None) -> list[str]:
        """Apply, all or up to a patch; the names that are on then."""
        put_on(self.root, self.ours, **({"to": to} if to else {}))
        return self.on

    @property
    def on(self) -> list[str]:
        """Names of applied patches."""
        return trailers(self.root, len(OURS))

    def refresh(self, name: str | None = None) -> tuple[str, ...]:
        """Refresh; the patches that changed."""
        queue = queue_of(self.root, self.ours)
        return refresh(repository(self.root), queue, self.ours, name).patches

    def undone(self) -> bool:
        """Take everything off; whether tree and branches are as in the beginning, without litter."""
        unapply(repository(self.root))
        return state_of(self.root) == self.start[0] and litter(self.root) == []


@pytest.fixture
def stack(release: Release, ours: Path) -> Stack:
    """A stack with nothing on it."""
    return Stack(release, ours)


def test_push_all_and_pop_all(stack: Stack) -> None:
    """Everything on, everything off, on again: the same commits."""
    assert stack.push() == list(OURS)
    head = git(stack.root, "rev-parse", "HEAD")
    assert stack.undone()
    stack.push()
    assert git(stack.root, "rev-parse", "HEAD") == head
    assert stack.undone()


def test_push_one_at_a_time(stack: Stack) -> None:
    """Each --to puts one more on; in the end it is what push all makes."""
    for number, name in ((2, "ids"), (3, "ops"), (4, "new-files"), (5, "server")):
        assert stack.push(name) == list(OURS[:number])
    assert put_on(stack.root, stack.ours).plan.done
    assert stack.undone()


def test_pop_to_a_name(stack: Stack) -> None:
    """--to an earlier patch takes the later ones off, and their files."""
    stack.push()
    assert stack.push("ids") == ["new-files", "ids"]
    assert not (stack.root / "kvcache/turbo.go").exists()
    assert stack.undone()


def test_push_twice(stack: Stack) -> None:
    """The second says that it is done."""
    stack.push()
    assert put_on(stack.root, stack.ours).plan.done
    assert stack.undone()


def test_push_after_a_change_of_the_series(stack: Stack) -> None:
    """A patch that left the series leaves the tree; one that came back is back."""
    stack.push()
    series = stack.ours / "llama.cpp/series"
    whole = series.read_bytes()
    series.write_bytes(whole.replace(b"ops.patch [ggml]\n", b""))
    assert stack.push() == ["new-files", "ids", "new-files", "server"]
    series.write_bytes(whole)
    assert stack.push() == list(OURS)
    assert stack.undone()


def test_refresh_the_top(stack: Stack) -> None:
    """And undo: the old commits are in a ref, `git` brings the file back, apply the tree."""
    stack.push()
    top = git(stack.root, "rev-parse", "HEAD")
    add_after(stack.root / SERVER, b"int server_30(void);", b"int mine(void);")
    assert stack.refresh() == ("server",)
    kept = git(stack.root, "for-each-ref", "--format=%(objectname)", "refs/tqconvert/orig").split()
    assert top in kept
    (stack.ours / "legacy/ollama-go/server.patch").write_bytes(
        stack.start[1]["legacy/ollama-go/server.patch"][0]  # type: ignore[index]
    )
    stack.push()
    assert git(stack.root, "rev-parse", "HEAD") == top
    assert stack.undone()


def test_refresh_a_lower_one(stack: Stack) -> None:
    """The later ones are on again; unapply undoes all of it in the tree."""
    stack.push()
    add_after(stack.root / GGML_H, b"int ggml_h_40(void);", b"int mine(void);")
    assert stack.refresh("ids") == ("ids",)
    assert stack.on == list(OURS)
    assert stack.undone()


def test_refresh_with_a_conflict(stack: Stack) -> None:
    """A later patch that would not go on: nothing changes; abort leaves the edit, unapply the rest."""
    stack.push()
    edit(repository(stack.root), "ids")
    path = stack.root / "ml/backend/ggml/ggml" / OPS.removeprefix("ggml/")
    path.write_bytes(path.read_bytes().replace(b"int ops_150(void);", b"int other(void);"))
    assert stack.refresh() == ()
    assert abort(repository(stack.root), ENV).backup
    assert stack.on == list(OURS)
    assert stack.undone()
    assert files_of(stack.ours) == stack.start[1]


def test_import_then_export(stack: Stack, tmp_path: Path) -> None:
    """What was imported and applied is exported without a difference; taken out it is gone."""
    source = tmp_path / "x.patch"
    add_after(stack.root / SERVER, b"int server_40(void);", b"int mine(void);")
    source.write_bytes(b"Subject: Mine\n\n" + git(stack.root, "diff").encode() + b"\n")
    git(stack.root, "checkout", "-q", ".")
    queue = queue_of(stack.root, stack.ours)
    wish = Wish(None, "the test wants it", "feature", None)
    done = import_patch(repository(stack.root), queue, stack.ours, str(source), wish)
    assert trailers(stack.root, 1) == []
    put_on(stack.root, stack.ours)
    assert trailers(stack.root, 6) == [*OURS, "mine"]
    queue = queue_of(stack.root, stack.ours)
    assert check_export(repository(stack.root), queue).drift == ()
    assert export(repository(stack.root), queue, stack.ours).files == ()
    done.path.unlink()
    done.series.write_bytes(b"server.patch\n")
    assert stack.push() == list(OURS)
    assert stack.undone()


def test_edit_and_abort(stack: Stack) -> None:
    """Out again without a change."""
    stack.push()
    edit(repository(stack.root), "ids")
    edit(repository(stack.root), "ops")
    assert stack.on == ["new-files", "ids", "ops"]
    assert abort(repository(stack.root), ENV).what == "left the edit"
    assert stack.undone()


def test_a_dirty_tree(stack: Stack) -> None:
    """A change elsewhere stays through push, pop, refresh of a patch, and undo."""
    path = stack.root / "main.go"
    path.write_bytes(b"package main // mine\n")
    stack.start = (state_of(stack.root), stack.start[1])
    stack.push()
    stack.push("ids")
    stack.push()
    assert stack.undone()
    (stack.root / SERVER).write_bytes(b"mine\n")
    with pytest.raises(RefusedError, match="changed and not committed"):
        stack.push()


def llama_start(release: Release, ours: Path) -> tuple[object, object]:
    """Push on the llama.cpp tree; its state."""
    put_on(release.llama, ours, release.ollama)
    return state_of(release.llama), files_of(ours)


def back_on(release: Release, name: object) -> None:
    """Check out the branch that was there."""
    git(release.llama, "checkout", "-q", str(name).removeprefix("refs/heads/"))


@pytest.mark.parametrize("case", ["clean", "offset"])
def test_rebase_without_a_conflict(release: Release, ours: Path, case: str) -> None:
    """The branch of the new base beside the old one; undo is to delete it."""
    before = llama_start(release, ours)
    top = git(release.llama, "symbolic-ref", "HEAD")
    new_base(release, *([MOVED] if case == "offset" else []))
    back_on(release, top)
    done = rebased(release, ours)
    assert done.head
    git(release.llama, "branch", "-q", "-D", done.plan.ref.removeprefix("refs/heads/"))
    git(release.llama, "branch", "-q", "-D", "next")
    assert (state_of(release.llama), files_of(ours)) == before


@pytest.mark.parametrize("case", ["continue", "skip", "abort"])
def test_rebase_with_a_conflict(release: Release, ours: Path, case: str) -> None:
    """Resolved, left out or given up; the old branch and its patches are there in each case."""
    before = llama_start(release, ours)
    top = git(release.llama, "symbolic-ref", "HEAD")
    new_base(release, CLASH)
    back_on(release, top)
    done = rebased(release, ours)
    assert done.waiting == "Add ops"
    repo = repository(release.llama)
    if case == "continue":
        resolve(done.folder, OPS, b"int ops_changed(void);\nint ops_turbo(void);\n")
        assert go_on(repo, ENV).files
    elif case == "skip":
        assert skip(repo, ENV, "not there any more").dropped
    else:
        abort(repo, ENV)
    if case != "abort":
        git(release.llama, "branch", "-q", "-D", done.plan.ref.removeprefix("refs/heads/"))
    git(release.llama, "branch", "-q", "-D", "next")
    state, patches = before
    assert state_of(release.llama) == state
    assert case == "continue" or files_of(ours) == patches
    assert put_on(release.llama, ours, release.ollama).plan.done
