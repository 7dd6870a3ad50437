"""The `git` program, deaf to the user's configuration, hooks and environment.

Found by an absolute path, never from the current folder; a repository above the given folder is not
seen. Settings that change what patches mean (`apply.whitespace`, `core.autocrlf`, `diff.noprefix`, hooks,
signing) are fixed here.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from tqconvert.errors import GitFailedError, ToolMissingError

OLDEST = (2, 38)
"""`merge-tree --write-tree` came with it."""

_SETTINGS = (
    "core.autocrlf=false", "core.eol=lf", "core.safecrlf=false", "core.hooksPath=/dev/null",
    "core.fsmonitor=false", "core.attributesFile=/dev/null", "core.excludesFile=/dev/null",
    "core.quotePath=true", "core.abbrev=auto",
    "commit.gpgsign=false", "tag.gpgsign=false", "gc.auto=0", "maintenance.auto=false",
    "apply.whitespace=nowarn", "apply.ignoreWhitespace=no", "am.threeWay=false", "am.keepcr=false",
    "mailinfo.scissors=false", "diff.noprefix=false", "diff.mnemonicPrefix=false", "diff.renames=true",
    "diff.algorithm=myers", "diff.external=", "diff.suppressBlankEmpty=false", "diff.context=3",
    "format.signature=", "format.headers=", "format.subjectPrefix=PATCH",
    "user.useConfigOnly=false", "advice.detachedHead=false", "merge.renames=false",
)  # fmt: skip


_BUFFER = 1 << 20
_DRIVER = re.compile(
    r"filter\..+\.(?:clean|smudge|process|required)|merge\..+\.driver|diff\..+\.(?:command|textconv)",
    re.DOTALL,
)

_FOREIGN = b"detected dubious ownership"
"""What git says of a repository that belongs to another user, unless `safe.directory` names it."""

_RESTRICTING = ("GIT_NO_LAZY_FETCH", "GIT_ALLOW_PROTOCOL")
"""What of git's own environment may come from the caller: it only takes network access away."""


class Git:
    """`git` in one folder."""

    def __init__(self, folder: Path, env: Mapping[str, str], *, ceiling: bool = True) -> None:
        """Raises ToolMissingError. `ceiling` hides repositories above `folder`."""
        program = shutil.which("git", path=env.get("PATH"))
        if program is None:
            raise ToolMissingError(
                "git: not on PATH", hint="apt-get install git, or: brew install git"
            )
        self.folder = folder.absolute()
        self._command = [os.path.abspath(program), *(x for s in _SETTINGS for x in ("-c", s))]
        kept = {k: v for k, v in env.items() if not k.startswith("GIT_") or k in _RESTRICTING}
        self._user_env = kept
        self._asked = False
        self.env = {
            **kept, "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_PAGER": "cat",
        }  # fmt: skip
        if ceiling:
            self.env["GIT_CEILING_DIRECTORIES"] = str(self.folder.parent.resolve())

    def ignore_drivers(self) -> None:
        """Keep programs that the repository's own configuration names from being run.

        Attributes of a tree choose among filters, merge and diff drivers; what these run stands in
        `.git/config`. Settings can be overridden by name only, so the names are read first.
        """
        found = self.run("config", "--includes", "--name-only", "--list", "-z")
        names = dict.fromkeys(os.fsdecode(found.stdout).split("\0"))
        drivers = [name for name in names if _DRIVER.fullmatch(name)]
        # Not by -c, which takes all before the first = for the name.
        self.env["GIT_CONFIG_COUNT"] = str(len(drivers))
        for i, name in enumerate(drivers):
            self.env[f"GIT_CONFIG_KEY_{i}"] = name
            self.env[f"GIT_CONFIG_VALUE_{i}"] = "false" if name.endswith(".required") else ""

    def run(
        self, *args: str, data: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a git command, whatever it answers."""
        done = self._run(args, data, env)
        if done.returncode and _FOREIGN in done.stderr and self._trust_as_user():
            return self._run(args, data, env)
        return done

    def _run(
        self, args: tuple[str, ...], data: bytes | None, env: Mapping[str, str] | None
    ) -> "subprocess.CompletedProcess[bytes]":
        try:
            return subprocess.run(
                [*self._command, *args], cwd=self.folder, env={**self.env, **(env or {})},
                input=data if data is not None else b"", capture_output=True, check=False,
            )  # fmt: skip
        except OSError as e:
            raise ToolMissingError(f"git: does not run in {self.folder} ({e.strerror})") from e

    def _trust_as_user(self) -> bool:
        """Take over which folders of other users the user's configuration trusts; False without any."""
        if self._asked:
            return False
        self._asked = True
        done = subprocess.run(
            [self._command[0], "config", "--get-all", "-z", "safe.directory"], cwd="/", env=self._user_env,
            capture_output=True, check=False,
        )  # fmt: skip
        trusted = os.fsdecode(done.stdout).split("\0")[:-1]
        self._command += [x for folder in trusted for x in ("-c", f"safe.directory={folder}")]
        return bool(trusted)

    def feed(
        self, *args: str, data: "Iterable[bytes]", env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run a command that reads much and says little: megabytes in, written as they come."""
        with self.start(*args, stderr=subprocess.PIPE, env=env) as process:
            assert process.stdin
            with suppress(BrokenPipeError):  # what it says at its end tells why
                process.stdin.writelines(data)
            out, err = process.communicate()
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def start(
        self, *args: str, stderr: int = subprocess.DEVNULL, env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """A git command that is asked and answers over pipes."""
        return subprocess.Popen(
            [*self._command, *args], cwd=self.folder, env={**self.env, **(env or {})},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, bufsize=_BUFFER,
            pipesize=_BUFFER if sys.platform.startswith("linux") else -1,
        )  # fmt: skip

    def bytes_of(
        self, *args: str, data: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> bytes:
        """What a command prints that must succeed. Raises GitFailedError."""
        done = self.run(*args, data=data, env=env)
        if done.returncode:
            raise failed(args, done)
        return done.stdout

    def text_of(
        self, *args: str, data: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """The same as text, without the last line end."""
        return os.fsdecode(self.bytes_of(*args, data=data, env=env)).rstrip("\n")

    def version(self) -> tuple[int, ...]:
        """Version as numbers. Raises ToolMissingError if it is older than OLDEST."""
        text = self.text_of("--version")
        found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
        numbers = tuple(int(x) for x in found.groups() if x) if found else (0,)
        if numbers < OLDEST:
            needed = ".".join(map(str, OLDEST))
            raise ToolMissingError(f"{text}: too old (expected {needed} or newer)")
        return numbers


def failed(args: tuple[str, ...], done: "subprocess.CompletedProcess[bytes]") -> GitFailedError:
    """The error that a failing command becomes."""
    said = done.stderr.decode("utf-8", "replace").strip() or f"ended with {done.returncode}"
    rows = said.splitlines()
    if _FOREIGN in done.stderr:  # the last line is the command that helps
        return GitFailedError(rows[0].removeprefix("fatal: ")[:300], hint=rows[-1].strip())
    return GitFailedError(f"git {' '.join(args[:1])}: {rows[-1][:300]}")
