"""Names of models on Hugging Face, as people write and paste them.

hf.co/ORG/REPO                          its usual quantization
hf.co/ORG/REPO:Q4_K_M                   a quantization, upper or lower case
hf.co/ORG/REPO:model-q4_k_m.gguf        a file
hf.co/ORG/REPO:Q4_K_M@REVISION          at a branch, tag or commit (REVISION may also come first)
https://huggingface.co/ORG/REPO/blob/REVISION/model.gguf, .../resolve/..., .../tree/...
hf://ORG/REPO@REVISION/model.gguf       as huggingface_hub's file system writes it
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tqconvert.errors import UsageError
from tqconvert.reference import DEFAULT_TAG

HOST = "hf.co"
"""The host under which models of Hugging Face are installed, as `ollama run hf.co/...` names them."""

_HOSTS = (HOST, "huggingface.co", "www.huggingface.co")
_EXPECTED = "expected hf.co/ORG/REPO, :QUANT or :FILE.gguf, and @REVISION"
_REPOSITORY = re.compile(r"(?P<org>[\w.-]{1,96})/(?P<repo>[\w.-]{1,96})(?P<rest>.*)", re.DOTALL)
_REVISION_FIRST = re.compile(r"@(?P<revision>[^:]+)(?::(?P<selector>.+))?")
_SELECTOR_FIRST = re.compile(r":(?P<selector>[^@]+)(?:@(?P<revision>.+))?")
_PAGE = re.compile(r"/(?:blob|raw|resolve|tree)/(?P<revision>[^/]+)/?(?P<selector>.*)")
_IN_FILE_SYSTEM = re.compile(
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(?P<selector>.*))?"
)


@dataclass(frozen=True, slots=True)
class HubName:
    """A model on Hugging Face. `selector` is a quantization, file or folder; None: the usual one."""

    repository: str
    selector: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HOST}/{self.repository}" + (f":{self.selector or ''}".rstrip(":")) + revision


def parse_hub_name(text: str, endpoint: str) -> HubName | None:
    """The name, or None where `text` names nothing on Hugging Face or its mirror at `endpoint`.

    Raises UsageError for a name there that cannot be read.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = "", text
    scheme = scheme.lower()
    if scheme == "hf":
        return _parsed(text, rest.removeprefix("models/"), (_IN_FILE_SYSTEM, _SELECTOR_FIRST))
    if scheme not in ("", "http", "https"):
        return None
    host, slash, path = rest.partition("/")
    mirror = urlsplit(endpoint).netloc if scheme else None
    if not slash or (host.lower() not in _HOSTS and host != mirror):
        return None
    if scheme:
        path = re.split("[?#]", path, maxsplit=1)[0]
    return _parsed(text, path, (_PAGE, _SELECTOR_FIRST, _REVISION_FIRST))


def _parsed(text: str, path: str, forms: tuple[re.Pattern[str], ...]) -> HubName:
    found = _REPOSITORY.fullmatch(path.rstrip("/"))
    if not found:
        raise UsageError(f"{text}: no repository of Hugging Face ({_EXPECTED})")
    repository = f"{found['org']}/{found['repo']}"
    if not found["rest"]:
        return HubName(repository)
    if "@sha256:" in found["rest"]:
        raise UsageError(
            f"{text}: a repository of Hugging Face has no digest (expected a branch, tag or commit)",
            hint="pin it by its commit: @COMMIT",
        )
    for form in forms:
        if m := form.fullmatch(found["rest"]):
            break
    else:
        raise UsageError(f"{text}: {found['rest']!r} is not understood ({_EXPECTED})")
    selector, revision = m["selector"] or None, m["revision"] or None
    if form is _PAGE:
        selector, revision = unquote(selector or "") or None, unquote(revision or "")
    if selector and selector.lower() == DEFAULT_TAG:  # how Ollama writes "no tag"
        selector = None
    return HubName(repository, selector, revision)
