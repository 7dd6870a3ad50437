"""`ollama-build list`, `status`, `verify` and `lock`: what a tree holds."""

from collections.abc import Callable

COMMANDS: tuple[Callable[..., None], ...] = ()
