"""Documents of the commands that deal with models."""

from tqconvert.documents.shape import Shape, Variant, maybe, say

TAGS: dict[str, Shape] = {
    "type_k": "types: of K", "type_v": "types: of V",
    "measured": "bool: whether a measurement justifies them",
}  # fmt: skip
BLOB: dict[str, Shape] = {
    "kind": "text: model, template, params, config, ...",
    "digest": "digest",
    "bytes": "int",
}
TENSOR: dict[str, Shape] = {
    "name": "text", "type": "text: ggml's name", "shape": ["int"], "bytes": "int",
}  # fmt: skip

_ORIGIN = maybe(
    {
        "repository": "text", "revision": "text: the commit, or the digest of the registry's manifest",
        "files": say("the shards in their order, or the one file; none in a registry", [
            {"path": "text", "sha256": "text", "bytes": "int"}
        ]),
    },
    "of Hugging Face or `oci://`",
)  # fmt: skip

_RECORDS: dict[str, Shape] = {
    "lock": maybe({"file": "text", "changed": "bool"}, "the lock file of --lock"),
    "attestation": "text?: the file of --attest",
    "bom": "text?: the file of --bom",
}
_PULLED: dict[str, Shape] = {
    "name": "text: what was pulled",
    "target": "text: the name it is installed under",
    "state": "=new|replace|repair|unchanged: what was done",
    "bytes": "int: that came over the network",
    "seconds": "number",
    "resumed_from": "int: bytes that an earlier run had left",
    "retries": "int",
    "digests": {
        "source_manifest": "digest", "source_model": "digest?: the GGUF as it came",
        "model": "digest?: the GGUF as it is installed", "manifest": "digest",
    },
    "tags": maybe(TAGS, "null of an untagged model"),
    "reasons": say("why these tags, or none", ["text"]),
    "model": "text?: path of the GGUF",
    "modelfile": "text: path of the Modelfile",
    "origin": _ORIGIN,
}  # fmt: skip
_PLANNED: dict[str, Shape] = {
    "dry_run": "bool: true",
    "name": "text", "target": "text", "state": "=new|replace|repair|unchanged",
    "manifest_digest": "digest",
    "fetch": say("blobs that come over the network", [{
        **BLOB, "digest": "digest?: null of what is joined from shards", "shards?": say("their sha256", ["digest"]),
    }]),
    "reuse": say("blobs that are here", [BLOB]),
    "fetch_bytes": "int", "kept_bytes": "int: left by an earlier run",
    "needed_bytes": "int: that the disk must still give",
    "tag": "bool", "file": "text?: the GGUF of --to", "modelfile": "text", "origin": _ORIGIN,
    "would_tag": maybe(
        {
            "type_k": "types?", "type_v": "types?", "reasons": ["text"],
            "n_ctx": "int: of the next two", "f16_bytes": "int: cache in f16",
            "tagged_bytes": "int: cache in these types",
        },
        "null where that cannot be told beforehand",
    ),
}  # fmt: skip

PULL = (
    Variant("", {**_PULLED, **_RECORDS}),
    Variant("-n", _PLANNED),
    Variant("--locked without a name", {"models": [_PULLED], **_RECORDS}),
    Variant("--locked -n without a name", {"models": [_PLANNED]}),
)

_KEY: dict[str, Shape] = {"key": "text", "type": "text", "value": "any: null where it was not read"}
_INSPECT: dict[str, Shape] = {
    "files": say("all shards", ["text"]),
    "architecture": "text", "name": "text?", "parameters": "int",
    "file_type": {"id": "int?", "name": "text"},
    "bytes": "int",
    "gguf": {
        "version": "int", "byte_order": "=little|big", "alignment": "int", "keys": "int",
        "tensors": "int", "data_start": "int",
    },
    "tensor_bytes": say("bytes by type of tensor", {"*": "int"}),
    "context": "int?: tokens it was trained for",
    "known_architecture": "bool",
    "layers": say("layers that are alike", [{
        "kind": "text: full, sliding, chunked, latent, recurrent, shared", "indices": ["int"], "heads": "int",
        "kv_heads": "int", "head_dim_k": "int", "head_dim_v": "int", "window": "int?",
        "next_token_prediction": "bool",
    }]),
    "cache_tags": maybe({
        "type_k": "types", "type_v": "types", "balance": "text", "measured": "bool",
        "evidence": "text: JSON", "tool": "text",
    }),
    "balance": "text: none, weights, calibrated",
    "notes": ["text"],
}  # fmt: skip
INSPECT = (
    Variant("", _INSPECT),
    Variant("--tensors", {**_INSPECT, "tensors": [{**TENSOR, "offset": "int"}]}),
    Variant("--keys", {"keys": {"*": _KEY}}),
    Variant("--get KEY", _KEY),
)

PLAN = (
    Variant("", {
        "model": "text", "file": "text", "architecture": "text", "known": "bool",
        "upper_bound": "bool: the architecture is not known; sizes are upper bounds",
        "notes": ["text"],
        "layers": say("layers by kind", {"*": "int"}),
        "layout": "text: for people", "context_length": "int: trained for; 0 if not told",
        "weights_bytes": "int", "parallel": "int: sequences at a time", "ubatch": "int",
        "memory_bytes": "int?: of --memory",
        "overhead": {"bytes": "int", "assumption": "text"},
        "fits": "bool?: whether anything fits; null without --memory",
        "rows": say("a pair of types at a context", [{
            "context": "int", "origin": "text: standard, requested, tagged", "type_k": "types",
            "type_v": "types", "effective_k": "types: as the runtime has it", "effective_v": "types",
            "unusable": "text?: why not", "kv_bytes": "int?", "k_bytes": "int?", "v_bytes": "int?",
            "state_bytes": "int?: of recurrent layers",
            "by_kind": maybe({"*": "int"}, "bytes by kind of layer"),
            "total_bytes": "int?: with weights and overhead", "fits": "bool?",
        }]),
        "unusable": say("type, then k or v: why the model cannot have it", {"*": {"*": "text"}}),
        "usable": {"k": ["text"], "v": ["text"]},
        "largest_context": say("with --memory", [
            {"type_k": "types", "type_v": "types", "origin": "text", "context": "int: 0 if none fits"}
        ]),
        "recommendation": {
            "type_k": "types?", "type_v": "types?", "measured": "bool", "reasons": ["text"],
        },
    }),
)  # fmt: skip

_EDIT: dict[str, Shape] = {
    "file": "text", "output": "text", "dry_run": "bool",
    "method": "=unchanged|insert|edit|collapse|reflink|copy", "why": "text: this method",
    "steps": ["text"], "repaired": "bool: an interrupted run's file", "bytes_written": "int",
    "lease": "bool?: whether nobody had the file open; null where that was not asked",
    "shards": "int: files of the model",
}  # fmt: skip
TAG = (
    Variant("", {
        **_EDIT, **TAGS, "balance": "text: none, weights, calibrated",
        "evidence": "any: the word unmeasured, or the report", "reasons": ["text"],
    }),
)  # fmt: skip
UNTAG = (Variant("", _EDIT),)

BALANCE = (
    Variant("", {
        "file": "text", "output": "text", "dry_run": "bool", "method": "=reflink|copy", "why": "text",
        "architecture": "text", "balance": "=weights|calibrated", "folded_into": say("norms, rows", ["text"]),
        "rope_pairs": "text: which channels rotate together", "powers_of_two": "bool",
        "k_mean": "bool: whether the mean of K goes with it",
        "calibration_tokens": "int?", "predicted_gain_db": "number: less noise of logits",
        "tensors": say("that change", ["text"]),
        "layers": [{"layer": "int", "d_min": "number", "d_max": "number", "predicted_gain_db": "number"}],
        "bytes_changed": "int", "size": "int?",
        "rounding": say("of scales, by type of tensor", {"*": {
            "largest": "number", "rms": "number", "scales": "int", "subnormal": "int",
        }}),
    }),
)  # fmt: skip

MODELFILE = (
    Variant("", {
        "model": "text", "file": "text?: of -o", "state": "text?: written, unchanged, replaced",
        "commands": [{"kind": "text", "key": "text", "value": "text"}],
        "notes": ["text"], "modelfile": "text: all of it",
    }),
    Variant("--lint", {
        "file": "text", "ok": "bool",
        "findings": [{
            "line": "int: 0 is the whole file", "code": "text", "severity": "=error|warning",
            "message": "text", "hint": "text?",
        }],
    }),
)  # fmt: skip

_SIZED: dict[str, Shape] = {"digest": "digest", "bytes": "int"}
_INSTALL: dict[str, Shape] = {
    "name": "text", "store": "text", "status": "=new|replace|repair|unchanged", "dry_run": "bool",
    "manifest": "digest", "previous": "digest?: manifest that had the name", "model": _SIZED,
}  # fmt: skip
INSTALL = (
    Variant("", {
        **_INSTALL, "method": "=reflink|hardlink|symlink|copy?: null if the blob was there",
        "bytes_written": "int", "removed": say("blobs that nothing needs any more", ["digest"]),
    }),
    Variant("-n", {
        **_INSTALL, "needs_yes": "bool",
        "steps": [{"action": "=link|write|publish", "kind": "text", "digest": "digest", "bytes": "int"}],
    }),
    Variant("--remove", {
        "name": "text", "store": "text", "status": "=planned|removed", "dry_run": "bool",
        "needs_yes": "bool: not installed by tqconvert", "manifest": "digest", "removed": [_SIZED],
        "kept": say("blobs that other models need", [_SIZED]), "bytes_freed": "int",
        "unreadable": say("manifests that could not be read", ["text"]),
    }),
)  # fmt: skip

VERIFY = (
    Variant("", {
        "subject": "text", "ok": "bool", "digest": "digest: of the manifest, or of the file", "bytes": "int",
        "source": "digest?: before it was tagged",
        "tags": maybe({**TAGS, "balance": "text", "tool": "text"}),
        "checks": [{
            "subject": "text",
            "check": "=manifest|media_type|size|digest|gguf|content|tags|source", "ok": "bool",
            "detail": "text",
        }],
    }),
)  # fmt: skip

_DIGESTED: dict[str, Shape] = {**TENSOR, "digest": "digest"}
_FORMS: dict[str, Shape] = {
    "name": "text", "destination": "text: the first reference",
    "manifests": [{
        "form": "=ollama|oci|modelpack|docker", "reference": "text", "digest": "digest",
        "status": "=new|unchanged|replace", "previous": "digest?: what the tag named before",
    }],
}  # fmt: skip
PUSH = (
    Variant("", {
        **_FORMS,
        "state": "=pushed|unchanged",
        "blobs": [{
            **BLOB, "how": "=uploaded|mounted|present", "mounted_from": "text?: the repository",
        }],
        "bytes": "int: uploaded", "bytes_mounted": "int", "bytes_there": "int",
        "sent_bytes": "int: over the network, with what was sent twice",
        "resumed_from": "int: bytes that an earlier run had sent", "retries": "int", "seconds": "number",
    }),
    Variant("-n", {
        "dry_run": "bool: true",
        **_FORMS,
        "blobs": [{
            **BLOB, "there": "bool: the registry has it", "mount_from": say("repositories that have it", ["text"]),
        }],
        "missing_bytes": "int", "send_bytes": "int: of these, what no other repository has",
    }),
)  # fmt: skip

FINGERPRINT = (
    Variant("", {
        "model": "text", "fingerprint": "digest", "byte_order": "=little|big", "tensor_count": "int",
        "bytes": "int: of all tensors", "tensors?": say("--tensors", [_DIGESTED]),
        "against": maybe({
            "model": "text", "fingerprint": "digest", "equal": "int?: tensors; null against a digest",
            "changed": maybe([{
                "name": "text", "what": say("type, shape, data", ["text"]), "before": _DIGESTED,
                "after": _DIGESTED,
            }]),
            "missing": maybe(["text"], "the other model alone has them"), "added": maybe(["text"]),
        }, "--against"),
        "same": "bool?: null without --against",
    }),
)  # fmt: skip

SHARE = (
    Variant("", {
        "url": "text", "address": "text", "public": "bool: whether others can reach it",
        "store": "text", "models": say("names that can be pulled", ["text"]),
    }),
)  # fmt: skip

SERVE = (
    Variant("", {
        "dry_run": "bool", "model": "text", "file": "text", "url": "text", "command": ["text"],
        "context": "int", "parallel": "int", "types_from": "=flag|tag|default", "type_k": "types",
        "type_v": "types", "kv_bytes": "int", "weights_bytes": "int", "total_bytes": "int",
        "notes": ["text"],
    }),
)  # fmt: skip

_ESTIMATE: dict[str, Shape] = {
    "value": "number?", "error": "number?: one sigma", "low": "number?: of 95 %", "high": "number?",
}  # fmt: skip
_PAIR: dict[str, Shape] = {
    "name": "text", "type_k": "types", "type_v": "types", "origin": "text", "bits_per_value": "number?",
    "kv_mib": "number?: by the runtime's log",
}  # fmt: skip
_MEASURED: dict[str, Shape] = {
    "model": "text", "measure": "=ppl|kld", "file": "text", "balance": "text", "k_mean": "bool",
    "text": {"file": "text", "bytes": "int", "sha256": "text"},
    "n_ctx": "int", "n_chunks": "int", "n_scored": "int: tokens", "n_threads": "int?",
    "runtime": {
        "id": "text", "folder": "text", "patched": "bool?: null if not known", "version": "text?",
        "environment": {"*": "text"},
    },
}  # fmt: skip
_DIVERGENCE: dict[str, Shape] = {
    **_PAIR, "ppl": _ESTIMATE, "ppl_ratio": _ESTIMATE, "kld": _ESTIMATE,
    "kld_percentiles": {"*": "number?"}, "kld_by_chunk": ["number?"], "same_top_percent": _ESTIMATE,
    "delta_p_percent": _ESTIMATE, "delta_p_rms_percent": _ESTIMATE,
    "kld_net": "number?: above the noise floor",
}  # fmt: skip
QUALITY = (
    Variant("ppl", {
        **_MEASURED, "rows": [{**_PAIR, "ppl": _ESTIMATE, "running_ppl": ["number?"]}],
    }),
    Variant("kld", {
        **_MEASURED, "reference": "text",
        "base": {"file": "text?", "reused": "bool", "bytes": "int", "ppl": _ESTIMATE},
        "floor": maybe(_DIVERGENCE, "bf16/bf16"), "rows": [_DIVERGENCE],
    }),
)  # fmt: skip

DOCTOR = (
    Variant("", {
        "ok": "bool", "changed": "bool: false; nothing is repaired",
        "checks": [{"name": "text", "status": "=ok|note|fail", "detail": "text", "fix": "text?"}],
    }),
)  # fmt: skip
CONFIG_SHOW = (
    Variant("", {
        "settings": say("by name", {"*": {"value": "any", "origin": "text: where it comes from"}}),
    }),
)  # fmt: skip
_LEFT: dict[str, Shape] = {"paths": ["text"], "bytes": "int", "age_seconds": "int"}
CACHE_PRUNE = (
    Variant("", {
        "dry_run": "bool", "bytes": "int: freed", "removed": [_LEFT], "in_use": say("left alone", [_LEFT]),
    }),
)  # fmt: skip
ERROR = (
    Variant("", {
        "error": {"kind": "text: never changes", "message": "text: for people", "hint": "text?"},
    }),
)  # fmt: skip
