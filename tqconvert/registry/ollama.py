"""The Ollama registry protocol: a manifest by name, blobs by digest.

Source: ollama server/images.go (pullModelManifest) and server/download.go (v0.19.0). It is Docker's
distribution protocol with Ollama's own media types; Debian's docker-registry serves it as well.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from tqconvert.digest import Digest
from tqconvert.errors import DigestMismatchError, NotFoundError
from tqconvert.reference import ModelName
from tqconvert.registry.http import (
    Endpoint,
    Http,
    TransientError,
    base_url,
    check,
    drop,
    read_body,
    same_origin,
)
from tqconvert.registry.login import FindCredential, Login, nobody
from tqconvert.store.manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Manifest

ATTEMPTS = 4


class OllamaRegistry:
    """One registry, by the host of a model's name."""

    def __init__(self, http: Http, name: ModelName, find: FindCredential = nobody) -> None:
        self._http = http
        self._base = f"{base_url(http, name.host, name.scheme)}/v2/{name.repository}"
        self._login = Login(http, find)

    def fetch_manifest(
        self, name: ModelName, *, sleep: Callable[[float], None] = time.sleep
    ) -> Manifest:
        """Manifest of `name`; of exactly the pinned digest where the name has one.

        Raises NotFoundError, AuthError, NetworkError, BadManifestError, DigestMismatchError.
        """
        try:
            by_tag = self._fetch(name.tag, name, sleep)
        except NotFoundError:
            if name.digest is None:
                raise
            by_tag = None
        if by_tag is not None and name.digest in (None, by_tag.digest):
            return by_tag
        try:
            manifest = self._fetch(str(name.digest), name, sleep)
        except NotFoundError:
            if by_tag is None:
                raise
            raise DigestMismatchError(
                f"{name}: the registry has {by_tag.digest} under this tag (expected {name.digest})",
                hint="the tag was moved; pull it without the digest to get what is there now",
            ) from None
        if manifest.digest != name.digest:
            raise DigestMismatchError(
                f"{name}: the manifest's sha256 is {manifest.digest} (expected {name.digest})"
            )
        return manifest

    def blob(self, digest: Digest) -> Endpoint:
        """Where the blob is to be had."""
        url = f"{self._base}/blobs/{digest}"

        def renew(challenge: str) -> Endpoint | None:
            return self.blob(digest) if self._login.answer(challenge, url) else None

        return Endpoint(url, dict(self._login.headers), renew)

    def _fetch(self, reference: str, name: ModelName, sleep: Callable[[float], None]) -> Manifest:
        for attempt in range(ATTEMPTS):
            try:
                return self._fetch_once(reference, name)
            except TransientError as e:
                if attempt == ATTEMPTS - 1:
                    raise
                sleep(min(e.wait_s if e.wait_s is not None else 0.5 * 2**attempt, 60.0))
        raise AssertionError

    def _fetch_once(self, reference: str, name: ModelName) -> Manifest:
        endpoint = Endpoint(f"{self._base}/manifests/{reference}", self._login.headers)
        accept = {"Accept": MANIFEST_TYPE}
        response, reached = self._http.request("GET", endpoint, accept)
        # A host that was redirected to may not say where our password goes.
        if response.status == 401 and same_origin(reached.url, endpoint.url):
            challenge = response.headers.get("WWW-Authenticate", "")
            if self._login.answer(challenge, endpoint.url):
                drop(response)
                response, _ = self._http.request(
                    "GET", replace(endpoint, headers=self._login.headers), accept
                )
        if response.status in (401, 403) and self._login.problem is not None:
            drop(response)
            raise self._login.problem
        subject = str(name)
        check(response, subject, endpoint.url)
        return Manifest.parse(read_body(response, MAX_MANIFEST_BYTES, subject), subject=subject)
