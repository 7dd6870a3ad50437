"""Answers to a registry's 401: Basic with a password, Bearer with a token that is fetched first.

A password goes to the registry and to its token server alone: the registry's own host, or one behind
https that a registry behind https (or on this machine) has named.
Source: distribution docs/spec/auth/token.md and oauth.md, RFC 7617.
"""

import base64
import json
import re
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tqconvert.errors import ConfigError, ToolMissingError, TqError
from tqconvert.registry.credentials import Credential, DockerConfig
from tqconvert.registry.http import Endpoint, Http, drop, is_loopback, read_body, split_url
from tqconvert.settings import Settings

if TYPE_CHECKING:
    import urllib3

MAX_TOKEN_BYTES: Final = 1 << 16
_FIELD = re.compile(r'(\w+)="([^"]*)"')
_BEARER = re.compile(r"(?:^|,\s*)bearer\s+(.*)", re.IGNORECASE | re.DOTALL)
_BASIC = re.compile(r"(?:^|,\s*)basic\b", re.IGNORECASE)
_TOKEN = re.compile(r"[\x21-\x7e]+")

FindCredential = Callable[[], Credential | None]


def nobody() -> Credential | None:
    """No credential: what is public."""
    return None


def find_credential(settings: Settings, host: str) -> FindCredential:
    """How to find out who to be at a registry, once it asks."""
    folder = settings.docker_config
    return nobody if folder is None else lambda: DockerConfig(folder).find(host)


class Login:
    """Who we are at one registry, and the header that says so."""

    def __init__(self, http: Http, find: FindCredential = nobody) -> None:
        self._http, self._find = http, find
        self._looked = False
        self._credential: Credential | None = None
        self.problem: TqError | None = None
        """Why Docker's configuration could not be asked; of interest only if nobody is refused."""
        self.headers: dict[str, str] = {}

    @property
    def known(self) -> bool:
        """Whether there is a user name or token for this registry."""
        return self._known() is not None

    def answer(self, challenge: str, url: str) -> bool:
        """Answer a 401's `WWW-Authenticate`; whether asking again makes sense. Raises what asking raises."""
        before = self.headers.get("Authorization")
        credential = self._known()
        if credential is not None and credential.registry_token:
            value: str | None = f"Bearer {credential.registry_token}"
        elif _BEARER.search(challenge):
            token = fetch_token(self._http, challenge, url, credential)
            value = f"Bearer {token}" if token else None
        elif _BASIC.search(challenge) and credential is not None and credential.password:
            value = _basic(credential)
        else:
            value = None
        if value is None or value == before or not _sendable(value):
            return False
        self.headers["Authorization"] = value
        return True

    def _known(self) -> Credential | None:
        if not self._looked:
            self._looked = True
            try:
                self._credential = self._find()
            except (ConfigError, ToolMissingError) as e:
                self.problem = e
        return self._credential


def fetch_token(
    http: Http, challenge: str, url: str, credential: Credential | None = None
) -> str | None:
    """A token as `WWW-Authenticate: Bearer` tells where to ask; for everybody without a credential.

    None if refused. The realm must be on the registry's own host or behind https: a token must not be
    had from anybody.
    """
    m = _BEARER.search(challenge)
    # Of several challenges in a line, Bearer's own fields are the first (Gitea offers Basic behind it).
    fields = dict(reversed(_FIELD.findall(m[1]))) if m else {}
    realm = split_url(fields.get("realm", ""))
    if not realm.hostname or not _may_ask(
        realm, split_url(url), with_secret=credential is not None
    ):
        return None
    service = {"service": fields["service"]} if "service" in fields else {}
    scopes = fields.get("scope", "").split()
    if credential is not None and credential.identity_token:
        form = {
            **service, "grant_type": "refresh_token", "client_id": "tqconvert",
            "refresh_token": credential.identity_token, "scope": " ".join(scopes),
        }  # fmt: skip
        response, _ = http.request(
            "POST", Endpoint(fields["realm"]),
            {"Content-Type": "application/x-www-form-urlencoded"},
            body=urllib.parse.urlencode(form).encode(), redirects=0,
        )  # fmt: skip
        return _token(response, fields["realm"])
    query = urllib.parse.urlencode([*service.items(), *(("scope", s) for s in scopes)])
    headers = {}
    if credential is not None and credential.password:
        headers["Authorization"] = _basic(credential)
        if not _sendable(headers["Authorization"]):
            return None
    mark = "&" if realm.query else "?"
    response, _ = http.request("GET", Endpoint(f"{fields['realm']}{mark}{query}", headers))
    return _token(response, fields["realm"])


def _may_ask(
    realm: urllib.parse.SplitResult, registry: urllib.parse.SplitResult, *, with_secret: bool
) -> bool:
    """Whether the realm may be asked, and be told a password where there is one."""
    if realm.hostname == registry.hostname and realm.scheme in ("https", registry.scheme):
        return True
    trusted = registry.scheme == "https" or is_loopback(registry.hostname)
    return realm.scheme == "https" and (trusted or not with_secret)


def _token(response: "urllib3.BaseHTTPResponse", realm: str) -> str | None:
    if response.status != 200:
        drop(response)
        return None
    try:
        answer: Any = json.loads(read_body(response, MAX_TOKEN_BYTES, realm))
    except (ValueError, RecursionError):
        return None
    token = answer.get("token") or answer.get("access_token") if isinstance(answer, dict) else None
    # Anything else could not be sent in a header, or would add another header.
    return token if isinstance(token, str) and _TOKEN.fullmatch(token) else None


def _basic(credential: Credential) -> str:
    pair = f"{credential.username}:{credential.password}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _sendable(value: str) -> bool:
    """Whether the text can stand in a header and adds no other one."""
    return re.fullmatch(r"[\x20-\x7e]+", value) is not None
