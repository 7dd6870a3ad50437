"""What goes wrong around the queue: each case in which git itself loses, lies or litters, done better."""

import errno
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import killer
import pytest

from tests.patches.conftest import copied
from tests.patches.releases import ENV, GIT, HEADER, Release, git, write_tree
from tests.patches.test_stopped import GROWING
from tests.patches.trees import (
    OURS,
    files_of,
    litter,
    put_on,
    repository,
    state_of,
    trailers,
    user_env,
)
from tqconvert import fs
from tqconvert.errors import LockedError, RefusedError
from tqconvert.patches.change.abort import abort
from tqconvert.patches.change.operation import Owner, State, started
from tqconvert.patches.change.unapply import unapply

Cli = Callable[..., tuple[int, str, str]]
APPLY = ("ollama-build", "apply")


def test_a_tree_below_another_repository_is_no_repository(
    release: Release, ours: Path, run_cli: Cli, tmp_path: Path
) -> None:
    """`git apply` there does nothing and says nothing; here it is refused, and --init makes one."""
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    root = outer / "ollama"
    shutil.copytree(release.ollama, root, ignore=shutil.ignore_patterns(".git"))
    before = files_of(root)
    code, _, err = run_cli(*APPLY, root, "--patches", ours)
    assert code == 6
    assert "not the top folder of a git repository" in err
    assert "--init" in err
    assert files_of(root) == before
    code, out, err = run_cli(*APPLY, root, "--patches", ours, "--init", "--json")
    assert (code, err) == (0, "")
    assert trailers(root, 5) == list(OURS)
    assert git(outer, "status", "--porcelain") == "?? ollama/"
    head = json.loads(out)["head"]
    unapply(repository(root))
    assert files_of(root) == before
    assert git(root, "status", "--porcelain", "--ignored") == ""
    twin = tmp_path / "twin"
    shutil.copytree(release.ollama, twin, ignore=shutil.ignore_patterns(".git"))
    assert run_cli(*APPLY, twin, "--patches", ours, "--init", "-q")[1].strip() == head


def test_init_changes_nothing_without_need(
    release: Release, ours: Path, run_cli: Cli, tmp_path: Path
) -> None:
    """A dry run makes no repository; an existing one is used as it is."""
    plain = tmp_path / "plain"
    shutil.copytree(release.ollama, plain, ignore=shutil.ignore_patterns(".git"))
    code, out, _ = run_cli(*APPLY, plain, "--patches", ours, "--init", "-n")
    assert (code, out) == (0, f"would make {plain} a repository\n")
    assert not (plain / ".git").exists()
    assert run_cli(*APPLY, release.ollama, "--patches", ours, "--init")[0] == 0
    assert git(release.ollama, "log", "--format=%s", "-1", "main") == "release"


def test_the_users_configuration_changes_nothing(
    templates: dict[str, Release | Path],
    ours: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `apply.whitespace=fix`, signing, prefixes, hooks and more: the same commits as without."""
    plain, mine = (copied(templates["legacy"], tmp_path / name) for name in ("plain", "mine"))
    path = ours / "legacy/ollama-go/server.patch"
    path.write_bytes(
        path.read_bytes().replace(b"int server_types(void);", b"int server_types(void);  \t")
    )
    config = (
        "[apply]\nwhitespace = fix\nignoreWhitespace = change\n[commit]\ngpgsign = true\n"
        "[diff]\nnoprefix = true\nmnemonicPrefix = true\nexternal = false\n[core]\nautocrlf = input\n"
        "quotePath = false\n[status]\nshortFormat = true\nbranch = true\n[log]\nshowSignature = true\n"
        "[color]\nui = always\n[i18n]\nlogOutputEncoding = latin1\n[gpg]\nprogram = false\n"
    )
    env = user_env(tmp_path, config)
    for key in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(key, env[key])
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "somebody else")
    with (mine.ollama / ".git/config").open("a") as f:
        f.write(config)
    hooks = mine.ollama / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for name in (
        "applypatch-msg",
        "pre-commit",
        "post-checkout",
        "reference-transaction",
        "post-index-change",
    ):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    head = put_on(plain.ollama, ours).head
    assert put_on(mine.ollama, ours).head == head
    assert b"(void);  \t\n" in (mine.ollama / "llm/server.go").read_bytes()
    unapply(repository(mine.ollama))


def test_a_stale_index_lock_is_named_and_left(release: Release, ours: Path) -> None:
    """Exit code 7 with path and age; it is not ours to remove, and nothing is left behind."""
    lock = release.ollama / ".git/index.lock"
    lock.write_bytes(b"")
    os.utime(lock, (time.time() - 100, time.time() - 100))
    with pytest.raises(LockedError, match=r"index.lock: another git .* is 1\d\d s old") as e:
        put_on(release.ollama, ours)
    assert str(lock) in str(e.value.hint)
    assert lock.exists()
    lock.unlink()
    assert litter(release.ollama) == []
    assert git(release.ollama, "status", "--porcelain") == ""
    put_on(release.ollama, ours)


def write_lock(root: Path, **facts: Any) -> Path:
    """A lock somebody holds."""
    path = root / ".git/tqconvert/lock"
    path.parent.mkdir(exist_ok=True)
    me = Owner(os.getpid(), socket.gethostname(), started(os.getpid()), time.time())
    path.write_text(json.dumps({**me._asdict(), **facts}))
    return path


def test_a_lock_that_is_held_is_respected(release: Release, ours: Path) -> None:
    """By a process that lives, or on another host: exit code 7, who and since when."""
    before = state_of(release.ollama)
    for facts in ({}, {"host": "elsewhere", "pid": 1 << 22}):
        path = write_lock(release.ollama, **facts)
        with pytest.raises(LockedError, match=r"process \d+ on .* works on this repository since"):
            put_on(release.ollama, ours)
        assert path.exists()
        path.unlink()
    path = write_lock(release.ollama)
    path.write_text("what?")
    with pytest.raises(LockedError, match="not a lock of tqconvert"):
        put_on(release.ollama, ours)
    path.unlink()
    assert state_of(release.ollama) == before


def test_a_lock_of_a_dead_process_is_taken_over(release: Release, ours: Path) -> None:
    """Of one that ended, and of an id that another process has by now."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    state = State(repository(release.ollama))
    for facts in ({"pid": dead.pid, "start": "1"}, {"start": "1"}):
        write_lock(release.ollama, **facts)
        with state.locked() as left:
            assert left
            assert "which ended without its lock" in left
        assert litter(release.ollama) == []
    write_lock(release.ollama, pid=dead.pid)
    put_on(release.ollama, ours)


def test_two_at_once(release: Release, ours: Path) -> None:
    """One applies, the others find it locked or done; the tree is right."""
    command = [
        sys.executable,
        "-m",
        "tqconvert",
        *APPLY,
        str(release.ollama),
        "--patches",
        str(ours),
    ]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    codes = []
    for process in running:
        process.communicate()
        codes.append(process.returncode)
    assert 0 in codes
    assert set(codes) <= {0, 7}
    assert put_on(release.ollama, ours).plan.done
    assert litter(release.ollama) == []


def test_a_crlf_patch_is_refused_with_the_remedy(
    release: Release, ours: Path, run_cli: Cli
) -> None:
    """Plain `git am` strips the CR silently; here it is exit code 4, and how to convert it."""
    path = ours / "legacy/ollama-go/server.patch"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    before = state_of(release.ollama)
    code, _, err = run_cli(*APPLY, release.ollama, "--patches", ours)
    assert code == 4
    assert "CRLF" in err
    assert "sed -i" in err
    assert state_of(release.ollama) == before


def test_another_operation_of_git_is_respected(release: Release, ours: Path) -> None:
    """During a merge, a rebase or an am: exit code 6, named."""
    folder = release.ollama / ".git/rebase-apply"
    folder.mkdir()
    with pytest.raises(RefusedError, match="git am or git rebase is under way"):
        put_on(release.ollama, ours)
    folder.rmdir()
    (release.ollama / ".git/MERGE_HEAD").write_text(git(release.ollama, "rev-parse", "HEAD"))
    with pytest.raises(RefusedError, match="git merge is under way"):
        put_on(release.ollama, ours)


def test_a_wrong_base_is_told_before_any_patch(release: Release, ours: Path, run_cli: Cli) -> None:
    """A llama.cpp of another age: exit code 5, all patches that do not go on, nothing changed."""
    llama = release.llama
    for name in ("ggml/src/ggml.c", "src/llama-vocab.cpp"):
        (llama / name).write_bytes(b"of another age\n")
    git(llama, "commit", "-qam", "another age")
    before = state_of(llama)
    args = (*APPLY, llama, "--ollama", release.ollama, "--patches", ours)
    code, out, _ = run_cli(*args)
    assert code == 5
    assert "nothing was changed" in out
    assert f"they are of no release that is known, for llama.cpp {release.base[:9]}" in out
    assert out.splitlines()[0] == f"{llama}: 4 of 11 patches do not go on"
    code, out, _ = run_cli(*args, "--json")
    names = [c["name"][:4] for c in json.loads(out)["conflicts"]]
    assert (code, names) == (5, ["0001", "0002", "0007", "ops"])
    assert state_of(llama) == before


def test_a_blobless_clone_is_enough(release: Release, ours: Path, tmp_path: Path) -> None:
    """What is checked out is there; nothing is fetched."""
    clone = tmp_path / "clone"
    git(release.ollama, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", f"file://{release.ollama}", str(clone))
    shutil.rmtree(release.ollama)
    put_on(clone, ours)
    assert trailers(clone, 5) == list(OURS)
    unapply(repository(clone))
    assert git(clone, "status", "--porcelain") == ""


def test_git_must_be_there_and_new_enough(
    release: Release, ours: Path, run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 8 without git, and with one that is too old."""
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = run_cli(*APPLY, release.ollama, "--patches", ours)
    assert code == 8
    assert "git: not on PATH" in err
    fake = tmp_path / "git"
    fake.write_text(
        '#!/bin/sh\nfor a; do [ "$a" = --version ] && echo git version 2.20.1 && exit 0; done\nexit 129\n'
    )
    fake.chmod(0o755)
    code, _, err = run_cli(*APPLY, release.ollama, "--patches", ours)
    assert code == 8
    assert "2.20.1: too old (expected 2.38 or newer)" in err


ODD = {
    "a b/with space.txt": b"one\ntwo\nthree\n",
    "\u00fcml\u00e4ut/\u2713.txt": b"one\ntwo\nthree\n",
    'quo"te\\n.txt'.replace("\\", ""): b"one\ntwo\nthree\n",
    "script.sh": b"#!/bin/sh\ntrue\n",
    "gone.txt": b"goes\n",
    "no-end.txt": b"one\ntwo",
    "old-name.txt": b"one\ntwo\nthree\nfour\n",
    os.fsdecode(b"latin-\xe9.txt"): b"one\n",
}


def test_odd_files_come_out_as_git_makes_them(release: Release, ours: Path) -> None:
    """Spaces, unicode, bytes that are no text, modes, removed and renamed files, no line end: as `git apply`."""
    root = release.ollama
    write_tree(root, ODD)
    git(root, "add", "-A", "-f")
    git(root, "commit", "-qm", "odd")
    for name, data in ODD.items():
        (root / name).write_bytes(data.replace(b"two", b"zwei"))
    (root / "script.sh").chmod(0o755)
    (root / "gone.txt").unlink()
    (root / "old-name.txt").rename(root / "new-name.txt")
    (root / "no-end.txt").write_bytes(b"one\ntwo\nmore")
    (root / os.fsdecode(b"latin-\xe9.txt")).write_bytes(b"eins\n")
    (root / "made/deep").mkdir(parents=True)
    (root / "made/deep/new.sh").write_bytes(b"new\n")
    (root / "made/deep/new.sh").chmod(0o755)
    git(root, "add", "-A", "-f")
    done = subprocess.run(
        [GIT, "diff", "--cached", "-M", "--full-index"],
        cwd=root,
        env=ENV,
        capture_output=True,
        check=True,
    )
    wanted = git(root, "write-tree")
    git(root, "reset", "-q", "--hard")
    head = HEADER.format(subject="Odd", name="odd").encode()
    (ours / "legacy/ollama-go/odd.patch").write_bytes(head + done.stdout)
    (ours / "legacy/ollama-go/series").write_bytes(b"odd.patch\n")
    for name in ("files", "llama.cpp", "legacy/files"):
        shutil.rmtree(ours / name)
    (ours / "files").mkdir()
    write_tree(ours, {"llama.cpp/series": b""})
    before = state_of(root)
    put_on(root, ours)
    assert git(root, "rev-parse", "HEAD^{tree}") == wanted
    assert git(root, "status", "--porcelain", "--untracked-files=all") == ""
    assert os.access(root / "made/deep/new.sh", os.X_OK)
    unapply(repository(root))
    assert state_of(root) == before
    assert not (root / "made").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"--- a/../x\n+++ b/../x\n", "outside of the tree"),
        (
            b"index 1111111..2222222\nGIT binary patch\n--- a/x\n+++ b/x\n",
            "binary patches are refused",
        ),
        (b"new file mode 120000\n--- a/x\n+++ b/x\n", "mode 120000 is refused"),
    ],
)
def test_patches_that_reach_out_are_refused(
    release: Release, ours: Path, text: bytes, message: str
) -> None:
    """Paths out of the tree, binary hunks, symbolic links: exit code 4, nothing changed."""
    name = b"../x" if b"../x" in text else b"x"
    patch = b"diff --git a/%s b/%s\n" % (name, name) + text + b"@@ -1 +1 @@\n-a\n+b\n"
    (ours / "legacy/ollama-go/server.patch").write_bytes(b"Subject: x\n\n" + patch)
    before = state_of(release.ollama)
    with pytest.raises(Exception, match=message) as e:
        put_on(release.ollama, ours)
    assert getattr(e.value, "exit_code", None) == 4
    assert state_of(release.ollama) == before


def test_a_symbolic_link_on_the_way_is_refused(
    release: Release, ours: Path, tmp_path: Path
) -> None:
    """A folder of the tree that points elsewhere: nothing is written there."""
    shutil.move(release.ollama / "kvcache", tmp_path / "elsewhere")
    (release.ollama / "kvcache").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="below a symbolic link"):
        put_on(release.ollama, ours)
    assert not (tmp_path / "elsewhere/turbo.go").exists()
    assert litter(release.ollama) == []


@pytest.fixture
def full_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[str]]]:
    """Lets the Nth write of `tqconvert.fs` find the disk full; the list gets its name."""
    patched = pytest.MonkeyPatch()

    def arm(number: int) -> list[str]:
        patched.undo()
        calls = 0
        hit: list[str] = []

        def wrap(name: str, real: Any) -> Any:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == number:
                    hit.append(name)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
                return real(*args, **kwargs)

            return wrapped

        for name in killer.writers():
            patched.setattr(fs, name, wrap(name, getattr(fs, name)))
        return hit

    yield arm
    patched.undo()


@pytest.mark.slow
def test_a_full_disk_at_every_write(
    release: Release, ours: Path, full_at: Callable[[int], list[str]], run_cli: Cli
) -> None:
    """Exit code 9 and the tree as it was, or done all the same; then the command succeeds."""
    before = state_of(release.ollama)
    done = 0
    for number in range(1, 400):
        hit = full_at(number)
        code, _, err = run_cli(*APPLY, release.ollama, "--patches", ours)
        if not hit:
            assert code == 0
            break
        full_at(1 << 30)
        if hit[0] not in GROWING:
            abort(repository(release.ollama), ENV)
            unapply(repository(release.ollama))
            continue
        done += 1
        if code == 0:
            unapply(repository(release.ollama))
        else:
            assert code == 9, (number, hit, err)
        assert state_of(release.ollama) == before, (number, hit)
        assert litter(release.ollama) == [], (number, hit)
    assert done > 20


def test_git_meets_a_full_disk(release: Release, ours: Path) -> None:
    """RLIMIT_FSIZE stops git in its write: exit code 9, the tree as it was, no crash report."""
    (ours / "files/ggml/src/big.c").write_bytes(os.urandom(200_000).hex().encode())
    before = state_of(release.ollama)
    code = (
        "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        "from tqconvert.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, *APPLY, str(release.ollama), "--patches", str(ours)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    assert state_of(release.ollama) == before
    assert litter(release.ollama) == []


def test_a_folder_that_cannot_be_written(release: Release, ours: Path) -> None:
    """Read-only: exit code 9, as it was."""
    if os.geteuid() == 0:
        pytest.skip("root writes anywhere")
    before = state_of(release.ollama)
    folder = release.ollama / "llm"
    folder.chmod(0o555)
    try:
        with pytest.raises(Exception, match="Permission denied") as e:
            put_on(release.ollama, ours)
        assert getattr(e.value, "exit_code", None) == 9
    finally:
        folder.chmod(0o755)
    assert state_of(release.ollama) == before


def test_a_tree_of_another_user(
    release: Release, ours: Path, run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice of git is passed on, and what the user's configuration trusts is trusted."""
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    (programs / "git").write_text(
        f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec "{shutil.which("git")}" "$@"\n'
    )
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    code, _, err = run_cli(*APPLY, release.ollama, "--patches", ours)
    assert code == 1
    advice = f"git config --global --add safe.directory {release.ollama}"
    assert f"hint: {advice}" in err
    subprocess.run(shlex.split(advice), check=True, cwd=home)
    assert run_cli(*APPLY, release.ollama, "--patches", ours)[0] == 0


def test_filters_of_the_repository_are_not_run(
    release: Release, ours: Path, tmp_path: Path
) -> None:
    """Attributes of a tree may name a filter, its `.git/config` a program: it never runs."""
    mark = tmp_path / "ran"
    write_tree(release.ollama, {".git/info/attributes": b"* filter=evil merge=evil diff=evil\n"})
    for key in (
        "filter.evil.clean",
        "filter.evil.smudge",
        "merge.evil.driver",
        "diff.evil.textconv",
    ):
        git(release.ollama, "config", key, f"touch {mark}; cat")
    git(release.ollama, "config", "filter.evil.required", "true")
    # In the configuration of the work tree, and with a name that holds the sign between name and value.
    git(release.ollama, "config", "extensions.worktreeConfig", "true")
    git(release.ollama, "config", "--worktree", "filter.a=b.clean", f"touch {mark}; cat")
    write_tree(
        release.ollama,
        {".git/info/attributes": b"* filter=evil merge=evil diff=evil\n*.go filter=a=b\n"},
    )
    put_on(release.ollama, ours)
    unapply(repository(release.ollama))
    assert not mark.exists()
