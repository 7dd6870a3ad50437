"""Addresses in OCI registries: `oci://host[:port]/repository[:tag][@sha256:...]`."""

import re
from dataclasses import dataclass, replace
from typing import Final

from tqconvert.digest import Digest
from tqconvert.errors import UsageError
from tqconvert.reference import DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName, split_reference
from tqconvert.registry.credentials import DOCKER_HUB

SCHEME: Final = "oci://"
_DOCKER_HUB_NAMES: Final = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
_DOCKER_HUB_SERVER: Final = "registry-1.docker.io"

# distribution-spec, "Pulling manifests": the forms of <name> and <reference>.
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253})|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MAX_REPOSITORY: Final = 255


def is_oci(text: str) -> bool:
    """Whether the text names something in an OCI registry."""
    return text.startswith(SCHEME)


@dataclass(frozen=True, slots=True)
class OciReference:
    """A manifest in a registry, or the place of one. `scheme` is set only where the user wrote one."""

    host: str
    repository: str
    tag: str | None
    digest: Digest | None = None
    scheme: str | None = None

    @classmethod
    def parse(cls, text: str) -> "OciReference":
        """Reference from `oci://host/repository[:tag][@digest]`; the tag is `latest` without either.

        `http://` and `https://` may stand for `oci://`, and nothing at all. Raises UsageError.
        """
        scheme, rest, digest = split_reference(text.removeprefix(SCHEME))
        host, slash, path = rest.partition("/")
        if not slash or not _HOST.fullmatch(host) or not _is_host(host):
            raise UsageError(
                f"{text}: no registry in it (expected oci://HOST[:PORT]/REPOSITORY[:TAG])"
            )
        path, colon, tag = path.partition(":")
        if not _REPOSITORY.fullmatch(path) or len(path) > _MAX_REPOSITORY:
            raise UsageError(
                f"{text}: {path[:80]!r} cannot be a repository (expected lower-case words and /)"
            )
        if colon and not _TAG.fullmatch(tag):
            raise UsageError(
                f"{text}: {tag[:80]!r} cannot be a tag (expected 128 of A-Z a-z 0-9 . _ -)"
            )
        host = host.lower()
        if host in _DOCKER_HUB_NAMES:
            host = DOCKER_HUB
            path = path if "/" in path else f"library/{path}"
        return cls(host, path, tag or (None if digest else DEFAULT_TAG), digest, scheme)

    @property
    def server(self) -> str:
        """`host[:port]` that is asked."""
        return _DOCKER_HUB_SERVER if self.host == DOCKER_HUB else self.host

    @property
    def wanted(self) -> str:
        """What manifest is asked for: the digest where there is one, else the tag."""
        return str(self.digest or self.tag)

    def with_tag(self, tag: str) -> "OciReference":
        """Another tag of the same repository."""
        return replace(self, tag=tag, digest=None)

    def model_name(self) -> ModelName:
        """Name for an Ollama store: the last two parts of the repository, and the tag.

        What names there cannot have becomes a dash; without a tag the digest's first digits are it.
        """
        parts = [re.sub(r"[^A-Za-z0-9_-]", "-", part)[:80] for part in self.repository.split("/")]
        model = self.repository.split("/")[-1][:80]
        namespace = parts[-2] if len(parts) > 1 else DEFAULT_NAMESPACE
        tag = self.tag or (self.digest.short if self.digest else DEFAULT_TAG)
        host = re.sub(r"[\[\]]", "", self.host)
        host = f"0{host}" if host.startswith(":") else host  # [::1] begins with what no name may
        return ModelName.parse(f"{host}/{namespace}/{model}:{tag[:80]}")

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{SCHEME}{self.host}/{self.repository}{tag}{digest}"


def _is_host(text: str) -> bool:
    """Whether it is a host and not the first part of a repository, by Docker's rule."""
    return "." in text or ":" in text or text == "localhost"
