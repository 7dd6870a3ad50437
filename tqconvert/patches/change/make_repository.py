"""A plain source tree made a git repository, with everything in it as one commit."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from tqconvert import fs
from tqconvert.patches.change.chain import writing_failed
from tqconvert.patches.git import Git

_SCRATCH = ".tqconvert-init"
_IDENTITY = {
    "GIT_AUTHOR_NAME": "tqconvert", "GIT_AUTHOR_EMAIL": "tqconvert@invalid",
    "GIT_AUTHOR_DATE": "1767225600 +0000", "GIT_COMMITTER_NAME": "tqconvert",
    "GIT_COMMITTER_EMAIL": "tqconvert@invalid", "GIT_COMMITTER_DATE": "1767225600 +0000",
}  # fmt: skip


def make_repository(root: Path, env: Mapping[str, str]) -> bool:
    """Make `root` a repository; False if it is one.

    The git folder is made under another name and gets its own at the end, so that an interruption
    leaves the plain tree. Files that `.gitignore` names are committed too: they came with the source.
    """
    if (root / ".git").exists():
        return False
    git, scratch = Git(root, env), root / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    own = {"GIT_DIR": str(scratch / ".git"), "GIT_WORK_TREE": str(root), **_IDENTITY}
    try:
        fs.make_folders(scratch)
        for args in (
            ("init", "--quiet", "--initial-branch=main", "--template=", str(scratch)),
            ("add", "--all", "--force", "--", ".", f":(exclude){_SCRATCH}"),
            ("commit", "--quiet", "--message=The source as it came"),
        ):
            done = git.run(*args, env=_IDENTITY if args[0] == "init" else own)
            if done.returncode:
                said = done.stderr.decode("utf-8", "replace").strip()
                raise writing_failed(f"git {args[0]}", said, done.returncode)
        fs.rename(scratch / ".git", root / ".git")
    except OSError as e:
        raise fs.storage_error(e, e.filename or root) from e
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True
