"""User names, passwords and tokens out of Docker's configuration: `docker login` is the way to set them.

    $DOCKER_CONFIG/config.json, else ~/.docker/config.json
      credHelpers  registry -> the program docker-credential-<name> that knows
      credsStore   the program for all other registries
      auths        registry -> auth (base64 of user:password), identitytoken, registrytoken

Source: docker/cli cli/config/configfile/file.go, docker/docker-credential-helpers README.
"""

import base64
import binascii
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tqconvert.errors import ConfigError, ToolMissingError

DOCKER_HUB: Final = "docker.io"
DOCKER_HUB_KEY: Final = "https://index.docker.io/v1/"
HELPER_TIMEOUT_S: Final = 30.0
MAX_CONFIG_BYTES: Final = 1 << 20

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOT_FOUND = ("credentials not found", "no credentials", "not found in native keychain")


@dataclass(frozen=True, slots=True)
class Credential:
    """Who to be at a registry: user and password, or a token. Never shown."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """Handed to the token server instead of a password."""
    registry_token: str = field(default="", repr=False)
    """Sent to the registry itself."""


class DockerConfig:
    """The configuration of one user; read when somebody asks."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "config.json"

    def find(self, host: str) -> Credential | None:
        """What is known for the registry `host[:port]`; None: be nobody.

        Raises ConfigError for a file that is no configuration, ToolMissingError for a helper that is
        named and not there.
        """
        config = self._read()
        keys = _keys(host)
        helpers = config.get("credHelpers")
        if isinstance(helpers, dict):
            for key in keys:
                if helper := helpers.get(key):
                    return self._ask(str(helper), key)
        if store := config.get("credsStore"):
            for key in keys:
                if found := self._ask(str(store), key):
                    return found
        return self._from_auths(config.get("auths"), keys)

    def _read(self) -> Mapping[str, Any]:
        try:
            data = self._path.read_bytes()[: MAX_CONFIG_BYTES + 1]
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as e:
            raise ConfigError(f"{self._path}: {e.strerror}") from None
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise ConfigError(f"{self._path}: not JSON (expected Docker's configuration)") from None
        if not isinstance(value, dict):
            raise ConfigError(f"{self._path}: no object (expected Docker's configuration)")
        return value

    def _from_auths(self, auths: object, keys: tuple[str, ...]) -> Credential | None:
        if not isinstance(auths, dict):
            return None
        for key in keys:
            entry = auths.get(key)
            if isinstance(entry, dict) and (found := self._entry(entry, key)):
                return found
        return None

    def _entry(self, entry: Mapping[str, Any], key: str) -> Credential | None:
        user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
        if auth := entry.get("auth"):
            try:
                text = base64.b64decode(str(auth), validate=True).decode()
            except (binascii.Error, ValueError):
                raise ConfigError(
                    f"{self._path}: auths[{key!r}].auth is not base64 of user:password",
                    hint=f"docker login {key}",
                ) from None
            user, _, password = text.rstrip("\0").partition(":")
        found = Credential(
            user, password, str(entry.get("identitytoken") or ""),
            str(entry.get("registrytoken") or ""),
        )  # fmt: skip
        return found if found != Credential() else None

    def _ask(self, helper: str, key: str) -> Credential | None:
        """What the program docker-credential-<helper> knows for `key`."""
        program = f"docker-credential-{helper}"
        if not _HELPER.fullmatch(helper):
            raise ConfigError(f"{self._path}: {helper[:80]!r} cannot be a credential helper")
        try:
            done = subprocess.run(
                [program, "get"], input=key.encode(), capture_output=True, timeout=HELPER_TIMEOUT_S,
                check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise ToolMissingError(
                f"{program}: not on PATH, and {self._path} names it for {key}",
                hint="install it, or take it out of that file and run docker login again",
            ) from None
        except (OSError, subprocess.TimeoutExpired) as e:
            raise ConfigError(f"{program}: gave no answer ({type(e).__name__})") from None
        if done.returncode:
            said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
            if any(words in said.lower() for words in _NOT_FOUND):
                return None
            first = "".join(c if c.isprintable() else " " for c in said[:120])
            raise ConfigError(f"{program}: failed for {key}: {first}")
        return _helped(done.stdout, program)


def _helped(data: bytes, program: str) -> Credential | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigError(f"{program}: answered with something else than JSON")
    user, secret = str(value.get("Username") or ""), str(value.get("Secret") or "")
    if not secret:
        return None
    if user == "<token>":
        return Credential(identity_token=secret)
    return Credential(user, secret)


def _keys(host: str) -> tuple[str, ...]:
    """The names under which Docker keeps a registry: today's, and those of old versions."""
    if host == DOCKER_HUB:
        return (DOCKER_HUB_KEY, DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
    return (host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/", f"http://{host}")
