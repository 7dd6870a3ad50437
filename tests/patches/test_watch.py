"""Newer releases in a clone: which there are, how ours fare, and what became of Ollama's own patches."""

import json
from pathlib import Path

import pytest

from tests.patches.releases import ENV, Release, added, commit, git, replaced, write_tree
from tests.patches.trees import state_of
from tqconvert.cli import main
from tqconvert.errors import NetworkError, NotFoundError
from tqconvert.patches.bases.watch import Wish, watch
from tqconvert.patches.verdict import Verdict

GGML = "ml/backend/ggml/ggml/src/ggml.c"


def released(folder: Path, tag: str, files: dict[str, bytes | None]) -> None:
    """A new release: some files changed, the others removed."""
    for name, data in files.items():
        if data is None:
            (folder / name).unlink()
        else:
            write_tree(folder, {name: data})
    commit(folder, tag)
    git(folder, "tag", tag)


def edited(release: Release, number: int, old: bytes, new: bytes) -> tuple[str, bytes]:
    """One of Ollama's patches with something in it changed."""
    path = release.patches[number]
    data = path.read_bytes()
    assert old in data
    return path.relative_to(release.ollama).as_posix(), data.replace(old, new)


def names(folder: Path) -> list[str]:
    """Ollama's patches in a tree."""
    return sorted(
        p.relative_to(folder).as_posix() for p in (folder / "llama/patches").glob("*.patch")
    )


@pytest.fixture
def clone(release: Release) -> Path:
    """Four releases after the first: nothing of matter, patches changed, a conflict, another layout."""
    folder = release.ollama
    released(folder, "v0.99.1", {"main.go": b"package main\n"})
    first, second = (
        edited(release, 1, b"Subject:", b"subject:"),
        edited(release, 2, b"+phony", b"+other"),
    )
    last = release.patches[7].relative_to(folder).as_posix()
    third = release.patches[3].relative_to(folder).as_posix()
    released(folder, "v0.99.2", {
        first[0]: first[1], second[0]: second[1], last: None,
        "llama/patches/0009-more.patch": b"diff --git a/src/llama.cpp b/src/llama.cpp\n",
        third.replace("0004-", "0040-"): (folder / third).read_bytes(), third: None,
    })  # fmt: skip
    data = (folder / GGML).read_bytes()
    released(folder, "v0.99.3-rc0", {GGML: replaced(81, "ggml_c", "int other(void);")(data)})
    released(folder, "v0.99.3", {"main.go": b"package main // 3\n"})
    git(folder, "tag", "nightly")
    git(folder, "rm", "-q", "-r", "llama/patches")
    released(folder, "v0.99.4", {})
    git(folder, "checkout", "-q", "v0.99.0")
    return folder


def test_newer_releases_and_how_ours_fare(clone: Path, ours: Path) -> None:
    """In the order of their age; one whose files are the same is not tried again."""
    found = watch(clone, ours, ENV, Wish(since="v0.99.0"))
    assert [(r.tag, r.ok) for r in found.releases] == [
        ("v0.99.1", True), ("v0.99.2", True), ("v0.99.3", False), ("v0.99.4", False)
    ]  # fmt: skip
    first, _, third, fourth = found.releases
    assert first.parts[0].same_as == "v0.99.0"
    assert first.base == git(clone, "show", "v0.99.0:Makefile.sync").rpartition("=")[2]
    (ops,) = (t for t in third.parts[0].tried if not t.ok)
    assert (ops.step.name, ops.verdict) == ("ops", Verdict.CONFLICT)
    # Both sides of the merge come from the last release that all went onto.
    assert [(c.path, c.merged) for c in ops.clashes] == [(GGML, 1)]
    assert third.counts == {"clean": 4, "conflict": 1}
    assert fourth.generation is None
    assert "neither Ollama" in fourth.not_covered[0]
    assert not found.ok


def test_what_became_of_ollamas_patches(clone: Path, ours: Path) -> None:
    """Since the release before, which is `since` for the first."""
    found = {r.tag: r for r in watch(clone, ours, ENV, Wish(since="v0.99.0")).releases}
    assert found["v0.99.1"].changes == ()
    changes = found["v0.99.2"].changes
    assert found["v0.99.2"].since == "v0.99.1"
    assert sorted((c.what, c.name[:4], (c.was or "")[:4]) for c in changes) == [
        ("added", "0009", ""), ("modified", "0003", ""), ("re-exported", "0002", ""),
        ("removed", "0008", ""), ("renamed", "0040", "0004"),
    ]  # fmt: skip


def test_candidates_only_if_asked(clone: Path, ours: Path) -> None:
    """And tags that are no releases never."""
    tags = [r.tag for r in watch(clone, ours, ENV, Wish(since="v0.99.2", candidates=True)).releases]
    assert tags == ["v0.99.3-rc0", "v0.99.3", "v0.99.4"]


def test_without_newer_releases_all_is_well(release: Release, ours: Path) -> None:
    """Nothing to do is no failure."""
    found = watch(release.ollama, ours, ENV, Wish(since="v0.99.0"))
    assert found.releases == ()
    assert found.ok


def test_the_start_is_the_newest_lock(release: Release, ours: Path, tmp_path: Path) -> None:
    """Without one it must be given; a tag that only a lock knows will do."""
    with pytest.raises(NotFoundError, match="no lock names a release"):
        watch(release.ollama, ours, ENV, Wish())
    upstream = ours / "legacy" / "upstream"
    upstream.mkdir()
    lock = ["ollama-build", "lock", str(release.ollama), "--tag", "v0.98.0", "-o", str(upstream)]
    git(release.ollama, "tag", "v0.98.0")
    assert main(lock) == 0
    git(release.ollama, "tag", "-d", "v0.98.0")
    found = watch(release.ollama, ours, ENV, Wish())
    assert found.since == "v0.98.0"
    assert [(r.tag, r.since, r.changes) for r in found.releases] == [("v0.99.0", "v0.98.0", ())]


def test_modern_releases_with_and_without_llama_cpp(modern: Release, ours: Path) -> None:
    """What is fetched when it is built is looked at in a repository, or said not to be."""
    folder = modern.ollama
    released(folder, "v0.99.1", {"main.go": b"package main\n"})
    git(modern.llama, "checkout", "-q", "master")
    changed = added(20, "llama", "int first(void);")((modern.llama / "src/llama.cpp").read_bytes())
    write_tree(modern.llama, {"src/llama.cpp": changed})
    commit(modern.llama, "later")
    git(modern.llama, "tag", "b100000")
    released(folder, "v0.99.2", {"LLAMA_CPP_VERSION": b"b100000\n"})
    released(folder, "v0.99.3", {"LLAMA_CPP_VERSION": b"b100001\n"})
    found = watch(folder, ours, ENV, Wish(since="v0.99.0", llama_cpp=modern.llama)).releases
    assert [[p.what for p in r.parts] for r in found] == [["ollama", "llama.cpp"]] * 2 + [
        ["ollama"]
    ]
    assert [t.verdict for t in found[1].parts[1].tried] == [*[Verdict.CLEAN] * 5, Verdict.OFFSET]
    assert found[2].not_covered == (f"llama.cpp b100001: not in {modern.llama}",)
    alone = watch(folder, ours, ENV, Wish(since="v0.99.1")).releases
    assert alone[0].not_covered == ("llama.cpp b100000: no repository given (--llama-cpp DIR)",)
    assert alone[0].ok


def test_the_remotes_tags_only_if_asked(release: Release, ours: Path, tmp_path: Path) -> None:
    """Those that the clone lacks are named; a remote that does not answer is exit code 11."""
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(release.ollama), str(copy))
    released(release.ollama, "v0.99.1", {"main.go": b"package main\n"})
    assert watch(copy, ours, ENV, Wish(since="v0.99.0")).not_in_clone == ()
    assert watch(copy, ours, ENV, Wish(since="v0.99.0", ask_remote=True)).not_in_clone == (
        "v0.99.1",
    )
    git(copy, "remote", "set-url", "origin", str(tmp_path / "gone"))
    with pytest.raises(NetworkError):
        watch(copy, ours, ENV, Wish(since="v0.99.0", ask_remote=True))
    git(copy, "remote", "remove", "origin")
    with pytest.raises(NotFoundError, match="no remote `origin`"):
        watch(copy, ours, ENV, Wish(since="v0.99.0", ask_remote=True))


def test_what_is_no_clone(ours: Path, tmp_path: Path) -> None:
    """Exit code 5, as for a tag that is none."""
    with pytest.raises(NotFoundError, match="not a clone"):
        watch(tmp_path, ours, ENV, Wish(since="v0.99.0"))
    with pytest.raises(NotFoundError, match="not a tag of a release"):
        watch(tmp_path, ours, ENV, Wish(since="newest"))


def test_a_bare_clone_will_do_and_nothing_is_written(
    clone: Path, ours: Path, tmp_path: Path
) -> None:
    """No file is checked out."""
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(clone), str(bare))
    before = state_of(clone)
    tags = [(r.tag, r.counts) for r in watch(bare, ours, ENV, Wish(since="v0.99.0")).releases]
    assert tags == [
        (r.tag, r.counts) for r in watch(clone, ours, ENV, Wish(since="v0.99.0")).releases
    ]
    assert state_of(clone) == before


def test_the_command_in_its_three_modes(
    clone: Path, ours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text with equal releases in one line, one line a release, and JSON."""
    args = ["ollama-build", "watch", str(clone), "--patches", str(ours), "--since", "v0.99.0"]
    assert main(args) == 1
    out = capsys.readouterr().out
    assert "4 releases after v0.99.0" in out
    assert "Ollama's patches: 1 re-exported, 1 modified, 1 added, 1 renamed, 1 removed" in out
    assert f"v0.99.3, ollama:\n  ops  conflict  {GGML}: hunk 1" in out
    assert main([*args, "-q"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "v0.99.1 ok", "v0.99.2 ok", "v0.99.3 ops", "v0.99.4 unknown"
    ]  # fmt: skip
    assert main([*args, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "tqconvert.ollama-build.watch/1"
    assert [r["ok"] for r in document["releases"]] == [True, True, False, False]
    assert document["releases"][2]["parts"][0]["patches"][2]["verdict"] == "conflict"
    args[-1] = "v0.99.4"
    assert main(args) == 0
    assert capsys.readouterr().out == (
        f"{clone}: has nothing newer than v0.99.4 (--fetch asks its remote)\n"
    )
