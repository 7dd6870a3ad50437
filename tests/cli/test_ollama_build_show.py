"""`ollama-build list`, `status`, `verify`, `lock`: text, JSON, quiet, and the exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.patches.releases import ENV, Release, make_legacy, make_ours
from tqconvert.patches.checkout import find_checkout
from tqconvert.patches.locks.lock import Sources, compute_lock, open_base
from tqconvert.patches.locks.lockfile import store_lock
from tqconvert.patches.locks.release import parse_lock


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A made-up release with its llama.cpp."""
    return make_legacy(tmp_path / "release")


@pytest.fixture
def patches(release: Release, tmp_path: Path) -> Path:
    """A small `ollama_patches` with the lock of the release."""
    folder = make_ours(tmp_path / "ollama_patches")
    checkout = find_checkout(release.ollama)
    (folder / "legacy/upstream").mkdir()
    computed = compute_lock(
        checkout, ["v0.99.0"], ENV, Sources(open_base(checkout, release.llama, ENV))
    )
    store_lock(computed, folder / "legacy/upstream")
    return folder


NAMES = [
    "0001-backend-free-with-the-same-compiler", "0002-vocab-pretokenizer",
    "0003-build-one-target-for-all-variants", "0004-ops-argsort-for-i32", "0005-mem-a-new-file",
    "0006-mem-fall-back", "0007-backend-reset-devices", "0008-quants-last-line",
    "new-files", "ids-new", "ops", "new-files", "server",
]  # fmt: skip


def test_list(run_cli: Any, release: Release, patches: Path) -> None:
    """All patches in their order, with whose they are and whether Ollama's are as released."""
    args = ("ollama-build", "list", release.ollama, "--patches", patches)
    code, out, err = run_cli(*args)
    assert (code, err) == (0, "")
    base = release.base[:9]
    head, *rows = out.splitlines()
    assert head == f"{release.ollama}: Ollama v0.99.0 (legacy), llama.cpp {base}"
    assert rows[1] == "   2  0002-vocab-pretokenizer                   ollama     as released"
    assert (
        rows[9]
        == "  10  ids-new                                   tqconvert  one of 2 alternatives"
    )
    assert run_cli(*args, "-q") == (0, "".join(f"{n}\n" for n in NAMES), "")
    document = json.loads(run_cli(*args, "--json")[1])
    assert document["schema"] == "tqconvert.ollama-build.list/1"
    assert [p["name"] for p in document["patches"]] == NAMES
    second = document["patches"][1]
    assert (second["verdict"], second["files"]) == ("applied", ["src/llama-vocab.cpp"])
    assert document["patches"][10]["id"] == "tq-all-ops"


def test_status_of_a_release(run_cli: Any, release: Release, patches: Path) -> None:
    """Counts first, then only what is worth a line."""
    args = ("ollama-build", "status", release.ollama, "--patches", patches)
    code, out, err = run_cli(*args)
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == [
        "  Ollama's patches  8 of 8 applied",
        "  ours              0 of 5 applied (4 clean, 1 offset)",
        "  ops  offset  1 hunk, by up to 1 line",
    ]
    assert run_cli(*args, "-q") == (0, "8/8 0/5\n", "")
    document = json.loads(run_cli(*args, "--json")[1])
    assert document["schema"] == "tqconvert.ollama-build.status/1"
    assert document["generation"] == "legacy"
    assert document["release"] == {
        "known": True, "title": "v0.99.0", "tags": ["v0.99.0"], "nearest": None,
        "series_sha256": document["release"]["series_sha256"],
    }  # fmt: skip
    assert document["base"]["commit"] == release.base
    assert document["state"] == {
        "applied": 8, "total": 8, "ours_applied": 0, "ours_total": 5, "half_applied": [], "gaps": [],
        "edited_files": [], "missing_files": [], "converted_files": [], "not_vendored": 2,
    }  # fmt: skip
    assert [p["name"] for p in document["patches"]] == NAMES
    assert document["patches"][10] == {
        "name": "ops", "id": "tq-all-ops", "origin": "tqconvert", "applied": False,
        "verdict": "offset", "evidence": "1 hunk, by up to 1 line", "files": [],
    }  # fmt: skip
    assert document["problems"] == []


def test_status_with_problems(run_cli: Any, release: Release, patches: Path) -> None:
    """An edit ends with code 1 in every mode; a release that no lock knows with 5."""
    args = ("ollama-build", "status", release.ollama, "--patches", patches)
    path = release.ollama / "ml/backend/ggml/ggml/src/ggml.c"
    before = path.read_bytes()
    path.write_bytes(before + b"#")
    code, out, err = run_cli(*args)
    assert (code, err) == (1, "")
    assert out.splitlines()[-1] == (
        "  problem: ml/backend/ggml/ggml/src/ggml.c is on no rung: edited (after patch 7)"
    )
    code, out, _ = run_cli(*args, "--json")
    assert code == 1
    assert [p["kind"] for p in json.loads(out)["problems"]] == ["local-edit"]
    assert run_cli(*args, "-q")[:2] == (1, "8/8 0/5\n")
    path.write_bytes(before)
    for lock in (patches / "legacy/upstream").glob("*.lock.json"):
        lock.unlink()
    code, out, _ = run_cli(*args)
    assert (code, out.splitlines()[-1]) == (5, "  problem: no lock knows these patches")


def test_verify(run_cli: Any, release: Release, patches: Path) -> None:
    """A line a level; what was not looked at is said; -q names the levels that fail."""
    args = ("ollama-build", "verify", release.ollama, "--patches", patches)
    code, out, err = run_cli(*args, "--base-git", release.llama)
    assert (code, err) == (0, "")
    assert out.splitlines()[1:4] == [
        "  L0    ok      ids of 3 folders",
        "  L1    ok      8 patches by sha256, 7 files on 16 rungs",
        "                not looked at: 2 files of patches that the tree does not carry",
    ]
    assert "  L2    ok      8 patches taken off: 9 images before and 9 after them as stated" in out
    assert "  L5    ok      8 patches on" in out
    assert run_cli(*args, "-q") == (0, "", "")
    document = json.loads(run_cli(*args, "--json", "--level", "1")[1])
    assert document["schema"] == "tqconvert.ollama-build.verify/1"
    assert document["ok"] is True
    assert [(c["level"], c["ok"]) for c in document["checks"]] == [
        ("L0", True), ("L1", True), ("ours", None),
    ]  # fmt: skip
    (release.ollama / "llama/llama.cpp/include/llama.h").write_bytes(b"other\n")
    code, out, _ = run_cli(*args)
    assert code == 4
    assert "  L3    FAILED  14 files" in out
    assert "                llama/llama.cpp/include/llama.h differs from llama.cpp" in out
    assert run_cli(*args, "-q") == (4, "L0\nL3\n", "")
    code, out, _ = run_cli(*args, "--json")
    assert (code, json.loads(out)["ok"]) == (4, False)


def test_verify_against_what_is_not_there(
    run_cli: Any, release: Release, patches: Path, tmp_path: Path
) -> None:
    """A repository without the base commit, and a llama.cpp tree without an Ollama: 5 and 2."""
    args = ("ollama-build", "verify", "--patches", patches)
    code, _, err = run_cli(*args, release.ollama, "--base-git", release.ollama)
    assert code == 5
    assert f"has no commit {release.base[:9]}" in err
    assert "git -C" in err
    code, _, err = run_cli(*args, release.llama, "--base-git", release.llama)
    assert (code, "needs an Ollama tree (--ollama DIR)" in err) == (2, True)
    assert run_cli(*args, tmp_path / "nothing")[0] == 5
    code, out, _ = run_cli(*args, release.llama)
    assert code == 1, "nothing was looked at"
    assert "ok" not in out.split()


def test_lock(run_cli: Any, release: Release, patches: Path, tmp_path: Path) -> None:
    """To stdout as the file would be; into a folder under its name; -q the hash or the file."""
    args = ("ollama-build", "lock", release.ollama, "--tag", "v0.99.0", "--base-git", release.llama)
    code, out, err = run_cli(*args)
    assert (code, err) == (0, "")
    lock = parse_lock(out)
    (known,) = (patches / "legacy/upstream").glob("*.lock.json")
    assert out == known.read_text()
    assert run_cli(*args, "-q")[1] == f"{lock.series}\n"
    document = json.loads(run_cli(*args, "--json")[1])
    assert document["schema"] == "tqconvert.ollama-build.lock/1"
    assert document["series_sha256"] == lock.series
    folder = tmp_path / "locks"
    folder.mkdir()
    code, out, _ = run_cli(*args, "-o", folder)
    assert (code, out) == (0, f"{folder / lock.file_name}: 8 patches, 11 files of theirs, 0 open\n")
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [lock.file_name, f"{release.base[:9]}.files.json"]
    )
    code, out, _ = run_cli("ollama-build", "lock", release.ollama, "-o", tmp_path / "x.json", "-q")
    assert (code, out) == (0, f"{tmp_path / 'x.json'}\n")
    assert run_cli("ollama-build", "lock", release.llama)[0] == 2
    code, _, err = run_cli("ollama-build", "lock", release.ollama, "--tag", "v9")
    assert (code, "has no tag v9" in err) == (5, True)
