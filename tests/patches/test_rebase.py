"""The queue on another base: a branch where all goes on, a `git am` that waits where it does not."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.patches.releases import ENV, GIT, Release, git
from tests.patches.trees import files_of, litter, put_on, queue_of, repository, state_of, trailers
from tqconvert.errors import ConflictError, NotFoundError, RefusedError, UsageError
from tqconvert.patches.change.abort import abort
from tqconvert.patches.change.rebase import Rebased, rebase
from tqconvert.patches.change.rebase_end import go_on, skip

OPS = "ggml/src/ggml-cpu/ops.cpp"


def new_base(release: Release, *edits: tuple[str, bytes, bytes]) -> str:
    """A later commit of llama.cpp: branch `next`, with text replaced in files."""
    llama = release.llama
    git(llama, "checkout", "-q", "-b", "next", "master")
    for name, old, new in edits:
        path = llama / name
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new))
    git(llama, "commit", "-q", "-a", "--allow-empty", "-m", "later")
    git(llama, "tag", "b100000")
    git(llama, "checkout", "-q", "master")
    return git(llama, "rev-parse", "next")


MOVED = (OPS, b"int ops_2(void);\n", b"int ops_2(void);\nint between(void);\n")
MERGES = ("src/llama-vocab.cpp", b"int vocab_28(void);\n", b"int vocab_twenty_eight(void);\n")
CLASH = (OPS, b"int ops_150(void);\n", b"int ops_changed(void);\n")
CLASH_BELOW = ("src/llama-vocab.cpp", b"int vocab_30(void);\n", b"int vocab_thirty(void);\n")


def rebased(release: Release, ours: Path, **options: object) -> Rebased:
    """Rebase the llama.cpp tree onto `b100000`."""
    queue = queue_of(release.llama, ours, release.ollama)
    return rebase(repository(release.llama), queue, ours, "b100000", ENV, **options)  # type: ignore[arg-type]


def resolve(folder: Path, name: str, text: bytes) -> None:
    """What a user does: an editor, and git add."""
    data = (folder / name).read_bytes()
    assert b"<<<<<<<" in data
    assert b"|||||||" in data, "the base of the conflict is shown"
    start, _, rest = data.partition(b"<<<<<<<")
    end = rest.partition(b">>>>>>>")[2].partition(b"\n")[2]
    (folder / name).write_bytes(start + text + end)
    git(folder, "add", name)


def test_a_clean_rebase_is_a_branch(release: Release, ours: Path) -> None:
    """Hunks that have moved: the branch is there, the tree stays, patch files keep their bytes."""
    put_on(release.llama, ours, release.ollama)
    top = git(release.llama, "symbolic-ref", "--short", "HEAD")
    base = new_base(release, MOVED)
    git(release.llama, "checkout", "-q", top)
    before, patches = files_of(release.llama), files_of(ours)
    done = rebased(release, ours)
    assert files_of(release.llama) == before
    assert files_of(ours) == patches
    branch = done.plan.ref.removeprefix("refs/heads/")
    assert branch.startswith("tq/b100000-")
    assert git(release.llama, "rev-parse", f"{branch}~11") == base
    assert len(done.range_diff) == 11
    assert all(" = " in row or " ! " in row for row in done.range_diff)
    assert litter(release.llama) == []
    git(release.llama, "checkout", "-q", branch)
    assert put_on(release.llama, ours, release.ollama).plan.done
    with pytest.raises(RefusedError, match="is there already"):
        rebased(release, ours)


def test_here_moves_the_tree(release: Release, ours: Path) -> None:
    """--here: the tree goes to the new base too; unapply ends there."""
    put_on(release.llama, ours, release.ollama)
    top = git(release.llama, "symbolic-ref", "--short", "HEAD")
    new_base(release, MOVED)
    git(release.llama, "checkout", "-q", top)
    done = rebased(release, ours, here=True)
    assert git(release.llama, "symbolic-ref", "HEAD") == done.plan.ref
    assert git(release.llama, "status", "--porcelain") == ""
    assert b"between" in (release.llama / OPS).read_bytes()


def test_what_git_can_merge_needs_nobody(release: Release, ours: Path) -> None:
    """A context line that changed: no hunk has a place, git merges three ways, the patch of Ollama's stays."""
    new_base(release, MERGES, MOVED)
    patches = files_of(ours)
    before = state_of(release.llama)
    done = rebased(release, ours)
    assert [c.step.name[:4] for c in done.plan.stacked.conflicts] == ["0002"]
    assert done.waiting is None
    assert done.head
    assert files_of(ours) == patches, "Ollama's patch is not exported"
    assert not (release.llama.parent / "llama.cpp-rebase").exists()
    branch = done.plan.ref.removeprefix("refs/heads/")
    assert len(git(release.llama, "rev-list", f"next..{branch}").splitlines()) == 11
    after = state_of(release.llama)
    assert {k: v for k, v in after.items() if k != "branches"} == {
        k: v for k, v in before.items() if k != "branches"
    }


def test_a_conflict_is_a_normal_state_of_git(release: Release, ours: Path) -> None:
    """The tree of the conflict; continue refuses until all is added, then writes an alternative."""
    put_on(release.llama, ours, release.ollama)
    top = git(release.llama, "symbolic-ref", "--short", "HEAD")
    new_base(release, CLASH)
    git(release.llama, "checkout", "-q", top)
    before, patches = files_of(release.llama), files_of(ours)
    done = rebased(release, ours)
    folder = done.folder
    assert (done.waiting, done.head) == ("Add ops", None)
    assert files_of(release.llama) == before
    assert "you are in the middle of an am session" in git(folder, "status").lower()
    assert trailers(folder, 2) == ["new-files", "ids"]
    with pytest.raises(RefusedError, match="rebase is under way"):
        put_on(release.llama, ours, release.ollama)
    with pytest.raises(RefusedError, match="rebase is under way"):
        rebased(release, ours)
    with pytest.raises(ConflictError, match=r"ops.cpp: unresolved"):
        go_on(repository(release.llama), ENV)
    resolve(folder, OPS, b"int ops_changed(void);\nint ops_turbo(void);\n")
    ended = go_on(repository(folder), ENV)
    assert ended.head
    assert [p.name for p in ended.files] == ["ops-b100000.patch", "series"]
    after = files_of(ours)
    assert {p for p in after if after[p] != patches.get(p)} == {
        "llama.cpp/ops-b100000.patch", "llama.cpp/series",
    }  # fmt: skip
    assert b"\nops-b100000.patch | ops.patch [ggml]\n" in after["llama.cpp/series"][0]
    assert after["llama.cpp/ops-b100000.patch"][0].startswith(b"Subject: Add ops\n")
    assert not folder.exists()
    assert any(" ! " in row for row in ended.range_diff)
    assert litter(release.llama) == []
    assert put_on(release.llama, ours, release.ollama).plan.done, "the old base keeps its patch"
    git(release.llama, "checkout", "-q", ended.branch)
    assert put_on(release.llama, ours, release.ollama).plan.done
    assert trailers(release.llama, 3) == ["new-files", "ids", "ops-b100000"]


def test_git_alone_can_finish_it(release: Release, ours: Path) -> None:
    """`git am --continue` by hand; continue detects that, and exports."""
    new_base(release, CLASH)
    done = rebased(release, ours)
    resolve(done.folder, OPS, b"int ops_changed(void);\nint ops_turbo(void);\n")
    env = {**ENV, "GIT_EDITOR": "true"}
    subprocess.run(
        [GIT, "am", "--continue"], cwd=done.folder, env=env, check=True, capture_output=True
    )
    ended = go_on(repository(release.llama), ENV)
    assert [p.name for p in ended.files] == ["ops-b100000.patch", "series"]


def test_a_patch_is_skipped_with_a_reason(release: Release, ours: Path) -> None:
    """Skipping asks for a reason and records it; the patch file and the series stay."""
    new_base(release, CLASH_BELOW, CLASH)
    patches = files_of(ours)
    done = rebased(release, ours)
    name = release.patches[1].stem
    assert done.waiting == "vocab: pretokenizer"
    with pytest.raises(UsageError, match="--reason"):
        skip(repository(release.llama), ENV, " ")
    ended = skip(repository(release.llama), ENV, "upstream has it")
    assert (ended.waiting, ended.head) == ("Add ops", None)
    ended = skip(repository(release.llama), ENV, "not wanted there")
    assert ended.dropped == {name: "upstream has it", "ops": "not wanted there"}
    assert ended.head
    assert files_of(ours) == patches
    log = (release.llama / ".git/tqconvert/log.jsonl").read_text()
    assert "upstream has it" in log
    with pytest.raises(RefusedError, match="no rebase waits"):
        skip(repository(release.llama), ENV, "again")


@pytest.mark.parametrize("here", [False, True])
def test_abort_restores_everything(release: Release, ours: Path, *, here: bool) -> None:
    """Tree, branch and refs are as before, in whatever state git is; what was resolved is in a ref."""
    put_on(release.llama, ours, release.ollama)
    top = git(release.llama, "symbolic-ref", "--short", "HEAD")
    new_base(release, CLASH)
    git(release.llama, "checkout", "-q", top)
    before, patches = state_of(release.llama), files_of(ours)
    done = rebased(release, ours, here=here)
    assert done.folder == (release.llama if here else release.llama.with_name("llama.cpp-rebase"))
    (done.folder / OPS).write_bytes(b"my resolution\n")
    given = abort(repository(done.folder), ENV)
    assert state_of(release.llama) == before
    assert files_of(ours) == patches
    assert given.backup
    assert git(release.llama, "show", f"{given.backup}:{OPS}") == "my resolution"
    assert litter(release.llama) == []
    assert not (release.llama / ".git/rebase-apply").exists()
    assert done.folder.exists() is here
    assert put_on(release.llama, ours, release.ollama).plan.done


def test_here_a_conflict_can_be_resolved_too(release: Release, ours: Path) -> None:
    """--here: the tree itself waits; continue ends with the new branch checked out."""
    new_base(release, CLASH)
    done = rebased(release, ours, here=True)
    assert git(release.llama, "symbolic-ref", "HEAD") == done.plan.ref
    resolve(release.llama, OPS, b"int ops_changed(void);\nint ops_turbo(void);\n")
    ended = go_on(repository(release.llama), ENV)
    assert ended.head
    assert git(release.llama, "status", "--porcelain") == ""
    assert litter(release.llama) == []


def test_without_an_old_base_the_vendored_one_serves(release: Release, ours: Path) -> None:
    """HEAD is the new base, nothing of the old one in the repository: both sides come from Ollama's tree."""
    llama = release.llama
    new_base(release, MERGES)
    alone = llama.with_name("alone")
    git(llama.parent, "clone", "-q", "--depth=1", "--branch=b100000", f"file://{llama}", str(alone))
    git(alone, "checkout", "-q", "-b", "main")
    queue = queue_of(alone, ours, release.ollama)
    assert len(put_on(alone, ours, release.ollama).plan.stacked.conflicts) == 1
    done = rebase(repository(alone), queue, ours, "HEAD", ENV)
    assert done.waiting is None
    assert len(git(alone, "rev-list", f"HEAD..{done.head}").splitlines()) == 11
    cann = git(alone, "show", f"{done.head}:ggml/src/ggml-cann/ggml-cann.cpp")
    assert "cann_free" in cann, "a file that is not vendored takes its patch as it stands"


def test_ours_alone_move_between_releases(release: Release, ours: Path) -> None:
    """An Ollama tree onto a later tag of its own: the patches there are the later release's."""
    root = release.ollama
    put_on(root, ours)
    top = git(root, "symbolic-ref", "--short", "HEAD")
    git(root, "checkout", "-q", "main")
    path = root / "llm/server.go"
    path.write_bytes(b"// later\n" + path.read_bytes())
    git(root, "commit", "-qam", "later")
    git(root, "tag", "v0.99.1")
    git(root, "checkout", "-q", top)
    done = rebase(repository(root), queue_of(root, ours), ours, "v0.99.1", ENV)
    assert done.plan.ref.startswith("refs/heads/tq/v0.99.1-")
    assert done.head
    assert git(root, "show", f"{done.head}:llm/server.go").startswith("// later")


def test_bases_that_are_none(release: Release, ours: Path, tmp_path: Path) -> None:
    """An unknown commit, a folder, edits in the way: refused, nothing left."""
    queue = queue_of(release.llama, ours, release.ollama)
    with pytest.raises(NotFoundError):
        rebase(repository(release.llama), queue, ours, "nothing", ENV)
    new_base(release, CLASH)
    (tmp_path / "taken").mkdir()
    with pytest.raises(RefusedError, match="is there already"):
        rebased(release, ours, folder=tmp_path / "taken")
    assert litter(release.llama) == []
    assert os.listdir(tmp_path / "taken") == []
