"""`ollama-build lint` and `watch`: checks of the patches themselves."""

from collections.abc import Callable

COMMANDS: tuple[Callable[..., None], ...] = ()
