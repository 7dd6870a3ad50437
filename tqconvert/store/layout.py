"""Where things lie in an Ollama store.

    blobs/sha256-<hex>                          content
    manifests/<host>/<namespace>/<model>/<tag>  which blobs make the model
    .tqconvert/                                 ours: partial downloads, locks, Modelfiles

Partial downloads stay out of blobs/: Ollama removes what it does not know there when it starts.
Temporary files stay out of manifests/: Ollama skips that clean-up while a name there is no model's.
Source: ollama manifest/paths.go, server/images.go PruneLayers, server/routes.go:1755 (v0.19.0).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tqconvert.digest import Digest
from tqconvert.errors import LockedError, NotFoundError, TqError, UsageError
from tqconvert.fs import is_windows, storage_error, write_atomic
from tqconvert.reference import ModelName
from tqconvert.store.manifest import Manifest

PRIVATE = ".tqconvert"
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}
)
"""Windows means devices by these names, whatever follows behind a dot."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store by its root folder, which need not exist yet."""

    root: Path

    @property
    def blobs(self) -> Path:
        """Folder of the blobs."""
        return self.root / "blobs"

    @property
    def manifests(self) -> Path:
        """Folder of the manifests."""
        return self.root / "manifests"

    @property
    def private(self) -> Path:
        """Folder of what is ours: partial downloads, locks, Modelfiles."""
        return self.root / PRIVATE

    def blob(self, digest: Digest) -> Path:
        """Where the blob lies or would lie."""
        return self.blobs / digest.blob_name

    def manifest_path(self, name: ModelName) -> Path:
        """Where the manifest of `name` lies or would lie. Raises UsageError for what Windows cannot hold."""
        if is_windows():
            _refuse_windows_names(name)
        return self.manifests / name.host / name.namespace / name.model / name.tag

    def modelfile_path(self, name: ModelName) -> Path:
        """Where `pull` leaves the Modelfile of `name`."""
        folder = self.private / "modelfiles" / name.host.replace(":", "_") / name.namespace
        return folder / f"{name.model}_{name.tag}.Modelfile"

    def read_manifest(self, name: ModelName) -> Manifest | None:
        """Manifest of `name`, None where it is not installed. Raises BadManifestError."""
        path = self.manifest_path(name)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise storage_error(e, path) from e
        return Manifest.parse(data, subject=str(path))

    def require_manifest(self, name: ModelName) -> Manifest:
        """Manifest of `name`. Raises NotFoundError with what is there instead."""
        found = self.read_manifest(name)
        if found is None:
            raise NotFoundError(f"{name}: not in the store {self.root}", hint=self._instead(name))
        return found

    def _instead(self, name: ModelName) -> str:
        """What to do about a model that is not installed."""
        from difflib import get_close_matches

        names = [n.short for n in self.names()]
        near = [n for n in names if n.partition(":")[0] == name.short.partition(":")[0]]
        if near := near or get_close_matches(name.short, names):
            return f"installed: {', '.join(near)}"
        wanted = name.untagged()
        return f"tqconvert pull {wanted} installs it as {wanted.tagged()}"

    def write_manifest(self, name: ModelName, data: bytes) -> None:
        """Publish the model: the last and only step that makes it visible, and atomic."""
        path = self.manifest_path(name)
        self.make_folder(path.parent)
        staging = self.staging()
        same = staging.stat().st_dev == path.parent.stat().st_dev
        write_atomic(path, data, temporary_in=staging if same else None)
        inherit_owner(path)

    def staging(self) -> Path:
        """Folder, made if missing, from which a rename brings new files into blobs/.

        Where blobs/ lies on another disk (a symbolic link), it is a folder in there: Ollama's
        clean-up removes unknown files, but no folder that holds something.
        """
        folder = self.private / "install"
        self.make_folder(self.blobs)
        self.make_folder(folder)
        if folder.stat().st_dev != self.blobs.stat().st_dev:
            folder = self.blobs / PRIVATE
            self.make_folder(folder)
        return folder

    @property
    def partials(self) -> Path:
        """Folder of downloads under way: on the disk of blobs/ and outside it where that can be."""
        own = self.private / "partial"
        if not os.path.exists(self.blobs):  # also where the folder may not be looked into
            return own
        real = self.blobs.resolve()
        disk = real.stat().st_dev
        for parent, folder in ((self.root, own), (real.parent, real.parent / PRIVATE / "partial")):
            if parent.stat().st_dev == disk:
                return folder
        return real / PRIVATE / "partial"

    def names(self) -> Iterator[ModelName]:
        """Names of all installed models, sorted. Raises StorageError."""
        try:
            files = [p for p in sorted(self.manifests.glob("*/*/*/*")) if p.is_file()]
        except OSError as e:
            raise storage_error(e, self.manifests) from e
        for path in files:
            host, namespace, model, tag = path.relative_to(self.manifests).parts
            try:
                yield ModelName.parse(f"{host}/{namespace}/{model}:{tag}")
            except TqError:
                continue  # a stray file such as .DS_Store, no model

    def make_folder(self, folder: Path) -> None:
        """Create the folder and its parents. Raises StorageError."""
        try:
            make_folder(folder)
        except OSError as e:
            raise storage_error(e, folder) from e

    @contextmanager
    def locked(self, what: str, *, timeout_s: float = 10.0) -> Iterator[None]:
        """Keep other tqconvert processes out of `what`: "store" or a digest's hex digits."""
        with folder_lock(self.private, what, timeout_s=timeout_s):
            yield


def _refuse_windows_names(name: ModelName) -> None:
    """Raise UsageError if a part of the name can be no folder on Windows."""
    for part in (name.host, name.namespace, name.model, name.tag):
        stem = part.partition(".")[0].lower()
        if ":" in part or part.endswith(".") or stem in _DEVICES:
            raise UsageError(
                f"{name}: Windows cannot hold a file or folder named {part!r}",
                hint="give it another name: --as NAME",
            )


def make_folder(folder: Path) -> None:
    """Create the folder and its parents, each for the owner of the one it lies in. Raises OSError."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        inherit_owner(made)


def inherit_owner(path: Path) -> None:
    """Give what root made to the owner of its folder: Ollama's service must be able to change it.

    Where root may not (a container without CAP_CHOWN, NFS), it stays as it is.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    folder = path.parent.stat()
    with suppress(PermissionError):
        os.chown(path, folder.st_uid, folder.st_gid)


@contextmanager
def folder_lock(private: Path, what: str, *, timeout_s: float = 10.0) -> Iterator[None]:
    """Hold the lock `what` in a `.tqconvert` folder. Raises LockedError, StorageError."""
    from filelock import FileLock, Timeout

    folder = private / "locks"
    try:
        make_folder(folder)
        lock = FileLock(folder / f"{what}.lock")
        lock.acquire(timeout=timeout_s)
        inherit_owner(folder / f"{what}.lock")
    except Timeout:
        raise LockedError(
            f"{private.parent}: another tqconvert works on {what[:12]}",
            hint="wait for it, then run again",
        ) from None
    except OSError as e:
        raise storage_error(e, folder) from e
    try:
        yield
    finally:
        lock.release()
