"""The files that a pull leaves on request: the lock file, the statement, the bill of materials."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqconvert.errors import RefusedError, StorageError, UsageError
from tqconvert.fs import write_atomic
from tqconvert.progress import Progress
from tqconvert.provenance.bom import render_bom
from tqconvert.provenance.locked import entry_of
from tqconvert.provenance.lockfile import parse_lock, update_lock
from tqconvert.provenance.statement import STATEMENT_TYPE, render_statement
from tqconvert.provenance.subject import span_of, subject_of
from tqconvert.pull.destination import read_small
from tqconvert.pull.run import PullResult
from tqconvert.pull.sources import Job

Done = Sequence[tuple[Job, PullResult]]


@dataclass(frozen=True, slots=True)
class Written:
    """Which files were asked for; `lock_changed` is None without a lock file."""

    lock: Path | None
    lock_changed: bool | None
    attestation: Path | None
    bom: Path | None

    def to_json(self) -> dict[str, Any]:
        """Fields of a JSON document."""
        lock = {"file": str(self.lock), "changed": self.lock_changed} if self.lock else None
        return {
            "lock": lock,
            "attestation": str(self.attestation) if self.attestation else None,
            "bom": str(self.bom) if self.bom else None,
        }

    def lines(self) -> list[str]:
        """Lines for people."""
        found = []
        if self.lock:
            found.append(f"{self.lock}: {'written' if self.lock_changed else 'unchanged'}")
        return found + [f"{path}: written" for path in (self.attestation, self.bom) if path]


@dataclass(frozen=True, slots=True)
class Records:
    """What is to be written, where; None is not asked for. `env` may hold SOURCE_DATE_EPOCH."""

    lock: Path | None
    attestation: Path | None
    bom: Path | None
    env: Mapping[str, str]
    replace: bool = False
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def check(self) -> None:
        """Refuse before the first byte what could not be written after the last one.

        Raises UsageError, RefusedError for a file that no run of ours wrote, StorageError, BadLockError,
        ConfigError.
        """
        span_of(self.began, self.began, self.env)
        paths = [p for p in (self.lock, self.attestation, self.bom) if p]
        if len({p.absolute() for p in paths}) != len(paths):
            raise UsageError(f"{paths[0]}: named for two different documents")
        for path in paths:
            if not path.absolute().parent.is_dir():
                raise UsageError(f"{path.parent}: no such folder", hint=f"mkdir -p {path.parent}")
            if path.is_dir():
                raise UsageError(f"{path}: is a folder (expected a file)")
            if not os.access(path.absolute().parent, os.W_OK):
                raise StorageError(f"{path}: no file can be written in its folder")
        if self.lock and (data := read_small(self.lock)):
            parse_lock(data, subject=str(self.lock))
        for document, key, value in (
            (self.attestation, "_type", STATEMENT_TYPE), (self.bom, "bomFormat", "CycloneDX"),
        ):  # fmt: skip
            if document and not self.replace and not _is_ours(document, key, value):
                raise RefusedError(
                    f"{document}: is there already, and no such document",
                    hint="replace it with --yes, or choose another name",
                )

    def write(self, done: Done, progress: Progress) -> Written:
        """Write them all. Raises LockedError, StorageError, and what reading the models raises."""
        changed = None
        if self.lock:
            changes = [update_lock(self.lock, entry_of(made, self.lock)) for _, made in done]
            changed = any(changes)
        if self.attestation or self.bom:
            subjects = [subject_of(job, result, progress) for job, result in done]
            span = span_of(self.began, datetime.now(UTC), self.env)
            if self.attestation:
                _write(self.attestation, render_statement(subjects, span))
            if self.bom:
                _write(self.bom, render_bom(subjects, span))
        return Written(self.lock, changed, self.attestation, self.bom)


def _is_ours(path: Path, key: str, value: str) -> bool:
    """Whether nothing is there, or a document of this kind."""
    data = read_small(path)
    if data is None:
        return True
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get(key) == value


def _write(path: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    write_atomic(path, f"{text}\n".encode("utf-8", "replace"))
