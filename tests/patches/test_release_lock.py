"""Locks: those of the repository, and those computed from a made-up release, against git itself."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.patches.releases import BASE, ENV, GIT, NOT_VENDORED, Release, commit, git, vendored
from tqconvert.errors import BadLockError, IntegrityError, NotFoundError, UsageError
from tqconvert.patches.checkout import Checkout, Generation, find_checkout
from tqconvert.patches.locks.lock import Sources, compute_lock, open_base
from tqconvert.patches.locks.lockfile import store_lock
from tqconvert.patches.locks.release import (
    ReleaseLock,
    all_locks,
    find_lock,
    nearest_lock,
    parse_lock,
    read_listing,
    read_lock,
    render_lock,
    tag_order,
)
from tqconvert.patches.objects import blob_id
from tqconvert.patches.patch_id import patch_id
from tqconvert.patches.series import find_patches

PATCHES = find_patches()
FILES = sorted(PATCHES.glob("*/upstream/*.lock.json"))
LEGACY = "ec98e20021f7611db3bbcf6bb6629fed6e1ce4f0"

GROUPS = {
    # series: (releases, patches, files of patches, tree of the patches, base and patches)
    "22fef4e0ef5fa37d": ("v0.17.1 to v0.19.0", 34, 111, "e4a7f40b30b6", "b65ea766043b"),
    "85fb7cdbda4abdd9": ("v0.20.0", 35, 113, "4138fc8d6707", "bd2b2f5de4fb"),
    "e22aa95e3daac385": ("v0.20.1 to v0.20.3", 35, 114, "31fcdeac8b67", "f4d34d3d3e16"),
    "52d55a71590e9ae8": ("v0.20.4 to v0.20.6", 36, 129, "413f7a5f2e8c", "5c43b311942b"),
    "19f3c7902e035f18": ("v0.20.7 to v0.25.0-rc0", 36, 129, "67c52e24cb45", "04fd65b85e75"),
}
"""Read from Ollama's repository with git: TAG:llama/patches, and base + patches applied by git apply."""


def ladder_of(lock: ReleaseLock) -> dict[str, list[str | None]]:
    """Path -> ids from the base upwards; each patch must start where the one before it ended."""
    rungs: dict[str, list[str | None]] = {}
    for patch in lock.patches:
        for path, (old, new) in patch.files.items():
            assert rungs.setdefault(path, [old])[-1] == old, (patch.name, path)
            rungs[path].append(new)
    return rungs


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_each_lock_is_of_one_piece(path: Path) -> None:
    """Name, order, ids and ladders fit together, and nothing but hashes and names is in it."""
    lock = read_lock(path)
    assert path.name == lock.file_name
    assert path.parent.parent.name == lock.generation
    assert render_lock(lock) == path.read_text("utf-8")
    for patch in lock.patches:
        assert re.fullmatch("[0-9a-f]{64}", patch.sha256)
        assert re.fullmatch("[0-9a-f]{40}", patch.blob)
        assert re.fullmatch("[0-9a-f]{40}", patch.patch_id or "")
        assert {p for p, ids in patch.files.items() for i in ids if i and len(i) != 40} == set()
        for name, stated in patch.stale.items():
            true = patch.files[name]
            assert any(
                not (t or "0" * 40).startswith(s or "") for t, s in zip(true, stated, strict=True)
            )
    ladder_of(lock)
    for group in lock.releases:
        assert all(re.fullmatch("[0-9a-f]{40}", c or "") for c in group.tags.values())
        assert all(re.fullmatch("[0-9a-f]{40}", t or "") for t in group.trees.values())
    strings = re.findall(r'"((?:[^"\\]|\\.)*)"', path.read_text("utf-8"))
    assert not [s for s in strings if " " in s], "hashes, names and paths have no spaces"


@pytest.mark.parametrize("lock", list(all_locks(PATCHES, Generation.LEGACY)), ids=lambda k: k.title)
def test_legacy_locks_hold_what_git_says(lock: ReleaseLock) -> None:
    """Counts and ids of the five groups, and that the base is one and the same."""
    title, patches, files, tree, result = GROUPS[lock.series[:16]]
    assert (lock.title, len(lock.patches)) == (title, patches)
    assert sum(len(p.files) for p in lock.patches) == files
    assert {g.trees["llama/patches"] or "" for g in lock.releases} == {
        next(i for g in lock.releases if (i := g.trees["llama/patches"]) and i.startswith(tree))
    }
    assert (lock.result_tree or "").startswith(result)
    assert (lock.base.commit, lock.base.tree) == (
        LEGACY,
        "abd39b4bfd4d2e01c122c392010520034a49e748",
    )
    assert lock.not_recomputed == ("base.commit", "base.tree", "result.tree")
    assert lock.unresolved == ()
    stale = {p.name[:4]: len(p.stale) for p in lock.patches if p.stale}
    assert stale == ({"0020": 2, "0022": 1, "0024": 1} if title == "v0.20.1 to v0.20.3" else {})


def test_legacy_groups_with_the_same_patches_are_told_apart_by_their_trees() -> None:
    """v0.20.7 and v0.21.0 have the same patches; one Go file among the vendored differs."""
    (lock,) = (k for k in all_locks(PATCHES, Generation.LEGACY) if "v0.21.0" in k.tags)
    older, newer = lock.releases
    assert "v0.20.7" in older.tags
    assert {"v0.21.0", "v0.24.0"} <= set(newer.tags)
    assert older.trees["llama/llama.cpp"] != newer.trees["llama/llama.cpp"]
    assert older.trees["ml/backend/ggml/ggml"] == newer.trees["ml/backend/ggml/ggml"]


def test_the_listing_is_where_all_ladders_start() -> None:
    """The files of the base that are vendored begin with the ids that the locks' ladders start at."""
    for lock in all_locks(PATCHES, Generation.LEGACY):
        listing = read_listing(PATCHES, lock)
        assert listing is not None
        assert len(listing) > 680
        starts = {p: r[0] for p, r in ladder_of(lock).items() if r[0] and p in listing}
        assert len(starts) >= 60
        assert all((i or "").startswith(listing[p]) for p, i in starts.items())


def test_modern_locks_cover_all_releases_once() -> None:
    """Each pair of llama.cpp and patches has one lock, and no tag is in two."""
    locks = list(all_locks(PATCHES, Generation.MODERN))
    assert len(locks) == 19
    assert len({(k.base.tag, k.series) for k in locks}) == 19
    tags = [t for k in locks for t in k.tags]
    assert len(tags) == len(set(tags))
    assert {"v0.30.0", "v0.31.2", "v0.32.15", "v0.33.0-rc2"} <= set(tags)
    assert [k.base.tag for k in (locks[0], locks[-1])] == ["b9452", "b10488"]
    for lock in locks:
        assert all(len(u) == 4 for u in lock.unresolved)
        assert sum(p.stat().st_size for p in FILES if p.name == lock.file_name) < 3000


def test_tags_are_sorted_by_age() -> None:
    """Numbers count as numbers, candidates come before their release."""
    tags = ["v0.32.2", "v0.32.10", "v0.32.2-rc1", "v0.32.2-rc10", "v0.9.0"]
    assert sorted(tags, key=tag_order) == [
        "v0.9.0",
        "v0.32.2-rc1",
        "v0.32.2-rc10",
        "v0.32.2",
        "v0.32.10",
    ]


def test_patch_ids_are_those_of_git(release: Release, modern: Release, ours: Path) -> None:
    """Mails, bare diffs, diffs under our headers, a file without a line end: as `git patch-id --stable`."""
    paths = [*release.patches, *modern.patches, *ours.rglob("*.patch")]
    assert len(paths) > 12
    for path in paths:
        data = path.read_bytes()
        done = subprocess.run(
            [GIT, "patch-id", "--stable"], input=data, capture_output=True, check=True, env=ENV
        )
        assert patch_id(data) == done.stdout.split()[0].decode(), path.name
        moved = re.sub(rb"@@ -\d+", b"@@ -7", data).replace(b"\n-", b"\n- \t", 1)
        done = subprocess.run(
            [GIT, "patch-id", "--stable"], input=moved, capture_output=True, check=True, env=ENV
        )
        assert patch_id(moved) == done.stdout.split()[0].decode(), path.name
    assert patch_id(b"no diff\n") is None


def test_a_lock_with_the_base_at_hand_says_what_git_says(release: Release, locked: Path) -> None:
    """Every id on every ladder, the base's tree and that of base and patches, un-vendored files included."""
    checkout = find_checkout(release.ollama)
    (lock,) = all_locks(locked, Generation.LEGACY)
    assert lock.unresolved == ()
    assert lock.not_recomputed == ()
    assert lock.base.commit == release.base
    assert lock.base.tree == git(release.llama, "rev-parse", f"{release.base}^{{tree}}")
    assert lock.result_tree == git(release.llama, "rev-parse", "patched^{tree}")
    assert find_lock(locked, checkout, lock.series) == lock
    commits = git(release.llama, "rev-list", "--reverse", f"{release.base}..patched").split()
    for one, patch in zip(commits, lock.patches, strict=True):
        touched = git(release.llama, "diff", "--name-only", f"{one}^", one).split()
        assert sorted(patch.files) == sorted(touched)
        for path, (old, new) in patch.files.items():
            assert new == git(release.llama, "rev-parse", f"{one}:{path}")
            assert old == (git(release.llama, "rev-parse", f"{one}^:{path}") if old else None)
    (group,) = lock.releases
    assert dict(group.tags) == {"v0.99.0": git(release.ollama, "rev-parse", "HEAD")}
    for folder, tree in group.trees.items():
        assert tree == git(release.ollama, "rev-parse", f"HEAD:{folder}")
    listing = read_listing(locked, lock)
    assert listing == {p: blob_id(d)[:12] for p, d in BASE.items() if p not in NOT_VENDORED}


def test_files_that_are_not_vendored_stay_open_without_llama(
    release: Release, tmp_path: Path
) -> None:
    """They are named with the ids that the patch states; single files of llama.cpp resolve them."""
    checkout = find_checkout(release.ollama)
    bare = compute_lock(checkout, (), ENV).lock
    assert [u.path for u in bare.unresolved] == [
        "ggml/src/ggml-cann/ggml-cann.cpp",
        "src/CMakeLists.txt",
    ]
    assert (bare.base.commit, bare.result_tree) == (None, None)
    part = tmp_path / "part"
    for name in ("ggml/src/ggml-cann/ggml-cann.cpp", "src/CMakeLists.txt"):
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(release.llama / name, part / name)
    (part / "src/CMakeLists.txt").write_bytes(b"of another commit\n")
    some = compute_lock(checkout, (), ENV, Sources(folder=part)).lock
    assert [u.path for u in some.unresolved] == ["src/CMakeLists.txt"]


def test_what_cannot_be_computed_is_kept_from_the_lock_that_is_there(
    release: Release, lock_files: Path, tmp_path: Path
) -> None:
    """Written anew without llama.cpp, a lock loses nothing and says which fields it was given."""
    shutil.copytree(lock_files, tmp_path / "locks")
    folder = tmp_path / "locks/legacy/upstream"
    (before,) = all_locks(tmp_path / "locks", Generation.LEGACY)
    path, after = store_lock(compute_lock(find_checkout(release.ollama), (), ENV), folder)
    assert read_lock(path) == after
    assert after._replace(not_recomputed=()) == before
    assert after.not_recomputed == (
        "base.commit", "base.tree", "result.tree", "patches.files of what is not vendored",
    )  # fmt: skip
    assert len(list(folder.iterdir())) == 2
    path.write_text(path.read_text("utf-8").replace(blob_id(BASE["src/llama.cpp"]), "1" * 40))
    text = json.loads(path.read_text("utf-8"))
    first = text["patches"][0]["files"]["ggml/src/ggml.c"]
    first[0] = "1" * 40
    path.write_text(json.dumps(text))
    with pytest.raises(IntegrityError, match=r"ggml\.c: other ids"):
        store_lock(compute_lock(find_checkout(release.ollama), (), ENV), folder)


def test_a_tree_that_contradicts_its_patches_is_not_locked(release: Release, ours: Path) -> None:
    """An edited file, other tags, another base, no tree of Ollama: each refused for its reason."""
    checkout = find_checkout(release.ollama)
    with pytest.raises(UsageError):
        compute_lock(find_checkout(release.llama), (), ENV)
    with pytest.raises(NotFoundError) as e:
        open_base(checkout._replace(base="0123456789"), release.llama, ENV)
    assert e.value.exit_code == 5
    wrong = release.llama / "ggml/src/ggml.c"
    wrong.write_bytes(BASE["ggml/src/ggml.c"] + b"// later\n")
    other = commit(release.llama, "later")
    with pytest.raises(IntegrityError, match="patches taken off"):
        compute_lock(
            checkout, (), ENV, Sources(open_base(checkout._replace(base=other), release.llama, ENV))
        )
    release.patches[1].write_bytes(release.patches[1].read_bytes().replace(b"_pre", b"_post"))
    with pytest.raises(IntegrityError, match="0002-vocab-pretokenizer cannot be taken off"):
        compute_lock(checkout, (), ENV)


def test_stale_index_lines_are_recorded_with_the_true_ids(release: Release) -> None:
    """A patch edited by hand without its index line: the lock has both, and the content is sound."""
    path = release.patches[3]
    path.write_bytes(
        re.sub(
            rb"index [0-9a-f]+\.\.[0-9a-f]+", b"index 1234567..89abcde", path.read_bytes(), count=1
        )
    )
    lock = compute_lock(find_checkout(release.ollama), (), ENV).lock
    assert {p.name: dict(p.stale) for p in lock.patches if p.stale} == {
        path.name: {"ggml/src/ggml-cpu/ops.cpp": ("1234567", "89abcde")}
    }
    assert lock.patches[3].files["ggml/src/ggml-cpu/ops.cpp"][0] == blob_id(
        BASE["ggml/src/ggml-cpu/ops.cpp"]
    )


def test_a_modern_lock_pins_llama_by_its_tag(modern: Release, locked: Path) -> None:
    """The tag, its commit, and what the compat patches make of its files."""
    (lock,) = all_locks(locked, Generation.MODERN)
    assert (lock.base.tag, lock.base.commit) == ("b99999", modern.base)
    assert lock.result_tree == git(modern.llama, "rev-parse", "patched^{tree}")
    assert [p.name for p in lock.patches] == ["001-hooks.patch", "models/003-metal.patch"]
    assert [len(p.files) for p in lock.patches] == [1, 1]
    bare = compute_lock(find_checkout(modern.ollama), (), ENV).lock
    assert [(u.patch, u.path) for u in bare.unresolved] == [
        ("001-hooks.patch", "src/llama.cpp"),
        ("models/003-metal.patch", "ggml/src/ggml-metal/ggml-metal.metal"),
    ]


def test_only_the_lock_that_matches_is_read(release: Release, locked: Path) -> None:
    """A broken lock of another series does not matter to this one; one's own is an error of code 4."""
    checkout = find_checkout(release.ollama)
    (lock,) = all_locks(locked, Generation.LEGACY)
    folder = locked / "legacy/upstream"
    (folder / "v0.98.0.01234567.lock.json").write_text("{}")
    assert find_lock(locked, checkout, lock.series) == lock
    assert find_lock(locked, checkout, "0" * 64) is None
    (folder / lock.file_name).write_text(render_lock(lock).replace("1-backend", "1-back"))
    assert find_lock(locked, checkout, lock.series) is not None, "names are not hashed"
    digest = lock.patches[0].sha256
    (folder / lock.file_name).write_text(render_lock(lock).replace(digest, "0" * 64))
    with pytest.raises(BadLockError, match="series_sha256") as e:
        find_lock(locked, checkout, lock.series)
    assert e.value.exit_code == 4


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "tqconvert.release-lock/2"}', "null"])
def test_what_is_no_lock_is_refused(tmp_path: Path, text: str) -> None:
    """Broken JSON, other JSON, another schema."""
    path = tmp_path / "x.lock.json"
    path.write_text(text)
    with pytest.raises(BadLockError, match="not a lock"):
        read_lock(path)


def test_the_nearest_lock_shares_most_patches() -> None:
    """Of the real locks, the one with most equal digests; a tie goes to that with the fewest others."""
    locks = list(all_locks(PATCHES, Generation.LEGACY))
    checkout = Checkout(Path(), Generation.LEGACY, LEGACY[:9])
    wanted = [p.sha256 for p in locks[0].patches[:-1]]
    found = nearest_lock(PATCHES, checkout, [*wanted, "0" * 64])
    assert found is not None
    assert found.lock.title == locks[0].title
    assert found.equal == 33


def test_a_lock_survives_its_own_text(lock_files: Path) -> None:
    """parse(render(lock)) is the lock, for each generation."""
    for generation in (Generation.LEGACY, Generation.MODERN):
        for lock in all_locks(lock_files, generation):
            assert parse_lock(render_lock(lock)) == lock
    assert vendored("src/llama.cpp") == "llama/llama.cpp/src/llama.cpp"


def test_a_tag_with_other_patches_or_another_base_is_refused(modern: Release) -> None:
    """A lock speaks of the tags that it names: each is looked at."""
    checkout = find_checkout(modern.ollama)
    git(modern.ollama, "checkout", "-q", "-b", "later")
    write = modern.ollama / "LLAMA_CPP_VERSION"
    write.write_text("b88888\n")
    commit(modern.ollama, "another llama.cpp")
    git(modern.ollama, "tag", "v0.99.1")
    write.write_text("b99999\n")
    modern.patches[0].write_bytes(modern.patches[0].read_bytes() + b"\n")
    commit(modern.ollama, "another patch")
    git(modern.ollama, "tag", "v0.99.2")
    git(modern.ollama, "checkout", "-q", "v0.99.0")
    with pytest.raises(
        IntegrityError, match=r"v0\.99\.1: is made for another llama\.cpp than b99999"
    ):
        compute_lock(checkout, ["v0.99.0", "v0.99.1"], ENV)
    with pytest.raises(IntegrityError, match=r"v0\.99\.2: has other patches"):
        compute_lock(checkout, ["v0.99.2"], ENV)
    assert compute_lock(checkout, ["v0.99.0"], ENV).lock.tags == ("v0.99.0",)
