"""What `read_state` says of a tree: every verdict, on a made-up release and what can become of it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patches.releases import Release, git, lines
from tqconvert.patches.checkout import find_checkout
from tqconvert.patches.files import Files, folder_reader
from tqconvert.patches.queue import read_queue
from tqconvert.patches.tree.findings import exit_code, find_problems
from tqconvert.patches.tree.state import TreeState, read_state
from tqconvert.patches.verdict import Verdict
from tqconvert.patches.walk import apply_steps, reverse_steps

GGML = "ml/backend/ggml/ggml"


def state_of(tree: Path, patches: Path, ollama: Path | None = None) -> TreeState:
    """The state of a tree."""
    source = find_checkout(ollama) if ollama else None
    return read_state(read_queue(find_checkout(tree), patches, ollama=source), patches)


def verdicts(state: TreeState) -> dict[str, str]:
    """Name -> verdict; our two steps of new files count as one."""
    return {p.name: str(p.verdict) for p in state.patches}


def kinds(state: TreeState) -> list[str]:
    """Kinds of problems."""
    return [p.kind for p in find_problems(state)]


def put_on(tree: Path, patches: Path, count: int | None = None) -> None:
    """Apply our patches, or the first `count`, in the work tree."""
    queue = read_queue(find_checkout(tree), patches)
    files = Files(folder_reader(tree))
    assert all(d.ok for d in apply_steps(files, queue.ours[:count], queue.checkout.layout))
    write(tree, files)


def take_back(release: Release, patches: Path, count: int) -> None:
    """Take the last `count` of Ollama's patches off the work tree."""
    queue = read_queue(find_checkout(release.ollama), patches)
    files = Files(folder_reader(release.ollama))
    reverse_steps(files, queue.upstream[-count:], queue.checkout.layout)
    write(release.ollama, files)


def write(tree: Path, files: Files) -> None:
    """Write the changes of a view."""
    for name, data in files.changes().items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file."""
    path.write_bytes(change(path.read_bytes()))


def test_a_release_as_it_was_tagged(release: Release, locked: Path) -> None:
    """All of Ollama's patches are in, none of ours, which would go on; two files are not vendored."""
    state = state_of(release.ollama, locked)
    assert state.source and state.source.lock and state.source.lock.tags == ("v0.99.0",)
    assert {p.verdict for p in state.upstream} == {Verdict.APPLIED}
    assert all(p.applied for p in state.upstream)
    assert [(p.name, p.applied, p.verdict, p.evidence) for p in state.ours] == [
        ("new-files", False, "clean", ""),
        ("ids-new", False, "clean", ""),
        ("ops", False, "offset", "1 hunk, by up to 1 line"),
        ("new-files", False, "clean", ""),
        ("server", False, "clean", ""),
    ]
    assert state.located.not_vendored == 2
    assert find_problems(state) == ()


def test_our_patches_are_recognised_and_taken_off(release: Release, locked: Path) -> None:
    """With all of ours in, Ollama's are found below; what is left is the release to the byte."""
    put_on(release.ollama, locked)
    state = state_of(release.ollama, locked)
    assert all(p.applied and p.verdict is Verdict.APPLIED for p in state.patches)
    assert [p.id for p in state.ours][1:3] == ["tq-all-ids", "tq-all-ops"], (
        "of the alternative used"
    )
    assert kinds(state) == []
    changed = git(release.ollama, "status", "--porcelain", "--untracked-files=all")
    assert len(changed.splitlines()) == len(state.without_ours.changes()) == 6


def test_the_first_of_ours_alone(release: Release, locked: Path) -> None:
    """A beginning of our queue is no problem; one that is missing in between is."""
    put_on(release.ollama, locked, 2)
    state = state_of(release.ollama, locked)
    assert [p.applied for p in state.ours] == [True, True, False, False, False]
    assert kinds(state) == []
    put_on_only(release, locked, "server")
    state = state_of(release.ollama, locked)
    assert [p.applied for p in state.ours] == [True, True, False, False, True]
    assert state.gaps == ("ops", "new-files")
    assert kinds(state) == ["gap"]


def put_on_only(release: Release, patches: Path, name: str) -> None:
    """Apply one of ours by its name."""
    queue = read_queue(find_checkout(release.ollama), patches)
    files = Files(folder_reader(release.ollama))
    steps = [s for s in queue.ours if s.name == name]
    assert all(d.ok for d in apply_steps(files, steps, queue.checkout.layout))
    write(release.ollama, files)


def test_half_of_ours(release: Release, locked: Path) -> None:
    """One file of two has the patch: half-applied, and the file without it is named."""
    before = (release.ollama / GGML / "src/ggml.c").read_bytes()
    put_on(release.ollama, locked)
    (release.ollama / GGML / "src/ggml.c").write_bytes(before)
    state = state_of(release.ollama, locked)
    (half,) = state.half
    assert (half.name, half.applied) == ("ops", None)
    assert half.evidence == "in 1 file, not in 1"
    assert half.files == (f"{GGML}/src/ggml.c",)
    assert all(p.applied for p in state.upstream)
    assert (kinds(state), exit_code(find_problems(state))) == (["half-applied"], 1)


def test_a_new_file_of_ours_with_other_content(release: Release, locked: Path) -> None:
    """Edited, or of another version: modified, and the file is named."""
    put_on(release.ollama, locked)
    path = release.ollama / GGML / "src/ggml-turbo.c"
    edit(path, lambda d: d + b"// mine\n")
    state = state_of(release.ollama, locked)
    first = state.ours[0]
    assert (first.verdict, first.files) == ("modified", (f"{GGML}/src/ggml-turbo.c",))
    assert kinds(state) == ["modified"]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_some_of_ollamas_patches_are_off(release: Release, locked: Path, count: int) -> None:
    """The prefix is found by hashes; the rest would go on cleanly."""
    take_back(release, locked, count)
    state = state_of(release.ollama, locked)
    assert state.located.prefix == 8 - count
    assert [p.applied for p in state.upstream] == [True] * (8 - count) + [False] * count
    assert {str(p.verdict) for p in state.upstream[8 - count :]} == {"clean"}
    (problem,) = find_problems(state)
    assert problem.text == f"{8 - count} of Ollama's 8 patches are applied (expected all)"


def test_files_of_different_ages_are_half_applied(release: Release, locked: Path) -> None:
    """One file of a patch lags behind: the patch is half-applied, and the file is named."""
    base = (release.llama / "ggml/src/ggml-metal/ggml-metal.metal").read_bytes()
    (release.ollama / GGML / "src/ggml-metal/ggml-metal.metal").write_bytes(base)
    state = state_of(release.ollama, locked)
    assert state.located.prefix is None
    (half,) = state.half
    assert half.name == "0004-ops-argsort-for-i32"
    assert half.evidence == "in 1 file, not in 1"
    assert half.files == (f"{GGML}/src/ggml-metal/ggml-metal.metal",)
    assert kinds(state) == ["half-applied"]


def test_hunks_of_one_file_tell_a_patch_that_stopped_midway(release: Release, locked: Path) -> None:
    """A file with one hunk of two is on no rung; which hunk is in, the state says."""
    source = release.ollama / GGML / "src/ggml-cpu/ops.cpp"
    text = source.read_bytes()
    # The fourth patch gets a second hunk, in the tree as in its file.
    later = text.replace(b"int ops_20(void);\n", b"int ops_20(void);\nint ops_second(void);\n")
    source.write_bytes(later)
    hunk = b"@@ -19,4 +19,5 @@\n int ops_18(void);\n int ops_19(void);\n int ops_20(void);\n+int ops_second(void);\n int ops_21(void);\n"
    fourth = release.patches[3]
    mark = b"+++ b/ggml/src/ggml-cpu/ops.cpp\n"
    edit(
        fourth,
        lambda d: re.sub(rb"index .*\n(--- a/ggml/src/ggml-cpu/ops)", rb"\1", d).replace(
            mark, mark + hunk
        ),
    )
    state = state_of(release.ollama, locked)
    assert all(p.applied for p in state.upstream)
    source.write_bytes(text)
    state = state_of(release.ollama, locked)
    (half,) = state.half
    assert half.name == "0004-ops-argsort-for-i32"
    assert "hunk 2 of 2 in" in half.evidence


def test_a_patch_that_is_missing_below_others(release: Release, locked: Path) -> None:
    """Taken out of the middle: a gap, not a shorter prefix."""
    base = (release.llama / "src/llama-vocab.cpp").read_bytes()
    (release.ollama / "llama/llama.cpp/src/llama-vocab.cpp").write_bytes(base)
    state = state_of(release.ollama, locked)
    assert state.gaps == ("0002-vocab-pretokenizer",)
    assert kinds(state) == ["gap"]


@pytest.mark.parametrize(
    ("name", "line"),
    [("ggml.c", b"int ggml_c_100(void);\n"), ("ggml.c", b"int ggml_c_reset(void);\n"), ("mem_nvml.cpp", b"int nvml_3(void);\n")],
    ids=["beside hunks", "inside of a hunk", "in a file that a patch makes"],
)  # fmt: skip
def test_local_edits_are_named_and_hide_nothing(
    release: Release, locked: Path, name: str, line: bytes
) -> None:
    """A changed file is on no rung: an edit of it, and all patches still count as applied."""
    edit(
        release.ollama / GGML / "src" / name,
        lambda d: d.replace(line, line.replace(b"int", b"long")),
    )
    state = state_of(release.ollama, locked)
    assert [p.path for p in state.edited] == [f"{GGML}/src/{name}"]
    assert all(p.applied for p in state.upstream)
    assert state.located.prefix == 8
    assert (kinds(state), exit_code(find_problems(state))) == (["local-edit"], 1)


def test_a_file_that_is_gone(release: Release, locked: Path) -> None:
    """Missing, not half-applied."""
    (release.ollama / GGML / "src/ggml.c").unlink()
    state = state_of(release.ollama, locked)
    assert [p.path for p in state.edited if p.missing] == [f"{GGML}/src/ggml.c"]
    assert kinds(state) == ["missing-file"]


def test_a_checkout_with_crlf_is_converted_not_modified(release: Release, locked: Path) -> None:
    """Sources, our patches among them, and Ollama's patch files with CRLF: one problem, all verdicts as before."""
    put_on(release.ollama, locked)
    for path in [p for p in release.ollama.rglob("*") if p.is_file() and ".git" not in p.parts]:
        if b"\n" in path.read_bytes() and path.name != ".rsync-filter":
            edit(path, lambda d: d.replace(b"\n", b"\r\n"))
    state = state_of(release.ollama, locked)
    assert {str(p.verdict) for p in state.patches} == {"applied"}
    assert state.source and state.source.lock
    assert f"{GGML}/src/ggml.c" in state.converted
    assert "llama/patches/0001-backend-free-with-the-same-compiler.patch" in state.converted
    assert kinds(state) == ["eol-converted"]


def test_a_patch_that_was_exported_anew(release: Release, locked: Path) -> None:
    """Other bytes, the same change: re-exported, of no known release, nearest named."""
    edit(
        release.patches[1],
        lambda d: (
            re.sub(rb"index ([0-9a-f]{7})[0-9a-f]*\.\.([0-9a-f]{7})[0-9a-f]*", rb"index \1..\2", d)
            + b"-- \n2.40\n"
        ),
    )
    state = state_of(release.ollama, locked)
    assert verdicts(state)["0002-vocab-pretokenizer"] == "re-exported"
    assert state.source and state.source.nearest
    (problem,) = find_problems(state)
    assert (problem.kind, exit_code((problem,))) == ("unknown-release", 5)
    assert problem.text == "no lock knows these patches; 7 of 8 are those of v0.99.0"


def test_a_patch_that_was_modified_added_or_removed(release: Release, locked: Path) -> None:
    """Its change differs from the release's patch of that name; another is new, another is not there."""
    edit(release.patches[1], lambda d: d.replace(b"vocab_pre", b"vocab_post"))
    release.patches[7].rename(release.patches[7].with_name("0009-mine.patch"))
    edit(release.patches[7].with_name("0009-mine.patch"), lambda d: d.replace(b"// end", b"// End"))
    state = state_of(release.ollama, locked)
    found = verdicts(state)
    assert found["0002-vocab-pretokenizer"] == "modified"
    assert found["0009-mine"] == "added"
    assert kinds(state)[-1] == "unknown-release"
    assert {"modified", "added", "missing-patch"} <= set(kinds(state))
    assert exit_code(find_problems(state)) == 1


def test_stale_index_lines_are_no_edit(release: Release, locked: Path, tmp_path: Path) -> None:
    """With a lock of that very release the verdict is stale-index, and nothing is wrong."""
    from tests.patches.releases import ENV
    from tqconvert.patches.locks.lock import compute_lock
    from tqconvert.patches.locks.lockfile import store_lock

    edit(
        release.patches[3],
        lambda d: re.sub(rb"index [0-9a-f]+\.\.[0-9a-f]+", b"index 1234567..89abcde", d, count=1),
    )
    store_lock(compute_lock(find_checkout(release.ollama), (), ENV), locked / "legacy/upstream")
    state = state_of(release.ollama, locked)
    assert verdicts(state)["0004-ops-argsort-for-i32"] == "stale-index"
    assert all(p.applied for p in state.upstream)
    assert find_problems(state) == ()


def test_a_release_that_no_lock_knows(release: Release, ours: Path) -> None:
    """Without any lock the patches' own index lines are the ladder; the release is not known."""
    state = state_of(release.ollama, ours)
    assert all(p.applied for p in state.upstream)
    assert state.located.prefix == 8
    assert (kinds(state), exit_code(find_problems(state))) == (["unknown-release"], 5)
    (release.ollama / GGML / "src/ggml.c").write_bytes(lines("ggml_c", 120))
    state = state_of(release.ollama, ours)
    assert [p.name for p in state.upstream if p.applied is False] == [
        "0001-backend-free-with-the-same-compiler", "0007-backend-reset-devices",
    ]  # fmt: skip
    assert kinds(state) == ["gap", "unknown-release"]


def test_another_llama_under_the_same_patches(release: Release, locked: Path) -> None:
    """Only the base that Makefile.sync names differs: said so, with the release's own."""
    edit(
        release.ollama / "Makefile.sync",
        lambda d: re.sub(rb"FETCH_HEAD=.*", b"FETCH_HEAD=0123456", d),
    )
    state = state_of(release.ollama, locked)
    (problem,) = find_problems(state)
    assert (
        problem.text == f"the patches are those of v0.99.0, which has llama.cpp {release.base[:9]}"
    )
    assert exit_code((problem,)) == 5


def test_llama_itself_with_ollamas_patches(release: Release, locked: Path) -> None:
    """A llama.cpp tree: pristine, then patched; no prefix of a llama.cpp tree is a problem."""
    state = state_of(release.llama, locked, release.ollama)
    assert [p.applied for p in state.upstream] == [False] * 8
    assert {str(p.verdict) for p in state.upstream} == {"clean"}
    assert [str(p.verdict) for p in state.ours] == ["clean", "clean", "offset"]
    assert (state.located.prefix, kinds(state)) == (0, [])
    git(release.llama, "checkout", "-q", "patched")
    state = state_of(release.llama, locked, release.ollama)
    assert all(p.applied for p in state.upstream)
    assert state.located.not_vendored == 0


def test_llama_of_another_age(release: Release, locked: Path) -> None:
    """No file is one of the base: unknown base, exit code 5; later patches are blocked by the first."""
    for name in git(release.llama, "ls-files").splitlines():
        edit(release.llama / name, lambda d: d.replace(b"(void)", b"(int)"))
    state = state_of(release.llama, locked, release.ollama)
    assert not state.known_base
    assert (kinds(state), exit_code(find_problems(state))) == (["unknown-base"], 5)
    found = {p.name: (str(p.verdict), p.evidence) for p in state.upstream}
    assert found["0001-backend-free-with-the-same-compiler"][0] == "conflict"
    assert found["0007-backend-reset-devices"] == (
        "blocked-by",
        "0001-backend-free-with-the-same-compiler",
    )


def test_modern_trees_hold_their_own_patches_only(modern: Release, locked: Path) -> None:
    """Compat patches are known by their bytes; ours go onto Ollama's Go."""
    state = state_of(modern.ollama, locked)
    assert [(p.name, p.applied, str(p.verdict)) for p in state.patches] == [
        ("001-hooks", None, "not-vendored"), ("models/003-metal", None, "not-vendored"), ("server", False, "clean"),
    ]  # fmt: skip
    assert kinds(state) == []
    put_on(modern.ollama, locked)
    assert [p.applied for p in state_of(modern.ollama, locked).ours] == [True]
    (modern.ollama / "LLAMA_CPP_VERSION").write_text("b88888\n")
    state = state_of(modern.ollama, locked)
    assert kinds(state) == ["unknown-release"]


def test_the_llama_that_a_modern_release_pins(modern: Release, locked: Path) -> None:
    """With compat patches without ids too (bare diffs), the hunks tell what is in."""
    state = state_of(modern.llama, locked, modern.ollama)
    assert [p.applied for p in state.patches] == [False] * len(state.patches)
    git(modern.llama, "checkout", "-q", "patched")
    for path in modern.patches:
        edit(path, lambda d: re.sub(rb"index .*\n", b"", d))
    state = state_of(modern.llama, locked, modern.ollama)
    assert [p.applied for p in state.upstream] == [True, True]
    assert {str(p.verdict) for p in state.upstream} == {"re-exported"}


def test_nothing_is_written(release: Release, locked: Path) -> None:
    """No file, no time stamp, no ref changes."""

    def times() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in release.ollama.rglob("*")}

    before = times()
    state_of(release.ollama, locked)
    assert times() == before


def test_index_lines_that_contradict_each_other_are_no_ladder(release: Release, ours: Path) -> None:
    """Without a lock, stale lines of a file that two patches touch: its hunks tell, and all are in."""
    edit(
        release.patches[6],
        lambda d: re.sub(rb"index [0-9a-f]+\.\.[0-9a-f]+", b"index 1234567..89abcde", d, count=1),
    )
    state = state_of(release.ollama, ours)
    assert all(p.applied for p in state.upstream)
    assert (state.edited, state.half, kinds(state)) == ((), (), ["unknown-release"])


def test_an_older_release_is_not_known_and_nothing_else(release: Release, locked: Path) -> None:
    """The last patch is neither in the folder nor in the tree: the nearest is named, exit code 5."""
    take_back(release, locked, 1)
    release.patches[7].unlink()
    state = state_of(release.ollama, locked)
    problems = find_problems(state)
    assert [p.text for p in problems] == [
        "0008-quants-last-line.patch, a patch of v0.99.0, is not there",
        "no lock knows these patches; 7 of 7 are those of v0.99.0",
    ]
    assert exit_code(problems) == 5
