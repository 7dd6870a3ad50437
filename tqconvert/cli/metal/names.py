"""`metal names` and `metal lint`: what can be said of kernels without compiling them."""

from collections.abc import Callable

COMMANDS: tuple[Callable[..., None], ...] = ()
