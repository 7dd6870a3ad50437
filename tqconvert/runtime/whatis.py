"""What a built program is: the manifest beside it, and whether the program is still the one it names."""

from dataclasses import dataclass
from pathlib import Path

from tqconvert.digest import digest_path
from tqconvert.errors import NotFoundError
from tqconvert.fs import storage_error
from tqconvert.runtime.embed import find_manifest
from tqconvert.runtime.manifest import NAME, Build, build_of, read_build


@dataclass(frozen=True, slots=True)
class Identity:
    """A build, and which of its programs are not what was built."""

    folder: Path
    build: Build
    changed: tuple[str, ...]
    embedded: bool = False
    """Whether the manifest was read from inside of a program that stands alone."""


def identify(path: Path) -> Identity:
    """The build that a program or folder belongs to: by the manifest beside it, else by the one inside.

    Raises NotFoundError, BadManifestError, StorageError.
    """
    if not path.exists():
        raise NotFoundError(f"{path}: no such file or folder")
    start = path.resolve()
    folder = next((p for p in (start, *start.parents[:2]) if (p / NAME).is_file()), None)
    if folder is None:
        inner = find_manifest(start) if start.is_file() else None
        if inner is None:
            raise NotFoundError(
                f"{path}: no {NAME} beside it and no manifest inside (expected a build of "
                "`tqconvert ollama-build build`)"
            )
        return Identity(start.parent, build_of(inner, str(path)), (), embedded=True)
    build = read_build(folder)
    changed = []
    for program in build.programs:
        file = folder / program.path
        try:
            if not file.is_file() or digest_path(file).hex != program.sha256:
                changed.append(program.name)
        except OSError as e:
            raise storage_error(e, file) from e
    return Identity(folder, build, tuple(changed))


def release_of(build: Build, patches: Path) -> str | None:
    """The releases whose patches the build holds, by the locks in `patches`; None if no lock has them."""
    from tqconvert.patches.checkout import Generation
    from tqconvert.patches.locks.release import all_locks, series_id

    if not build.upstream:
        return None
    wanted = series_id(p.sha256 for p in build.upstream)
    for generation in (Generation.LEGACY, Generation.MODERN):
        for lock in all_locks(patches, generation):
            fits = build.base is None or build.base in (
                lock.base.tag,
                (lock.base.commit or "")[: len(build.base)],
            )
            if lock.series == wanted and fits:
                return lock.title
    return None
