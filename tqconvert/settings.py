"""Settings, read once: flags > environment > tqconvert.toml > the user's file > defaults.

Flags are applied by the commands; this module knows the other four and remembers where each value
came from, for `config show`.
"""

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqconvert.errors import ConfigError
from tqconvert.fs import expand_user, is_windows

PROJECT_FILE = "tqconvert.toml"


def default_cache() -> Path:
    """Where this user's programs keep what can be made again."""
    from platformdirs import user_cache_path

    return user_cache_path("tqconvert")


@dataclass(frozen=True, slots=True)
class Settings:
    """Values that more than one command needs."""

    store: Path
    """Ollama's model store: the folder with blobs/ and manifests/."""
    connections: int = 4
    """Parallel ranges of one download."""
    retries: int = 6
    """Attempts of one range without progress before a download is given up."""
    stall_s: float = 30.0
    """Seconds without a byte after which a connection is given up and made anew."""
    insecure: bool = False
    """Plain http to hosts that are not loopback."""
    offline: bool = False
    """No network at all."""
    hf_endpoint: str = "https://huggingface.co"
    """Hugging Face, or a mirror of it."""
    cache: Path = field(default_factory=default_cache)
    """Sources, builds and what else can be made again."""
    runtime: Path | None = None
    """A folder with llama-server to use instead of the newest build in the cache."""
    docker_config: Path | None = None
    """Folder of Docker's config.json, with the credentials for registries; default ~/.docker."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Setting -> where its value came from."""


_KINDS: dict[str, type] = {
    "store": Path, "connections": int, "retries": int, "stall_s": float, "insecure": bool,
    "offline": bool, "hf_endpoint": str, "cache": Path, "runtime": Path, "docker_config": Path,
}  # fmt: skip
_EXPECTED = {Path: "a path", int: "a whole number", float: "a number", str: "a text"}
_ENVIRONMENT = {
    "store": ("TQCONVERT_STORE", "OLLAMA_MODELS"),
    "offline": ("TQCONVERT_OFFLINE", "HF_HUB_OFFLINE"),
    "hf_endpoint": ("TQCONVERT_HF_ENDPOINT", "HF_ENDPOINT"),
    "docker_config": ("DOCKER_CONFIG",),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting for display; `text` is its value as a configuration file would have it."""

    name: str
    value: str | int | float | bool
    text: str
    origin: str


def describe(settings: Settings) -> tuple[Setting, ...]:
    """All settings that have a value, in their order."""
    import json

    found = []
    for name in _KINDS:
        value = getattr(settings, name)
        if value is None:
            continue
        plain = str(value) if isinstance(value, Path) else value
        # JSON's texts, numbers and booleans are TOML's too.
        text = json.dumps(plain, ensure_ascii=False)
        found.append(Setting(name, plain, text, settings.origins.get(name, "default")))
    return tuple(found)


def default_store(home: Path) -> Path:
    """Where this machine's Ollama keeps its models unless OLLAMA_MODELS says otherwise.

    The Linux service runs as its own user with its home in /usr/share/ollama (Ollama's install.sh).
    """
    own = home / ".ollama" / "models"
    service = Path("/usr/share/ollama/.ollama/models")
    if not own.is_dir() and os.access(service, os.W_OK):
        return service
    return own


def user_file(env: Mapping[str, str]) -> Path:
    """The user's own configuration file."""
    if home := env.get("TQCONVERT_HOME"):
        return Path(home) / "config.toml"
    from platformdirs import user_config_path

    return user_config_path("tqconvert") / "config.toml"


def load_settings(env: Mapping[str, str], cwd: Path) -> Settings:
    """Settings for this environment and working folder. Raises ConfigError."""
    # As Go's os.UserHomeDir, by which Ollama finds its store: Git's shells set HOME on Windows too.
    variables = ("USERPROFILE", "HOME") if is_windows() else ("HOME", "USERPROFILE")
    home = Path(env.get(variables[0]) or env.get(variables[1]) or Path.home())
    values: dict[str, Any] = {"store": default_store(home), "docker_config": home / ".docker"}
    origins = dict.fromkeys(_KINDS, "default")
    for path in (user_file(env), cwd / PROJECT_FILE):
        for name, value in _read_file(path).items():
            values[name] = _convert(name, value, str(path))
            if _KINDS[name] is Path:
                values[name] = path.parent / expand_user(values[name])
            origins[name] = str(path)
    for name, kind in _KINDS.items():
        for variable in _ENVIRONMENT.get(name, (f"TQCONVERT_{name.upper()}",)):
            # Ollama strips spaces and quotes from its variables too (envconfig/config.go, Var).
            if text := env.get(variable, "").strip().strip("\"'"):
                values[name] = _convert(name, text, variable)
                if kind is Path:
                    values[name] = cwd / expand_user(values[name])
                origins[name] = variable
                break
    return Settings(**values, origins=origins)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ConfigError(f"{path}: {e}") from None
    for name in data:
        if name not in _KINDS:
            raise ConfigError(
                f"{path}: unknown setting {name} (expected one of {', '.join(_KINDS)})"
            )
    return data


def _convert(name: str, value: object, origin: str) -> Any:
    kind = _KINDS[name]
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("1", "true", "yes", "on"):
            return True
        if str(value).lower() in ("0", "false", "no", "off"):
            return False
        raise ConfigError(f"{origin}: {name} = {value!r} (expected true or false)")
    mistyped = isinstance(value, bool) or (kind is int and isinstance(value, float))
    mistyped = mistyped or (kind is str and not isinstance(value, str))
    try:
        number = None if mistyped else kind(value)
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise ConfigError(f"{origin}: {name} = {value!r} (expected {_EXPECTED[kind]})")
    if kind in (int, float) and not 0 < number < math.inf:
        raise ConfigError(f"{origin}: {name} = {value!r} (expected more than 0)")
    return number
