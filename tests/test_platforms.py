"""Windows and macOS: what the code does where a call, a module or a character is missing.

None of this ran on Windows or on a Mac. The seams are tested on Linux by taking away what those systems lack
(tests/otherplatform.py) or by standing in for a call; docs/platforms.md says what that shows and what it does not.
"""

import errno
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import LLAMA, gguf_bytes, tiny_gguf
from fakeregistry import FakeRegistry
from stores import check_store

from tqconvert import filelocks, fs
from tqconvert.errors import StorageError, UsageError
from tqconvert.gguf.header import read_header
from tqconvert.gguf.tags import PAGE, read_tags
from tqconvert.reference import ModelName
from tqconvert.registry.http import retry_after
from tqconvert.settings import load_settings
from tqconvert.store.layout import Store
from tqconvert.store.link import LinkMethod, link_file

PROGRAM = Path(__file__).with_name("otherplatform.py")
TYPES = ("--type-k", "q8_0", "--type-v", "turbo4", "-q")
ODD = "\N{CJK UNIFIED IDEOGRAPH-6A21}\N{GRINNING FACE}\N{LATIN SMALL LETTER O WITH STROKE}"


def run(
    platform: str, folder: Path, *commands: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    """Run the command lines one after the other as on that platform."""
    words = [w for command in commands for w in ("then", *command)][1:]
    return subprocess.run(
        [sys.executable, PROGRAM, platform, *words],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("platform", ["bare", "macos", "windows"])
def test_the_commands_work_without_what_the_system_lacks(tmp_path: Path, platform: str) -> None:
    """inspect, plan, modelfile, tag, untag, install, pull, verify, prune; not run on that system."""
    data = gguf_bytes(LLAMA, {"token_embd.weight": (32, 200)})
    (tmp_path / "m.gguf").write_bytes(data)
    (tmp_path / "t.gguf").write_bytes(data)
    store = ("--store", "store", "-q")
    with FakeRegistry(data, template=b"{{ .Prompt }}") as registry:
        ran = run(
            platform, tmp_path,
            ("inspect", "m.gguf"), ("inspect", "m.gguf", "--json"), ("plan", "m.gguf"),
            ("modelfile", "m.gguf", "-o", "Modelfile", "-q"), ("modelfile", "--lint", "Modelfile", "-q"),
            ("tag", "t.gguf", *TYPES), ("tag", "t.gguf", "--type-k", "f16", "--type-v", "f16", "-q"),
            ("untag", "t.gguf", "-q"), ("tag", "t.gguf", *TYPES), ("tag", "m.gguf", *TYPES, "-o", "o.gguf"),
            ("install", "m.gguf", "--as", "a:1", *store), ("install", "o.gguf", "--as", "b:1", "--link", "copy", *store),
            ("install", "o.gguf", "--as", "a:1", "--yes", *store),
            ("pull", registry.name, "--as", "c:1", *store), ("pull", registry.name, "--as", "c:1", *store),
            ("pull", registry.name, "--as", "d:1", "--no-tag", *store),
            ("pull", "m.gguf", "--as", "m:1", "--to", "out", *store),
            ("install", "--remove", "a:1", *store), ("verify", "c:1", *store), ("verify", "o.gguf", "-q"),
            ("plan", "c:1", *store), ("modelfile", "c:1", *store), ("cache", "prune", *store), ("config", "show", "-q"),
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "t.gguf").read_bytes()[PAGE:] == data
    tags = read_tags(read_header(tmp_path / "t.gguf"))
    assert tags is not None
    assert (tags.type_k, tags.type_v) == ("q8_0", "turbo4")
    assert (tmp_path / "o.gguf").read_bytes() == (tmp_path / "t.gguf").read_bytes()
    names = {name.rsplit("/", 2)[1] for name in check_store(tmp_path / "store")}
    assert names == {"b", "c", "d"}
    left = {p.name for p in tmp_path.rglob("*") if ".tmp" in p.name or p.name.startswith(".m")}
    assert left == set()
    assert (tmp_path / "out" / "m-1.gguf").read_bytes()[PAGE:] == data


def test_the_stand_in_for_windows_refuses_what_windows_does(tmp_path: Path) -> None:
    """An open file is not replaced, a text descriptor is noticed: the test above could fail."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import otherplatform as o; o.windows_files()\n"
        "open('a', 'w').close(); f = open('b', 'w')\n"
        "for call in (lambda: os.replace('a', 'b'), lambda: os.unlink('b'), lambda: os.mkdir('x:y'),\n"
        "             lambda: os.open('a', os.O_RDONLY), lambda: os.fsync(os.open('a', os.O_RDONLY | os.O_BINARY))):\n"
        "    try: call()\n"
        "    except (OSError, AssertionError) as e: print(type(e).__name__)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, PROGRAM.parent], cwd=tmp_path, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert ran.stdout.split() == [
        "PermissionError",
        "PermissionError",
        "OSError",
        "AssertionError",
        "OSError",
    ]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_pipes_that_lack_characters(tmp_path: Path, encoding: str) -> None:
    """`--json`, tables, notes and errors into a cp1252 pipe: no UnicodeEncodeError, JSON stays whole."""
    keys = {**LLAMA, "general.name": ODD, "general.license": ODD, "tokenizer.chat_template": ODD}
    path = tiny_gguf(tmp_path / f"{ODD}.gguf", keys)
    store = ("--store", str(tmp_path / "store"))
    commands = [
        ("inspect", path), ("inspect", path, "--keys"), ("plan", path), ("modelfile", path),
        ("pull", path, "--as", "a:1", *store), ("pull", path, "--as", "a:1", "--dry-run", *store),
        ("tag", path, "--type-k", "q8_0", "--type-v", "turbo4", "-n"), ("verify", path),
        ("install", path, "--as", "b:1", "--link", "copy", *store),
    ]  # fmt: skip
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    runner = (
        "import json, sys; from tqconvert.cli import main\n"
        "codes = [main(c) for c in json.loads(sys.argv[1])]; assert not any(codes), codes\n"
    )
    for as_json in (False, True):
        words = [[str(w) for w in c] + ["--json"] * as_json for c in commands]
        ran = subprocess.run(
            [sys.executable, "-c", runner, json.dumps(words)], env=env, capture_output=True, timeout=120, check=False
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr.decode(encoding, "replace")
        assert b"Traceback" not in ran.stderr
        text = ran.stdout.decode(encoding)
        if as_json:
            documents, at, decoder = [], 0, json.JSONDecoder()
            while at < len(text.rstrip()):
                value, at = decoder.raw_decode(text, at)
                documents.append(value)
                at += 1
            assert len(documents) == len(commands)
            assert documents[0]["name"] == ODD
    missing = subprocess.run(
        [sys.executable, "-m", "tqconvert", "inspect", f"{ODD}-no.gguf"], env=env, capture_output=True, check=False
    )  # fmt: skip
    assert missing.returncode == 5
    assert "no such file" in missing.stderr.decode(encoding)


class Sharing(PermissionError):
    """What Windows says of a file that is open elsewhere."""

    winerror = 32


def test_a_file_that_is_held_for_a_moment_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Virus scanners open new files: the rename is tried again. Not run on Windows."""
    (tmp_path / "a").write_bytes(b"new")
    real, calls = os.replace, list[Any]()

    def replace(src: Any, dst: Any) -> None:
        calls.append(src)
        if len(calls) < 4:
            raise Sharing(errno.EACCES, "in use")
        real(src, dst)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(fs.time, "sleep", lambda _: None)
    fs.replace(tmp_path / "a", tmp_path / "b")
    assert len(calls) == 4
    assert (tmp_path / "b").read_bytes() == b"new"


def test_a_file_that_stays_open_elsewhere_is_an_error_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two seconds it is said which programs may have it open. Other refusals are not tried again."""

    def refuse(kind: type[PermissionError]) -> Callable[..., None]:
        def replace(*_: object) -> None:
            slept.append("call")
            raise kind(errno.EACCES, "no")

        return replace

    slept = list[str]()
    monkeypatch.setattr(fs.time, "sleep", lambda _: slept.append("sleep"))
    monkeypatch.setattr(os, "replace", refuse(Sharing))
    with pytest.raises(StorageError) as held:
        fs.write_atomic(tmp_path / "f", b"x")
    assert "llama-server" in (held.value.hint or "")
    assert slept.count("sleep") == 20
    slept.clear()
    monkeypatch.setattr(os, "replace", refuse(PermissionError))
    with pytest.raises(StorageError) as refused:
        fs.write_atomic(tmp_path / "f", b"x")
    assert "may write" in (refused.value.hint or "")
    assert slept == ["call"]
    assert list(tmp_path.iterdir()) == []


def test_locks_by_msvcrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fcntl a byte that no file reaches is locked, and the position stays. Not run on Windows."""
    taken = list[tuple[int, int, int]]()

    def locking(fd: int, mode: int, n: int) -> None:
        if taken:
            raise OSError(errno.EACCES, "Permission denied")
        taken.append((os.lseek(fd, 0, os.SEEK_CUR), mode, n))

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    with (tmp_path / "f").open("w+b") as f:
        f.write(b"12345")
        f.flush()
        assert filelocks.lock(f.fileno())
        assert taken == [(1 << 43, 2, 1)]
        assert os.lseek(f.fileno(), 0, os.SEEK_CUR) == 5
        with pytest.raises(BlockingIOError):
            filelocks.lock(f.fileno())
        monkeypatch.setitem(sys.modules, "msvcrt", None)
        assert not filelocks.lock(f.fileno())


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_linux_calls_are_not_tried_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    """No range insertion, no leases; nothing is left in the folder by asking. Not run on those systems."""
    for module in (fs, filelocks):
        monkeypatch.setattr(module, "sys", types.SimpleNamespace(platform=platform))
    monkeypatch.delattr(os, "O_TMPFILE")
    assert not fs.can_insert(tmp_path, PAGE)
    assert not fs.can_clone(tmp_path)
    with (tmp_path / "f").open("w+b") as f:
        for call in (fs.insert_range, fs.collapse_range):
            with pytest.raises(OSError) as e:
                call(f.fileno(), 0, PAGE)
            assert fs.unsupported(e.value)
        assert not filelocks.written_elsewhere(f.fileno())
        with filelocks.write_lease(f.fileno()) as held:
            assert not held
        fs.allocate(f.fileno(), 10_000)
    assert (tmp_path / "f").stat().st_size == 10_000
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_clonefile_of_macos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arguments, its error, and a system library without it. Not run on a Mac."""
    import ctypes

    calls = list[tuple[bytes, bytes, int]]()

    def clonefile(src: bytes, dst: bytes, flags: int) -> int:
        calls.append((src, dst, flags))
        if dst.endswith(b"full"):
            ctypes.set_errno(errno.ENOTSUP)
            return -1
        Path(os.fsdecode(dst)).write_bytes(Path(os.fsdecode(src)).read_bytes())
        return 0

    monkeypatch.setattr(fs, "sys", types.SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: types.SimpleNamespace(clonefile=clonefile))
    source = tmp_path / "a"
    source.write_bytes(b"model")
    assert link_file(source, tmp_path / "b") is LinkMethod.REFLINK
    assert calls == [(os.fsencode(source), os.fsencode(tmp_path / "b"), 0)]
    assert link_file(source, tmp_path / "full") is LinkMethod.HARDLINK
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: types.SimpleNamespace())
    assert link_file(source, tmp_path / "c") is LinkMethod.HARDLINK


def test_full_sync_of_macos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F_FULLFSYNC, and fsync where the file system lacks it. Not run on a Mac."""
    done = list[object]()

    def control(fd: int, command: int) -> int:
        done.append(command)
        if len(done) > 1:
            raise OSError(errno.ENOTSUP, "no")
        return 0

    monkeypatch.setattr(fs, "sys", types.SimpleNamespace(platform="darwin"))
    monkeypatch.setitem(sys.modules, "fcntl", types.SimpleNamespace(fcntl=control))
    monkeypatch.setattr(os, "fsync", lambda _: done.append("fsync"))
    with (tmp_path / "f").open("wb") as f:
        fs.sync(f.fileno())
        assert done == [51]
        fs.sync(f.fileno())
    assert done == [51, 51, "fsync"]


def test_symbolic_links_need_a_privilege_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WinError 1314 names Developer Mode and the way that works; FAT refuses hard links, and a copy is made."""

    class PrivilegeError(OSError):
        winerror = 1314

    def refuse(*_: object) -> None:
        raise PrivilegeError(errno.EINVAL, "A required privilege is not held by the client")

    def no_links(*_: object) -> None:
        raise OSError(errno.EINVAL, "Incorrect function")  # WinError 1

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(fs, "sys", types.SimpleNamespace(platform="win32"))
    source = tmp_path / "a"
    source.write_bytes(b"model")
    with pytest.raises(StorageError, match="required privilege") as e:
        link_file(source, tmp_path / "b", methods=[LinkMethod.SYMLINK])
    assert "Developer Mode" in (e.value.hint or "")
    assert link_file(source, tmp_path / "b") is LinkMethod.COPY
    assert (tmp_path / "b").read_bytes() == b"model"


@pytest.mark.parametrize(
    "text", ["con:1b", "m:nul", "m:AUX.x", "lpt1/m:1", "m:1.", "host:5000/ns/m:1", "com9.txt:1"]
)
def test_names_that_windows_cannot_hold(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Devices, colons and a last dot: refused with the way out, and no error elsewhere."""
    store, name = Store(Path("store")), ModelName.parse(text)
    assert store.manifest_path(name).name == name.tag
    monkeypatch.setattr("tqconvert.store.layout.is_windows", lambda: True)
    with pytest.raises(UsageError, match="Windows cannot hold") as e:
        store.manifest_path(name)
    assert "--as" in (e.value.hint or "")
    assert store.manifest_path(ModelName.parse("qwen3.5:27b-tq")).name == "27b-tq"
    assert ":" not in str(store.modelfile_path(name).relative_to(store.root))


def test_the_default_store_on_each_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~/.ollama/models, by USERPROFILE on Windows even where Git's shell sets HOME; OLLAMA_MODELS wins."""
    (tmp_path / "profile" / ".ollama" / "models").mkdir(parents=True)
    env = {
        "HOME": str(tmp_path / "home"),
        "USERPROFILE": str(tmp_path / "profile"),
        "TQCONVERT_HOME": str(tmp_path),
    }
    monkeypatch.setattr("tqconvert.settings.is_windows", lambda: True)
    assert load_settings(env, tmp_path).store == tmp_path / "profile" / ".ollama" / "models"
    assert (
        load_settings({**env, "OLLAMA_MODELS": str(tmp_path / "m")}, tmp_path).store
        == tmp_path / "m"
    )
    monkeypatch.undo()
    (tmp_path / "home" / ".ollama" / "models").mkdir(parents=True)
    assert load_settings(env, tmp_path).store == tmp_path / "home" / ".ollama" / "models"


def test_signals_that_a_system_lacks(
    run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has no SIGHUP; not run there."""
    import signal

    monkeypatch.delattr(signal, "SIGHUP")
    assert run_cli("--version")[0] == 0


def test_dates_of_servers_do_not_depend_on_the_time_zone() -> None:
    """Retry-After in GMT means the same in Kathmandu."""
    code = (
        "import time; from tqconvert.registry.http import retry_after; import email.utils\n"
        "print(round(retry_after({'Retry-After': email.utils.formatdate(time.time() + 100, usegmt=True)}), -1))"
    )
    env = {**os.environ, "TZ": "Asia/Kathmandu"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "100.0\n"
    assert retry_after({"Retry-After": "7"}) == 7
