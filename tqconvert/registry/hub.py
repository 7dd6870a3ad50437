"""Hugging Face: what a repository holds at one commit, and where its files are to be had.

Listing, revisions, tokens and errors are `huggingface_hub`'s; bytes go through our own engine, because
the client does not resume across processes and compares no digest (huggingface_hub 2.4, plain HTTPS).
Files kept in Git LFS or Xet have a sha256 in the listing; others are at most a few megabytes and known
by their Git blob id.

The file addresses redirect to a CDN with signed URLs. A Xet-backed file is served there over plain HTTPS
as well, so nothing of the Xet protocol is needed.
"""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlsplit

from tqconvert import __version__
from tqconvert.digest import Digest
from tqconvert.errors import (
    AuthError,
    DigestMismatchError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    TqError,
    UsageError,
)
from tqconvert.registry.http import (
    RETRYABLE,
    Endpoint,
    Http,
    ProtocolError,
    TransientError,
    check,
    read_body,
    retry_after,
)

if TYPE_CHECKING:
    from huggingface_hub import CachedFileInfo

ATTEMPTS = 4
MAX_WAIT_S = 60.0
MAX_PLAIN_BYTES = 64 << 20
"""A file outside LFS is read whole into memory; the Hub takes none of more than 10 MB."""

LOGIN = "hf auth login, or set HF_TOKEN"

_COMMIT = re.compile("[0-9a-f]{40,64}")

T = TypeVar("T")


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


class Hub:
    """Hugging Face or a mirror of it, by its address."""

    def __init__(self, http: Http, endpoint: str) -> None:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        self._http = http
        self.address = endpoint.rstrip("/")
        # While it makes headers the client asks its own idea of the Hub, taken from HF_ENDPOINT when it was
        # imported, for a list (2.4, utils/_detect_agent.py). A mirror set otherwise must not be passed by.
        constants.ENDPOINT = self.address
        self._api = HfApi(
            endpoint=self.address, library_name="tqconvert", library_version=__version__
        )
        self._headers: dict[str, str] = {}
        if not http.offline:
            http.allow(endpoint)
            # With the token of HF_TOKEN or `hf auth login`, unless the user forbids it to be sent.
            headers = build_hf_headers(library_name="tqconvert", library_version=__version__)
            self._headers = {str(k).title(): str(v) for k, v in headers.items()}

    @property
    def has_token(self) -> bool:
        """Whether requests carry a token."""
        return "Authorization" in self._headers

    def list_files(self, repository: str, revision: str | None) -> Listing:
        """All files of the repository at the commit that `revision` (default: main) is now.

        Offline, those that huggingface_hub's cache has. Raises NotFoundError, AuthError, NetworkError, UsageError for a name that cannot be one.
        """
        from huggingface_hub import errors
        from huggingface_hub.hf_api import RepoFile

        if self._http.offline:
            return self._cached_listing(repository, revision or "main")

        def ask() -> Listing:
            try:
                commit = self._api.model_info(repository, revision=revision, timeout=30.0).sha or ""
                tree = self._api.list_repo_tree(repository, revision=commit, recursive=True)
                entries = [entry for entry in tree if isinstance(entry, RepoFile)]
            except (errors.HFValidationError, errors.HfHubHTTPError):
                raise
            except (ValueError, KeyError, TypeError, AttributeError) as e:
                raise ProtocolError(
                    f"{self._host}: does not answer as Hugging Face does ({type(e).__name__})",
                    hint="check HF_ENDPOINT, and whether a proxy or a login page stands in between",
                ) from e
            if not _COMMIT.fullmatch(commit):
                raise ProtocolError(f"{repository}: {self._host} names no commit ({commit[:80]!r})")
            # A name that a terminal would obey is nobody's model.
            files = (_file(entry) for entry in entries if entry.path.isprintable())
            return Listing(repository, commit, tuple(files))

        return self._asked(ask, repository, revision)

    def cached(self, listing: Listing, file: HubFile) -> Path | None:
        """The file in huggingface_hub's own cache, as `hf download` leaves it; None where it is not.

        Its bytes are not verified: the client compares no digest.
        """
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(listing.repository, file.path, revision=listing.commit)
        path = Path(found) if isinstance(found, str) else None
        return path if path is not None and path.is_file() else None

    def _cached_listing(self, repository: str, revision: str) -> Listing:
        """What the cache has of the repository at this revision."""
        from huggingface_hub import CacheNotFound, scan_cache_dir

        try:
            repositories = scan_cache_dir().repos
        except CacheNotFound:
            repositories = frozenset()
        for found in repositories:
            if found.repo_type != "model" or found.repo_id != repository:
                continue
            for at in found.revisions:
                if revision in at.refs or at.commit_hash.startswith(revision):
                    files = (_cached_file(at.snapshot_path, f) for f in at.files)
                    return Listing(repository, at.commit_hash, tuple(files))
        raise NetworkError(
            f"{repository}: {self._host} not asked, because --offline forbids the network",
            hint="huggingface_hub's cache does not have it either; run it without --offline (or unset "
            "HF_HUB_OFFLINE, TQCONVERT_OFFLINE)",
        )

    def check_access(self, listing: Listing, file: HubFile) -> None:
        """Ask for the file's headers: gated repositories list their files to everybody.

        Raises AuthError, NotFoundError, NetworkError, IntegrityError if it is not the file listed.
        """
        from huggingface_hub import get_hf_file_metadata

        source = self.source(listing, file)
        subject = f"{listing.repository}/{file.path}"
        found = self._asked(
            lambda: get_hf_file_metadata(
                source.url, token=False, headers=dict(self._headers), endpoint=self.address
            ),
            listing.repository,
            listing.commit,
        )
        if found.commit_hash not in (None, listing.commit):
            raise IntegrityError(
                f"{subject}: comes from commit {found.commit_hash} (expected {listing.commit})"
            )
        if found.size not in (None, file.size):
            raise IntegrityError(f"{subject}: {found.size} bytes (listed: {file.size})")
        etag = found.etag or ""
        if file.digest and len(etag) == len(file.digest.hex) and etag != file.digest.hex:
            raise DigestMismatchError(f"{subject}: sha256 {etag} (listed: {file.digest.hex})")

    def source(self, listing: Listing, file: HubFile) -> Endpoint:
        """Where the bytes of the file are, at the commit that was listed."""
        # Not hf_hub_url: it begins with the address that HF_ENDPOINT had when the client was imported.
        path = f"{listing.repository}/resolve/{listing.commit}/{quote(file.path)}"
        return Endpoint(f"{self.address}/{path}", self._headers)

    def read_file(self, listing: Listing, file: HubFile) -> bytes:
        """The whole of a small file, checked against its sha256 or Git blob id.

        Raises DigestMismatchError, NetworkError and its kin; UsageError for a file that is not small.
        """
        subject = f"{listing.repository}/{file.path}"
        if file.size > MAX_PLAIN_BYTES:
            raise UsageError(f"{subject}: {file.size} bytes outside LFS, without a sha256")

        def ask() -> bytes:
            source = self.source(listing, file)
            response, reached = self._http.request("GET", source)
            check(response, subject, reached.url)
            return read_body(response, file.size, subject)

        if self._http.offline and (path := self.cached(listing, file)):
            data = path.read_bytes()
        else:
            data = self._asked(ask, listing.repository, listing.commit)
        if file.digest is not None:
            same = hashlib.sha256(data).hexdigest() == file.digest.hex
        else:
            same = git_blob_id(data) == file.blob_id
        if not same:
            raise DigestMismatchError(
                f"{subject}: what arrived is not the file that was listed",
                hint="the server or something on the way changed the bytes; nothing was installed",
            )
        return data

    def asked(self, ask: Callable[[], T], listing: Listing) -> T:
        """The answer to a question about a listed file; failures that may pass are tried again."""
        return self._asked(ask, listing.repository, listing.commit)

    @property
    def _host(self) -> str:
        return urlsplit(self.address).netloc

    def _asked(self, ask: Callable[[], T], repository: str, revision: str | None) -> T:
        """The answer; failures that may pass are tried again. Errors become ours."""
        for attempt in range(ATTEMPTS):
            try:
                return ask()
            except TransientError as e:
                error, wait_s = e, e.wait_s
            except TqError:
                raise
            except Exception as e:  # noqa: BLE001 - translated, or raised again as it is
                found = self._translated(e, repository, revision)
                if found is None:
                    raise
                if not isinstance(found, TransientError):
                    raise found from e
                error, wait_s = found, found.wait_s
            if attempt < ATTEMPTS - 1:
                time.sleep(min(0.5 * 2**attempt if wait_s is None else wait_s, MAX_WAIT_S))
        raise NetworkError(f"{error.message}; gave up after {ATTEMPTS} attempts", hint=error.hint)

    def _translated(self, e: Exception, repository: str, revision: str | None) -> TqError | None:
        """Our error for one of huggingface_hub's; None for what is no answer of a server."""
        from huggingface_hub import errors

        page = f"{self.address}/{repository}"
        match e:
            case errors.GatedRepoError():
                if self.has_token:
                    hint = f"accept its terms at {page}, with the account of your token"
                else:
                    hint = f"accept its terms at {page}, then {LOGIN}"
                return AuthError(
                    f"{repository}: gated, {self._host} wants its terms accepted", hint=hint
                )
            case errors.RepositoryNotFoundError():
                hint = "check the name; a token of an account that may read it is needed if it is private"
                if not self.has_token:
                    hint = f"check the name; if it is private: {LOGIN}"
                return NotFoundError(f"{repository}: no such repository at {self._host}", hint=hint)
            case errors.RevisionNotFoundError():
                return NotFoundError(
                    f"{repository}: no revision {revision}",
                    hint=f"branches, tags and commits: {page}/commits/main",
                )
            case errors.EntryNotFoundError():
                return NotFoundError(
                    f"{repository}: a listed file is not there", hint=f"see {page}"
                )
            case errors.HFValidationError():
                return UsageError(f"{repository}: cannot be a repository (expected ORG/NAME)")
            case errors.OfflineModeIsEnabled():
                return NetworkError(
                    f"{self._host}: not asked, because HF_HUB_OFFLINE forbids the network",
                    hint="unset HF_HUB_OFFLINE, or take a file on this disk",
                )
            case errors.HfHubHTTPError():
                return self._refused(e, repository)
            case errors.HTTPError():  # type: ignore[attr-defined] # httpx's or httpx2's own
                return TransientError(
                    f"{self._host}: {type(e).__name__}: {e}", hint="check the name and the network"
                )
            case _:
                return None

    def _refused(self, e: Exception, repository: str) -> TqError:
        """Our error for an HTTP status that has no class of its own."""
        response = getattr(e, "response", None)
        status = getattr(response, "status_code", 0)
        says = "".join(c for c in getattr(e, "server_message", None) or "" if c.isprintable())[:200]
        text = f"{repository}: {self._host} answered {status}" + (f" ({says})" if says else "")
        if status in (401, 403):
            hint = "the token may be wrong or lack a permission: hf auth whoami"
            return AuthError(text, hint=hint if self.has_token else LOGIN)
        if status in RETRYABLE:
            headers = getattr(response, "headers", {})
            wait_s = retry_after({k.title(): v for k, v in headers.items()})
            return TransientError(text, wait_s=wait_s)
        return ProtocolError(text)


def _cached_file(snapshot: Path, entry: "CachedFileInfo") -> HubFile:
    """A file of the cache, whose blob is named by its sha256 or, outside LFS, by its Git blob id."""
    name = entry.blob_path.name
    digest = Digest(name) if re.fullmatch("[0-9a-f]{64}", name) else None
    path = entry.file_path.relative_to(snapshot).as_posix()
    return HubFile(path, entry.size_on_disk, name, digest)


def git_blob_id(data: bytes) -> str:
    """The name that Git gives a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - Git's choice


def _file(entry: object) -> HubFile:
    """A row of the listing, believed only as far as its form."""
    path, size = str(getattr(entry, "path", "")), getattr(entry, "size", None)
    lfs = getattr(entry, "lfs", None)
    digest = None
    if lfs is not None:
        size = lfs.size
        try:
            digest = Digest.parse(f"sha256:{lfs.sha256}")
        except IntegrityError:
            raise ProtocolError(f"{path[:80]!r}: listed without a sha256") from None
    if not isinstance(size, int) or not 0 <= size <= 1 << 44:
        raise ProtocolError(f"{path[:80]!r}: listed with {size!r} bytes")
    return HubFile(path, size, str(getattr(entry, "blob_id", "")), digest)
