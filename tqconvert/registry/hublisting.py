"""Files of a Hugging Face repository at one commit; also as huggingface_hub's own cache has them."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqconvert.digest import Digest

if TYPE_CHECKING:
    from huggingface_hub import CachedFileInfo

SHORT_COMMIT = 7
"""Digits of a commit's id from which on it is taken for one, as Git abbreviates it."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository; `digest` is None for one that is not in LFS."""

    path: str
    size: int
    blob_id: str
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]


def cached_path(listing: Listing, file: HubFile) -> Path | None:
    """Where huggingface_hub's cache has the file, as `hf download` leaves it; None where it has not.

    Of another commit too, if the sha256 is the same. The bytes are not verified: the client compares no
    digest.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    found = try_to_load_from_cache(listing.repository, file.path, revision=listing.commit)
    if isinstance(found, str) and Path(found).is_file():
        return Path(found)
    folder = repo_folder_name(repo_id=listing.repository, repo_type="model")
    name = file.digest.hex if file.digest else file.blob_id
    blob = Path(constants.HF_HUB_CACHE, folder, "blobs", name or "-")
    return blob if blob.is_file() else None


def cached_listing(repository: str, revision: str) -> Listing | None:
    """What the cache has of the repository at a branch, tag or commit; None where that is nothing."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return None
    is_commit = re.fullmatch(f"[0-9a-f]{{{SHORT_COMMIT},}}", revision) is not None
    for found in repositories:
        if found.repo_type != "model" or found.repo_id != repository:
            continue
        for at in found.revisions:
            if revision in at.refs or (is_commit and at.commit_hash.startswith(revision)):
                files = (_cached_file(at.snapshot_path, f) for f in at.files)
                return Listing(repository, at.commit_hash, tuple(files))
    return None


def git_blob_id(data: bytes) -> str:
    """The name that Git gives a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - Git's choice


def _cached_file(snapshot: Path, entry: "CachedFileInfo") -> HubFile:
    """A file of the cache, whose blob is named by its sha256 or, outside LFS, by its Git blob id."""
    name = entry.blob_path.name
    digest = Digest(name) if re.fullmatch("[0-9a-f]{64}", name) else None
    path = entry.file_path.relative_to(snapshot).as_posix()
    return HubFile(path, entry.size_on_disk, name, digest)
