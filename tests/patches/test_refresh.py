"""Edits go into the patch that they belong to; every other patch keeps its bytes."""

from pathlib import Path

import pytest

from tests.patches.releases import ENV, Release, git
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
from tqconvert.errors import NotFoundError, RefusedError
from tqconvert.patches.change.abort import abort
from tqconvert.patches.change.edit import edit
from tqconvert.patches.change.refresh import Refreshed, refresh
from tqconvert.patches.change.unapply import unapply

OPS = "ml/backend/ggml/ggml/src/ggml-cpu/ops.cpp"
GGML_H = "ml/backend/ggml/ggml/include/ggml.h"


def add_after(path: Path, line: bytes, new: bytes) -> None:
    """Put a line behind another one."""
    data = path.read_bytes()
    assert line + b"\n" in data, (path, line)
    path.write_bytes(data.replace(line + b"\n", line + b"\n" + new + b"\n"))


def refreshed(release: Release, ours: Path, name: str | None = None) -> Refreshed:
    """Refresh the release's Ollama."""
    return refresh(repository(release.ollama), queue_of(release.ollama, ours), ours, name)


def test_an_edit_goes_into_the_last_patch(release: Release, ours: Path) -> None:
    """Its file gets a new diff under the old header, in git's full form; the others keep their bytes."""
    root = release.ollama
    put_on(root, ours)
    before = files_of(ours)
    add_after(root / "llm/server.go", b"int server_30(void);", b"int mine(void);")
    done = refreshed(release, ours)
    assert done.patches == ("server",)
    after = files_of(ours)
    assert {p for p in after if after[p] != before.get(p)} == {"legacy/ollama-go/server.patch"}
    text = after["legacy/ollama-go/server.patch"][0].decode()
    head, _, diff = text.partition("diff --git ")
    assert head == before["legacy/ollama-go/server.patch"][0].decode().partition("diff --git ")[0]
    assert "\n+int mine(void);\n" in diff
    assert len(diff.splitlines()[1].split()[1]) == 82, "full ids"
    context = [row for row in diff.splitlines() if row.startswith(" ")]
    assert len(context) == 4, "one line at each side of two places"
    assert git(root, "status", "--porcelain") == ""
    assert trailers(root, 5) == list(OURS)
    assert litter(root) == []
    assert put_on(root, ours).plan.done, "the new series is what is applied"


def test_an_edit_goes_into_a_patch_below(release: Release, ours: Path) -> None:
    """With a name: later patches are put on again, with the same text and new commits."""
    root = release.ollama
    old = put_on(root, ours).head
    before = files_of(ours)
    add_after(root / GGML_H, b"int ggml_h_40(void);", b"int mine(void);")
    assert refreshed(release, ours, "ids").patches == ("ids",)
    after = files_of(ours)
    assert {p for p in after if after[p] != before[p]} == {"llama.cpp/ids.patch"}
    assert b"a/ggml/include/ggml.h" in after["llama.cpp/ids.patch"][0], "paths as in llama.cpp"
    assert git(root, "rev-parse", "HEAD~4^{tree}") == git(
        root, "rev-parse", f"{old.oid}~4^{{tree}}"
    )
    assert b"int mine(void);" in git(root, "show", f"HEAD~3:{GGML_H}").encode()
    assert put_on(root, ours).plan.done


def test_nothing_to_refresh_changes_nothing(release: Release, ours: Path) -> None:
    """No edit: the same HEAD, no file written."""
    head = put_on(release.ollama, ours).head
    before = files_of(ours)
    done = refreshed(release, ours)
    assert (done.head, done.patches) == (head, ())
    assert files_of(ours) == before


def test_fixup_commits_go_where_they_say(release: Release, ours: Path) -> None:
    """Two `fixup!` commits for two patches and a change that is not committed, in one go."""
    root = release.ollama
    put_on(root, ours)
    add_after(root / GGML_H, b"int ggml_h_40(void);", b"int one(void);")
    git(root, "commit", "-qam", "fixup! Add ids")
    add_after(root / OPS, b"int ops_10(void);", b"int two(void);")
    git(root, "commit", "-qam", "fixup! Add ops")
    add_after(root / "llm/server.go", b"int server_30(void);", b"int three(void);")
    files = files_of(root)
    assert refreshed(release, ours).patches == ("ids", "ops", "server")
    assert files_of(root) == files
    assert trailers(root, 5) == list(OURS)
    assert put_on(root, ours).plan.done


def test_new_and_removed_files(release: Release, ours: Path) -> None:
    """A file that was `git add`ed becomes part of the patch; removed again it leaves it."""
    root = release.ollama
    put_on(root, ours)
    (root / "llm/extra.go").write_bytes(b"package llm\n")
    git(root, "add", "llm/extra.go")
    refreshed(release, ours)
    patch = ours / "legacy/ollama-go/server.patch"
    assert b"new file mode 100644\n" in patch.read_bytes()
    assert git(root, "status", "--porcelain") == ""
    (root / "llm/extra.go").unlink()
    refreshed(release, ours)
    assert b"extra.go" not in patch.read_bytes()
    assert put_on(root, ours).plan.done


def test_new_files_are_written_back_as_files(release: Release, ours: Path) -> None:
    """An edit of a file of ours goes into `files/`, whatever patch is named; the rest of it into that."""
    root = release.ollama
    put_on(root, ours)
    (root / "ml/backend/ggml/ggml/src/ggml-turbo.c").write_bytes(b"int turbo(int);\n")
    (root / "kvcache/turbo.go").write_bytes(b"package kvcache // mine\n")
    add_after(root / "llm/server.go", b"int server_30(void);", b"int mine(void);")
    before = files_of(ours)
    assert refreshed(release, ours).patches == ("new-files", "new-files", "server")
    after = files_of(ours)
    assert {p for p in after if after[p] != before[p]} == {
        "files/ggml/src/ggml-turbo.c", "legacy/files/kvcache/turbo.go",
        "legacy/ollama-go/server.patch",
    }  # fmt: skip
    assert after["legacy/files/kvcache/turbo.go"][0] == b"package kvcache // mine\n"
    assert git(root, "status", "--porcelain") == ""
    assert put_on(root, ours).plan.done


def test_an_edit_that_later_patches_meet_is_refused(release: Release, ours: Path) -> None:
    """A line that a later patch wrote cannot go below it: refused, everything as it was."""
    root = release.ollama
    put_on(root, ours)
    path = root / "llm/server.go"
    path.write_bytes(path.read_bytes().replace(b"int server_types(void);", b"int other(void);"))
    before, patches = state_of(root), files_of(ours)
    with pytest.raises(
        RefusedError, match=r"later patches change the same lines|not a file of llama"
    ):
        refreshed(release, ours, "ops")
    assert (state_of(root), files_of(ours)) == (before, patches)


def test_a_refresh_that_breaks_a_later_patch_lists_it(release: Release, ours: Path) -> None:
    """In `edit`, a change of a line that a later patch needs: the conflict is told, nothing changes."""
    root = release.ollama
    put_on(root, ours)
    edit(repository(root), "ids")
    path = root / OPS
    path.write_bytes(path.read_bytes().replace(b"int ops_150(void);", b"int ops_other(void);"))
    before, patches = state_of(root), files_of(ours)
    done = refreshed(release, ours)
    assert [(c.step.name, c.files) for c in done.conflicts] == [("ops", ((OPS, (1,), None),))]
    assert (state_of(root), files_of(ours)) == (before, patches)


def test_edit_and_refresh(release: Release, ours: Path) -> None:
    """Editing checks a patch out on a branch of its own; refresh comes back to the whole series."""
    root = release.ollama
    top = put_on(root, ours).head
    done = edit(repository(root), "ids")
    assert (done.patch, done.above) == ("ids", 3)
    assert done.head.name == f"{top.name}-edit"
    assert trailers(root, 5) == ["new-files", "ids"]
    add_after(root / GGML_H, b"int id(void);", b"int mine(void);")
    made = refreshed(release, ours)
    assert (made.patches, made.head.ref) == (("ids",), top.ref)
    assert trailers(root, 5) == list(OURS)
    assert "-edit" not in git(root, "branch")
    unapply(repository(root))
    assert git(root, "symbolic-ref", "--short", "HEAD") == "main"
    with pytest.raises(RefusedError, match="no patches"):
        edit(repository(root), "ids")


def test_edit_and_abort(release: Release, ours: Path) -> None:
    """Aborting leaves the edit; what was done in it is in a ref."""
    root = release.ollama
    put_on(root, ours)
    before = state_of(root)
    edit(repository(root), "ids")
    assert abort(repository(root), ENV).backup is None
    assert state_of(root) == before
    edit(repository(root), "ids")
    add_after(root / GGML_H, b"int id(void);", b"int mine(void);")
    done = abort(repository(root), ENV)
    assert state_of(root) == before
    assert done.backup
    assert "int mine(void);" in git(root, "show", f"{done.backup}:{GGML_H}")
    assert abort(repository(root), ENV).what is None


def test_edit_and_apply_or_unapply(release: Release, ours: Path) -> None:
    """From an edit without changes apply goes back to the top, unapply to the base."""
    root = release.ollama
    base = state_of(root)
    put_on(root, ours)
    before = state_of(root)
    edit(repository(root), "ops")
    put_on(root, ours)
    assert state_of(root) == before
    edit(repository(root), "ops")
    unapply(repository(root))
    assert state_of(root) == base
    with pytest.raises(NotFoundError):
        put_on(root, ours)
        edit(repository(root), "nothing")


def test_ollamas_own_patches_are_not_refreshed(release: Release, ours: Path) -> None:
    """On a llama.cpp tree an edit for one of the 8 is refused, as is a changed patch file."""
    llama = release.llama
    put_on(llama, ours, release.ollama)
    queue = queue_of(llama, ours, release.ollama)
    add_after(llama / "src/llama-vocab.cpp", b"int vocab_pre(void);", b"int mine(void);")
    with pytest.raises(RefusedError, match="Ollama's own"):
        refresh(repository(llama), queue, ours, release.patches[1].stem)
    path = ours / "llama.cpp/ops.patch"
    path.write_bytes(path.read_bytes().replace(b"ops_turbo", b"ops_turbo2"))
    queue = queue_of(llama, ours, release.ollama)
    with pytest.raises(RefusedError, match="changed since it was applied"):
        refresh(repository(llama), queue, ours)
