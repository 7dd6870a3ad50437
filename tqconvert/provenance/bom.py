"""The CycloneDX 1.6 bill of materials of a pull: one machine-learning-model component a model.

Source: the specification's JSON schema (bom-1.6.schema.json); tests validate against it. What the GGUF
and its manifest say goes in; what they do not say is left out.
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from tqconvert.digest import Digest
from tqconvert.gguf.fingerprint import SCHEME
from tqconvert.gguf.header import Header
from tqconvert.gguf.types import FILE_TYPES
from tqconvert.provenance.subject import TOOL_NAME, TOOL_URI, TOOL_VERSION, Span, Subject

SPDX = {
    name.lower(): name
    for name in (
        "AFL-3.0", "AGPL-3.0-only", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0",
        "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0",
        "CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-2.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0",
        "CC-BY-ND-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-2.0", "ECL-2.0",
        "EPL-2.0", "EUPL-1.1", "EUPL-1.2", "GPL-2.0-only", "GPL-3.0-only", "ISC", "LGPL-3.0-only", "MIT",
        "MPL-2.0", "MS-PL", "NCSA", "OFL-1.1", "OSL-3.0", "PostgreSQL", "Unlicense", "WTFPL", "Zlib",
    )
}  # fmt: skip
"""SPDX identifiers that model cards use, by their lower case; others go into the document as names."""

MAX_DERIVED = 64
"""Base models and data sets that are listed; a header may claim any number."""

_URL = re.compile(r"https?://[^\s\"<>\\^`{|}]{1,2000}")


def render_bom(models: Sequence[Subject], span: Span) -> Mapping[str, Any]:
    """One BOM about all the models; the same but for `span` whenever they are the same."""
    results = "\n".join(str(m.result_manifest) for m in models)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{TOOL_URI}@{TOOL_VERSION}\n{results}")
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": span.texts()[1],
            "tools": {
                "components": [
                    {
                        "type": "application", "name": TOOL_NAME, "version": TOOL_VERSION,
                        "purl": f"{TOOL_URI}@{TOOL_VERSION}",
                    }
                ]
            },
        },
        "components": [_component(m) for m in models],
    }  # fmt: skip


def _component(m: Subject) -> Mapping[str, Any]:
    h = m.header
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"{m.target}@{m.result_manifest}",
        "name": m.target.model if h is None else h.text("general.name") or m.target.model,
        "version": m.target.tag,
    }
    if h is not None and (author := h.text("general.author") or h.text("general.organization")):
        component["authors"] = [{"name": author}]
    if h is not None and (description := h.text("general.description")):
        component["description"] = description
    if m.result is not None:
        component["hashes"] = _hashes(m.result)
    if licenses := _licenses(m):
        component["licenses"] = licenses
    if references := _references(m):
        component["externalReferences"] = references
    component["pedigree"] = {"ancestors": _ancestors(m)}
    if h is not None:
        component["modelCard"] = _card(h)
    component["properties"] = [
        {"name": f"tqconvert:{key}", "value": value} for key, value in _properties(m)
    ]
    return component


def _card(h: Header) -> Mapping[str, Any]:
    parameters: dict[str, Any] = {"modelArchitecture": h.architecture or "unknown"}
    names = [h.text(f"general.dataset.{i}.name") for i in range(_count(h, "general.dataset.count"))]
    if data := [{"type": "dataset", "name": name} for name in names if name]:
        parameters["datasets"] = data
    return {"modelParameters": parameters}


def _ancestors(m: Subject) -> list[Mapping[str, Any]]:
    """The GGUF as it came, then the models that it says it was made of."""
    source: dict[str, Any] = {"type": "machine-learning-model", "name": m.source_name}
    if m.source is not None:
        source["hashes"] = _hashes(m.source)
    if m.source_url:
        source["externalReferences"] = [{"type": "distribution", "url": m.source_url}]
    found: list[Mapping[str, Any]] = [source]
    h = m.header
    for i in range(_count(h, "general.base_model.count") if h else 0):
        key = f"general.base_model.{i}"
        name = h.text(f"{key}.name") if h else None
        if h is None or not name:
            continue
        base: dict[str, Any] = {"type": "machine-learning-model", "name": name}
        if group := h.text(f"{key}.organization"):
            base["group"] = group
        if version := h.text(f"{key}.version"):
            base["version"] = version
        if url := _url(h.text(f"{key}.repo_url")):
            base["externalReferences"] = [{"type": "vcs", "url": url}]
        found.append(base)
    return found


def _licenses(m: Subject) -> list[Mapping[str, Any]]:
    """What the GGUF names as its license; where it is silent, the texts that came with the model."""
    h = m.header
    name = h.text("general.license.name") if h else None
    short = h.text("general.license") if h else None
    if short or name:
        identifier = SPDX.get((short or "").lower())
        license_: dict[str, Any] = {"id": identifier} if identifier else {"name": name or short}
        if h and (url := _url(h.text("general.license.link"))):
            license_["url"] = url
        return [{"license": license_}]
    found: list[Mapping[str, Any]] = []
    for text in m.licenses:
        lines = (line.strip() for line in text.splitlines())
        title = next((line for line in lines if line), "unnamed license")[:100]
        content = {"contentType": "text/plain", "content": text}
        found.append({"license": {"name": title, "text": content}})
    return found


def _references(m: Subject) -> list[Mapping[str, Any]]:
    """Pages that the GGUF names for itself."""
    if m.header is None:
        return []
    keys = (("general.url", "website"), ("general.repo_url", "vcs"), ("general.source.url", "website"),
            ("general.source.repo_url", "vcs"))  # fmt: skip
    found: list[Mapping[str, Any]] = []
    for key, kind in keys:
        if url := _url(m.header.text(key)):
            found.append({"type": kind, "url": url})
    return found


def _properties(m: Subject) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = [("target", str(m.target)), ("manifest", str(m.result_manifest))]
    if m.result is not None:
        found.append(("bytes", str(m.size)))
    if m.fingerprint is not None:
        found.append((SCHEME.removeprefix("tqconvert."), str(m.fingerprint)))
    if m.header is not None and (number := m.header.integer("general.file_type")) is not None:
        found.append(("quantization", FILE_TYPES.get(number, f"type {number}")))
    if m.tags is not None:
        for side, types in (("type_k", m.tags.type_k), ("type_v", m.tags.type_v)):
            found.append((side, types if isinstance(types, str) else ",".join(types)))
        found.append(("measured", "true" if m.tags.measured else "false"))
    return found


def _hashes(digest: Digest) -> list[Mapping[str, str]]:
    return [{"alg": "SHA-256", "content": digest.hex}]


def _url(text: str | None) -> str | None:
    """The text if it is an address that may stand in a document."""
    return text if text and _URL.fullmatch(text) else None


def _count(h: Header | None, key: str) -> int:
    found = h.integer(key) if h else None
    return min(max(found or 0, 0), MAX_DERIVED)
