"""Patches become commits: which, on what, and that applying again touches nothing."""

from pathlib import Path

import pytest

from tests.patches.conftest import copied
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
from tqconvert.errors import NotFoundError, RefusedError, UnknownBaseError, UsageError
from tqconvert.patches.change.apply_queue import plan_apply
from tqconvert.patches.change.repository import Blobs
from tqconvert.patches.change.unapply import unapply


def test_ours_go_onto_a_release_as_commits_of_a_branch(release: Release, ours: Path) -> None:
    """One commit a patch, named in its trailer, on `tq/TAG-SERIES`; the tree is clean."""
    base = git(release.ollama, "rev-parse", "HEAD")
    done = put_on(release.ollama, ours)
    assert done.head.name.startswith("tq/v0.99.0-")
    assert git(release.ollama, "symbolic-ref", "--short", "HEAD") == done.head.name
    assert trailers(release.ollama, 5) == list(OURS)
    assert git(release.ollama, "rev-parse", "HEAD~5") == base
    assert git(release.ollama, "status", "--porcelain") == ""
    assert b"int id(void);" in (release.ollama / "ml/backend/ggml/ggml/include/ggml.h").read_bytes()
    assert litter(release.ollama) == []


def test_applying_again_touches_nothing(release: Release, ours: Path) -> None:
    """Not a file, not the index, not a ref; exit code 0 is for that."""
    put_on(release.ollama, ours)
    before = {
        p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in release.ollama.rglob("*") if p.is_file()
    }
    done = put_on(release.ollama, ours)
    assert done.plan.done
    after = {
        p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in release.ollama.rglob("*") if p.is_file()
    }
    assert {p for p in after if after[p] != before.get(p)} <= {
        release.ollama / ".git/tqconvert/lock.guard"
    }


def test_the_same_patches_give_the_same_commits(
    templates: dict[str, Release | Path], ours: Path, tmp_path: Path
) -> None:
    """HEAD is the same in two clones, whoever applies and whenever."""
    a, b = (copied(templates["legacy"], tmp_path / name) for name in "ab")
    assert put_on(a.ollama, ours).head.oid == put_on(b.ollama, ours).head.oid


def test_ollamas_patches_become_what_git_am_makes_of_them(release: Release, ours: Path) -> None:
    """On a llama.cpp tree: authors, dates, subjects, bodies and trees of `git am`; ours follow."""
    form = "--format=%an|%ae|%at|%ai|%s|%T"
    llama = release.llama
    git(llama, "checkout", "-q", "-b", "am", release.base)
    git(llama, "am", "-q", "-3", *map(str, release.patches))
    wanted = git(llama, "log", "--reverse", form, f"{release.base}..am")
    bodies = git(llama, "log", "--reverse", "--format=%b", f"{release.base}..am")
    git(llama, "checkout", "-q", "master")
    done = put_on(llama, ours, release.ollama)
    upstream = f"{release.base}..HEAD~3"
    assert git(llama, "log", "--reverse", form, upstream) == wanted
    trailer = "%(trailers:key=TQ-Patch)"
    found = git(llama, "log", "--reverse", "--format=%b", upstream)
    for line in git(llama, "log", "--format=" + trailer, upstream).splitlines():
        found = found.replace(line, "")
    assert found.split() == bodies.split()
    assert len(done.plan.commits) == 8 + 3
    assert trailers(llama, 3) == ["new-files", "ids", "ops"]


def test_mails_keep_odd_authors_and_subjects(release: Release, ours: Path) -> None:
    """`nobody <>`, encoded names, folded subjects with brackets, as `git am` reads them."""
    path = release.patches[1]
    text = path.read_text()
    head, _, rest = text.partition("\nSubject: ")
    subject = "[PATCH 2/9] [x] vocab: a subject that is long enough to be folded\n over two lines"
    lines = head.splitlines()
    lines[1] = "From: =?UTF-8?q?J=C3=BCrgen=20=E2=9C=93?= <j@example.com>"
    lines[2] = "Date: Thu, 6 Jun 2024 23:55:47 -0730"
    path.write_text("\n".join(lines) + f"\nSubject: {subject}\n" + rest[rest.index("\n\n") + 1 :])
    other = release.patches[2]
    other.write_text(other.read_text().replace("A U Thor <author@example.com>", "nobody <>"))
    llama = release.llama
    form = "--format=%an|%ae|%ai|%s"
    git(llama, "checkout", "-q", "-b", "am", release.base)
    git(llama, "am", "-q", *map(str, release.patches))
    wanted = git(llama, "log", "--reverse", form, f"{release.base}..am")
    assert "nobody||" in wanted
    git(llama, "checkout", "-q", "master")
    put_on(llama, ours, release.ollama)
    assert git(llama, "log", "--reverse", form, f"{release.base}..HEAD~3") == wanted


def test_a_prefix_is_pushed_and_popped(release: Release, ours: Path) -> None:
    """--to goes forth and back along the series; the commits of a prefix are the same ones."""
    full = put_on(release.ollama, ours).head
    some = put_on(release.ollama, ours, to="ids").head
    assert trailers(release.ollama, 5) == ["new-files", "ids"]
    assert git(release.ollama, "rev-parse", f"{full.oid}~3") == some.oid
    assert some.ref == full.ref
    assert put_on(release.ollama, ours).head == full
    assert git(release.ollama, "status", "--porcelain") == ""


def test_what_is_in_the_tree_without_commits_is_left_in(release: Release, ours: Path) -> None:
    """Ollama's patches put on by `git am`: only ours are added."""
    git(release.llama, "checkout", "-q", "patched")
    done = put_on(release.llama, ours, release.ollama)
    assert len(done.plan.stacked.there) == 8
    assert trailers(release.llama, 4) == ["new-files", "ids", "ops"]


def test_a_modern_tree_takes_the_go_series(modern: Release, ours: Path) -> None:
    """The patches for Ollama's own files, on v0.30 and later."""
    put_on(modern.ollama, ours)
    assert trailers(modern.ollama, 2) == ["server"]


def test_taking_off_restores_branch_and_files(release: Release, ours: Path) -> None:
    """Taking off ends where apply began, our branch gone; twice is nothing to do."""
    before = state_of(release.ollama)
    put_on(release.ollama, ours)
    done = unapply(repository(release.ollama))
    assert done.patches == tuple(reversed(OURS))
    assert state_of(release.ollama) == before
    assert unapply(repository(release.ollama)).patches == ()
    assert litter(release.ollama) == []


def test_taking_off_knows_a_detached_head(release: Release, ours: Path) -> None:
    """Where no branch was checked out, none is afterwards."""
    git(release.ollama, "checkout", "-q", "--detach")
    before = state_of(release.ollama)
    put_on(release.ollama, ours)
    unapply(repository(release.ollama))
    assert state_of(release.ollama) == before


def test_the_users_own_branch_can_take_them(release: Release, ours: Path) -> None:
    """--branch with the branch that is checked out moves it forth, unapply back."""
    before = state_of(release.ollama)
    assert put_on(release.ollama, ours, branch="main").head.name == "main"
    unapply(repository(release.ollama))
    assert state_of(release.ollama) == before


@pytest.mark.parametrize("name", ["a b", "-x", "a..b", "a\ndelete refs/heads/main"])
def test_a_branch_has_a_name_of_gits(release: Release, ours: Path, name: str) -> None:
    """Anything else is refused before it reaches git's list of refs to change."""
    before = state_of(release.ollama)
    with pytest.raises(UsageError):
        put_on(release.ollama, ours, branch=name)
    assert state_of(release.ollama) == before


def test_unrelated_edits_and_untracked_files_survive(release: Release, ours: Path) -> None:
    """They are there, byte for byte, after apply and after unapply."""
    root = release.ollama
    (root / "main.go").write_bytes(b"package main // mine\n")
    (root / "notes.txt").write_bytes(b"mine\n")
    before = state_of(root)
    put_on(root, ours)
    assert (root / "main.go").read_bytes() == b"package main // mine\n"
    assert git(root, "status", "--porcelain") == "M main.go\n?? notes.txt"
    unapply(repository(root))
    assert state_of(root) == before


def test_edits_on_top_are_refused_or_saved(release: Release, ours: Path) -> None:
    """A commit and a change on top stop unapply; --backup keeps both in a ref."""
    root = release.ollama
    base = state_of(root)
    put_on(root, ours)
    server = root / "llm/server.go"
    server.write_bytes(server.read_bytes() + b"// mine\n")
    git(root, "commit", "-q", "-am", "my commit")
    server.write_bytes(server.read_bytes() + b"// more\n")
    before = state_of(root)
    with pytest.raises(RefusedError, match=r"my commit; llm/server.go: not committed"):
        unapply(repository(root))
    assert state_of(root) == before
    done = unapply(repository(root), backup=True)
    assert state_of(root) == base
    assert done.backup
    assert git(root, "show", f"{done.backup}:llm/server.go").endswith("// mine\n// more")


def test_apply_refuses_what_it_would_lose(release: Release, ours: Path) -> None:
    """Commits on top, a branch of another content, a touched file with edits, a new file that is there."""
    root = release.ollama
    path = root / "llm/server.go"
    clean = path.read_bytes()
    path.write_bytes(clean + b"// mine\n")
    with pytest.raises(RefusedError, match=r"llm/server.go: changed and not committed"):
        put_on(root, ours)
    git(root, "add", "llm/server.go")
    with pytest.raises(RefusedError, match="staged changes"):
        put_on(root, ours)
    git(root, "reset", "-q", "--hard")
    (root / "kvcache/turbo.go").write_bytes(b"mine\n")
    with pytest.raises(RefusedError, match=r"kvcache/turbo.go: there already"):
        put_on(root, ours)
    (root / "kvcache/turbo.go").unlink()
    with Blobs(repository(root).git) as blobs:
        name = plan_apply(repository(root), queue_of(root, ours), blobs).ref
    git(
        root,
        "branch",
        name.removeprefix("refs/heads/"),
        git(root, "commit-tree", "-m", "x", "HEAD^{tree}"),
    )
    with pytest.raises(RefusedError, match="a branch of that name"):
        put_on(root, ours)
    put_on(root, ours, branch="mine")
    git(root, "commit", "-q", "--allow-empty", "-m", "my commit")
    with pytest.raises(RefusedError, match="my commit"):
        put_on(root, ours, to="ids")
    assert litter(root) == []


def test_all_conflicts_are_listed_and_nothing_changes(release: Release, ours: Path) -> None:
    """Two patches conflict, one only because of another: all are named; the tree is as it was."""
    llama = release.llama
    path = llama / "ggml/src/ggml.c"
    path.write_bytes(path.read_bytes().replace(b"ggml_c_10(", b"ggml_c_ten("))
    path = llama / "src/llama-vocab.cpp"
    path.write_bytes(path.read_bytes().replace(b"vocab_30(", b"vocab_thirty("))
    git(llama, "commit", "-qam", "another base")
    before = state_of(llama)
    done = put_on(llama, ours, release.ollama)
    assert [(c.step.name[:4], len(c.blocked_by)) for c in done.plan.stacked.conflicts] == [
        ("0001", 0), ("0002", 0), ("0007", 1),
    ]  # fmt: skip
    assert done.plan.stacked.conflicts[0].files == (("ggml/src/ggml.c", (1,), None),)
    assert state_of(llama) == before
    assert litter(llama) == []


def test_a_vendored_tree_without_its_patches_is_named(release: Release, ours: Path) -> None:
    """Exit code 5, and what state the tree is in: none of Ollama's patches, or one that is changed."""
    root = release.ollama
    path = root / "ml/backend/ggml/ggml/src/ggml-cpu/ops.cpp"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"int ops_argsort_i32(void);\n", b""))
    git(root, "commit", "-qam", "edit")
    with pytest.raises(UnknownBaseError, match=r"0004-\S+ is not in it .*ops.cpp"):
        put_on(root, ours)
    git(root, "reset", "-q", "--hard", "HEAD~")
    for name in ("ml/backend/ggml/ggml", "llama/llama.cpp"):
        for item in sorted((root / name).rglob("*")):
            inner = item.relative_to(root / name).as_posix()
            source = release.llama / ("ggml/" if "ggml" in name else "") / inner
            if item.is_file() and item.suffix != ".go" and not item.name.startswith("."):
                if source.is_file():
                    item.write_bytes(source.read_bytes())
                else:
                    item.unlink()
    git(root, "commit", "-qam", "pristine")
    with pytest.raises(UnknownBaseError, match="none of Ollama's 8 patches"):
        put_on(root, ours)


def test_an_unknown_patch_is_named_with_its_neighbours(release: Release, ours: Path) -> None:
    """--to with a typo: exit code 5, and what might have been meant."""
    with pytest.raises(NotFoundError) as e:
        put_on(release.ollama, ours, to="servr")
    assert "server" in str(e.value.hint)
    with pytest.raises(RefusedError, match="Ollama's own"):
        put_on(release.ollama, ours, to="0003")


def test_a_work_tree_of_its_own_is_changed_alone(
    release: Release, ours: Path, tmp_path: Path
) -> None:
    """`git worktree`: `.git` is a file; the main tree stays; the same branch is not taken twice."""
    tree = tmp_path / "tree"
    git(release.ollama, "worktree", "add", "-q", "--detach", str(tree))
    before = state_of(release.ollama)
    put_on(tree, ours)
    after = state_of(release.ollama)
    assert {k: v for k, v in after.items() if k != "branches"} == {
        k: v for k, v in before.items() if k != "branches"
    }
    assert trailers(tree, 5) == list(OURS)
    with pytest.raises(RefusedError, match="checked out in"):
        put_on(release.ollama, ours)
    assert (release.ollama / ".git/worktrees/tree/tqconvert/log.jsonl").exists()


def test_modes_and_crlf_checkouts_are_kept(release: Release, ours: Path) -> None:
    """A tree that git checked out with CRLF gets its changed files with CRLF, and git calls it clean."""
    root = release.ollama
    path = root / "llm/server.go"
    path.chmod(0o755)
    git(root, "commit", "-qam", "executable")
    git(root, "config", "core.autocrlf", "true")
    for item in sorted(root.rglob("*.go")):
        item.unlink()
    git(root, "checkout", "-q", ".")
    assert b"\r\n" in path.read_bytes()
    put_on(root, ours)
    assert path.read_bytes().count(b"\r\n") == path.read_bytes().count(b"\n")
    assert path.stat().st_mode & 0o111
    assert b"\r" not in (root / "ml/backend/ggml/ggml/include/ggml.h").read_bytes()
    assert git(root, "status", "--porcelain") == ""
    unapply(repository(root))
    assert git(root, "status", "--porcelain") == ""
    assert b"\r\n" in path.read_bytes()


def test_gc_keeps_where_head_was(release: Release, ours: Path) -> None:
    """After an aggressive gc everything recorded can still be reached."""
    before = files_of(release.ollama)
    put_on(release.ollama, ours)
    git(release.ollama, "reflog", "expire", "--expire=now", "--all")
    git(release.ollama, "gc", "-q", "--prune=now", env=ENV)
    unapply(repository(release.ollama))
    assert files_of(release.ollama) == before
