"""The levels of `verify`: each finds what it is there for, and says what it cannot see."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.patches.releases import ENV, GIT, Release, commit, git, lines, write_tree
from tqconvert.patches.checkout import find_checkout
from tqconvert.patches.embed import FOLDER, RECIPE, make, parse_recipe
from tqconvert.patches.files import Files, folder_reader
from tqconvert.patches.locks.lock import Sources, compute_lock, open_base
from tqconvert.patches.locks.lockfile import store_lock
from tqconvert.patches.queue import read_queue
from tqconvert.patches.tree.state import read_state
from tqconvert.patches.verify.check import Check
from tqconvert.patches.verify.verify import exit_code, verify
from tqconvert.patches.walk import apply_steps

GGML = "ml/backend/ggml/ggml"
NAMES = ["L0", "L1", "L2", "L3", "L4", "ours"]


class Verdicts:
    """All checks of a tree, and the exit code."""

    def __init__(
        self, tree: Path, patches: Path, *, ollama: Path | None = None, base: Path | None = None,
        level: int | None = None,
    ) -> None:  # fmt: skip
        source = find_checkout(ollama) if ollama else None
        queue = read_queue(find_checkout(tree), patches, ollama=source)
        state = read_state(queue, patches)
        assert queue.source
        opened = open_base(queue.source, base, ENV) if base else None
        self.checks = verify(state, patches, ENV, level=level, commit=opened)
        self.code = exit_code(state, self.checks)

    def __getitem__(self, level: str) -> Check:
        (check,) = (c for c in self.checks if c.level == level)
        return check

    @property
    def ok(self) -> dict[str, bool | None]:
        """Level -> whether it holds."""
        return {c.level: c.ok for c in self.checks}

    @property
    def failed(self) -> list[str]:
        """Levels that do not hold."""
        return [c.level for c in self.checks if c.ok is False]


def put_on(tree: Path, patches: Path) -> None:
    """Apply ours in the work tree."""
    queue = read_queue(find_checkout(tree), patches)
    files = Files(folder_reader(tree))
    assert all(d.ok for d in apply_steps(files, queue.ours, queue.checkout.layout))
    write_tree(tree, {p: d for p, d in files.changes().items() if d is not None})


def swap(path: Path, old: bytes, new: bytes) -> None:
    """Change one place of a file."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def test_a_release_holds_on_all_levels(release: Release, locked: Path) -> None:
    """What each level looked at is counted; what is not vendored is never counted as looked at."""
    found = Verdicts(release.ollama, locked)
    assert found.ok == {"L0": True, "L1": True, "L2": True, "L3": True, "L4": None, "ours": None}
    assert found.code == 0
    assert found["L0"].covered == "ids of 3 folders"
    assert found["L1"].covered == "8 patches by sha256, 7 files on 16 rungs"
    assert found["L1"].not_covered == "2 files of patches that the tree does not carry"
    assert found["L2"].covered == (
        "8 patches taken off: 9 images before and 9 after them as stated, 6 files of the base rebuilt"
    )
    assert found["L3"].covered == "14 files, 7 of them untouched by patches, trees of v0.99.0"
    assert found["L4"].not_covered == f"{RECIPE} is not there"
    assert found["ours"].not_covered == "none is applied"


def test_with_ours_applied_the_release_below_still_holds(release: Release, locked: Path) -> None:
    """In the work tree: git's changes are those of our patches, and ours are this installation's."""
    put_on(release.ollama, locked)
    found = Verdicts(release.ollama, locked)
    assert (found.failed, found.code) == ([], 0)
    assert found["L0"].covered == "ids of 3 folders; 4 changed as our patches do"
    assert found["ours"].covered == "5 of 5 patches as in this installation"


def test_levels_can_be_limited(release: Release, locked: Path) -> None:
    """--level N looks no further, but at ours always."""
    found = Verdicts(release.ollama, locked, level=1)
    assert [c.level for c in found.checks] == ["L0", "L1", "ours"]
    found = Verdicts(release.ollama, locked, level=5)
    assert found["L5"].not_covered == "needs llama.cpp's base commit (--base-git REPO)"


@pytest.mark.parametrize(
    ("path", "failing"),
    [
        (f"{GGML}/src/ggml.c", ["L0", "L1", "L2", "L3"]),
        ("llama/llama.cpp/src/llama.cpp", ["L0", "L3"]),
        (f"{GGML}/src/ggml.go", ["L0", "L3"]),
        (f"{GGML}/.rsync-filter", ["L0", "L3"]),
    ],
    ids=["patched", "untouched", "Ollama's own", "a filter"],
)  # fmt: skip
@pytest.mark.parametrize("committed", [False, True], ids=["changed", "committed"])
def test_one_byte_more_is_found(
    release: Release, locked: Path, path: str, failing: list[str], committed: bool
) -> None:
    """Wherever a byte is added in the vendored folders: code 4, in the work tree and committed."""
    file = release.ollama / path
    file.write_bytes(file.read_bytes() + b"#")
    if committed:
        commit(release.ollama, "a byte")
    found = Verdicts(release.ollama, locked)
    # L2 sees a patched file only where a hunk or an index line is: with the lock, by its ids.
    assert found.failed == failing if path.endswith("ggml.c") else set(found.failed) == set(failing)
    assert found.code == 4
    name = path if "own" not in str(found["L3"].findings) else "own"
    assert any(name in f for f in found["L3"].findings) or path.endswith("ggml.c")


def test_without_git_the_other_levels_find_it(release: Release, locked: Path) -> None:
    """A folder without .git: L0 says so, the rest looks at the files."""
    shutil.rmtree(release.ollama / ".git")
    found = Verdicts(release.ollama, locked)
    assert (found.ok["L0"], found["L0"].not_covered, found.code) == (None, "not a git checkout", 0)
    swap(release.ollama / "llama/llama.cpp/include/llama.h", b"llama_h_7(", b"llama_h_8(")
    found = Verdicts(release.ollama, locked)
    assert (found.failed, found.code) == (["L3"], 4)
    assert found["L3"].findings == (
        f"llama/llama.cpp/include/llama.h differs from llama.cpp {release.base[:9]}",
    )


def test_files_too_many_and_too_few(release: Release, locked: Path) -> None:
    """A source that the release lacks would be compiled in; one that is gone is named."""
    write_tree(release.ollama, {f"{GGML}/src/extra.c": b"int extra(void);\n"})
    (release.ollama / "llama/llama.cpp/include/llama.h").unlink()
    found = Verdicts(release.ollama, locked)
    assert found["L3"].findings == (
        f"{GGML}/src/extra.c is not a file of the release", "llama/llama.cpp/include/llama.h is not there",
    )  # fmt: skip
    assert set(found["L0"].findings) == {
        f"{GGML}/src/extra.c is not as it was committed",
        "llama/llama.cpp/include/llama.h is not as it was committed",
    }


def test_a_mode_is_part_of_a_file(release: Release, locked: Path) -> None:
    """An executable source is not the release's."""
    path = release.ollama / "llama/llama.cpp/include/llama.h"
    path.chmod(0o755)
    assert Verdicts(release.ollama, locked)["L3"].findings == (
        "llama/llama.cpp/include/llama.h has mode 100755 (expected 100644)",
    )


def test_crlf_is_no_other_content(release: Release, locked: Path) -> None:
    """A checkout with CRLF holds on all levels, and L3 counts the converted files."""
    for path in [p for p in release.ollama.rglob("*") if p.is_file() and ".git" not in p.parts]:
        if path.name != ".rsync-filter":
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    found = Verdicts(release.ollama, locked)
    assert found.failed == []
    assert found["L3"].covered.endswith("12 with CRLF")


def test_a_half_applied_tree_fails_by_name(release: Release, locked: Path) -> None:
    """L1 names the file that is behind, L2 the patch that cannot be taken off."""
    base = (release.llama / "ggml/src/ggml-metal/ggml-metal.metal").read_bytes()
    (release.ollama / GGML / "src/ggml-metal/ggml-metal.metal").write_bytes(base)
    found = Verdicts(release.ollama, locked)
    assert found.code == 4
    assert found["L1"].findings == (
        f"{GGML}/src/ggml-metal/ggml-metal.metal has the patches up to 0 (others up to 8)",
    )
    assert found["L2"].findings[0] == "0004-ops-argsort-for-i32 cannot be taken off"
    assert found["L3"].findings == ()


def test_a_prefix_is_consistent_but_no_release(release: Release, locked: Path) -> None:
    """The last patch taken off everywhere: L1 says how many are in, L2 holds for those."""
    path = GGML + "/src/ggml-cpu/quants.c"
    (release.ollama / path).write_bytes((release.llama / "ggml/src/ggml-cpu/quants.c").read_bytes())
    found = Verdicts(release.ollama, locked)
    assert found["L1"].findings == ("7 of 8 patches are applied (expected all)",)
    assert found.ok["L2"] is True
    assert found["L3"].not_covered.startswith("4 files of Ollama's own")
    assert found.code == 4


def test_a_patch_of_ollamas_with_other_bytes_has_no_lock(release: Release, locked: Path) -> None:
    """Patch and tree changed alike: consistent in itself (L2), of no known release: exit code 5."""
    swap(release.patches[1], b"vocab_pre", b"vocab_gone")
    swap(release.ollama / "llama/llama.cpp/src/llama-vocab.cpp", b"vocab_pre", b"vocab_gone")
    found = Verdicts(release.ollama, locked)
    assert found["L2"].findings == ("1 index line names other content than was met",)
    assert found.code == 1
    data = release.patches[1].read_bytes()
    release.patches[1].write_bytes(re.sub(rb"\nindex .*", b"", data))
    found = Verdicts(release.ollama, locked)
    assert found.ok == {"L0": None, "L1": None, "L2": True, "L3": None, "L4": None, "ours": None}
    assert "1 file without index line" in found["L2"].not_covered
    assert found.code == 5


def test_stale_index_lines_alone_are_a_finding_without_a_lock_and_none_with_it(
    release: Release, locked: Path
) -> None:
    """Without a lock they cannot be told from an edit; the lock has the true ids."""
    path = release.patches[3]
    path.write_bytes(
        re.sub(
            rb"index [0-9a-f]+\.\.[0-9a-f]+", b"index 1234567..89abcde", path.read_bytes(), count=1
        )
    )
    found = Verdicts(release.ollama, locked)
    assert found.ok["L2"] is False
    assert found.code == 1
    commit(release.ollama, "stale")
    store_lock(compute_lock(find_checkout(release.ollama), (), ENV), locked / "legacy/upstream")
    found = Verdicts(release.ollama, locked)
    assert found.failed == []
    assert "1 stale index line" in found["L2"].covered


def test_ours_with_other_bytes(release: Release, locked: Path) -> None:
    """An edited new file of ours, and a hook that is there by half: code 4."""
    put_on(release.ollama, locked)
    swap(release.ollama / GGML / "src/ggml-turbo.c", b"turbo", b"turbot")
    found = Verdicts(release.ollama, locked)
    assert "ours" in found.failed
    assert found.code == 4
    assert found["ours"].findings == (
        "new-files is modified: other content than this installation's",
    )


def test_commits_of_ours_are_compared_by_their_digest(release: Release, locked: Path) -> None:
    """HEAD with our patches as commits: L0 looks at the commit below; another digest is found."""
    put_on(release.ollama, locked)
    queue = read_queue(find_checkout(release.ollama), locked)
    digest = next(s for s in queue.ours if s.name == "ops").alternatives[0].sha256
    git(release.ollama, "add", "-A")
    git(release.ollama, "commit", "-q", "-m", f"ops\n\nTQ-Patch: ops sha256:{digest}")
    found = Verdicts(release.ollama, locked)
    assert (found.failed, found.code) == ([], 0)
    assert found["L0"].covered == "ids of 3 folders below 1 commit of ours, with their sha256"
    git(release.ollama, "commit", "-q", "--amend", "-m", f"ops\n\nTQ-Patch: ops sha256:{'0' * 64}")
    found = Verdicts(release.ollama, locked)
    assert found.failed == ["L0"]
    assert "ops (" in found["L0"].findings[0]


def test_the_base_itself_proves_everything_that_is_of_llama(release: Release, locked: Path) -> None:
    """L5: forward onto the base commit; trees as the lock states, each vendored file as it must be."""
    found = Verdicts(release.ollama, locked, base=release.llama)
    tree = git(release.llama, "rev-parse", "patched^{tree}")
    assert found["L5"].covered == (
        f"8 patches on {release.base[:9]}, 0 with offset, tree {tree[:12]}, equal to 10 vendored files"
    )
    assert found.ok["L5"] is True
    swap(release.ollama / "llama/llama.cpp/include/llama.h", b"llama_h_7(", b"llama_h_8(")
    found = Verdicts(release.ollama, locked, base=release.llama)
    assert found["L5"].findings == (
        "llama/llama.cpp/include/llama.h is not what base and patches make",
    )


def test_a_lock_with_a_wrong_id_fails_on_the_base(release: Release, locked: Path) -> None:
    """One digit of a ladder, of the base's tree, of the result: each is found at L5."""
    (path,) = (locked / "legacy/upstream").glob("*.lock.json")
    text = path.read_text()
    for old in (
        git(release.llama, "rev-parse", "patched^{tree}"),
        git(release.llama, "rev-parse", f"{release.base}^{{tree}}"),
        git(release.llama, "rev-parse", "patched:src/CMakeLists.txt"),
    ):
        assert old in text
        path.write_text(text.replace(old, ("1" if old[0] != "1" else "2") + old[1:]))
        assert Verdicts(release.ollama, locked, base=release.llama).failed == ["L5"]


def test_llama_itself(release: Release, locked: Path) -> None:
    """Pristine: on the ladder at its base, nothing to take off. Patched: taken off down to the base."""
    found = Verdicts(release.llama, locked, ollama=release.ollama, base=release.llama)
    assert found.ok == {
        "L0": None,
        "L1": True,
        "L2": None,
        "L3": None,
        "L4": None,
        "L5": True,
        "ours": None,
    }
    git(release.llama, "checkout", "-q", "patched")
    found = Verdicts(release.llama, locked, ollama=release.ollama)
    assert (found.ok["L1"], found.ok["L2"], found.code) == (True, True, 0)
    assert found["L2"].covered.startswith("8 patches taken off: 11 images before and 11 after")
    for name in git(release.llama, "ls-files").splitlines():
        path = release.llama / name
        path.write_bytes(path.read_bytes().replace(b"(void)", b"(int)"))
    found = Verdicts(release.llama, locked, ollama=release.ollama)
    assert found["L1"].findings == ("no file that the patches touch is one of the lock's base",)
    assert found.code == 5


def test_modern_releases(modern: Release, locked: Path) -> None:
    """Bytes of the compat patches and git's trees; with the pinned llama.cpp also what they make."""
    found = Verdicts(modern.ollama, locked)
    assert found.ok == {"L0": True, "L1": True, "L2": None, "L3": None, "L4": None, "ours": None}
    assert found["L1"].covered == "2 patches by sha256"
    assert found.code == 0
    found = Verdicts(modern.ollama, locked, base=modern.llama)
    assert found.ok["L5"] is True
    (modern.ollama / "llama/compat/compat.cmake").write_text("# other\n")
    found = Verdicts(modern.ollama, locked)
    assert found["L0"].findings == ("llama/compat/compat.cmake is not as it was committed",)
    commit(modern.ollama, "other")
    found = Verdicts(modern.ollama, locked)
    assert re.fullmatch(
        r"llama/compat is \w{12} in the commit \(expected \w{12}\)", found["L0"].findings[0]
    )


def test_a_verification_that_looked_at_nothing_is_not_ok(
    modern: Release, locked: Path, tmp_path: Path
) -> None:
    """A llama.cpp tree with nothing applied and a lock without ids: exit code 1."""
    shutil.rmtree(locked / "modern/upstream")
    (locked / "modern/upstream").mkdir()
    store_lock(compute_lock(find_checkout(modern.ollama), (), ENV), locked / "modern/upstream")
    found = Verdicts(modern.llama, locked, ollama=modern.ollama)
    assert set(found.ok.values()) == {None}
    assert found.code == 1


GENERATE = (
    "//go:generate sh -c \"{ echo // Made by 'go generate'.; sed -e '/__embed_common.h__/r ../common.h' "
    "-e '/__embed_common.h__/d' -e '/#include \\\"impl.h\\\"/r impl.h' -e '/#include \\\"impl.h\\\"/d' "
    'x.metal; } >x-embed.metal"'
)


def write_metal(tree: Path) -> None:
    """Metal sources with a recipe of the release's form, and what it makes, made by sh and sed."""
    write_tree(
        tree,
        {
            RECIPE: f"package metal\n\n{GENERATE}\n".encode(),
            f"{FOLDER}/x.metal": b'// head\n__embed_common.h__\nkernel a\n#include "impl.h"\nkernel b\n',
            f"{FOLDER}/impl.h": lines("impl", 3),
            f"{GGML}/src/common.h": lines("common", 3),
        },
    )  # fmt: skip
    command = (
        GENERATE.removeprefix("//go:generate ").replace('\\"', '\\\\"').replace('\\\\"', '\\"')
    )
    subprocess.run(command, shell=True, cwd=tree / FOLDER, check=True)


def test_the_recipe_is_followed_as_sed_does(release: Release) -> None:
    """Made in Python from the go:generate line, the file is what sh and sed make."""
    write_metal(release.ollama)
    read = folder_reader(release.ollama)
    recipe = parse_recipe((read(RECIPE) or b"").decode())
    assert recipe is not None
    assert recipe.target == f"{FOLDER}/x-embed.metal"
    made = make(recipe, read)
    assert made == read(recipe.target)
    assert made is not None
    assert made.startswith(b"// Made by go generate.\n// head\nint common_0(void);\n")
    assert parse_recipe("//go:generate stringer\n") is None
    assert parse_recipe(GENERATE.replace("-e '/__embed_common.h__/d'", "-e 's/a/b/'")) is None


def test_metal_that_was_not_made_anew(release: Release, locked: Path, ours: Path) -> None:
    """A source changed after `go generate`: a finding of code 1, with the line and the command."""
    write_metal(release.ollama)
    commit(release.ollama, "metal")
    git(release.ollama, "tag", "-f", "v0.99.0")
    for path in (locked / "legacy/upstream").iterdir():
        path.unlink()
    base = open_base(find_checkout(release.ollama), release.llama, ENV)
    computed = compute_lock(find_checkout(release.ollama), ["v0.99.0"], ENV, Sources(base))
    store_lock(computed, locked / "legacy/upstream")
    found = Verdicts(release.ollama, locked)
    assert (found.ok["L4"], found.failed) == (True, [])
    assert found["L4"].covered == f"{FOLDER}/x-embed.metal against 3 sources"
    swap(release.ollama / FOLDER / "impl.h", b"impl_1(", b"impl_11(")
    check = Verdicts(release.ollama, locked)["L4"]
    assert check.findings == (
        f"{FOLDER}/x-embed.metal is out of date from line 8 (go generate ./{FOLDER} makes it anew)",
    )
    assert check.code == 1
    (release.ollama / FOLDER / "x-embed.metal").unlink()
    assert "is not there" in Verdicts(release.ollama, locked)["L4"].findings[0]


def test_nothing_is_written(release: Release, locked: Path) -> None:
    """All levels leave tree and repositories as they are, git's index included."""
    folders = (release.ollama, release.llama)
    before = {p: p.stat().st_mtime_ns for f in folders for p in f.rglob("*")}
    Verdicts(release.ollama, locked, base=release.llama)
    assert {p: p.stat().st_mtime_ns for f in folders for p in f.rglob("*")} == before
    assert git(release.ollama, "status", "--porcelain") == ""
    assert GIT
