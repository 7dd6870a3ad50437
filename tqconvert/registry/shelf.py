"""What of a store may be served, by the names that clients ask for.

A repository is `namespace/model`, without the host that the model was pulled from. The manifests are
read anew at every request for one, so models that come and go are seen without a restart. Other forms of
a model (`tqconvert.forms`) are made when they are asked for, and kept while the model is there.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tqconvert.digest import Digest
from tqconvert.errors import RefusedError, TqError
from tqconvert.forms.types import Form, form_of_tag
from tqconvert.forms.write import Formed, write_form
from tqconvert.gguf.header import read_header
from tqconvert.reference import DEFAULT_HOST, ModelName
from tqconvert.store.layout import Store
from tqconvert.store.manifest import Manifest

FRESH_S: Final = 2.0
"""A pull asks for a blob in many ranges; their permission is not computed anew each time."""


@dataclass(frozen=True, slots=True)
class Served:
    """A manifest that is given to a client."""

    data: bytes
    form: Form


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
        self._formed: dict[Digest, tuple[Formed, ...]] = {}

    def repositories(self) -> dict[str, tuple[str, ...]]:
        """Tags of each repository, both sorted."""
        view = self._look()
        return {name: tuple(sorted(view.tags[name])) for name in sorted(view.tags)}

    def manifest(self, repository: str, reference: str, *, oci_only: bool = False) -> Served | None:
        """A manifest by its tag or digest; None where there is none.

        TAG is Ollama's form, or the OCI one for clients that take no other; TAG-FORM is that form,
        unless a model has this tag itself.
        """
        tags = self._look().tags.get(repository, {})
        if reference.startswith("sha256:"):
            return self._by_digest(tags, Digest.parse(reference))
        if (found := tags.get(reference)) is not None:
            formed = self._form(found, Form.OCI) if oci_only else None
            return Served(formed.data, formed.form) if formed else Served(found.data, Form.OLLAMA)
        parts = form_of_tag(reference)
        found = tags.get(parts[0]) if parts else None
        formed = self._form(found, parts[1]) if parts and found else None
        return Served(formed.data, formed.form) if formed else None

    def blob(self, repository: str, digest: Digest) -> Path | bytes | None:
        """Where the blob lies, if a manifest of the repository names it; its bytes if it was made here."""
        with self._lock:
            view = self._view
        old = time.monotonic() - view.at > FRESH_S
        if old or digest not in view.blobs.get(repository, ()):
            view = self._look()
        if digest in view.blobs.get(repository, ()):
            return self._store.blob(digest)
        for manifest in view.tags.get(repository, {}).values():
            for formed in self._forms(manifest):
                for made in formed.made:
                    if made.layer.digest == digest:
                        return made.data
        return None

    def _by_digest(self, tags: dict[str, Manifest], want: Digest) -> Served | None:
        for manifest in tags.values():
            if manifest.digest == want:
                return Served(manifest.data, Form.OLLAMA)
        for manifest in tags.values():
            for formed in self._forms(manifest):
                if formed.digest == want:
                    return Served(formed.data, formed.form)
        return None

    def _form(self, manifest: Manifest, form: Form) -> Formed | None:
        return next((f for f in self._forms(manifest) if f.form is form), None)

    def _forms(self, manifest: Manifest) -> tuple[Formed, ...]:
        """The other forms of a model; without those that its GGUF cannot be had for."""
        with self._lock:
            found = self._formed.get(manifest.digest)
        if found is None:
            found = tuple(self._made(manifest))
            with self._lock:
                here = {m.digest for tags in self._view.tags.values() for m in tags.values()}
                self._formed = {d: f for d, f in self._formed.items() if d in here}
                self._formed[manifest.digest] = found
        return found

    def _made(self, manifest: Manifest) -> Iterator[Formed]:
        header = None
        with suppress(TqError):
            models = manifest.layers_of("model")
            header = read_header(self._store.blob(models[0].digest)) if models else None
        for form in (Form.OCI, Form.MODELPACK, Form.DOCKER):
            with suppress(RefusedError):
                yield write_form(form, manifest, header)

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
