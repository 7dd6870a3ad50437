"""Where a pulled model goes, and under which name."""

from dataclasses import dataclass
from pathlib import Path

from tqconvert import fs
from tqconvert.errors import UsageError
from tqconvert.pull.request import PullRequest
from tqconvert.reference import ModelName
from tqconvert.settings import Settings
from tqconvert.store.layout import Store
from tqconvert.store.manifest import Layer


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the model goes: into a store, or as a file into a folder (`file` is set).

    A folder keeps the manifest and the small blobs in a store of its own, in DIR/.tqconvert, so that
    a second pull finds that nothing is left to do.
    """

    store: Store
    file: Path | None
    modelfile: Path

    @classmethod
    def in_store(cls, store: Store, name: ModelName) -> "Destination":
        """Installed under `name`."""
        return cls(store, None, store.modelfile_path(name))

    @classmethod
    def in_folder(cls, folder: Path, name: ModelName) -> "Destination":
        """DIR/model-tag.gguf and DIR/Modelfile."""
        file = folder / f"{name.model}-{name.tag}.gguf"
        return cls(Store(folder / ".tqconvert"), file, folder / "Modelfile")

    def has_own_modelfile(self, name: ModelName) -> bool:
        """Whether the folder has a Modelfile that differs from what a pull of `name` wrote last."""
        there = read_small(self.modelfile)
        return there is not None and there != read_small(self.store.modelfile_path(name))

    @property
    def partials(self) -> Path:
        """Folder of downloads under way."""
        return self.store.partials

    def place_of(self, layer: Layer, *, is_main: bool) -> Path:
        """Where the finished blob lies or will lie."""
        if is_main and self.file is not None:
            return self.file
        return self.store.blob(layer.digest)


def destination_of(request: PullRequest, settings: Settings, target: ModelName) -> Destination:
    """Where the model of this name would go. Raises UsageError."""
    folder = request.to or settings.store
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file (expected a folder)")
    if request.to:
        return Destination.in_folder(request.to, target)
    return Destination.in_store(Store(settings.store), target)


def target_of(name: ModelName, request: PullRequest) -> ModelName:
    """The name the result gets: NAME-tq, NAME itself where nothing is tagged, or what --as says."""
    if request.as_name:
        return ModelName.parse(request.as_name).local()
    return name.tagged() if request.wish.tag else name.local()


def read_small(path: Path) -> bytes | None:
    """The bytes of a small file, None where there is none. Raises StorageError."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        raise fs.storage_error(e, path) from e
