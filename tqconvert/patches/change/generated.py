"""The Metal source that Go embeds, made anew in the commit of each patch that changes what it is made of.

It is in no patch: what a tree generates is not written twice. `refresh` and `export` pass it over.
"""

from collections.abc import Iterable

from tqconvert.patches.change.chain import NewCommit
from tqconvert.patches.embed import FOLDER, TARGET, regenerate
from tqconvert.patches.files import Reader
from tqconvert.patches.layout import GGML
from tqconvert.patches.objects import blob_id

_SOURCES = (f"{FOLDER}/", f"{GGML}/src/ggml-common.h")


def with_generated(commits: Iterable[NewCommit], read: Reader) -> tuple[NewCommit, ...]:
    """The commits, with the generated file where it changes; `read` reads the commit below them."""
    over: dict[str, bytes | None] = {}

    def now(path: str) -> bytes | None:
        return over[path] if path in over else read(path)

    found = []
    for commit in commits:
        over.update(commit.changes)
        if any(path.startswith(_SOURCES) for path in commit.changes):
            made = regenerate(now)
            if made is not None and made != now(TARGET):
                over[TARGET] = made
                commit = commit._replace(  # noqa: PLW2901 - the same, completed
                    changes={**commit.changes, TARGET: made},
                    modes={**commit.modes, TARGET: "100644"},
                    ids={**commit.ids, TARGET: blob_id(made)},
                )
        found.append(commit)
    return tuple(found)
