"""What a valid Ollama store is, checked without any code of ours; and small stores to start from."""

import hashlib
import json
from pathlib import Path
from typing import Any

DEFAULT = ("registry.ollama.ai", "library")
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."


def sha256(data: bytes) -> str:
    """Digest of the bytes, as manifests write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def check_store(root: Path) -> set[str]:
    """Assert that every blob is what its name says and every manifest has its blobs.

    Returns the names of the models: host/namespace/model/tag.
    """
    for blob in (root / "blobs").glob("*"):
        if blob.name != ".tqconvert":
            assert blob.name == sha256(blob.read_bytes()).replace(":", "-"), blob
    names = set()
    for path in (root / "manifests").rglob("*"):
        if path.is_dir():
            continue
        manifest = json.loads(path.read_bytes())
        for layer in (manifest["config"], *manifest["layers"]):
            blob = root / "blobs" / layer["digest"].replace(":", "-")
            assert blob.stat().st_size == layer["size"], (path, layer)
        name = path.relative_to(root / "manifests")
        assert len(name.parts) == 4, f"{name}: no model's name"
        names.add(str(name))
    return names


def snapshot(root: Path) -> dict[str, bytes]:
    """All files of a store that are not ours alone, with their bytes."""
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in root.rglob("*")
        if p.is_file() and ".tqconvert" not in p.parts
    }


def put_blob(root: Path, data: bytes) -> dict[str, Any]:
    """Put a blob into a store; digest and size as in a layer."""
    digest = sha256(data)
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    (root / "blobs" / digest.replace(":", "-")).write_bytes(data)
    return {"digest": digest, "size": len(data)}


def put_manifest(root: Path, name: str, value: Any) -> Path:
    """Write a manifest (bytes, or anything as JSON) under host/namespace/model/tag."""
    path = root / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def put_model(root: Path, name: str, weights: bytes, **texts: str) -> dict[str, Any]:
    """A model as Ollama would have pulled it, without a word of ours; returns its manifest."""
    config = {"mediaType": CONFIG_TYPE, **put_blob(root, b'{"model_format":"gguf"}')}
    layers = [{"mediaType": LAYER_TYPE + "model", **put_blob(root, weights)}]
    for kind, text in texts.items():
        layers.append({"mediaType": LAYER_TYPE + kind, **put_blob(root, text.encode())})
    value = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers}
    put_manifest(root, name, value)
    return value
