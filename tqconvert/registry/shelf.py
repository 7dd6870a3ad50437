"""What of a store may be served, by the names that clients ask for.

A repository is `namespace/model`, without the host that the model was pulled from. The manifests are
read anew at every request for one, so models that come and go are seen without a restart.
"""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tqconvert.digest import Digest
from tqconvert.errors import TqError
from tqconvert.reference import DEFAULT_HOST, ModelName
from tqconvert.store.layout import Store
from tqconvert.store.manifest import Manifest

FRESH_S: Final = 2.0
"""A pull asks for a blob in many ranges; their permission is not computed anew each time."""


@dataclass(slots=True)
class _View:
    """The store at one moment."""

    tags: dict[str, dict[str, Manifest]] = field(default_factory=dict)
    blobs: dict[str, set[Digest]] = field(default_factory=dict)
    at: float = 0.0


class Shelf:
    """The models of a store by repository and tag."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._view = _View()

    def repositories(self) -> dict[str, tuple[str, ...]]:
        """Tags of each repository, both sorted."""
        view = self._look()
        return {name: tuple(sorted(view.tags[name])) for name in sorted(view.tags)}

    def manifest(self, repository: str, reference: str) -> bytes | None:
        """Bytes of a manifest by its tag or digest; None where there is none."""
        tags = self._look().tags.get(repository, {})
        if not reference.startswith("sha256:"):
            found = tags.get(reference)
            return found.data if found else None
        want = Digest.parse(reference)
        return next((m.data for m in tags.values() if m.digest == want), None)

    def blob(self, repository: str, digest: Digest) -> Path | None:
        """Where the blob lies, if a manifest of the repository names it."""
        with self._lock:
            view = self._view
        old = time.monotonic() - view.at > FRESH_S
        if old or digest not in view.blobs.get(repository, ()):
            view = self._look()
        named = digest in view.blobs.get(repository, ())
        return self._store.blob(digest) if named else None

    def _look(self) -> _View:
        view = _View(at=time.monotonic())
        # Ollama's registry comes last and so wins a name that several hosts have.
        names = sorted(self._store.names(), key=_preference)
        for name in names:
            try:
                manifest = self._store.read_manifest(name)
            except TqError:
                continue  # not a manifest: not served
            if manifest is None:
                continue
            view.tags.setdefault(name.repository, {})[name.tag] = manifest
            allowed = view.blobs.setdefault(name.repository, set())
            allowed.update(layer.digest for layer in manifest.blobs)
        with self._lock:
            self._view = view
        return view


def _preference(name: ModelName) -> tuple[bool, str]:
    return name.host == DEFAULT_HOST, str(name)
