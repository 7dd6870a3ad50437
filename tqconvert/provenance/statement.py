"""The in-toto statement of a pull: SLSA provenance from the source's digest to the result's.

Sources: in-toto attestation spec v1 (spec/v1/statement.md, resource_descriptor.md), SLSA provenance v1
(slsa.dev/spec/v1.0/provenance). The document is not signed: that is for the tool that holds the key.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tqconvert.digest import Digest
from tqconvert.gguf.fingerprint import SCHEME
from tqconvert.provenance.subject import TOOL_NAME, TOOL_URI, TOOL_VERSION, Span, Subject
from tqconvert.store.manifest import MANIFEST_TYPE

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:tqconvert:pull:1"


def render_statement(models: Sequence[Subject], span: Span) -> Mapping[str, Any]:
    """One statement about all the models; the same but for `span` whenever they are the same."""
    began, ended = span.texts()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [entry for m in models for entry in _subjects(m)],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "models": [
                        {"source": m.source_name, "target": str(m.target), "tags": m.types}
                        for m in models
                    ]
                },
                "resolvedDependencies": [entry for m in models for entry in _sources(m)],
            },
            "runDetails": {
                "builder": {"id": TOOL_URI, "version": {TOOL_NAME: TOOL_VERSION}},
                "metadata": {"startedOn": began, "finishedOn": ended},
                "byproducts": [
                    {
                        "name": f"{m.file_name}.fingerprint",
                        "digest": _set(m.fingerprint),
                        "mediaType": "text/plain",
                        "annotations": {"scheme": SCHEME},
                    }
                    for m in models
                    if m.fingerprint
                ],
            },
        },
    }


def _subjects(m: Subject) -> list[Mapping[str, Any]]:
    """The GGUF, by which a file is checked, and the manifest, by which an installed model is."""
    manifest = {
        "name": str(m.target),
        "digest": _set(m.result_manifest),
        "mediaType": MANIFEST_TYPE,
    }
    if m.result is None:
        return [manifest]
    return [{"name": m.file_name, "digest": _set(m.result)}, manifest]


def _sources(m: Subject) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    if m.source is not None:
        where = {"uri": m.source_url} if m.source_url else {}
        found.append({"name": m.source_name, **where, "digest": _set(m.source)})
    found += [{"name": path, "digest": _set(digest)} for path, digest in m.shards]
    if m.source_manifest is not None:
        found.append(
            {
                "name": f"{m.source_name} (manifest)",
                "digest": _set(m.source_manifest),
                "mediaType": MANIFEST_TYPE,
            }
        )
    return found


def _set(digest: Digest) -> Mapping[str, str]:
    return {"sha256": digest.hex}
