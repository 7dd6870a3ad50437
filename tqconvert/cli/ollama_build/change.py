"""`ollama-build apply`, `unapply`, `edit`, `refresh`, `import`, `rebase` and the like: patches put on and off."""

from collections.abc import Callable

COMMANDS: tuple[Callable[..., None], ...] = ()
