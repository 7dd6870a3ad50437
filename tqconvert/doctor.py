"""Checks of this machine for `doctor`: what one would ask in a bug report. Changes nothing.

Details carry no secrets: credentials are cut out of addresses, the home folder is shown as ~.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from tqconvert import __version__, fs
from tqconvert.errors import ConfigError, StorageError
from tqconvert.settings import PROJECT_FILE, Settings, default_store, load_settings, user_file
from tqconvert.units import format_bytes

PACKAGES = ("typer", "gguf", "numpy", "huggingface-hub", "urllib3", "tqdm", "filelock", "psutil")
LOW_SPACE = 10 << 30
TIMEOUT_S = 2.0
PAGE = 4096
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=//)[^/@\s]+@|[^/@\s,=]+:[^/@\s,]*@")
_OURS = ("TQCONVERT_", "OLLAMA_", "HF_")


class Status(StrEnum):
    """How a check went. Only FAIL is an obstacle."""

    OK = "ok"
    NOTE = "note"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `fix` is what to do about it."""

    name: str
    status: Status
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the checks look at."""

    env: Mapping[str, str]
    cwd: Path
    store: Path | None = None
    """The store named by a flag."""
    offline: bool = False


def examine(machine: Machine) -> tuple[Check, ...]:
    """All checks, in the order in which one would ask."""
    settings, config = _check_config(machine)
    store = machine.store or settings.store
    if machine.offline:
        settings = replace(settings, offline=True)
    checks: tuple[Callable[[], Iterator[Check]], ...] = (
        _check_versions,
        lambda: iter(config),
        lambda: _check_store(store),
        lambda: _check_file_system(store),
        lambda: _check_partials(store),
        _check_memory,
        lambda: _check_proxies(machine.env),
        lambda: _check_environment(machine.env),
        lambda: _check_program(machine.env, offline=settings.offline),
        lambda: _check_server(machine.env, offline=settings.offline),
    )
    home = machine.env.get("HOME") or machine.env.get("USERPROFILE") or ""
    return tuple(_shortened(check, home) for run in checks for check in run())


def shorten(text: str, home: str) -> str:
    """The text with the home folder as ~ and without credentials in addresses."""
    if len(home) > 1:
        text = re.sub(re.escape(home.rstrip("/")) + r"(?=[/\s:,;)\"']|$)", "~", text)
    return _CREDENTIALS.sub("***@", text)


def _shortened(check: Check, home: str) -> Check:
    return replace(check, detail=shorten(check.detail, home), fix=shorten(check.fix, home))


def _check_versions() -> Iterator[Check]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    yield Check("tqconvert", Status.OK, __version__)
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    old = sys.version_info < (3, 11)
    yield Check("Python", Status.FAIL if old else Status.OK, python, "use 3.11" if old else "")
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    yield Check("packages", Status.OK, ", ".join(found))
    if missing:
        text = ", ".join(missing)
        yield Check("packages", Status.FAIL, f"missing: {text}", f"pip install {' '.join(missing)}")


def _check_config(machine: Machine) -> tuple[Settings, tuple[Check, ...]]:
    """Settings, or defaults where they cannot be read, and the checks of their files."""
    files = [p for p in (user_file(machine.env), machine.cwd / PROJECT_FILE) if p.exists()]
    names = ", ".join(map(str, files)) or "no file"
    try:
        settings = load_settings(machine.env, machine.cwd)
    except ConfigError as e:
        home = Path(machine.env.get("HOME") or Path.home())
        check = Check("configuration", Status.FAIL, e.message, "correct or remove the setting")
        return Settings(default_store(home)), (check,)
    return settings, (Check("configuration", Status.OK, names),)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))


def _check_store(store: Path) -> Iterator[Check]:
    there = _existing(store)
    fix = "set OLLAMA_MODELS, or give --store, to a folder that you may write to"
    if not there.is_dir():
        yield Check("store", Status.FAIL, f"{there} is no folder", fix)
        return
    if not os.access(there, os.W_OK | os.X_OK):
        yield Check("store", Status.FAIL, f"{there} cannot be written to", fix)
        return
    state = "writable" if there == store else "not there yet, can be made"
    yield Check("store", Status.OK, f"{store}, {state}")
    free = fs.free_bytes(there)
    low = free < LOW_SPACE
    yield Check(
        "free space", Status.NOTE if low else Status.OK, format_bytes(free),
        "a model needs its size once more while it is tagged" if low else "",
    )  # fmt: skip


def _check_file_system(store: Path) -> Iterator[Check]:
    folder = _existing(store)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return
    can = {
        "inserts pages (tag in milliseconds)": fs.can_insert(folder, PAGE),
        "shares data (reflink)": fs.can_clone(folder),
    }
    yes = [what for what, able in can.items() if able]
    detail = f"{_file_system(folder)}: {', '.join(yes) or 'neither inserts pages nor shares data'}"
    fix = "" if yes else "works, but tag copies the file; ext4, xfs and btrfs need no copy"
    yield Check("file system", Status.OK if yes else Status.NOTE, detail, fix)


def _file_system(folder: Path) -> str:
    import psutil

    real, best = folder.resolve(), ("", "unknown")
    for part in psutil.disk_partitions(all=True):
        if real.is_relative_to(part.mountpoint) and len(part.mountpoint) >= len(best[0]):
            best = (part.mountpoint, part.fstype)
    return best[1]


def _check_partials(store: Path) -> Iterator[Check]:
    from tqconvert.store.layout import Store
    from tqconvert.store.prune import plan_prune

    try:
        found = plan_prune(Store(store), older_than_s=0, now=time.time())
    except StorageError as e:
        yield Check("partial downloads", Status.NOTE, e.message)
        return
    if found:
        n_bytes = sum(x.n_bytes for x in found)
        detail = f"{len(found)} unfinished, {format_bytes(n_bytes)}"
        fix = "pull again to resume, or: tqconvert cache prune"
        yield Check("partial downloads", Status.NOTE, detail, fix)
    else:
        yield Check("partial downloads", Status.OK, "none")


def _check_memory() -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{format_bytes(memory.total)}, {format_bytes(memory.available)} available"
    yield Check("memory", Status.OK, detail)


def _check_proxies(env: Mapping[str, str]) -> Iterator[Check]:
    names = sorted(n for n in env if n.lower().endswith("_proxy") and env[n])
    yield Check("proxies", Status.OK, ", ".join(f"{n}={env[n]}" for n in names) or "none")


def _check_environment(env: Mapping[str, str]) -> Iterator[Check]:
    names = sorted(n for n in env if n.startswith(_OURS))
    shown = (f"{n}={'(set)' if _SECRET.search(n) else env[n]}" for n in names)
    yield Check("environment", Status.OK, ", ".join(shown) or "nothing of ours set")


def _check_program(env: Mapping[str, str], *, offline: bool) -> Iterator[Check]:
    path = shutil.which("ollama", path=env.get("PATH"))
    if path is None:
        fix = "only needed to run models: https://ollama.com/download"
        yield Check("ollama program", Status.NOTE, "not on PATH", fix)
        return
    version = "version not asked for (it asks the server)" if offline else _version_of(path, env)
    yield Check("ollama program", Status.OK, f"{path}, {version}")


def _version_of(path: str, env: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", env=dict(env),
            stdin=subprocess.DEVNULL, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as e:
        return f"does not run ({type(e).__name__})"
    found = re.findall(r"version\D{0,12}(\d[\w.+-]*)", done.stdout + done.stderr)
    return f"version {found[-1]}" if found else "version not told"


def server_address(text: str) -> tuple[str, str, int]:
    """Scheme, host and port that OLLAMA_HOST means; 0.0.0.0 is asked at loopback.

    Source: ollama envconfig/config.go, Host: port 11434 unless the scheme says 80 or 443.
    """
    scheme, found, rest = text.strip().strip("\"'").rpartition("://")
    port = {"http": 80, "https": 443}.get(scheme, 11434) if found else 11434
    rest = rest.split("/", 1)[0].rpartition("@")[2]
    m = re.fullmatch(r"\[?(?P<host>[^\]]*?)\]?(?::(?P<port>\d{1,5}))?", rest)
    if m and rest.count(":") > 1 and "[" not in rest:  # a bare IPv6 address
        host = rest
    else:
        host = m["host"] if m else ""
        port = int(m["port"]) if m and m["port"] and int(m["port"]) < 65536 else port
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return scheme or "http", host, port


def _check_server(env: Mapping[str, str], *, offline: bool) -> Iterator[Check]:
    scheme, host, port = server_address(env.get("OLLAMA_HOST", ""))
    where = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    if offline:
        yield Check("ollama server", Status.NOTE, f"{where}: not asked (offline)")
        return
    version = _ask_version(scheme, host, port)
    if version is None:
        fix = "only needed to run models: ollama serve"
        yield Check("ollama server", Status.NOTE, f"{where}: no answer", fix)
    else:
        yield Check("ollama server", Status.OK, f"{where}: version {version}")


def _ask_version(scheme: str, host: str, port: int) -> str | None:
    import http.client

    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/api/version")
        version = json.loads(connection.getresponse().read(4096))["version"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()
    return str(version)[:40]
