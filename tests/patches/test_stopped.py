"""Ctrl-C, a full disk, a git that fails: at every step of a command of the queue, all is as it was or done."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gitkiller
import killer
import pytest

from tests.patches.releases import Release, git
from tests.patches.test_kill import later_release, seen
from tests.patches.test_refresh import GGML_H, add_after
from tests.patches.trees import litter, put_on
from tqconvert import fs
from tqconvert.errors import GitFailedError
from tqconvert.patches.git import Git

Cli = Callable[..., tuple[int, str, str]]
GROWING = {"write_at", "write_new", "append", "make_folders", "write_atomic", "link"}
"""Writes that can meet a full disk; renames and removals cannot."""


class Fault(NamedTuple):
    """What happens at the Nth step, and the exit codes that follow from it."""

    git: bool
    codes: frozenset[int]
    error: Callable[[str], BaseException]
    after: bool = False


FAULTS = {
    "Ctrl-C": Fault(True, frozenset({130}), lambda _: KeyboardInterrupt(), after=True),
    "git fails": Fault(True, frozenset({1}), lambda name: GitFailedError(f"{name}: no")),
    "disk full": Fault(
        False, frozenset({9}), lambda name: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    ),
}


class Faults:
    """Lets the Nth step of a kind fail; `hit` is its name, once it came."""

    def __init__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self.hit = ""

    def arm(self, fault: Fault, number: int) -> None:
        """The Nth call from now on fails."""
        self.disarm()
        calls = 0

        def wrap(real: Callable[..., Any], name_of: Callable[..., str]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                name = name_of(*args)
                calls += bool(name)
                if not name or calls != number or self.hit:
                    return real(*args, **kwargs)
                self.hit = name
                if fault.after:
                    real(*args, **kwargs)
                raise fault.error(name)

            return wrapped

        if fault.git:

            def verb(_: Git, *args: str) -> str:
                found = gitkiller.verb(args)
                return found if found in gitkiller.WRITES else ""

            self._patch.setattr(Git, "run", wrap(Git.run, verb))
            self._patch.setattr(Git, "feed", wrap(Git.feed, verb))
        else:
            for name in GROWING & set(killer.writers()):
                self._patch.setattr(fs, name, wrap(getattr(fs, name), lambda *_, n=name: n))

    def disarm(self) -> None:
        """All calls are the real ones again."""
        self._patch.undo()
        self.hit = ""


@pytest.fixture
def faults() -> Iterator[Faults]:
    """Nothing armed."""
    found = Faults()
    yield found
    found.disarm()


def apply(root: Path, ours: Path) -> list[str]:
    """The queue is put on."""
    return ["apply", "@/ollama", "--patches", "@/ours"]


def unapply(root: Path, ours: Path) -> list[str]:
    """The queue is taken off."""
    put_on(root, ours)
    return ["unapply", "@/ollama"]


def edit(root: Path, ours: Path) -> list[str]:
    """A patch is checked out to be edited."""
    put_on(root, ours)
    return ["edit", "ids", "--tree", "@/ollama"]


def refresh(root: Path, ours: Path) -> list[str]:
    """A change of the tree goes into a patch."""
    put_on(root, ours)
    add_after(root / GGML_H, b"int ggml_h_40(void);", b"int mine(void);")
    return ["refresh", "ids", "--tree", "@/ollama", "--patches", "@/ours"]


def export(root: Path, ours: Path) -> list[str]:
    """A commit that was edited with git goes into a patch."""
    put_on(root, ours)
    add_after(root / GGML_H, b"int ggml_h_40(void);", b"int mine(void);")
    git(root, "stash", "-q")
    git(root, "checkout", "-q", "-B", "mine", "HEAD~3")
    git(root, "stash", "pop", "-q")
    git(root, "commit", "-qa", "--amend", "--no-edit")
    return ["export", "@/ollama", "--patches", "@/ours"]


def import_patch(root: Path, ours: Path) -> list[str]:
    """A patch comes from elsewhere."""
    path = root / "llm/server.go"
    old = path.read_bytes()
    path.write_bytes(old.replace(b"int server_40(void);", b"int server_forty(void);"))
    text = "Subject: Fix the server\n\n" + git(root, "diff", "-U1", "--full-index") + "\n"
    (ours.parent / "fix.patch").write_text(text)
    path.write_bytes(old)
    where = ["--tree", "@/ollama", "--patches", "@/ours"]
    return ["import", "@/fix.patch", *where, "--why", "the test"]


def rebase(root: Path, ours: Path) -> list[str]:
    """The queue goes to a later release, where git merges."""
    put_on(root, ours)
    later_release(root, b"int server_18(void);", b"int server_eighteen(void);")
    return ["rebase", "@/ollama", "--patches", "@/ours", "--onto", "v0.99.1"]


def rebase_that_waits(root: Path, ours: Path) -> list[str]:
    """The queue goes to a later release, and conflicts."""
    put_on(root, ours)
    later_release(root, b"int server_20(void);", b"int server_twenty(void);")
    return ["rebase", "@/ollama", "--patches", "@/ours", "--onto", "v0.99.1"]


def rebase_here(root: Path, ours: Path) -> list[str]:
    """The same in the tree itself."""
    return [*rebase_that_waits(root, ours), "--here"]


COMMANDS = (
    apply, unapply, edit, refresh, export, import_patch, rebase, rebase_that_waits, rebase_here,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scenario", COMMANDS, ids=lambda s: s.__name__)
def test_stopped_at_every_step(
    release: Release, ours: Path, tmp_path: Path, run_cli: Cli, faults: Faults,
    scenario: Callable[[Path, Path], list[str]], fault: str,
) -> None:  # fmt: skip
    """As it was, and nothing left over, where the command does not say that it is done."""
    pristine = tmp_path / "pristine"
    pristine.mkdir()
    shutil.move(release.ollama, pristine / "ollama")
    shutil.move(ours, pristine / "ours")
    command = scenario(pristine / "ollama", pristine / "ours")
    before = seen(pristine)
    for number in range(1, 200):
        folder = tmp_path / str(number)
        shutil.copytree(pristine, folder)
        faults.arm(FAULTS[fault], number)
        code, _, err = run_cli("ollama-build", *(a.replace("@", str(folder)) for a in command))
        hit = faults.hit
        faults.disarm()
        if not hit:
            break
        where = (number, hit, code, err)
        if code not in (0, 3):
            assert code in FAULTS[fault].codes, where
            assert seen(folder) == before, where
            assert litter(folder / "ollama") == [], where
            assert sorted(os.listdir(folder)) == sorted(os.listdir(pristine)), where
        shutil.rmtree(folder)
    assert number > 1
