"""Trees are prepared in the work folder of a build; what comes out gets its name by one rename."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tqconvert import fs
from tqconvert.digest import digest_path
from tqconvert.errors import BuildFailedError
from tqconvert.patches.apply import write_changes
from tqconvert.runtime.manifest import NAME, Build, Program
from tqconvert.runtime.process import output_of
from tqconvert.runtime.recipe import Artifact, Tree
from tqconvert.runtime.tree import copy_files, hash_files, tree_id


def is_prepared(work: Path, tree: Tree) -> bool:
    """Whether the patched copy is there, and as it must be."""
    folder = work / tree.name
    return folder.is_dir() and tree_id(hash_files(folder, tree.wanted)) == tree.id


def prepare(work: Path, tree: Tree) -> None:
    """Make the patched copy of a source. Raises BuildFailedError, StorageError."""
    folder, partial = work / tree.name, work / f"{tree.name}.partial"
    for path in (folder, partial):
        shutil.rmtree(path, ignore_errors=True)
    copy_files(tree.source.root, tree.source.files, partial)
    write_changes(tree.changes, partial)
    if tree_id(hash_files(partial, tree.wanted)) != tree.id:
        raise BuildFailedError(
            f"{tree.source.root}: changed while it was copied", hint="run this again"
        )
    fs.replace(partial, folder)


def collect(artifacts: tuple[Artifact, ...], partial: Path) -> tuple[Program, ...]:
    """Copy what was built into the folder `partial`, and tell what it is."""
    shutil.rmtree(partial, ignore_errors=True)
    found = []
    for artifact in artifacts:
        program = Program(artifact.name, 0, "")
        target = partial / program.path
        target.parent.mkdir(parents=True, exist_ok=True)
        link = os.readlink(artifact.built) if artifact.built.is_symlink() else ""
        if link and "/" not in link:  # libx.so -> libx.so.0, which is an artifact too
            target.symlink_to(link)
            continue
        shutil.copy2(artifact.built, target)
        with target.open("rb") as f:
            fs.sync(f.fileno())
        found.append(Program(artifact.name, target.stat().st_size, digest_path(target).hex))
    return tuple(found)


def probe(partial: Path, command: tuple[str, ...], env: Mapping[str, str]) -> None:
    """Run a program of the build; a failure is an error. Raises ToolMissingError."""
    program, *args = command
    output_of([str(partial / Program(program, 0, "").path), *args], env)


def publish(partial: Path, folder: Path, build: Build, log: Path) -> None:
    """Give a finished build its manifest, its log and its name."""
    shutil.copyfile(log, partial / "build.log")
    text = json.dumps(build.to_json(), indent=2)
    fs.write_atomic(partial / NAME, text.encode() + b"\n")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)  # a build that is not whole
    fs.replace(partial, folder)


def touch(folder: Path) -> None:
    """Mark a build as the one that was asked for last, which `serve` takes."""
    from contextlib import suppress

    with suppress(OSError):
        os.utime(folder / NAME)
