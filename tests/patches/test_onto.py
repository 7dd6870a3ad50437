"""The queue on another base: each verdict by a change of llama.cpp that calls for it, and nothing written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patches.releases import ENV, Release, added, commit, git, lines, replaced, write_tree
from tests.patches.trees import files_of, state_of
from tqconvert.cli import main
from tqconvert.errors import GitFailedError, NotFoundError, PatchError
from tqconvert.patches.bases.bisect import bisect
from tqconvert.patches.bases.onto import Tried
from tqconvert.patches.bases.target import open_target
from tqconvert.patches.bases.trial import Trial, try_onto
from tqconvert.patches.checkout import find_checkout
from tqconvert.patches.queue import Origin, Queue, read_queue
from tqconvert.patches.verdict import Verdict

Edit = Callable[[bytes], bytes]
METAL, OPS, GGML = (
    "ggml/src/ggml-metal/ggml-metal.metal",
    "ggml/src/ggml-cpu/ops.cpp",
    "ggml/src/ggml.c",
)
NVML, VOCAB, CMAKE = "ggml/src/mem_nvml.cpp", "src/llama-vocab.cpp", "ggml/src/CMakeLists.txt"


def drifted(release: Release, edits: dict[str, Edit], subject: str = "drift") -> str:
    """A commit of llama.cpp after the base, with some files changed."""
    folder = release.llama
    for name, edit in edits.items():
        path = folder / name
        write_tree(folder, {name: edit(path.read_bytes() if path.exists() else b"")})
    return commit(folder, subject)


def queue_of(release: Release, ours: Path) -> Queue:
    """The queue of the release's Ollama."""
    return read_queue(find_checkout(release.ollama), ours)


def tried(
    release: Release, ours: Path, onto: str, *, deep: bool = False, git_dir: bool = True
) -> Trial:
    """The queue of a release on a commit of its llama.cpp."""
    target = open_target(onto, release.llama, ENV)
    repository = release.llama if git_dir else None
    return try_onto(queue_of(release, ours), ours, target, ENV, repository=repository, deep=deep)


def upstream(trial: Trial) -> dict[str, Tried]:
    """Ollama's, by the number in their name."""
    return {t.step.name[:4]: t for t in trial.tried if t.step.origin is Origin.OLLAMA}


def test_on_their_own_base_all_go_on(release: Release, ours: Path) -> None:
    """Ollama's clean, ours with the offsets that they have in the vendored tree too."""
    trial = tried(release, ours, "master")
    assert trial.ok
    assert {t.verdict for t in upstream(trial).values()} == {Verdict.CLEAN}
    assert [t.patch.name for t in trial.tried[8:]] == ["new-files.patch", "ids.patch", "ops.patch"]
    assert trial.not_covered == ()


@pytest.mark.parametrize("git_dir", [True, False])
def test_every_verdict(release: Release, ours: Path, git_dir: bool) -> None:
    """With both sides of a merge from the base, and with them from the vendored tree alone."""
    commit = drifted(release, {
        GGML: lambda d: b"int first(void);\n" + d,
        VOCAB: replaced(27, "vocab", "int other(void);"),
        CMAKE: added(20, "ggml_src_cmake", "phony"),
        "src/CMakeLists.txt": added(20, "src_cmake", "phony"),
        OPS: replaced(100, "ops", "int other(void);"),
        METAL: added(30, "metal", "kernel void argsort();"),
        NVML: lambda _: b"int somebody(void);\n",
        "ggml/src/ggml-cpu/quants.c": lambda _: b"",
    })  # fmt: skip
    found = upstream(tried(release, ours, commit, git_dir=git_dir))
    assert {n: str(t.verdict) for n, t in found.items()} == {
        "0001": "offset", "0002": "merges-3way", "0003": "upstream-exact", "0004": "upstream-likely",
        "0005": "conflict", "0006": "blocked-by", "0007": "offset", "0008": "conflict",
    }  # fmt: skip
    assert found["0001"].offsets == (1,)
    assert found["0001"].evidence == "1 hunk, up to 1 line"
    assert found["0002"].evidence == f"in {VOCAB}"
    assert found["0004"].evidence == (
        f"{OPS}: hunk 1; {METAL}: hunk 1; there already: 1 of 2 hunks, 1 of 2 added lines (ggml-metal.metal 1)"
    )
    assert found["0005"].evidence == f"{NVML} exists already"
    assert found["0006"].blocked_by == (found["0005"].step.name,)
    assert [(c.path, c.hunks) for c in found["0008"].clashes] == [
        ("ggml/src/ggml-cpu/quants.c", (1,))
    ]


def test_a_patch_waits_for_the_one_whose_lines_it_changes(release: Release, ours: Path) -> None:
    """Not for another that conflicts in the same file."""
    commit = drifted(release, {GGML: replaced(10, "ggml_c", "int gone(void);")})
    found = upstream(tried(release, ours, commit))
    assert found["0001"].verdict is Verdict.CONFLICT
    assert found["0007"].verdict is Verdict.BLOCKED
    assert found["0007"].evidence == found["0001"].step.name


def test_a_file_that_is_gone_is_named(release: Release, ours: Path) -> None:
    """With the reason instead of hunks."""
    (release.llama / VOCAB).unlink()
    found = upstream(tried(release, ours, commit(release.llama, "gone")))
    assert found["0002"].verdict is Verdict.CONFLICT
    assert found["0002"].evidence == f"{VOCAB} is not there"


def test_a_new_file_that_is_there_with_the_same_bytes_has_landed(
    release: Release, ours: Path
) -> None:
    """The result is no change; what builds on it goes on."""
    found = upstream(tried(release, ours, drifted(release, {NVML: lambda _: lines("nvml", 40)})))
    assert found["0005"].verdict is Verdict.EXACT
    assert found["0006"].verdict is Verdict.CLEAN


def test_ours_conflict_and_are_told_with_their_alternative(release: Release, ours: Path) -> None:
    """Of alternatives the one whose both sides are known is tried."""
    commit = drifted(release, {"ggml/include/ggml.h": replaced(5, "ggml_h", "int other(void);")})
    trial = tried(release, ours, commit)
    found = {t.step.name: t for t in trial.tried}["ids-new"]
    assert found.patch.name == "ids.patch"
    assert found.verdict is Verdict.CONFLICT
    assert not trial.ok


def test_the_history_names_commits(release: Release, ours: Path) -> None:
    """The same change under any subject, and subjects that are alike; only with --deep."""
    drifted(release, {VOCAB: replaced(30, "vocab", "int vocab_pre(void);")}, "something else")
    drifted(
        release,
        {OPS: replaced(100, "ops", "int ops_argsort(void);")},
        "cpu : argsort for i32 (#123)",
    )
    last = drifted(release, {"README.md": lambda d: d + b"more\n"}, "readme")
    found = upstream(tried(release, ours, last, deep=True))
    assert [(c.how, c.subject) for c in found["0002"].commits] == [
        ("same change", "something else")
    ]
    assert found["0002"].verdict is Verdict.EXACT
    assert [(c.how, c.subject) for c in found["0004"].commits] == [
        ("like subject", "cpu : argsort for i32 (#123)"), ("same files", "cpu : argsort for i32 (#123)"),
    ]  # fmt: skip
    assert found["0004"].verdict is Verdict.CONFLICT
    assert upstream(tried(release, ours, last))["0004"].commits == ()


def test_history_that_is_not_there_is_said(release: Release, ours: Path) -> None:
    """A base that does not come after the patches' own, or no repository."""
    git(release.llama, "checkout", "-q", "--orphan", "alone")
    other = commit(release.llama, "alone")
    assert "does not come after" in tried(release, ours, other, deep=True).not_covered[0]
    trial = tried(release, ours, other, deep=True, git_dir=False)
    assert "in no repository at hand" in trial.not_covered[0]


def test_a_folder_gives_what_its_commit_gives(release: Release, ours: Path) -> None:
    """Folder and commit are two ways to the same files."""
    commit = drifted(release, {OPS: replaced(100, "ops", "int other(void);")})
    target = open_target(str(release.llama), None, ENV)
    folder = try_onto(queue_of(release, ours), ours, target, ENV)
    assert [t[2:] for t in folder.tried] == [t[2:] for t in tried(release, ours, commit).tried]


def test_ours_on_a_release_of_ollama(release: Release, modern: Release, ours: Path) -> None:
    """Of a release only ours are tried: vendored paths there, Go alone in the modern generation."""
    queue = queue_of(release, ours)
    trial = try_onto(queue, ours, open_target("v0.99.0", release.ollama, ENV), ENV)
    assert [t.step.name for t in trial.tried] == [
        "new-files",
        "ids-new",
        "ops",
        "new-files",
        "server",
    ]
    assert trial.ok
    trial = try_onto(queue, ours, open_target("v0.99.0", modern.ollama, ENV), ENV)
    assert [(t.step.name, t.verdict) for t in trial.tried] == [("server", Verdict.CLEAN)]


def test_a_modern_queue_on_its_llama(modern: Release, ours: Path) -> None:
    """Compat patches first, then all of ours; both sides come from the pinned tag."""
    commit = drifted(modern, {"src/llama.cpp": replaced(8, "llama", "int other(void);")})
    target = open_target(commit, modern.llama, ENV)
    queue = read_queue(find_checkout(modern.ollama), ours)
    trial = try_onto(queue, ours, target, ENV, repository=modern.llama)
    assert [t.verdict for t in trial.tried[:2]] == [Verdict.MERGES, Verdict.CLEAN]
    assert [t.step.name for t in trial.tried[2:]] == ["new-files", "ids-new", "ops", "llama"]
    alone = try_onto(queue, ours, target, ENV)
    assert alone.tried[0].verdict is Verdict.CONFLICT
    assert "llama.cpp b99999 is in no repository at hand" in alone.not_covered[0]


def test_nothing_is_written(release: Release, ours: Path) -> None:
    """Neither in the tree nor in the repository; `.git` included."""
    last = drifted(release, {VOCAB: replaced(27, "vocab", "int other(void);")})
    before = state_of(release.ollama), state_of(release.llama), objects(release.llama)
    tried(release, ours, last, deep=True)
    assert (state_of(release.ollama), state_of(release.llama), objects(release.llama)) == before


def objects(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Everything in `.git`."""
    return files_of(folder / ".git")


def test_content_that_a_partial_clone_lacks_is_an_error(release: Release, ours: Path) -> None:
    """Not a conflict, and nobody asks the network for it."""
    last = drifted(release, {VOCAB: replaced(27, "vocab", "int other(void);")})
    oid = git(release.llama, "rev-parse", f"{last}:{VOCAB}")
    (release.llama / ".git" / "objects" / oid[:2] / oid[2:]).unlink()
    with pytest.raises(GitFailedError, match=f"lacks the content of {VOCAB}"):
        tried(release, ours, last)


def test_what_is_no_base_is_refused(release: Release, tmp_path: Path) -> None:
    """No such commit, no repository, a tree of something else: exit code 5."""
    for name, repository in (("nothing", release.llama), ("nothing", None), (str(tmp_path), None)):
        with pytest.raises(NotFoundError):
            open_target(name, repository, ENV)


def test_bisect_finds_the_last_commit_that_fits(release: Release, ours: Path) -> None:
    """Among ten, the third from the end breaks it."""
    ids = [drifted(release, {"README.md": lambda d: d + b"x\n"}, f"r{n}") for n in range(7)]
    bad = drifted(release, {OPS: replaced(100, "ops", "int other(void);")}, "bad")
    for n in range(2):
        drifted(release, {"README.md": lambda d: d + b"x\n"}, f"after{n}")
    queue = queue_of(release, ours)
    found = bisect(queue, ours, release.llama, (release.base, "master"), ENV)
    assert (found.newest, found.next, found.commits) == (ids[-1], bad, 11)
    assert found.failing == ("0004-ops-argsort-for-i32",)
    assert found.tried <= 6
    assert bisect(queue, ours, release.llama, (release.base, ids[-1]), ENV).next is None
    with pytest.raises(PatchError, match="0004-ops-argsort-for-i32 does not go on"):
        bisect(queue, ours, release.llama, (bad, "master"), ENV)
    with pytest.raises(NotFoundError, match="does not come after"):
        bisect(queue, ours, release.llama, ("master", release.base), ENV)


def test_the_commands_in_their_three_modes(
    release: Release, ours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text, JSON and counts; usage errors; git's environment and configuration are of no matter."""
    last = drifted(release, {OPS: replaced(100, "ops", "int other(void);")})
    tree = [str(release.ollama), "--patches", str(ours)]
    onto = ["--onto", last, "--git", str(release.llama)]
    assert main(["ollama-build", "status", *tree, *onto]) == 1
    out = capsys.readouterr().out
    assert "11 patches: 10 clean, 1 conflict" in out
    assert f"0004-ops-argsort-for-i32  conflict  {OPS}: hunk 1" in out
    assert main(["ollama-build", "status", *tree, *onto, "-q"]) == 1
    assert capsys.readouterr().out.splitlines() == ["10 clean", "1 conflict"]
    assert main(["ollama-build", "status", *tree, *onto, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["onto"]["commit"] == last
    assert document["counts"] == {"clean": 10, "conflict": 1}
    assert document["patches"][3]["clashes"] == [
        {"path": OPS, "hunks": [1], "reason": None, "conflicts": 1}
    ]
    assert (
        main(
            [
                "ollama-build",
                "status",
                *tree,
                "--onto",
                release.base,
                "--git",
                str(release.llama),
                "-q",
            ]
        )
        == 0
    )
    assert main(["ollama-build", "status", *tree, "--deep"]) == 2
    assert main(["ollama-build", "status", *tree, "--onto", "no-such"]) == 5
    capsys.readouterr()
    bisect_args = ["--git", str(release.llama), "--tree", *tree]
    assert main(["ollama-build", "bisect-base", f"{release.base}..master", *bisect_args, "-q"]) == 0
    assert capsys.readouterr().out == f"{release.base}\n"
    assert main(["ollama-build", "bisect-base", f"{release.base}..master", *bisect_args]) == 0
    assert f"{last[:9]} ends it: 0004-ops-argsort-for-i32" in capsys.readouterr().out
    assert (
        main(["ollama-build", "bisect-base", f"{release.base}..master", *bisect_args, "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["next"] == last
    assert main(["ollama-build", "bisect-base", "master", *bisect_args]) == 2


def test_git_is_needed_for_merges_alone(
    release: Release, ours: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder that all patches go onto needs none."""
    shutil.copytree(release.llama, tmp_path / "plain", ignore=shutil.ignore_patterns(".git"))
    monkeypatch.setenv("PATH", "")
    target = open_target(str(tmp_path / "plain"), None, dict(os.environ))
    assert try_onto(queue_of(release, ours), ours, target, dict(os.environ)).ok


def test_patch_files_that_differ_from_the_release_are_noted(release: Release, ours: Path) -> None:
    """By the locks, whatever the verdict is."""
    upstream_locks = ours / "legacy" / "upstream"
    upstream_locks.mkdir()
    assert main(["ollama-build", "lock", str(release.ollama), "-q", "-o", str(upstream_locks)]) == 0
    assert [t.note for t in tried(release, ours, "master").tried] == [""] * 11
    path = release.patches[1]
    path.write_bytes(path.read_bytes().replace(b"Subject:", b"subject:"))
    path = release.patches[3]
    path.write_bytes(path.read_bytes().replace(b"argsort_i32", b"argsort_i64"))
    notes = {
        n: t.note.partition(":")[0] for n, t in upstream(tried(release, ours, "master")).items()
    }
    assert {n: w for n, w in notes.items() if w} == {"0002": "re-exported", "0004": "modified"}
