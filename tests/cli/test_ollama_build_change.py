"""`ollama-build apply` to `skip`: text, JSON, quiet, and the exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.patches.releases import Release, git, make_legacy, make_ours
from tests.patches.test_rebase import CLASH, OPS, new_base, resolve
from tests.patches.test_refresh import add_after

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A made-up release with its llama.cpp."""
    return make_legacy(tmp_path / "release")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A small `ollama_patches`."""
    return make_ours(tmp_path / "ollama_patches")


@pytest.fixture
def run(run_cli: Cli) -> Callable[..., tuple[int, str, str]]:
    """A command of `ollama-build`."""
    return lambda *args: run_cli("ollama-build", *args)


def document(run: Cli, *args: object) -> dict[str, Any]:
    """The JSON document of a command that succeeds."""
    code, out, err = run(*args, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_apply_and_unapply(run: Cli, release: Release, ours: Path) -> None:
    """A dry run, then the real one, then again; and off."""
    root = release.ollama
    args = ("apply", root, "--patches", ours)
    code, out, err = run(*args, "-n")
    assert (code, err) == (0, "")
    head, detail = out.splitlines()
    assert head == f"{root}: 5 patches would be applied, 6 files"
    assert detail.startswith("  5 of tqconvert's, 1 at an offset; branch tq/v0.99.0-")
    plan = document(run, *args, "-n")
    assert (plan["dry_run"], plan["done"], plan["generation"]) == (True, False, "legacy")
    assert git(root, "symbolic-ref", "--short", "HEAD") == "main"
    done = document(run, *args)
    assert done["schema"] == "tqconvert.ollama-build.apply/1"
    assert done["branch"] == plan["branch"] == git(root, "symbolic-ref", "--short", "HEAD")
    assert done["head"] == git(root, "rev-parse", "HEAD")
    assert [p["name"] for p in done["patches"]] == [
        "new-files",
        "ids",
        "ops",
        "new-files",
        "server",
    ]
    assert done["there"][0].startswith("0001-")
    assert run(*args, "-q") == (0, done["head"] + "\n", "")
    assert run(*args)[1] == f"{root}: applied already (5 of tqconvert's, 1 at an offset)\n"
    code, out, err = run("unapply", root)
    assert (code, out, err) == (0, f"{root}: 5 patches taken off, on main again\n", "")
    assert run("unapply", root)[1] == f"{root}: nothing of tqconvert's is applied\n"
    assert document(run, "unapply", root)["patches"] == []
    assert run("abort", root) == (0, f"{root}: nothing was under way\n", "")
    assert document(run, "abort", root)["aborted"] is None


def test_apply_shows_all_conflicts(run: Cli, release: Release, ours: Path) -> None:
    """A row for each file, exit code 3, nothing changed."""
    root = release.ollama
    for name, old in (
        ("llm/server.go", b"int server_19("),
        ("ml/backend/ggml/ggml/include/ggml.h", b"int ggml_h_6("),
    ):
        path = root / name
        path.write_bytes(path.read_bytes().replace(old, b"int other("))
    git(root, "commit", "-qam", "edits")
    code, out, err = run("apply", root, "--patches", ours)
    assert (code, err) == (3, "")
    rows = out.splitlines()
    assert rows[0] == f"{root}: 2 of 5 patches do not go on"
    assert rows[1].split() == [
        "ids-new",
        "conflict",
        "ml/backend/ggml/ggml/include/ggml.h:",
        "hunk",
        "1",
    ]
    assert rows[2].split() == ["server", "conflict", "llm/server.go:", "hunk", "1"]
    assert rows[3] == "nothing was changed"
    code, out, _ = run("apply", root, "--patches", ours, "--json")
    assert code == 3
    assert json.loads(out)["conflicts"][1] == {
        "name": "server", "origin": "tqconvert", "blocked_by": [],
        "files": [{"path": "llm/server.go", "hunks": [1], "reason": None}],
    }  # fmt: skip
    code, _, err = run("apply", root, "--patches", ours, "--to", "nothing")
    assert (code, err.splitlines()[0]) == (5, "error: nothing: no such patch in the queue")


def test_edit_and_refresh(run: Cli, release: Release, ours: Path) -> None:
    """What is checked out, what was written; nothing to take in."""
    root = release.ollama
    run("apply", root, "--patches", ours)
    tree = ("--tree", root, "--patches", ours)
    assert run("refresh", *tree) == (0, f"{root}: nothing to take in\n", "")
    code, out, err = run("edit", "ids", "--tree", root)
    assert (code, err) == (0, "")
    assert out == f"{root}: ids is checked out, 3 patches above it off\n  then: refresh, or abort\n"
    assert run("abort", root)[1] == f"{root}: left the edit\n"
    assert document(run, "edit", "ids", "--tree", root)["above"] == 3
    add_after(root / "ml/backend/ggml/ggml/include/ggml.h", b"int id(void);", b"int mine(void);")
    code, out, err = run("refresh", *tree)
    assert (code, err) == (0, "")
    assert out == f"{root}: changed ids\n  wrote {ours}/llama.cpp/ids.patch\n"
    add_after(root / "llm/server.go", b"int server_50(void);", b"int mine(void);")
    assert run("refresh", *tree, "-q") == (0, f"{ours}/legacy/ollama-go/server.patch\n", "")
    add_after(root / "llm/server.go", b"int server_55(void);", b"int mine(void);")
    assert document(run, "refresh", *tree)["patches"] == ["server"]
    code, _, err = run("edit", "nothing", "--tree", root)
    assert (code, err.splitlines()[0]) == (5, "error: nothing: no such patch is applied")


def test_refresh_shows_what_breaks(run: Cli, release: Release, ours: Path) -> None:
    """A later patch that does not go on any more: exit code 3 and the row."""
    root = release.ollama
    run("apply", root, "--patches", ours)
    run("edit", "ids", "--tree", root)
    path = root / "ml/backend/ggml/ggml/src/ggml-cpu/ops.cpp"
    path.write_bytes(path.read_bytes().replace(b"int ops_150(", b"int other("))
    code, out, _ = run("refresh", "--tree", root, "--patches", ours)
    assert code == 3
    assert out.splitlines()[0] == f"{root}: then 1 patch would not go on"
    assert out.splitlines()[-1] == "nothing was written"


def test_import_and_export(run: Cli, release: Release, ours: Path, tmp_path: Path) -> None:
    """The file that was written with its digest; no drift, then drift."""
    root = release.ollama
    add_after(root / "llm/server.go", b"int server_40(void);", b"int mine(void);")
    source = tmp_path / "x.patch"
    source.write_bytes(git(root, "diff").encode() + b"\n")
    git(root, "checkout", "-q", ".")
    args = ("import", source, "--tree", root, "--patches", ours, "--why", "the test")
    made = document(run, *args, "--as", "mine")
    path = ours / "legacy/ollama-go/mine.patch"
    assert (made["patch"], made["offsets"], made["conflicts"]) == (str(path), 0, [])
    assert run(*args, "--as", "mine")[0] == 6
    code, out, _ = run(*args, "--as", "again")
    assert code == 3
    assert "again  conflict  llm/server.go: hunk 1" in out
    assert run(*args, "--kept", "whatever")[0] == 2
    run("apply", root, "--patches", ours)
    check = ("export", root, "--check", "--patches", ours)
    assert run(*check) == (0, f"{root}: 6 patches compared, none differs\n", "")
    path.write_bytes(path.read_bytes().replace(b"int mine(", b"int yours("))
    code, out, err = run(*check)
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        f"{root}: 1 of 6 patches differ", "  mine  its file was changed since it was applied",
    ]  # fmt: skip
    assert run(*check, "-q") == (1, "mine\n", "")
    code, out, _ = run(*check, "--json")
    assert json.loads(out)["drift"][0]["name"] == "mine"
    assert run("export", root, "--patches", ours)[0] == 6


def test_rebase_continue_and_skip(run: Cli, release: Release, ours: Path) -> None:
    """The table, the folder that waits, the three ways on, the summary at the end."""
    llama = release.llama
    new_base(release, CLASH)
    args = ("rebase", llama, "--ollama", release.ollama, "--patches", ours, "--onto", "b100000")
    code, out, err = run(*args, "-n")
    assert (code, err) == (3, "")
    assert out.splitlines()[0].endswith(
        "onto b100000 (" + git(llama, "rev-parse", "next")[:9] + "): 10 clean, 1 conflict"
    )
    code, out, err = run(*args)
    folder = llama.with_name("llama.cpp-rebase")
    assert (code, err) == (3, "")
    assert out.splitlines()[-4:] == [
        f'"Add ops" conflicts in {folder}: edit, git add, then one of',
        f"  tqconvert ollama-build continue {folder}",
        f"  tqconvert ollama-build skip --reason TEXT {folder}",
        f"  tqconvert ollama-build abort {folder}",
    ]
    code, _, err = run("continue", folder)
    assert code == 3
    assert "unresolved" in err
    resolve(folder, OPS, b"int ops_changed(void);\nint ops_turbo(void);\n")
    done = document(run, "continue", folder)
    assert done["schema"] == "tqconvert.ollama-build.continue/1"
    assert [Path(f).name for f in done["files"]] == ["ops-b100000.patch", "series"]
    assert len(done["range_diff"]) == 11
    assert run("continue", llama)[0] == 6
    git(llama, "branch", "-D", done["branch"])
    for name in done["files"]:
        assert Path(name).exists()
    assert run(*args, "-q")[0] == 0
    assert run("skip", llama)[0] == 2
    assert run("skip", llama, "--reason", "x")[0] == 6


def test_skip_tells_what_was_left_out(run: Cli, release: Release, ours: Path) -> None:
    """The document of `rebase` that waits, then that of `skip`: the patch, with the reason given."""
    llama = release.llama
    new_base(release, CLASH)
    args = ("rebase", llama, "--ollama", release.ollama, "--patches", ours, "--onto", "b100000")
    code, out, _ = run(*args, "--json")
    assert (code, json.loads(out)["waiting"]) == (3, "Add ops")
    done = document(run, "skip", llama.with_name("llama.cpp-rebase"), "--reason", "the test")
    assert done["schema"] == "tqconvert.ollama-build.skip/1"
    assert [d["reason"] for d in done["dropped"]] == ["the test"]
