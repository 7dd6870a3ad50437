"""`ollama-build bisect-base`, `lint` and `watch`: checks of the patches themselves."""

from collections.abc import Callable

from tqconvert.cli.ollama_build.onto import bisect_base

COMMANDS: tuple[Callable[..., None], ...] = (bisect_base,)
