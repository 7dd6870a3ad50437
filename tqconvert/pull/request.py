"""What the user of a pull asks for."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Wish:
    """How the model is to be tagged: types by hand (one name, or one per layer with commas), types
    by the policy, or not at all.
    """

    tag: bool = True
    type_k: str | None = None
    type_v: str | None = None


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What the user asked for."""

    source: str
    as_name: str | None = None
    to: Path | None = None
    wish: Wish = field(default_factory=Wish)
    memory: int | None = None
    connections: int | None = None
