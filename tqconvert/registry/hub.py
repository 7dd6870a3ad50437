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
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from tqconvert import __version__
from tqconvert.digest import Digest
from tqconvert.errors import (
    DigestMismatchError,
    IntegrityError,
    NetworkError,
    TqError,
    UsageError,
)
from tqconvert.registry.http import (
    Endpoint,
    Http,
    ProtocolError,
    TransientError,
    check,
    read_body,
)
from tqconvert.registry.huberrors import Asked, translate
from tqconvert.registry.hublisting import (
    HubFile,
    Listing,
    cached_listing,
    cached_path,
    git_blob_id,
)

ATTEMPTS = 4
MAX_WAIT_S = 60.0
MAX_PLAIN_BYTES = 64 << 20
"""A file outside LFS is read whole into memory; the Hub takes none of more than 10 MB."""

_COMMIT = re.compile("[0-9a-f]{40,64}")

T = TypeVar("T")


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

        Offline, those that huggingface_hub's cache has. Raises NotFoundError, AuthError, NetworkError,
        UsageError for a name that cannot be one.
        """
        from huggingface_hub import errors
        from huggingface_hub.hf_api import RepoFile

        if self._http.offline:
            found = cached_listing(repository, revision or "main")
            if found is None:
                raise NetworkError(
                    f"{repository}: {self._host} not asked, because --offline forbids the network",
                    hint="huggingface_hub's cache does not have it either; run it without --offline "
                    "(or unset HF_HUB_OFFLINE, TQCONVERT_OFFLINE)",
                )
            return found

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
        """The file in huggingface_hub's own cache, as `hf download` leaves it; None where it is not."""
        return cached_path(listing, file)

    def check_access(self, listing: Listing, file: HubFile) -> None:
        """Ask for the file's headers: gated repositories list their files to everybody.

        Raises AuthError, NotFoundError, NetworkError, IntegrityError if it is not the file listed.
        """
        from huggingface_hub import get_hf_file_metadata

        source = self.source(listing, file)
        self._http.allow(source.url)
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

        if self._http.offline and (path := cached_path(listing, file)):
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
                found = translate(
                    e, Asked(repository, revision, self.address, has_token=self.has_token)
                )
                if found is None:
                    raise
                if not isinstance(found, TransientError):
                    raise found from e
                error, wait_s = found, found.wait_s
            if attempt < ATTEMPTS - 1:
                time.sleep(min(0.5 * 2**attempt if wait_s is None else wait_s, MAX_WAIT_S))
        raise NetworkError(f"{error.message}; gave up after {ATTEMPTS} attempts", hint=error.hint)


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
