"""What a lock file says must come out of a pull."""

from dataclasses import dataclass

from tqconvert.digest import Digest
from tqconvert.errors import LockDiffersError
from tqconvert.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come out, as `origin` (a lock file) says; nothing else gets a name."""

    origin: str
    model: Digest | None
    manifest: Digest

    def check_model(self, digest: Digest) -> None:
        """Raise LockDiffersError if the model that was made has another digest."""
        if digest != self.model:
            raise LockDiffersError(
                f"model: the sha256 of what was made is {digest} ({self.origin} wants {self.model})"
            )

    def check_manifest(self, manifest: Manifest) -> None:
        """Raise LockDiffersError if the manifest that was made has another digest."""
        if manifest.digest != self.manifest:
            raise LockDiffersError(
                f"manifest: the one that was made is {manifest.digest} ({self.origin} wants {self.manifest})"
            )
