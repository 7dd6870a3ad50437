"""`git am` and `git range-diff`, as a rebase runs them."""

from collections.abc import Mapping
from pathlib import Path

from tqconvert.patches.change.chain import Chain, writing_failed
from tqconvert.patches.change.repository import Repository, require_repository
from tqconvert.patches.mail import read_mail

AM_SETTINGS = (
    "-c", "rerere.enabled=true", "-c", "rerere.autoUpdate=false", "-c", "merge.conflictStyle=diff3",
    "-c", "advice.amWorkDir=false", "-c", "merge.renames=true",
)  # fmt: skip
IDENTITY_ENV = {
    "GIT_COMMITTER_NAME": "tqconvert", "GIT_COMMITTER_EMAIL": "tqconvert@invalid",
    "GIT_EDITOR": "true",
}  # fmt: skip


def run_am(folder: Path, env: Mapping[str, str], mails: bytes) -> str | None:
    """Start `git am` on mails; the subject of the patch that conflicts, None when all are on.

    Raises StorageError, GitFailedError.
    """
    repo = require_repository(folder, env)
    done = repo.git.run(
        *AM_SETTINGS, "am", "--3way", "--keep-cr", "--keep-non-patch", data=mails, env=IDENTITY_ENV
    )
    return am_state(repo, done.returncode, done.stderr.decode("utf-8", "replace"))


def am_state(repo: Repository, code: int, said: str) -> str | None:
    """The subject of the patch that `git am` waits for, None when it is done."""
    folder = repo.git_dir / "rebase-apply"
    if folder.is_dir():
        try:
            number = int((folder / "next").read_text())
            mail = (folder / f"{number:04}").read_bytes()
        except (OSError, ValueError):
            return "?"
        return read_mail(mail, "?").subject.decode("utf-8", "replace")
    if code:
        raise writing_failed("git am", said.strip(), code)
    return None


def range_diff(repo: Repository, old: Chain, base: str, top: str) -> tuple[str, ...]:
    """One line a patch: the same, changed, dropped or new."""
    out = repo.git.text_of(
        "range-diff", "--no-color", "--no-patch", f"{old.base}..{old.top}", f"{base}..{top}"
    )
    return tuple(out.splitlines())
