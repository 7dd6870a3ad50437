"""`tqconvert pull` of 4 GB from docker-registry on loopback, against what people do by hand.

Tagged: download, verify, gguf-new-metadata, hash, one after the other. Untagged: curl, then
openssl dgst. Everybody ends with the bytes on the disk: we sync, so the peers do. Runs alternate,
because disks are noisy; medians of three.
"""

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks.bench_tag import make_model
from tests.benchmarks.rows import Measured, Row, gemma, measure, mebibytes, seconds
from tests.conftest import running_docker_registry

SIZE = 4 * 10**9
RUNS = 3
TAGGED_RATIO = 0.5
PLAIN_RATIO = 1.15
MEMORY = 150 << 20
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def run(work: Path, *, n_bytes: int = SIZE) -> list[Row]:
    """Three rows: tagged, untagged, memory."""
    for tool in ("docker-registry", "curl", "openssl"):
        if not shutil.which(tool):
            raise SystemExit(f"the pull benchmark needs {tool}")
    with running_docker_registry(work) as address:
        port = int(address.rpartition(":")[2])
        return _measured(work, port, _push(work, port, n_bytes))


def _measured(work: Path, port: int, digest: str) -> list[Row]:
    url = f"http://127.0.0.1:{port}/v2/library/big/blobs/{digest}"
    name = f"127.0.0.1:{port}/library/big:1b"
    file, tagged_file, store = work / "peer.gguf", work / "peer-tagged.gguf", work / "store"
    curl = ["curl", "-sS", "--noproxy", "*", "-o", file, url]
    new_metadata = [
        Path(sys.executable).parent / "gguf-new-metadata", "--force", "--general-description",
        "tagged", file, tagged_file,
    ]  # fmt: skip
    by_hand = [curl, _dgst(file), new_metadata, _dgst(tagged_file), ["sync", tagged_file]]
    plain = [curl, _dgst(file), ["sync", file]]

    def ours(*flags: str) -> list[Sequence[str | os.PathLike[str]]]:
        return [[sys.executable, "-m", "tqconvert", "pull", name, "--store", store, "-q", *flags]]

    kinds = {"tag": ours(), "hand": by_hand, "no-tag": ours("--no-tag"), "plain": plain}
    found: dict[str, list[Measured]] = {kind: [] for kind in kinds}
    for _ in range(RUNS):
        for kind, steps in kinds.items():
            found[kind].append(_steps(steps, lambda: _clean(store, file, tagged_file)))
    tag, hand, no_tag, curl_openssl = (_median(found[kind]) for kind in kinds)
    memory = max(m.rss_bytes for m in found["tag"])
    return [
        _row("pull + tag 4 GB", tag, "download + verify + gguf-new-metadata + hash", hand, TAGGED_RATIO),
        _row("pull 4 GB untagged", no_tag, "curl + openssl dgst", curl_openssl, PLAIN_RATIO),
        Row("pull + tag 4 GB, memory", mebibytes(memory), "", "", "<= 150.0 MiB", memory <= MEMORY),
    ]  # fmt: skip


def _row(work: str, ours: float, peer_name: str, peer: float, bar: float) -> Row:
    return Row(
        work, seconds(ours), f"{peer_name} {seconds(peer)}", f"{ours / peer:.2f}", f"<= {bar}",
        ours / peer <= bar,
    )  # fmt: skip


def _median(runs: Sequence[Measured]) -> float:
    return statistics.median(m.seconds for m in runs)


def _steps(
    steps: Sequence[Sequence[str | os.PathLike[str]]], clean: Callable[[], None]
) -> Measured:
    """All steps one after the other, on an empty folder and a disk that has nothing left to write."""
    clean()
    os.sync()
    began, memory = time.perf_counter(), 0
    for step in steps:
        done = measure(step)
        if done.code:
            raise RuntimeError(f"{step[0]} ended with {done.code}")
        memory = max(memory, done.rss_bytes)
    return Measured(time.perf_counter() - began, memory, 0)


def _clean(store: Path, *files: Path) -> None:
    shutil.rmtree(store, ignore_errors=True)
    for file in files:
        file.unlink(missing_ok=True)


def _dgst(file: Path) -> list[str | Path]:
    return ["openssl", "dgst", "-sha256", file]


def _push(work: Path, port: int, n_bytes: int) -> str:
    """Put a model of 4 GB into the registry; the digest of its GGUF."""
    source = work / "source.gguf"
    make_model(gemma(), source, n_bytes)
    with source.open("rb") as f:
        digest = "sha256:" + hashlib.file_digest(f, "sha256").hexdigest()
    size = source.stat().st_size
    config = json.dumps({"model_format": "gguf", "model_family": "gemma3"}).encode()
    config_digest = "sha256:" + hashlib.sha256(config).hexdigest()
    _upload(port, digest, source)
    small = work / "config.json"
    small.write_bytes(config)
    _upload(port, config_digest, small)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": config_digest, "size": len(config),
        },
        "layers": [
            {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size}
        ],
    }  # fmt: skip
    _call(
        "PUT",
        f"http://127.0.0.1:{port}/v2/library/big/manifests/1b",
        json.dumps(manifest).encode(),
        _MANIFEST,
    )
    source.unlink()
    return digest


def _upload(port: int, digest: str, file: Path) -> None:
    location = _call("POST", f"http://127.0.0.1:{port}/v2/library/big/blobs/uploads/", b"", "")
    command = [
        "curl", "-sS", "--fail", "--noproxy", "*", "-X", "PUT", "-H",
        "Content-Type: application/octet-stream", "-T", file, f"{location}&digest={digest}",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _call(method: str, url: str, body: bytes, content_type: str) -> str:
    """One request; its Location."""
    request = urllib.request.Request(url, data=body, method=method)
    if content_type:
        request.add_header("Content-Type", content_type)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        return str(response.headers.get("Location", ""))
