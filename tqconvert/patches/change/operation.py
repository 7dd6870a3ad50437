"""What an operation of the queue leaves in the git folder: a lock, what it is about to do, what was done.

tqconvert/lock        who is at work: process, host, start; one for all work trees of a repository
tqconvert/op.json     the operation under way; only what was intended, never what the tree holds
tqconvert/next.json   what op.json becomes once that is done
tqconvert/log.jsonl   finished operations, one a line
tqconvert/stage/      files about to be put in place, and those that they replace
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tqconvert import filelocks, fs
from tqconvert.errors import LockedError, StorageError
from tqconvert.patches.change.repository import Place, Repository

FOLDER = "tqconvert"
REFS = "refs/tqconvert"
SCHEMA = "tqconvert.op/1"
MOVE, DONE = "move", "done"
EDIT = "-edit"
"""Ends the branch that is checked out while a patch is edited."""


class Owner(NamedTuple):
    """Who holds the lock."""

    pid: int
    host: str
    start: str
    """When the process started, in units of the system: tells a process from a later one of its id."""
    since: float

    @property
    def dead(self) -> bool:
        """Whether the process ended; False for one on another host, of which nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return bool(self.start) and started(self.pid) != self.start


class Operation(NamedTuple):
    """One operation, as it was intended."""

    id: str
    command: str
    phase: str
    """`move`: to be taken back or finished; `done`: to be finished; `rebase`: waits for the user."""
    before: Place
    after: Place
    refs: Mapping[str, tuple[str | None, str | None]]
    """Ref -> what it becomes, what it was."""
    paths: Mapping[str, tuple[str | None, str | None]]
    """Path in the tree -> blob id before, afterwards; None where there is no file."""
    exports: Mapping[str, str]
    """Absolute path of a patch file -> sha256 of what it becomes; the old one lies in `stage/`."""
    more: Mapping[str, Any]
    """What only one command needs."""

    def to_json(self) -> dict[str, Any]:
        """The document in op.json."""
        return {"schema": SCHEMA, **self._asdict(), "before": self.before._asdict(),
                "after": self.after._asdict()}  # fmt: skip

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Operation":
        """Raises KeyError, TypeError for what is no operation."""
        values = {name: document[name] for name in cls._fields}
        places = {name: Place(**document[name]) for name in ("before", "after")}
        return cls(**{**values, **places})


class State:
    """The `tqconvert` folder of a repository."""

    def __init__(self, repo: Repository) -> None:
        self.folder = repo.git_dir / FOLDER
        self.lock_path = repo.common_dir / FOLDER / "lock"
        self.op_path = self.folder / "op.json"
        self.next_path = self.folder / "next.json"
        self.log_path = self.folder / "log.jsonl"
        self.stage = self.folder / "stage"
        if (self.folder.parent.stat().st_dev) != repo.root.stat().st_dev:
            # Names are given to staged files by rename, which stays on one file system.
            self.stage = repo.root / ".tqconvert-stage"

    def pending(self) -> Operation | None:
        """The operation that was begun and not ended, None without one."""
        try:
            return Operation.from_json(json.loads(self.op_path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise StorageError(
                f"{self.op_path}: cannot be read ({e})",
                hint=f"refs/tqconvert/orig/* hold where HEAD was; remove {self.op_path} then",
            ) from e

    def begin(self, op: Operation, then: Operation | None = None) -> None:
        """Put on record what is about to be done, and what `advance` will put there in its stead."""
        fs.make_folders(self.folder)
        if then:
            fs.write_atomic(self.next_path, json.dumps(then.to_json(), indent=1).encode())
        fs.write_atomic(self.op_path, json.dumps(op.to_json(), indent=1).encode())

    def advance(self) -> None:
        """Put on record that it is done; a full disk, which may be the case by now, is no hindrance."""
        fs.replace(self.next_path, self.op_path)

    def end(self, op: Operation, **facts: Any) -> None:
        """Log the operation and forget that it was under way."""
        row = {"id": op.id, "command": op.command, "time": int(time.time()),
               "before": op.before._asdict(), "after": op.after._asdict(), **facts}  # fmt: skip
        with suppress(OSError):  # it is done: a full disk costs the line, not the operation
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            fd = os.open(self.log_path, flags, 0o644)
            try:
                fs.append(fd, json.dumps(row).encode() + b"\n")
            finally:
                os.close(fd)
        fs.remove(self.op_path)

    def log(self) -> list[dict[str, Any]]:
        """Finished operations, the newest last; lines that are torn are passed over."""
        rows = []
        with suppress(OSError):
            for line in self.log_path.read_text("utf-8").splitlines():
                with suppress(ValueError):
                    rows.append(json.loads(line))
        return rows

    @contextmanager
    def locked(self) -> Iterator[str | None]:
        """Hold the lock; yields who left it behind, if a process that ended did.

        Raises LockedError.
        """
        try:
            fs.make_folders(self.lock_path.parent)
            left = self._take()
        except OSError as e:
            raise fs.storage_error(e, self.lock_path) from e
        try:
            yield left
        finally:
            self.lock_path.unlink(missing_ok=True)

    def _take(self) -> str | None:
        me = Owner(os.getpid(), socket.gethostname(), started(os.getpid()), time.time())
        mine = self.lock_path.with_name(f"lock.{me.pid}.{secrets.token_hex(4)}")
        mine.write_text(json.dumps(me._asdict()))
        try:
            if _named(mine, self.lock_path):
                return None
            owner = self._owner()
            if owner is not None and not owner.dead:
                raise LockedError(
                    f"{self.lock_path}: process {owner.pid} on {owner.host} works on this repository"
                    f" since {_clock(owner.since)}",
                    hint="wait for it; a lock of a process that ended on this host is taken over",
                )
            return self._take_over(mine, owner)
        finally:
            mine.unlink(missing_ok=True)

    def _owner(self) -> Owner | None:
        """Whose the lock is; None if it went away. Raises LockedError for one that nobody can tell."""
        try:
            return Owner(**json.loads(self.lock_path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise LockedError(
                f"{self.lock_path}: not a lock of tqconvert",
                hint=f"if nothing works on the repository: rm {self.lock_path}",
            ) from None

    def _take_over(self, mine: Path, dead: Owner | None) -> str | None:
        """Replace a dead process's lock; of several that try, one at a time looks and acts."""
        guard = os.open(self.lock_path.with_name("lock.guard"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            filelocks.lock(guard)
            if dead is not None and self._owner() == dead:
                self.lock_path.unlink()
            if not _named(mine, self.lock_path):
                raise LockedError(f"{self.lock_path}: another process was faster")
        except BlockingIOError:
            raise LockedError(f"{self.lock_path}: another process takes it over now") from None
        finally:
            os.close(guard)
        if dead is None:
            return None
        return f"process {dead.pid}, which ended without its lock, began at {_clock(dead.since)}"


def new_id(command: str) -> str:
    """A name for an operation: sorts by time, fit for a ref."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{command}-{secrets.token_hex(2)}"


def started(pid: int) -> str:
    """When a process started, as its system counts; empty where it does not say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            # proc(5): the 22nd field; the second is a name in brackets that may hold anything.
            return f.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""


def _named(mine: Path, name: Path) -> bool:
    """Give a complete file the name, unless it is taken."""
    try:
        os.link(mine, name)
    except FileExistsError:
        return False
    except OSError as e:
        if not fs.unsupported(e):
            raise
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(fd, "wb") as f:
            f.write(mine.read_bytes())
    return True


def _clock(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
