"""Where llama.cpp's source comes from: a folder, an sdist of llama-cpp-python, or the pinned sdist.

The pinned one is fetched with pip, which knows the user's index, proxies and certificates, and is kept
in the cache. Archives are unpacked into the cache; a folder of the user is only read.
"""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqconvert import fs
from tqconvert.digest import Digest, digest_path
from tqconvert.errors import (
    DigestMismatchError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    ToolMissingError,
    UsageError,
)
from tqconvert.patches.git import Git
from tqconvert.runtime.lock import held
from tqconvert.runtime.tree import find_tree, hash_files, is_read, tree_id

SDIST = "sdist"
PINNED = "llama-cpp-python==0.3.36"
PINNED_FILE = "llama_cpp_python-0.3.36.tar.gz"
PINNED_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
TREE = "llama.cpp"
"""Name of the tree's folder among what is unpacked."""
UNPACK_S = 120.0
"""How long one waits for another that unpacks, or compares, the same source."""
COMMITS = {PINNED_SHA256: "0c1e57098bba43ac29e6e3b677cdceebdd22334f"}
"""Archive -> the commit of llama.cpp that is in it."""


@dataclass(frozen=True, slots=True)
class Source:
    """A llama.cpp tree, and what is known of where it comes from."""

    root: Path
    kind: str
    """`folder`, `archive` or `sdist`."""
    name: str
    """What a reader knows it by: the folder, or the archive's file name."""
    files: Mapping[str, str]
    """Path -> sha256 of what a build reads."""
    archive_sha256: str | None = None
    commit: str | None = None

    @property
    def tree(self) -> str:
        """The id of the tree's content."""
        return tree_id(self.files)


def open_source(
    text: str, cache: Path, env: Mapping[str, str], *, offline: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Source:  # fmt: skip
    """The tree that `--source` names, unpacked or fetched into `cache` where need be.

    Raises NotFoundError, UsageError, NetworkError, DigestMismatchError, StorageError.
    """
    if text == SDIST:
        archive = pinned_archive(cache)
        if not archive.exists():
            if not offline:
                note(f"fetching {PINNED}")
            fetch_pinned(cache, env, offline=offline)
        return _open_archive(archive, PINNED_SHA256, cache, SDIST)
    path = Path(text).expanduser()
    if path.is_dir():
        root = find_tree(path)
        commit = _commit_of(root, env)
        return Source(root, "folder", str(path), hash_files(root), commit=commit)
    if not path.exists():
        raise NotFoundError(f"{text}: no such folder or archive", hint="--source sdist fetches one")
    if not path.name.endswith((".tar.gz", ".tgz", ".tar.xz", ".tar")):
        raise UsageError(f"{text}: expected a folder, an archive (.tar.gz) or the word sdist")
    return _open_archive(path, digest_path(path).hex, cache, "archive")


def pinned_archive(cache: Path) -> Path:
    """Where the pinned sdist lies, or will lie, in the cache."""
    return cache / "sdists" / PINNED_FILE


def fetch_pinned(cache: Path, env: Mapping[str, str], *, offline: bool) -> None:
    """Fetch the pinned sdist with pip.

    Raises NetworkError, DigestMismatchError, StorageError, ToolMissingError without pip.
    """
    import tempfile
    from importlib.util import find_spec

    target = pinned_archive(cache)
    if offline:
        raise NetworkError(
            f"{PINNED}: not in {target.parent} (needed, and --offline forbids the network)",
            hint=f"run without --offline, or give --source PATH/TO/{PINNED_FILE}",
        )
    if find_spec("pip") is None:  # as in environments that uv makes
        raise ToolMissingError(
            f"pip: not installed beside tqconvert (needed to fetch {PINNED})",
            hint=f"{sys.executable} -m ensurepip, or: uv pip install pip",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
            _run_pip(folder, env)
            fetched = Path(folder) / PINNED_FILE
            found = digest_path(fetched) if fetched.exists() else None
            if found != Digest(PINNED_SHA256):
                raise DigestMismatchError(
                    f"{PINNED_FILE}: the index gave {found} (expected sha256:{PINNED_SHA256})"
                )
            fs.replace(fetched, target)
    except OSError as e:
        raise fs.storage_error(e, target.parent) from e


def _run_pip(folder: str, env: Mapping[str, str]) -> None:
    # pip asks the sdist for its metadata; with ":all:" it would compile the build tools for that too.
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps",
        "--no-binary", PINNED.partition("==")[0], "--dest", folder, PINNED,
    ]  # fmt: skip
    done = subprocess.run(
        command, env=dict(env), capture_output=True, text=True, errors="replace", check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if x.strip()]
        errors = [x for x in lines if "ERROR" in x] or lines or ["no message"]
        if "[Errno 28]" in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise NetworkError(
            f"{PINNED}: pip download failed: {errors[-1].strip()[:300]}",
            hint=f"fetch {PINNED_FILE} elsewhere and give it as --source",
        )


def _open_archive(path: Path, sha256: str, cache: Path, kind: str) -> Source:
    """The tree of an archive, unpacked once; what was changed there since is unpacked anew."""
    folder = cache / "sources" / sha256[:16]
    with held(folder.with_suffix(".lock"), path.name, wait_s=UNPACK_S):
        files = _unpacked(folder) or _unpack(path, sha256, folder)
    return Source(folder / TREE, kind, path.name, files, sha256, COMMITS.get(sha256))


def _unpacked(folder: Path) -> dict[str, str] | None:
    """The files of a tree that was unpacked before and is as it was, else None."""
    try:
        expected = (folder / "tree-id").read_text("utf-8").strip()
    except OSError:
        return None
    files = hash_files(folder / TREE)
    return files if tree_id(files) == expected else None


def _unpack(path: Path, sha256: str, folder: Path) -> dict[str, str]:
    found = digest_path(path)
    if found.hex != sha256:
        raise DigestMismatchError(
            f"{path}: {found} (expected sha256:{sha256})", hint=f"remove {path} and run it again"
        )
    partial = folder.with_suffix(".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / TREE).mkdir(parents=True)
        unpack_tree(path, partial / TREE)
        files = hash_files(find_tree(partial / TREE))
        fs.write_atomic(partial / "tree-id", tree_id(files).encode())
        shutil.rmtree(folder, ignore_errors=True)
        fs.replace(partial, folder)
    except OSError as e:
        raise fs.storage_error(e, folder) from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return files


def unpack_tree(archive: Path, target: Path) -> None:
    """Unpack the llama.cpp tree of an archive into `target`: an sdist's vendor/llama.cpp, or all of it.

    Files that no build reads are left out. Links, devices and paths that lead out of `target` are refused
    (Python's "data" filter). Raises IntegrityError, StorageError.
    """
    import tarfile

    if not hasattr(tarfile, "data_filter"):
        raise ToolMissingError("Python: cannot unpack safely (expected 3.11.4 or newer)")
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            tops = {m.name.split("/", 1)[0] for m in members if "/" in m.name}
            inner = [f"{top}/vendor/llama.cpp/" for top in tops]
            prefix = next((p for p in inner if any(m.name.startswith(p) for m in members)), "")
            if not prefix and len(tops) == 1:
                prefix = f"{tops.pop()}/"
            for member in members:
                if not member.name.startswith(prefix) or member.isdir():
                    continue
                member.name = member.name.removeprefix(prefix)
                if is_read(member.name):
                    tar.extract(member, target, filter="data", set_attrs=False)
    except (tarfile.TarError, EOFError) as e:
        raise IntegrityError(f"{archive}: not an archive that can be unpacked ({e})") from e
    except OSError as e:
        if e.errno is None:  # gzip's BadGzipFile
            raise IntegrityError(f"{archive}: not an archive that can be unpacked ({e})") from e
        raise fs.storage_error(e, target) from e


def _commit_of(root: Path, env: Mapping[str, str]) -> str | None:
    """The commit that is checked out where the tree is a repository, "-dirty" with changes."""
    if not (root / ".git").exists() or not shutil.which("git", path=env.get("PATH")):
        return None
    # A repository's own settings name programs to run (core.fsmonitor, filters): they are not obeyed.
    git = Git(root, env)
    git.ignore_drivers()
    done = git.run("describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
    return os.fsdecode(done.stdout).strip() or None if done.returncode == 0 else None
