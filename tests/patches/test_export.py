"""Patches out of the tree and into the series: export, its check for drift, import."""

from pathlib import Path

import pytest

from tests.patches.releases import Release, git
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
from tqconvert.errors import BadPatchError, NotFoundError, RefusedError, UsageError
from tqconvert.patches.change.export import EDITED, check_export, export
from tqconvert.patches.change.import_patch import Imported, Wish, import_patch

WISH = Wish("mine", "the tests want it", "feature", None)


def amended(release: Release, ours: Path) -> None:
    """The second patch edited with git alone, the later ones rebased onto it."""
    root = release.ollama
    put_on(root, ours)
    git(root, "checkout", "-q", "HEAD~3")
    add_after(root / GGML_H, b"int ggml_h_40(void);", b"int mine(void);")
    git(root, "commit", "-q", "-a", "--amend", "--no-edit")
    top = git(root, "rev-parse", "HEAD")
    branch = git(root, "for-each-ref", "--format=%(refname:short)", "refs/heads/tq")
    git(root, "rebase", "-q", "--onto", top, f"{branch}~3", branch)


def test_a_clean_tree_has_no_drift(release: Release, ours: Path) -> None:
    """All patches are compared; nothing is found, nothing written."""
    put_on(release.ollama, ours)
    before = files_of(ours)
    queue = queue_of(release.ollama, ours)
    done = check_export(repository(release.ollama), queue)
    assert (done.patches, done.drift) == (OURS, ())
    done = export(repository(release.ollama), queue, ours)
    assert (done.drift, done.files) == ((), ())
    assert files_of(ours) == before


def test_commits_edited_with_git_are_exported(release: Release, ours: Path) -> None:
    """`git rebase` and --amend on our branch: the check names the patch, export writes it alone."""
    root = release.ollama
    amended(release, ours)
    before = files_of(ours)
    done = check_export(repository(root), queue_of(root, ours))
    assert [(d.name, d.what) for d in done.drift] == [("ids", EDITED)]
    assert files_of(ours) == before
    with pytest.raises(RefusedError, match="not as tqconvert wrote"):
        put_on(root, ours)
    tree = files_of(root)
    made = export(repository(root), queue_of(root, ours), ours)
    after = files_of(ours)
    assert {p for p in after if after[p] != before[p]} == {"llama.cpp/ids.patch"}
    assert [p.name for p in made.files] == ["ids.patch"]
    assert files_of(root) == tree
    assert trailers(root, 5) == list(OURS)
    assert check_export(repository(root), queue_of(root, ours)).drift == ()
    assert put_on(root, ours).plan.done
    assert litter(root) == []


def test_a_changed_patch_file_is_drift_too(release: Release, ours: Path) -> None:
    """A file that is not what was applied: named by the check, refused by export, taken by apply."""
    root = release.ollama
    put_on(root, ours)
    path = ours / "legacy/ollama-go/server.patch"
    path.write_bytes(path.read_bytes().replace(b"int server_types", b"int server_kinds"))
    done = check_export(repository(root), queue_of(root, ours))
    assert [d.name for d in done.drift] == ["server"]
    with pytest.raises(RefusedError, match="its file was changed"):
        export(repository(root), queue_of(root, ours), ours)
    put_on(root, ours)
    assert b"int server_kinds" in (root / "llm/server.go").read_bytes()
    assert check_export(repository(root), queue_of(root, ours)).drift == ()


def imported(tree: Path, ours: Path, source: object, wish: Wish = WISH) -> Imported:
    """Import into the series."""
    return import_patch(repository(tree), queue_of(tree, ours), ours, str(source), wish)


def test_a_commit_becomes_a_patch(release: Release, ours: Path) -> None:
    """From a commit: under our header, by the paths of llama.cpp, at the end of its series; then applied."""
    root = release.ollama
    git(root, "checkout", "-q", "-b", "work")
    add_after(root / GGML_H, b"int ggml_h_50(void);", b"int mine(void);")
    git(root, "commit", "-q", "-am", "Say mine\n\nBecause it is.")
    commit = git(root, "rev-parse", "HEAD")
    git(root, "checkout", "-q", "main")
    before = state_of(root)
    done = imported(root, ours, "work", Wish(None, None, "build", None))
    assert state_of(root) == before
    text = done.path.read_text()
    assert done.path == ours / "llama.cpp/say-mine.patch"
    assert text.startswith(f"Subject: Say mine\nTQ-Id: tq-all-say-mine\nOrigin: commit {commit}\n")
    assert "\nWhy-Kept: build\nWhy: Because it is.\n" in text
    assert "\ndiff --git a/ggml/include/ggml.h b/ggml/include/ggml.h\nindex " in text
    assert done.series.read_text().splitlines()[-1] == "say-mine.patch [ggml]"
    put_on(root, ours)
    assert trailers(root, 6)[-3:] == ["say-mine", "new-files", "server"]
    assert check_export(repository(root), queue_of(root, ours)).drift == ()


def test_a_mail_becomes_a_patch_after_another(release: Release, ours: Path, tmp_path: Path) -> None:
    """From a file, after a patch: author and digest of the source are in the header; no fuzz, offsets told."""
    llama = release.llama
    path = llama / "ggml/src/ggml-cpu/ops.cpp"
    add_after(path, b"int ops_20(void);", b"int mine(void);")
    git(llama, "commit", "-q", "-am", "ops: mine")
    git(llama, "format-patch", "-q", "-1", "-o", str(tmp_path))
    git(llama, "reset", "-q", "--hard", "HEAD~")
    (source,) = tmp_path.glob("0001-*")
    source.write_bytes(source.read_bytes().replace(b"@@ -19,6 +19,7 @@", b"@@ -17,6 +17,7 @@"))
    done = imported(llama, ours, source, WISH._replace(after="ids"))
    assert done.offsets == 1
    assert "\nOrigin: vendor, A U Thor <author@example.com>, 0001-" in done.path.read_text()
    assert done.series.read_text().splitlines()[:2] == [
        "ids-new.patch | ids.patch [ggml]", "mine.patch [ggml]",
    ]  # fmt: skip
    put_on(llama, ours)
    assert trailers(llama, 5) == ["new-files", "ids", "mine", "ops", "llama"]


def test_import_refuses_what_it_cannot_check(release: Release, ours: Path, tmp_path: Path) -> None:
    """Conflicts, CRLF, a name that is taken, nothing that says why, no such source: nothing is written."""
    root = release.ollama
    before = files_of(ours)
    patch = ours / "legacy/ollama-go/server.patch"
    source = tmp_path / "x.patch"
    source.write_bytes(patch.read_bytes().replace(b"int server_19(", b"int server_nineteen("))
    done = imported(root, ours, source)
    assert [(c.step.name, c.files[0][1]) for c in done.conflicts] == [("mine", (1,))]
    source.write_bytes(patch.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(BadPatchError, match="CRLF"):
        imported(root, ours, source)
    with pytest.raises(NotFoundError, match="no such commit"):
        imported(root, ours, "nothing")
    source.write_bytes(patch.read_bytes())
    with pytest.raises(RefusedError, match="there already"):
        imported(root, ours, source, WISH._replace(name="ops"))
    add_after(root / "kvcache/cache.go", b"int cache_5(void);", b"int mine(void);")
    source.write_bytes(git(root, "diff").encode() + b"\n")
    with pytest.raises(UsageError, match="what the patch is for"):
        imported(root, ours, source, WISH._replace(why=None))
    assert files_of(ours) == before
    assert litter(root) == []
