"""Model names as Ollama writes them: `qwen3.5:27b`, `host:5000/ns/model:tag`, `name@sha256:...`."""

import re
from dataclasses import dataclass, replace

from tqconvert.digest import Digest
from tqconvert.errors import IntegrityError, UsageError

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
TAGGED = "-tq"

# The characters and lengths of Ollama's types/model/name.go (isValidPart). Parts become path
# components, so they cannot be empty or begin with a dot.
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")


def split_reference(text: str) -> tuple[str | None, str, Digest | None]:
    """Scheme, what stands between, and digest of `[scheme://]...[@sha256:...]`. Raises UsageError."""
    rest, scheme, digest = text, None, None
    if "://" in rest:
        scheme, _, rest = rest.partition("://")
        if scheme not in ("http", "https"):
            raise UsageError(f"{text}: unknown scheme {scheme} (expected http or https)")
    if "@" in rest:
        rest, _, pinned = rest.partition("@")
        try:
            digest = Digest.parse(pinned)
        except IntegrityError as e:
            raise UsageError(f"{text}: {e.message}") from None
    return scheme, rest, digest


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model in a registry or a store. `scheme` is set only where the user wrote one."""

    host: str
    namespace: str
    model: str
    tag: str
    digest: Digest | None = None
    scheme: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Name from `[scheme://][[host[:port]/]namespace/]model[:tag][@sha256:...]`."""
        scheme, rest, digest = split_reference(text)
        tag = DEFAULT_TAG
        head, colon, last = rest.rpartition(":")
        if colon and "/" not in last:
            rest, tag = head, last
        parts = rest.split("/")
        if len(parts) > 3:
            raise UsageError(f"{text}: too many parts (expected host/namespace/model:tag)")
        model = parts[-1]
        namespace = parts[-2] if len(parts) > 1 else DEFAULT_NAMESPACE
        host = parts[-3] if len(parts) > 2 else DEFAULT_HOST
        checks = ((_HOST, host, "host"), (_NAMESPACE, namespace, "namespace"))
        for form, part, what in (*checks, (_PART, model, "model"), (_PART, tag, "tag")):
            if not form.fullmatch(part):
                raise UsageError(f"{text}: {part!r} cannot be a {what} (expected NAME[:TAG])")
        return cls(host, namespace, model, tag, digest, scheme)

    @property
    def repository(self) -> str:
        """`namespace/model`, as in registry URLs."""
        return f"{self.namespace}/{self.model}"

    @property
    def short(self) -> str:
        """Name as `ollama list` shows it: defaults of host and namespace left out."""
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.repository}:{self.tag}"
        if self.namespace != DEFAULT_NAMESPACE:
            return f"{self.repository}:{self.tag}"
        return f"{self.model}:{self.tag}"

    def tagged(self) -> "ModelName":
        """Name under which the tagged model is installed: `27b` becomes `27b-tq`, and stays so."""
        return replace(self, tag=self.tag.removesuffix(TAGGED) + TAGGED, digest=None, scheme=None)

    def untagged(self) -> "ModelName":
        """Name of the model that `tagged` makes this one of: `27b-tq` becomes `27b`."""
        tag = self.tag.removesuffix(TAGGED) or self.tag
        return replace(self, tag=tag, digest=None, scheme=None)

    def local(self) -> "ModelName":
        """The name without what only a transfer needs: digest and scheme."""
        return replace(self, digest=None, scheme=None)

    def __str__(self) -> str:
        return self.short
