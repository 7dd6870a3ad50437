"""kill -9 before every write of apply, unapply, refresh, export, import and rebase loses nothing.

After it the same command again ends as if nothing had been, and abort where it began or where the command
ends: the same files, branches, patch files; no lock, no stage, no stray ref.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import gitkiller
import pytest

from tests.patches.releases import Release, git
from tests.patches.test_refresh import GGML_H, add_after
from tests.patches.trees import files_of, litter, put_on, state_of
from tqconvert.patches.git import Git

Cli = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.slow


@pytest.fixture
def pristine(release: Release, ours: Path, tmp_path: Path) -> Path:
    """An Ollama tree and patches of ours in one folder."""
    folder = tmp_path / "pristine"
    folder.mkdir()
    shutil.move(release.ollama, folder / "ollama")
    shutil.move(ours, folder / "ours")
    return folder


def seen(folder: Path) -> dict[str, object]:
    """All that counts: the tree with its branches, and the patch files."""
    return {**state_of(folder / "ollama"), "ours": files_of(folder / "ours")}


def check(
    pristine: Path,
    tmp_path: Path,
    run_cli: Cli,
    *command: str,
    least: int,
    again: tuple[int, ...] = (0,),
) -> list[str]:
    """Kill the command everywhere; then run it again, or abort, in turns. The calls.

    `again`: exit codes of a second run.
    """
    before = seen(pristine)
    done = tmp_path / "done"
    shutil.copytree(pristine, done)
    code, _, err = run_cli(*(a.replace("@", str(done)) for a in command))
    assert code == 0, err
    after = seen(done)
    states = gitkiller.states(pristine, tmp_path / "states", *command)
    assert len(states) >= least, len(states)
    for number, state in enumerate(states):
        folder = Path(state["folder"])
        where = f"{command[1]} killed {state['when']} call {number} ({state['call']})"
        if number % 2:
            code, _, err = run_cli("ollama-build", "abort", folder / "ollama")
            assert code == 0, (where, err)
            assert seen(folder) in (before, after), where
        else:
            code, _, err = run_cli(*(a.replace("@", str(folder)) for a in command))
            assert code in again, (where, err)
            assert seen(folder) == after, where
        assert litter(folder / "ollama") == [], where
        shutil.rmtree(folder)
    return [s["call"] for s in states]


def test_apply(pristine: Path, tmp_path: Path, run_cli: Cli) -> None:
    """Between any two steps of apply."""
    command = ("ollama-build", "apply", "@/ollama", "--patches", "@/ours")
    calls = check(pristine, tmp_path, run_cli, *command, least=50)
    assert {
        "git fast-import",
        "git update-index",
        "git update-ref",
        "rename",
        "write_at",
        "link",
    } <= set(calls)


def test_unapply(pristine: Path, tmp_path: Path, run_cli: Cli) -> None:
    """Between any two steps of unapply, with an edit elsewhere in the tree."""
    put_on(pristine / "ollama", pristine / "ours")
    (pristine / "ollama/main.go").write_bytes(b"package main // mine\n")
    command = ("ollama-build", "unapply", "@/ollama")
    check(pristine, tmp_path, run_cli, *command, least=40)


def test_refresh(pristine: Path, tmp_path: Path, run_cli: Cli) -> None:
    """Between any two steps of refresh: the user's change is in the tree or in the patch."""
    put_on(pristine / "ollama", pristine / "ours")
    add_after(pristine / "ollama" / GGML_H, b"int ggml_h_40(void);", b"int mine(void);")
    command = ("ollama-build", "refresh", "ids", "--tree", "@/ollama", "--patches", "@/ours")
    check(pristine, tmp_path, run_cli, *command, least=25)


def later_release(root: Path, line: bytes, new: bytes) -> None:
    """A tag v0.99.1 beside the patches, in which a line of Ollama's Go is another."""
    top = git(root, "symbolic-ref", "--short", "HEAD")
    git(root, "checkout", "-q", "main")
    path = root / "llm/server.go"
    path.write_bytes(path.read_bytes().replace(line, new))
    git(root, "commit", "-qam", "later")
    git(root, "tag", "v0.99.1")
    git(root, "checkout", "-q", top)


def test_edit(pristine: Path, tmp_path: Path, run_cli: Cli) -> None:
    """Between any two steps of edit: the tree is at the patch, or where it was."""
    put_on(pristine / "ollama", pristine / "ours")
    command = ("ollama-build", "edit", "ids", "--tree", "@/ollama")
    check(pristine, tmp_path, run_cli, *command, least=20)


def test_export(pristine: Path, tmp_path: Path, run_cli: Cli) -> None:
    """Between any two steps of export, after a commit of a patch was edited with git."""
    root = pristine / "ollama"
    put_on(root, pristine / "ours")
    add_after(root / GGML_H, b"int ggml_h_40(void);", b"int mine(void);")
    git(root, "stash", "-q")
    git(root, "checkout", "-q", "-B", "mine", "HEAD~3")
    git(root, "stash", "pop", "-q")
    git(root, "commit", "-qa", "--amend", "--no-edit")
    command = ("ollama-build", "export", "@/ollama", "--patches", "@/ours")
    check(pristine, tmp_path, run_cli, *command, least=20)


def test_import(pristine: Path, tmp_path: Path, run_cli: Cli) -> None:
    """Between any two steps of import: the patch is in the series, or nothing of it is there."""
    root = pristine / "ollama"
    path = root / "llm/server.go"
    old = path.read_bytes()
    path.write_bytes(old.replace(b"int server_40(void);", b"int server_forty(void);"))
    (pristine / "fix.patch").write_text(
        "Subject: Fix the server\n\n" + git(root, "diff", "-U1", "--full-index") + "\n"
    )
    path.write_bytes(old)
    command = ("ollama-build", "import", "@/fix.patch", "--tree", "@/ollama", "--patches", "@/ours")
    # Where the first run came to its end, the name is taken.
    check(pristine, tmp_path, run_cli, *command, "--why", "the test", least=8, again=(0, 6))


def test_rebase(pristine: Path, tmp_path: Path, run_cli: Cli) -> None:
    """Between any two steps of a rebase in which git merges and all is exported."""
    root = pristine / "ollama"
    put_on(root, pristine / "ours")
    later_release(root, b"int server_18(void);", b"int server_eighteen(void);")
    command = ("ollama-build", "rebase", "@/ollama", "--patches", "@/ours", "--onto", "v0.99.1")
    # Where the first run came to its end, the queue is on that base.
    check(pristine, tmp_path, run_cli, *command, least=5, again=(0, 6))


def test_a_rebase_that_waits(pristine: Path, tmp_path: Path, run_cli: Cli) -> None:
    """Between any two steps up to the conflict: abort ends where the rebase began, its tree gone."""
    root = pristine / "ollama"
    put_on(root, pristine / "ours")
    later_release(root, b"int server_20(void);", b"int server_twenty(void);")
    before = seen(pristine)
    command = ("ollama-build", "rebase", "@/ollama", "--patches", "@/ours", "--onto", "v0.99.1")
    states = gitkiller.states(pristine, tmp_path / "states", *command)
    assert {"git worktree", "git am"} <= {s["call"] for s in states}
    for state in states:
        folder = Path(state["folder"])
        code, _, err = run_cli("ollama-build", "abort", folder / "ollama")
        assert code == 0, (state, err)
        assert seen(folder) == before, state
        assert litter(folder / "ollama") == [], state
        assert sorted(p.name for p in folder.iterdir()) == ["ollama", "ours"], state
        shutil.rmtree(folder)


def test_every_git_command_that_writes_is_armed() -> None:
    """The commands that the package runs are armed, or known to read only."""
    reads = {
        "cat-file", "config", "diff", "diff-index", "diff-tree", "for-each-ref", "format-patch", "log",
        "ls-files", "ls-tree", "merge-base", "merge-file", "range-diff", "rev-parse", "rev-list",
        "status", "tag", "version", "--version", "archive", "patch-id", "apply", "cherry", "hash-object",
        "show", "describe", "remote", "fetch", "checkout", "clone", "ls-remote", "check-ref-format",
    }  # fmt: skip
    import ast

    found = set()
    for file in sorted((Path(gitkiller.__file__).parents[1] / "tqconvert/patches").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in ("run", "text_of", "bytes_of", "start"):
                words = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
                found |= {w for w in words[:1] if isinstance(w, str) and w[0] != "-"}
    assert found <= reads | gitkiller.WRITES, found - reads - gitkiller.WRITES
    assert {"update-index", "update-ref", "symbolic-ref", "worktree"} <= found
    assert Git.run.__module__ == "tqconvert.patches.git"
