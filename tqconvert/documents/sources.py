"""Documents of `ollama-build` and `metal`: patches, builds, kernels."""

from tqconvert.documents.shape import Shape, Variant, maybe, say

_FINDINGS: Shape = [{
    "path": "text", "line": "int: 0 is the whole file", "code": "text", "message": "text",
    "severity": "=error|note",
}]  # fmt: skip
_UNLOOKED = say("what was not looked at", ["text"])
_NEXT = say("commands", ["text"])

_HEAD: dict[str, Shape] = {
    "generation": "text: legacy, modern, llama.cpp", "tree": "text",
    "release": {
        "known": "bool", "title": "text?", "tags": ["text"], "nearest": "text?", "series_sha256": "text?",
    },
    "base": {"named": "text?: by the tree", "repo": "text?", "tag": "text?", "commit": "text?"},
}  # fmt: skip
LIST = (
    Variant("", {
        **_HEAD,
        "patches": [{
            "number": "int", "name": "text", "id": "text?", "origin": "=ollama|tqconvert", "sha256": "text",
            "verdict": "text?", "files": ["text"],
        }],
    }),
)  # fmt: skip
_TRIED: Shape = [{
    "name": "text", "patch": "text: its file", "id": "text?", "origin": "=ollama|tqconvert",
    "verdict": "text: clean, offset, conflict, ...", "evidence": "text", "offsets": ["int"],
    "clashes": [{"path": "text", "hunks": ["int"], "reason": "text?", "conflicts": "int?"}],
    "blocked_by": ["text"],
    "landed": say("signs that upstream has it", [{
        "path": "text", "hunks": "int", "present": ["int"], "added_lines": "int", "found_lines": "int",
    }]),
    "commits": say("that have to do with it", [{"id": "text", "subject": "text", "how": "text"}]),
    "note": "text", "not_vendored": ["text"],
}]  # fmt: skip
STATUS = (
    Variant("", {
        **_HEAD,
        "state": {
            "applied": "int", "total": "int", "ours_applied": "int", "ours_total": "int",
            "half_applied": ["text"], "gaps": ["text"], "edited_files": ["text"],
            "missing_files": ["text"], "converted_files": ["text"], "not_vendored": "int",
        },
        "patches": [{
            "name": "text", "id": "text?", "origin": "=ollama|tqconvert",
            "applied": "bool?: null if it cannot be told", "verdict": "text", "evidence": "text",
            "files": ["text"],
        }],
        "problems": [{"kind": "text", "text": "text", "files": ["text"]}],
    }),
    Variant("--onto", {
        "generation": "text", "tree": "text",
        "onto": {"name": "text", "generation": "text", "commit": "text?"},
        "ok": "bool", "counts": say("by verdict", {"*": "int"}), "patches": _TRIED,
        "not_covered": _UNLOOKED,
    }),
)  # fmt: skip
VERIFY = (
    Variant("", {
        **_HEAD, "ok": "bool",
        "checks": [{
            "level": "text: L0 to L4, ours", "ok": "bool?: null where there was nothing to look at",
            "covered": "text", "not_covered": "text", "findings": ["text"],
        }],
    }),
)  # fmt: skip
_FILE_IDS: Shape = say("path: blob ids before and after each step", {"*": ["text?"]})
LOCK = (
    Variant("", {
        "path": "text?: of the lock that was written", "generation": "text",
        "releases": [{"tags": say("tag: commit", {"*": "text?"}), "trees": say("folder: tree", {"*": "text"})}],
        "base": {"repo": "text?", "tag": "text?", "commit": "text?", "tree": "text?"},
        "patches": [{
            "name": "text", "sha256": "text", "blob": "text", "patch_id": "text?", "files": _FILE_IDS,
            "stale?": _FILE_IDS,
        }],
        "series_sha256": "text", "result": {"tree": "text?"}, "unresolved": [["text?"]],
        "not_recomputed": ["text"],
    }),
)  # fmt: skip
_STACKED: Shape = [{
    "name": "text", "origin": "=ollama|tqconvert", "verdict": "text: clean, offset, conflict",
    "left_out": say("files that the tree does not have", ["text"]),
}]  # fmt: skip
_CONFLICTS: Shape = [{
    "name": "text", "origin": "=ollama|tqconvert",
    "files": [{"path": "text", "hunks": ["int"], "reason": "text?"}], "blocked_by": ["text"],
}]  # fmt: skip
_RECOVERED = "text?: what became of an interrupted command"
APPLY = (
    Variant("", {
        "tree": "text", "generation": "text", "made_for": "text?: the base that the tree names",
        "dry_run": "bool", "base": {"commit": "text"}, "branch": "text", "head": "text", "done": "bool",
        "recovered": _RECOVERED, "files": say("that change", ["text"]),
        "there": say("patches that are on already", ["text"]), "patches": _STACKED,
        "conflicts": _CONFLICTS, "next": _NEXT,
        "patches_are?": "any: the base that Ollama's patches are made for, if it is another one",
    }),
    Variant("--init -n on a folder without git", {"dry_run": "bool", "tree": "text"}),
)  # fmt: skip
_ONTO: dict[str, Shape] = {
    "tree": "text", "generation": "text", "onto": {"name": "text", "commit": "text"}, "branch": "text",
    "there": ["text"], "patches": _STACKED, "conflicts": _CONFLICTS, "dry_run": "bool",
    "head": "text?", "waiting": "text?: the patch that waits for you",
}  # fmt: skip
REBASE = (
    Variant("-n", _ONTO),
    Variant("", {**_ONTO, "folder": "text", "range_diff": ["text"], "next": _NEXT}),
)
CONTINUE = (
    Variant("", {
        "folder": "text", "branch": "text", "head": "text?", "waiting": "text?: the patch that waits for you",
        "files": ["text"], "dropped": [{"name": "text", "reason": "text"}], "range_diff": ["text"],
        "next": _NEXT,
    }),
)  # fmt: skip
_HEADED: dict[str, Shape] = {"tree": "text", "head": "text: the commit", "branch": "text?"}
UNAPPLY = (
    Variant(
        "", {**_HEADED, "patches": ["text"], "backup": "text?: the ref", "recovered": _RECOVERED}
    ),
)
EDIT = (
    Variant("", {
        **_HEADED, "patch": "text", "above": "int: patches on top of it", "recovered": _RECOVERED,
        "next": _NEXT,
    }),
)  # fmt: skip
REFRESH = (
    Variant("", {
        **_HEADED, "patches": ["text"], "files": say("that were written", ["text"]),
        "conflicts": _CONFLICTS, "recovered": _RECOVERED,
    }),
)  # fmt: skip
IMPORT = (
    Variant("", {
        "patch": "text", "sha256": "text?", "series": "text", "offsets": "int", "conflicts": _CONFLICTS,
        "next": _NEXT,
    }),
)  # fmt: skip
EXPORT = (
    Variant("", {
        "tree": "text", "check": "bool", "head": "text", "patches": ["text"],
        "drift": [{"name": "text", "what": "text"}], "files": say("that were written", ["text"]),
    }),
)  # fmt: skip
ABORT = (Variant("", {"tree": "text", "head": "text", "aborted": "text?", "backup": "text?"}),)
LINT = (
    Variant("", {
        "folder": "text", "ok": "bool",
        "looked_at": {"series": "int", "patches": "int", "new_files": "int", "locks": "int"},
        "findings": _FINDINGS, "not_covered": _UNLOOKED,
    }),
)  # fmt: skip
WATCH = (
    Variant("", {
        "clone": "text", "since": "text", "ok": "bool",
        "releases": [{
            "tag": "text", "commit": "text", "ok": "bool", "generation": "text?", "base": "text?",
            "lock": "text?", "counts": say("by verdict", {"*": "int"}),
            "parts": [{"what": "text", "same_as": "text?", "patches": _TRIED}],
            "upstream": {
                "since": "text?", "changes": [{"name": "text", "what": "text", "was": "text?"}],
            },
            "not_covered": _UNLOOKED,
        }],
        "not_in_clone": ["text"],
    }),
)  # fmt: skip
BISECT_BASE = (
    Variant("", {
        "newest": "text: commit", "subject": "text", "commits": "int", "tried": "int",
        "next": "text?: the commit that ends it", "failing": ["text"],
    }),
)  # fmt: skip

_HASHED: Shape = [{"name": "text", "sha256": "text"}]
_ORIGIN: dict[str, Shape] = {
    "kind": "text", "name": "text", "tree": "text", "commit": "text?", "archive_sha256": "text?",
}  # fmt: skip
_BUILD: dict[str, Shape] = {
    "id": "text", "target": "=ollama|llama.cpp", "scope": "text", "variant": "text", "tool": "text",
    "date": "text", "seconds": "number", "source": _ORIGIN, "series": "text", "patches": _HASHED,
    "new_files": _HASHED, "tree": "text", "flags": ["text"], "environment": {"*": "text"},
    "compiler": {"*": "text?"}, "cpu": {"*": "any"},
    "programs": [{"name": "text", "bytes": "int", "sha256": "text"}], "release": "text?",
    "base": "text?", "upstream": _HASHED, "llama_cpp": maybe({"source": _ORIGIN, "tree": "text"}),
}  # fmt: skip
BUILD = (
    Variant("", {
        "dry_run": "bool", "fresh": "bool: built now, or would be", "id": "text", "folder": "text",
        "target": "=ollama|llama.cpp", "release": "text?", "base": "text?",
        "source": {"kind": "text", "name": "text", "tree": "text", "commit": "text?"},
        "upstream": say("Ollama's patches", ["text"]), "patches": ["text"], "flags": ["text"],
        "build": maybe(_BUILD, "the manifest, as `whatis` prints it; null before there is a build"),
    }),
    Variant("-n, where the source is still to be fetched", {
        "dry_run": "bool", "fresh": "bool?", "id": "text?", "steps": ["text"],
    }),
)  # fmt: skip
WHATIS = (
    Variant("", {
        **_BUILD, "folder": "text", "changed": say("programs that are not what was built", ["text"]),
        "embedded": "bool: told by the program itself", "as_released": "text?: whose patches they are",
    }),
)  # fmt: skip

NAMES = (
    Variant("", {
        "tree": "text", "ok": "bool",
        "counts": {
            "kernels": "int", "formats": "int", "expected": "int", "missing": "int",
            "tuning_rows": "int", "launches": "int",
        },
        "findings": _FINDINGS, "not_covered": _UNLOOKED,
    }),
)  # fmt: skip
METAL_LINT = (
    Variant("", {
        "folder": "text", "ok": "bool", "files": ["text"], "findings": _FINDINGS,
        "not_covered": _UNLOOKED,
    }),
)  # fmt: skip
CHECK = (
    Variant("", {
        "tree": "text", "compiler": "text", "checked": "bool: accesses and races were looked at",
        "fast_math": "bool", "ok": "bool",
        "counts": {
            "files": "int", "kernels": "int", "run": "int", "functions": "int", "functions_run": "int",
            "cases": "int", "passed": "int", "known": "int", "failed": "int",
        },
        "files": [{"file": "text", "kernels": "int", "error": "text?"}],
        "cases": [{
            "title": "text", "kernels": ["text"], "passed": "bool", "known": "bool: a defect known upstream",
            "error": "number?: null where it is no number", "tolerance": "number", "level": "bool",
            "findings": [{
                "kind": "text", "kernel": "text", "file": "text", "line": "int", "count": "int",
                "detail": "text", "group": ["int"], "thread": "int",
            }],
            "problem": "text",
        }],
        "not_covered": _UNLOOKED, "not_run": ["text"],
    }),
)  # fmt: skip
GPU = (
    Variant("", {
        "tree": "text", "ok": "bool", "compiler": "text", "gpu": "text",
        "steps": [{"what": "text", "ok": "bool", "text": "text", "note": "bool"}],
        "not_covered": _UNLOOKED,
    }),
)  # fmt: skip
BENCH = (
    Variant("", {
        "gpu": "text",
        "rows": [{
            "k": "text", "v": "text", "dim": "int", "n_kv": "int", "n_q": "int: 1 decodes, more is a prompt",
            "seconds": "number", "cache_bytes": "int: of K and V",
            "moved_bytes": "int: loaded of K and V, and stored of their f16 copies",
        }],
        "not_covered": _UNLOOKED,
    }),
)  # fmt: skip
