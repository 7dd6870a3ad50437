"""Errors of huggingface_hub in our words, with the next step."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from tqconvert.errors import AuthError, NetworkError, NotFoundError, TqError, UsageError
from tqconvert.registry.http import RETRYABLE, ProtocolError, TransientError, retry_after

LOGIN = "hf auth login, or set HF_TOKEN"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, and where."""

    repository: str
    revision: str | None
    address: str
    has_token: bool

    @property
    def host(self) -> str:
        """Name and port of the Hub."""
        return urlsplit(self.address).netloc


def translate(e: Exception, asked: Asked) -> TqError | None:
    """Our error for one of huggingface_hub's; None for what is no answer of a server."""
    from huggingface_hub import errors

    repository, host = asked.repository, asked.host
    page = f"{asked.address}/{repository}"
    match e:
        case errors.GatedRepoError():
            if asked.has_token:
                hint = f"accept its terms at {page}, with the account of your token"
            else:
                hint = f"accept its terms at {page}, then {LOGIN}"
            return AuthError(f"{repository}: gated, {host} wants its terms accepted", hint=hint)
        case errors.RepositoryNotFoundError():
            hint = (
                "check the name; a token of an account that may read it is needed if it is private"
            )
            if not asked.has_token:
                hint = f"check the name; if it is private: {LOGIN}"
            return NotFoundError(f"{repository}: no such repository at {host}", hint=hint)
        case errors.RevisionNotFoundError():
            return NotFoundError(
                f"{repository}: no revision {asked.revision}",
                hint=f"branches, tags and commits: {page}/commits/main",
            )
        case errors.EntryNotFoundError():
            return NotFoundError(f"{repository}: a listed file is not there", hint=f"see {page}")
        case errors.HFValidationError():
            return UsageError(f"{repository}: cannot be a repository (expected ORG/NAME)")
        case errors.OfflineModeIsEnabled():
            return NetworkError(
                f"{host}: not asked, because HF_HUB_OFFLINE forbids the network",
                hint="unset HF_HUB_OFFLINE, or take a file on this disk",
            )
        case errors.HfHubHTTPError():
            return _refused(e, asked)
        case errors.HTTPError():  # type: ignore[attr-defined] # httpx's or httpx2's own
            return TransientError(
                f"{host}: {type(e).__name__}: {e}", hint="check the name and the network"
            )
        case _:
            return None


def _refused(e: Exception, asked: Asked) -> TqError:
    """Our error for an HTTP status that has no class of its own."""
    response = getattr(e, "response", None)
    status = getattr(response, "status_code", 0)
    says = "".join(c for c in getattr(e, "server_message", None) or "" if c.isprintable())[:200]
    text = f"{asked.repository}: {asked.host} answered {status}" + (f" ({says})" if says else "")
    if status in (401, 403):
        hint = "the token may be wrong or lack a permission: hf auth whoami"
        return AuthError(text, hint=hint if asked.has_token else LOGIN)
    if status in RETRYABLE:
        headers = getattr(response, "headers", {})
        wait_s = retry_after({k.title(): v for k, v in headers.items()})
        return TransientError(text, wait_s=wait_s)
    return ProtocolError(text)
