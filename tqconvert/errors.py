"""Errors that a user can act on, and the one table of exit codes.

A message reads `subject: what is wrong (what was expected)`; the hint is one command or setting.
`docs/exit-codes.md` is generated from `EXIT_CODES`.
"""

EXIT_CODES: dict[int, str] = {
    0: "ok, or nothing to do",
    1: "a check, gate, lint or verdict failed; does not fit; nothing could be checked",
    2: "usage",
    3: "conflict waiting for the user, resumable",
    4: "integrity: digest mismatch, not a GGUF, invalid or truncated GGUF, bad manifest",
    5: "input missing or not known: file, model, tag, revision",
    6: "refused: would change something it must not (dirty tree, file in use, name taken)",
    7: "locked by another process, try later",
    8: "tool missing or too old",
    9: "I/O: disk full, cannot create, read-only",
    10: "interrupted, state saved",
    11: "network: unreachable, retries exhausted, or --offline forbids it",
    12: "authentication or permission refused by the server",
    13: "bad configuration",
    70: "bug: unexpected exception",
    130: "SIGINT (a download's partial stays and is named)",
}


class TqError(Exception):
    """Base of all errors that end a command with a message instead of a traceback."""

    exit_code = 1
    kind = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailedError(TqError):
    """A verdict is negative: findings in a lint, a model that does not fit."""

    exit_code = 1
    kind = "check_failed"


class PatchError(TqError):
    """A patch or a new file of ours does not go onto this source."""

    exit_code = 1
    kind = "patch_failed"

    def __init__(
        self, message: str, *, patch: str, files: tuple[str, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.patch = patch
        self.files = files


class GitFailedError(TqError):
    """`git` refused what it was asked for; the message holds its last line."""

    exit_code = 1
    kind = "git_failed"


class ConflictError(TqError):
    """Patches do not go onto a base; the state of git that was left can be gone on with."""

    exit_code = 3
    kind = "conflict"


class BuildFailedError(TqError):
    """The source does not configure or compile; the message holds the first error of the log."""

    exit_code = 1
    kind = "build_failed"


class KernelSourceError(TqError):
    """A Metal source or its header is not what can be turned into code for a CPU."""

    exit_code = 1
    kind = "kernel_source"


class ServerFailedError(TqError):
    """A server that was started ended by itself, or never became ready."""

    exit_code = 1
    kind = "server_failed"


class MeasureFailedError(TqError):
    """A program that measures ended without a result; the message holds what it said last."""

    exit_code = 1
    kind = "measure_failed"


class UsageError(TqError):
    """Arguments contradict each other or do not parse."""

    exit_code = 2
    kind = "usage"


class IntegrityError(TqError):
    """Bytes are not what they must be."""

    exit_code = 4
    kind = "integrity"


class DigestMismatchError(IntegrityError):
    """The sha256 of bytes differs from the one they were asked for by."""

    kind = "digest_mismatch"


class InvalidGgufError(IntegrityError):
    """The file is not a GGUF that may be used."""

    kind = "invalid_gguf"


class TruncatedGgufError(InvalidGgufError):
    """The bytes end before the header or the tensors do; more may still arrive."""

    kind = "truncated_gguf"


class IncompleteHeaderError(TruncatedGgufError):
    """The bytes at hand end inside the header while the file goes on: come back with more of it."""


class BadManifestError(IntegrityError):
    """A manifest is not JSON of the form that a registry must give."""

    kind = "bad_manifest"


class BadSeriesError(IntegrityError):
    """A series of patches is not of the form that it must have."""

    kind = "bad_series"


class BadPatchError(IntegrityError):
    """A patch is not a text diff that may be applied."""

    kind = "bad_patch"


class BadLockError(IntegrityError):
    """A lock of releases or of models is not of the form that it must have."""

    kind = "bad_lock"


class LockDiffersError(IntegrityError):
    """What is to be had, or what was made of it, is not what the lock file says."""

    kind = "lock_differs"


class NotFoundError(TqError):
    """A file, model, tag or key is missing."""

    exit_code = 5
    kind = "not_found"


class UnknownBaseError(TqError):
    """A tree is not what patches are made for."""

    exit_code = 5
    kind = "unknown_base"


class RefusedError(TqError):
    """The command would change something it must not; the message names the way that works."""

    exit_code = 6
    kind = "refused"


class LockedError(TqError):
    """Another process works on the same thing."""

    exit_code = 7
    kind = "locked"


class ToolMissingError(TqError):
    """A program is missing or too old."""

    exit_code = 8
    kind = "tool_missing"


class StorageError(TqError):
    """Disk full, cannot create, read-only."""

    exit_code = 9
    kind = "io"


class NetworkError(TqError):
    """Unreachable, retries exhausted, or `--offline` forbids it."""

    exit_code = 11
    kind = "network"


class AuthError(TqError):
    """The server refused."""

    exit_code = 12
    kind = "auth"


class ConfigError(TqError):
    """A setting cannot be used."""

    exit_code = 13
    kind = "config"


class StoppedError(TqError):
    """Ctrl-C or SIGTERM; the hint says what was kept."""

    exit_code = 130
    kind = "interrupted"
