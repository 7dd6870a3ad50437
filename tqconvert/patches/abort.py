"""The operation under way taken back, whatever was left of it."""

from typing import NamedTuple

from tqconvert.patches.move import recover
from tqconvert.patches.operation import State
from tqconvert.patches.repository import Place, Repository


class Aborted(NamedTuple):
    """What was given up."""

    head: Place
    what: str | None
    """None if nothing was under way."""
    backup: str | None
    """Ref that holds what the user had done meanwhile."""


def abort(repo: Repository) -> Aborted:
    """Take back the operation under way; nothing where there is none.

    Raises RefusedError, LockedError, StorageError.
    """
    state = State(repo)
    with state.locked():
        what = recover(repo, state)
        return Aborted(repo.head(), what, None)
