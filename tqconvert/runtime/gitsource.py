"""Source out of git: a commit of a clone, or a tag of a public address, laid into the cache as plain files.

CACHE/repos/NAME-HASH.git     bare clones, one an address; only the tags that were asked for are in them
CACHE/sources/NAME-COMMIT/    the files of a commit that a build reads
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from tqconvert import fs
from tqconvert.errors import GitFailedError, IntegrityError, NetworkError, NotFoundError
from tqconvert.patches.git import Git
from tqconvert.runtime.lock import held
from tqconvert.runtime.source import UNPACK_S, Source
from tqconvert.runtime.tree import hash_files, tree_id

OLLAMA_URL = "https://github.com/ollama/ollama.git"
LLAMA_CPP_URL = "https://github.com/ggml-org/llama.cpp.git"
Filter = Callable[[str], bool]


def is_url(text: str) -> bool:
    """Whether `--source` names an address and not a path."""
    return "://" in text or (text.startswith("git@") and ":" in text)


def is_repository(folder: Path, env: Mapping[str, str]) -> bool:
    """Whether `folder` itself, not one above it, is a repository, bare or with a work tree."""
    if not folder.is_dir() or not ((folder / ".git").exists() or (folder / "objects").is_dir()):
        return False
    return Git(folder, env).run("rev-parse", "--git-dir").returncode == 0


def open_url(
    url: str, tag: str, cache: Path, env: Mapping[str, str], wanted: Filter, *, offline: bool,
    note: Callable[[str], None],
) -> Source:  # fmt: skip
    """A tag of a public repository. Fetched once; then it is there without the network.

    Raises NetworkError, NotFoundError, IntegrityError, StorageError.
    """
    name = url.rstrip("/").rpartition("/")[2].removesuffix(".git") or "source"
    # A fork of the same name has tags of the same names.
    own = hashlib.sha256(url.encode()).hexdigest()[:8]
    repo = cache / "repos" / f"{name}-{own}.git"
    with held(repo.with_name(f"{repo.name}.lock"), f"fetch {name}"):
        if not (repo / "HEAD").is_file():
            _init(repo, env)
        git = Git(repo, env)
        ref = f"refs/tags/{tag}"
        if git.run("rev-parse", "-q", "--verify", f"{ref}^{{commit}}").returncode:
            if offline:
                raise NetworkError(
                    f"{url} {tag}: not in {repo} (needed, and --offline forbids the network)",
                    hint="run it once without --offline, or give --source DIR",
                )
            note(f"fetching {tag} of {url}")
            done = git.run("fetch", "--depth=1", "--no-tags", "--", url, f"+{ref}:{ref}")
            if done.returncode:
                said = done.stderr.decode("utf-8", "replace").strip()
                if "couldn't find remote ref" in said:
                    raise NotFoundError(f"{url}: has no tag {tag}")
                raise NetworkError(
                    f"{url}: {said.splitlines()[-1][:300] if said else 'git fetch failed'}",
                    hint="give a clone or an unpacked tree: --source DIR",
                )
    return open_commit(repo, ref, cache, env, wanted, name=f"{name} {tag}")


def open_commit(
    repo: Path, rev: str, cache: Path, env: Mapping[str, str], wanted: Filter, *, name: str | None = None
) -> Source:  # fmt: skip
    """The files of a commit, laid into the cache once; the repository is only read.

    Raises NotFoundError for an unknown revision, IntegrityError where the clone lacks objects (shallow
    or partial), StorageError.
    """
    git = Git(repo, env)
    try:
        commit = git.text_of("rev-parse", "-q", "--verify", f"{rev}^{{commit}}")
    except GitFailedError:
        raise NotFoundError(
            f"{repo}: has no {rev}", hint="git fetch --tags, or name another revision"
        ) from None
    folder = (
        cache / "sources" / f"{repo.resolve().name.removesuffix('.git') or 'git'}-{commit[:16]}"
    )
    title = name or f"{repo} {rev}"
    with held(folder.with_name(f"{folder.name}.lock"), title, wait_s=UNPACK_S):
        files = _kept(folder, wanted) or _lay_out(git, commit, folder, wanted)
    return Source(folder / "tree", "git", title, files, commit=commit)


def _init(repo: Path, env: Mapping[str, str]) -> None:
    try:
        repo.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise fs.storage_error(e, repo) from e
    Git(repo, env).bytes_of("init", "-q", "--bare", ".")


def _kept(folder: Path, wanted: Filter) -> dict[str, str] | None:
    """The files that were laid out before and are as they were, else None."""
    try:
        expected = (folder / "tree-id").read_text("utf-8").strip()
    except OSError:
        return None
    files = hash_files(folder / "tree", wanted)
    return files if tree_id(files) == expected else None


def _lay_out(git: Git, commit: str, folder: Path, wanted: Filter) -> dict[str, str]:
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        write_commit(git, commit, partial / "tree", wanted)
        files = hash_files(partial / "tree", wanted)
        fs.write_atomic(partial / "tree-id", tree_id(files).encode())
        shutil.rmtree(folder, ignore_errors=True)
        fs.replace(partial, folder)
    except OSError as e:
        raise fs.storage_error(e, folder) from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return files


def write_commit(git: Git, commit: str, target: Path, wanted: Filter) -> None:
    """Write the wanted files of a commit as they are in it: no line ends changed, no links made."""
    rows = git.bytes_of("ls-tree", "-r", "-z", commit).split(b"\0")
    entries = []
    for row in filter(None, rows):
        meta, _, name = row.partition(b"\t")
        mode, _, oid = meta.split(b" ")
        path = os.fsdecode(name)
        if ".." in path.split("/") or path.startswith("/"):
            raise IntegrityError(f"{path}: is outside of the tree (commit {commit[:12]})")
        if mode in (b"100644", b"100755") and wanted(path):
            entries.append((path, oid, mode == b"100755"))
    answer = git.bytes_of("cat-file", "--batch", data=b"".join(o + b"\n" for _, o, _ in entries))
    at = 0
    made: set[str] = set()
    for path, oid, executable in entries:
        end = answer.index(b"\n", at)
        head = answer[at:end].split(b" ")
        if len(head) != 3:  # noqa: PLR2004 - id, type, size
            raise IntegrityError(
                f"{path}: the clone lacks its content ({os.fsdecode(oid[:12])}; expected a full clone)",
                hint=f"git -C {git.folder} fetch --refetch --unshallow",
            )
        size = int(head[2])
        folder = os.path.dirname(path)
        if folder not in made:
            (target / folder).mkdir(parents=True, exist_ok=True)
            made.add(folder)
        file = target / path
        file.write_bytes(answer[end + 1 : end + 1 + size])
        if executable:
            file.chmod(0o755)
        at = end + 2 + size
