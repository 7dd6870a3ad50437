"""Apply a series to a tree, computed beside it: the tree itself is never written to here."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqconvert.errors import PatchError, ToolMissingError
from tqconvert.patches.series import NewFile, Patch, Series

_OPTIONS = (
    "core.autocrlf=false", "core.eol=lf", "core.safecrlf=false", "apply.whitespace=nowarn",
    "apply.ignoreWhitespace=no",
)  # fmt: skip
_REFUSED = re.compile(r"^error: (?:patch failed: (.+?):\d+|(.+?): .*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Patched:
    """What a series makes of a tree."""

    patches: tuple[Patch, ...]
    """In their order; of alternatives the one that applies."""
    new_files: tuple[NewFile, ...]
    files: Mapping[str, bytes | None]
    """Path -> what it holds afterwards, None where it is removed; all others stay as they are."""


def plan_patched(tree: Path, series: Series, env: Mapping[str, str]) -> Patched:
    """What the series makes of `tree`, which stays as it is.

    Only the files that patches name are looked at. Raises PatchError for the first patch of which no
    alternative applies, ToolMissingError without git.
    """
    import tempfile

    patches = [p for step in series.steps for p in step]
    touched = {path for p in patches for path in p.files}
    with tempfile.TemporaryDirectory(prefix="tqconvert-patch-") as name:
        copy = Path(name).resolve() / "tree"
        copy.mkdir()
        for path in sorted(touched):
            if (tree / path).is_file():
                _write(copy / path, (tree / path).read_bytes())
        for file in series.new_files:
            _require_absent(tree, file)
            _write(copy / file.path, file.data)
        git = _Git(copy, env)
        used = tuple(_apply_one(git, step) for step in series.steps)
        results = {path: _read(copy / path) for path in touched}
    for file in series.new_files:
        results.setdefault(file.path, file.data)
    changed = {
        path: data for path, data in sorted(results.items()) if data != _read(tree / path)
    }  # fmt: skip
    return Patched(used, series.new_files, changed)


def apply_patched(patched: Patched, tree: Path) -> None:
    """Write the result into `tree`, a copy that is ours."""
    for path, data in patched.files.items():
        if data is None:
            (tree / path).unlink(missing_ok=True)
        else:
            _write(tree / path, data)


def _require_absent(tree: Path, file: NewFile) -> None:
    if not (tree / file.path).exists():
        return
    raise PatchError(
        f"{file.path}: is in the source already (expected a tree without our files)",
        patch=file.path,
        files=(file.path,),
        hint="give the source as its authors publish it",
    )


def _apply_one(git: "_Git", step: tuple[Patch, ...]) -> Patch:
    """Apply the first of the alternatives that applies, and return it. Raises PatchError."""
    refused: list[tuple[str, ...]] = []
    for patch in step:
        files = git.apply(patch)
        if files is None:
            return patch
        refused.append(files)
    first, files = step[0], refused[0]
    others = f" (nor does {', '.join(p.name for p in step[1:])})" if step[1:] else ""
    where = ", ".join(files)
    if git.is_applied(first):
        hint = "the patch is in this tree already: give the source as its authors publish it"
    elif any(not (git.tree / path).exists() for path in files):
        hint = "not a llama.cpp tree of a known age: --source sdist takes one that is known to work"
    else:
        hint = f"compare {first.name} with {files[0]}; a tree of another age may take --ggml-only"
    raise PatchError(f"{first.name}: does not apply to {where}{others}", patch=first.name,
                     files=files, hint=hint)  # fmt: skip


class _Git:
    """`git apply` in a folder that is no repository, deaf to the user's configuration."""

    def __init__(self, tree: Path, env: Mapping[str, str]) -> None:
        import shutil

        program = shutil.which("git", path=env.get("PATH"))
        if program is None:
            hint = "apt-get install git, or: brew install git"
            raise ToolMissingError("git: not on PATH (needed to apply patches)", hint=hint)
        self.tree = tree
        options = [part for option in _OPTIONS for part in ("-c", option)]
        self._command = [os.path.abspath(program), *options, "apply"]
        kept = {k: v for k, v in env.items() if not k.startswith("GIT_")}
        # Inside a repository, git apply takes paths relative to the repository's root and skips all
        # others without an error; the ceiling hides any repository above.
        self._env = {
            **kept, "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CEILING_DIRECTORIES": str(tree.parent),
        }  # fmt: skip

    def apply(self, patch: Patch) -> tuple[str, ...] | None:
        """None if the patch was applied, else the files that refuse it."""
        before = {path: _read(self.tree / path) for path in patch.files}
        done = self._run(patch)
        if done.returncode == 0:
            still = [path for path in patch.files if _read(self.tree / path) == before[path]]
            if still:
                message = f"{patch.name}: git apply changed nothing of {', '.join(still)}"
                raise PatchError(message, patch=patch.name, files=tuple(still))
            return None
        found = [a or b for a, b in _REFUSED.findall(done.stderr)]
        return tuple(dict.fromkeys(found)) or patch.files

    def is_applied(self, patch: Patch) -> bool:
        """Whether the patch could be taken out again."""
        return self._run(patch, "--reverse", "--check").returncode == 0

    def _run(self, patch: Patch, *args: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [*self._command, *args, "-"], cwd=self.tree, env=self._env, input=patch.data,
            capture_output=True, check=False,
        )  # fmt: skip
        texts = (done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))
        return subprocess.CompletedProcess(done.args, done.returncode, *texts)


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
