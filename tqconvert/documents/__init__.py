"""What `--json` prints: the shape of every command's document, from which docs/json.md is generated.

A command whose document gets a field gets it here too; tests compare all that they see printed.
"""

from collections.abc import Mapping
from typing import Any

from tqconvert.documents import models, sources
from tqconvert.documents.shape import DRAFT, Variant, schema_of_document

DOCUMENTS: Mapping[str, tuple[Variant, ...]] = {
    "pull": models.PULL,
    "inspect": models.INSPECT,
    "plan": models.PLAN,
    "tag": models.TAG,
    "untag": models.UNTAG,
    "balance": models.BALANCE,
    "modelfile": models.MODELFILE,
    "install": models.INSTALL,
    "verify": models.VERIFY,
    "share": models.SHARE,
    "push": models.PUSH,
    "fingerprint": models.FINGERPRINT,
    "serve": models.SERVE,
    "doctor": models.DOCTOR,
    "quality": models.QUALITY,
    "ollama-build.list": sources.LIST,
    "ollama-build.status": sources.STATUS,
    "ollama-build.verify": sources.VERIFY,
    "ollama-build.lock": sources.LOCK,
    "ollama-build.apply": sources.APPLY,
    "ollama-build.unapply": sources.UNAPPLY,
    "ollama-build.edit": sources.EDIT,
    "ollama-build.refresh": sources.REFRESH,
    "ollama-build.import": sources.IMPORT,
    "ollama-build.export": sources.EXPORT,
    "ollama-build.rebase": sources.REBASE,
    "ollama-build.continue": sources.CONTINUE,
    "ollama-build.skip": sources.CONTINUE,
    "ollama-build.abort": sources.ABORT,
    "ollama-build.lint": sources.LINT,
    "ollama-build.watch": sources.WATCH,
    "ollama-build.bisect-base": sources.BISECT_BASE,
    "ollama-build.build": sources.BUILD,
    "ollama-build.whatis": sources.WHATIS,
    "metal.names": sources.NAMES,
    "metal.lint": sources.METAL_LINT,
    "metal.check": sources.CHECK,
    "metal.gpu": sources.GPU,
    "metal.bench": sources.BENCH,
    "config.show": models.CONFIG_SHOW,
    "cache.prune": models.CACHE_PRUNE,
    "error": models.ERROR,
}
"""Command -> the forms of its document, in the order of the commands; `error` is any command's."""


def name_of(command: str) -> str:
    """Value of `schema` in the command's document."""
    return f"tqconvert.{command}/1"


def schema(command: str, *, closed: bool = False) -> dict[str, Any]:
    """JSON Schema of the command's document; a closed one allows nothing that is not documented."""
    return schema_of_document(name_of(command), DOCUMENTS[command], closed=closed)


def schemas() -> dict[str, Any]:
    """One JSON Schema for the documents of all commands, told apart by their field `schema`."""
    names = {name_of(command): schema(command) for command in DOCUMENTS}
    return {
        "$schema": DRAFT,
        "title": "What tqconvert prints under --json",
        "type": "object",
        "required": ["schema"],
        "properties": {"schema": {"enum": list(names)}},
        "allOf": [
            {
                "if": {"properties": {"schema": {"const": name}}},
                "then": {"$ref": f"#/$defs/{name.replace('/', '~1')}"},
            }
            for name in names
        ],
        "$defs": names,
    }
