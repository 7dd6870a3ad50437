"""An OCI registry: manifests of any form by tag or digest, blobs by digest, and what it refuses.

Source: OCI distribution-spec v1.1; the answers of Debian's docker-registry 2.8.2 were looked at.
"""

import json
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tqconvert.digest import Digest, digest_bytes
from tqconvert.errors import AuthError, DigestMismatchError, NetworkError, NotFoundError
from tqconvert.forms.types import DOCKER_INDEX_TYPE, OCI_INDEX_TYPE, OCI_MANIFEST_TYPE
from tqconvert.registry.http import (
    Body,
    Endpoint,
    Http,
    ProtocolError,
    TransientError,
    base_url,
    check,
    drop,
    read_body,
    same_origin,
    split_url,
)
from tqconvert.registry.login import FindCredential, Login, nobody
from tqconvert.registry.ocireference import OciReference
from tqconvert.store.manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES

if TYPE_CHECKING:
    import urllib3

ATTEMPTS: Final = 4
MAX_REASON_BYTES: Final = 1 << 15
ACCEPT: Final = f"{OCI_MANIFEST_TYPE}, {MANIFEST_TYPE}, {OCI_INDEX_TYPE}, {DOCKER_INDEX_TYPE}"

T = TypeVar("T")


class TooLargeError(NetworkError):
    """The registry, or a proxy before it, takes no body of this size (413)."""

    kind = "too_large"


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest's bytes, verified, as they came."""

    data: bytes
    digest: Digest


class OciRegistry:
    """One repository of a registry, with the login that it asks for."""

    def __init__(
        self, http: Http, reference: OciReference, find: FindCredential = nobody, *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._http = http
        self.sleep = sleep
        self.reference = reference
        self._root = base_url(http, reference.server, reference.scheme)
        self._base = f"{self._root}/v2/{reference.repository}"
        self.login = Login(http, find)

    @property
    def host(self) -> str:
        """`host[:port]` for messages."""
        return self.reference.host

    def fetch_manifest(self, wanted: str, subject: str) -> FetchedManifest:
        """The manifest or index of a tag or digest.

        Raises NotFoundError, AuthError, NetworkError, DigestMismatchError for a pinned digest.
        """
        return self.retrying(lambda: self._fetch(wanted, subject))

    def has_blob(self, digest: Digest, subject: str) -> bool:
        """Whether this repository has the blob.

        403 means no: some say it of what is not there yet, and who may not push is told so by the upload.
        """
        url = self.url(f"blobs/{digest}")

        def head() -> bool:
            response = self.ask("HEAD", url)
            finish(response, has_body=False)
            if response.status in (403, 404):
                return False
            self.check(response, subject, url)
            return True

        return self.retrying(head)

    def blob(self, digest: Digest) -> Endpoint:
        """Where the blob is to be had."""
        url = self.url(f"blobs/{digest}")

        def renew(challenge: str) -> Endpoint | None:
            return self.blob(digest) if self.login.answer(challenge, url) else None

        return Endpoint(url, dict(self.login.headers), renew)

    def url(self, path: str) -> str:
        """URL of a path of the repository."""
        return f"{self._base}/{path}"

    def ask(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, *,
        body: Body | None = None, timeout_s: float | None = None,
    ) -> "urllib3.BaseHTTPResponse":  # fmt: skip
        """The answer, after the login that a 401 asks for; other statuses are the caller's.

        Credentials go to the registry itself, not to hosts that it names for uploads.
        """
        for attempt in range(2):
            endpoint = Endpoint(url, self.login.headers if self._own(url) else {})
            response, reached = self._http.request(
                method, endpoint, headers, body=body, timeout_s=timeout_s
            )
            # A host that was redirected to may not say where our password goes.
            if response.status != 401 or attempt or not self._own(reached.url):
                break
            if not self.login.answer(response.headers.get("WWW-Authenticate", ""), url):
                break
            drop(response)
        return response

    def located(self, response: "urllib3.BaseHTTPResponse") -> str:
        """URL of a Location; on the registry's own host with the scheme that we came by.

        A proxy that ends TLS often lets the registry believe that it is asked by plain http.
        """
        location = response.headers.get("Location", "")
        if not location:
            raise ProtocolError(f"{self.host}: an upload without Location")
        try:
            url = urllib.parse.urljoin(f"{self._base}/", location)
        except ValueError:
            raise ProtocolError(f"{self.host}: an upload at {location[:80]!r}") from None
        parts, root = split_url(url), split_url(self._root)
        if parts.hostname == root.hostname and parts.scheme != root.scheme:
            url = parts._replace(scheme=root.scheme, netloc=root.netloc).geturl()
        return url

    def check(self, response: "urllib3.BaseHTTPResponse", subject: str, url: str) -> None:
        """Turn an HTTP error into ours, with the registry's own words where it has some.

        Raises AuthError (401, 403, 405), or what is wrong with Docker's configuration; TooLargeError
        (413); and what `http.check` raises.
        """
        status = response.status
        if status < 400:
            return
        words = _reason(response)
        because = f": {words}" if words else ""
        if status in (401, 403, 404, 405, 413):
            drop(response)
        if status in (401, 403) and self.login.problem is not None:
            raise self.login.problem
        if status in (401, 403):
            hint = f"docker login {self.host}"
            if self.login.known:
                hint = f"may this user do that? Otherwise: docker login {self.host}"
            raise AuthError(f"{subject}: {self.host} refused ({status}){because}", hint=hint)
        if status == 404:
            raise NotFoundError(
                f"{subject}: {self.host} does not have it{because}",
                hint="check name and tag; some registries want a repository to be made before a push",
            )
        if status == 405:
            raise AuthError(
                f"{subject}: {self.host} takes no uploads (405){because}",
                hint="a registry that is read-only, such as a mirror or tqconvert share",
            )
        if status == 413:
            raise TooLargeError(
                f"{subject}: {self.host} takes no body of this size (413){because}",
                hint="a proxy before the registry limits it (nginx: client_max_body_size)",
            )
        try:
            check(response, subject, url)
        except ProtocolError as e:
            raise ProtocolError(f"{e.message}{because}", hint=e.hint) from None

    def retrying(self, work: Callable[[], T]) -> T:
        """The result of `work`, tried again after failures that may pass."""
        for attempt in range(ATTEMPTS):
            try:
                return work()
            except TransientError as e:
                if attempt == ATTEMPTS - 1:
                    raise
                wait_s = e.wait_s if e.wait_s is not None else 0.5 * 2**attempt
                self.sleep(min(wait_s, 60.0))
        raise AssertionError

    def _fetch(self, wanted: str, subject: str) -> FetchedManifest:
        url = self.url(f"manifests/{wanted}")
        response = self.ask("GET", url, {"Accept": ACCEPT})
        self.check(response, subject, url)
        data = read_body(response, MAX_MANIFEST_BYTES, subject)
        digest = digest_bytes(data)
        if wanted.startswith("sha256:") and wanted != str(digest):
            raise DigestMismatchError(
                f"{subject}: the manifest's sha256 is {digest} (expected {wanted})"
            )
        return FetchedManifest(data, digest)

    def _own(self, url: str) -> bool:
        return same_origin(url, self._root)


def finish(response: "urllib3.BaseHTTPResponse", *, has_body: bool = True) -> None:
    """Be done with an answer; its connection is used again where the body is short or none."""
    length = response.headers.get("Content-Length", "0" if response.status == 204 else "")
    if has_body and (
        not length.isdigit() or int(length) > MAX_REASON_BYTES or response.status == 416
    ):
        drop(response)
        return
    import urllib3

    try:
        response.read()
    except urllib3.exceptions.HTTPError:
        drop(response)
    response.release_conn()


def _reason(response: "urllib3.BaseHTTPResponse") -> str:
    """What a registry says about its refusal, short and printable; "" where it says nothing."""
    length = response.headers.get("Content-Length", "")
    # docker-registry 2.8.2 gives the blob's length to its 416: such a body never ends.
    if not length.isdigit() or not 0 < int(length) <= MAX_REASON_BYTES or response.status >= 500:
        return ""
    try:
        value: Any = json.loads(read_body(response, MAX_REASON_BYTES, "answer"))
        first = value["errors"][0]
        text = str(first.get("message") or first.get("code") or "")
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        return ""
    except NetworkError:
        return ""
    return "".join(c if c.isprintable() else " " for c in text[:200]).strip()
