"""Pull from real registries: Debian's docker-registry, and our own `share`."""

import hashlib
import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tqconvert.digest import digest_path
from tqconvert.gguf.tags import PAGE
from tqconvert.reference import ModelName
from tqconvert.registry.serve import serve_store
from tqconvert.store.layout import Store

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"


def call(method: str, url: str, body: bytes = b"", content_type: str = "") -> dict[str, str]:
    """One request; the headers of its answer."""
    headers = {"Content-Type": content_type} if content_type else {}
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        return dict(response.headers)


def push(registry: str, repository: str, tag: str, model: Path) -> None:
    """Put a model into a registry as Ollama's own push does: blobs, then the manifest."""

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        where = call("POST", f"http://{registry}/v2/{repository}/blobs/uploads/")["Location"]
        call("PUT", f"{where}&digest={digest}", data, "application/octet-stream")
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    config = blob(b'{"model_format":"gguf","model_family":"gemma3"}', CONFIG)
    layer = blob(model.read_bytes(), "application/vnd.ollama.image.model")
    body = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
    call(
        "PUT",
        f"http://{registry}/v2/{repository}/manifests/{tag}",
        json.dumps(body).encode(),
        MANIFEST,
    )


@pytest.mark.server
@pytest.mark.slow
def test_gemma_from_docker_registry(docker_registry, gemma, tmp_path, run_cli) -> None:
    """The real model from a real registry, by ranges: verified, tagged, and verified again."""
    push(docker_registry, "library/gemma3", "270m", gemma)
    store = Store(tmp_path / "store")
    code, out, err = run_cli(
        "pull", f"{docker_registry}/library/gemma3:270m", "--as", "gemma3:270m-tq",
        "--store", store.root, "--json",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(out)
    assert document["digests"]["source_model"] == str(digest_path(gemma))
    assert document["tags"] == {"type_k": "q8_0", "type_v": "turbo4", "measured": False}
    file = Path(document["model"])
    with file.open("rb") as f:
        f.seek(PAGE)
        assert "sha256:" + hashlib.file_digest(f, "sha256").hexdigest() == str(digest_path(gemma))
    assert run_cli("verify", "gemma3:270m-tq", "--store", store.root)[0] == 0


@pytest.mark.server
@pytest.mark.slow
def test_gemma_from_share(gemma, tmp_path, run_cli) -> None:
    """One store serves another: install here, share, pull there; the tagged model travels too."""
    here, there, third = (tmp_path / name for name in ("here", "there", "third"))
    assert run_cli("install", gemma, "--as", "gemma3:270m", "--store", here, "-q")[0] == 0
    with serve_store(Store(here), "127.0.0.1", 0) as server:
        name = f"{server.url.removeprefix('http://')}/library/gemma3:270m"
        code, _, err = run_cli("pull", name, "--as", "gemma3:270m-tq", "--store", there, "-q")
        assert code == 0, err
    with serve_store(Store(there), "127.0.0.1", 0) as server:
        name = f"{server.url.removeprefix('http://')}/library/gemma3:270m-tq"
        assert run_cli("pull", name, "--as", "gemma3:270m-tq", "--store", third, "-q")[0] == 0
    model = ModelName.parse("gemma3:270m-tq")
    manifests = [Store(root).require_manifest(model) for root in (there, third)]
    assert manifests[0].data == manifests[1].data
    assert run_cli("verify", "gemma3:270m-tq", "--store", third)[0] == 0


@pytest.mark.server
def test_curl_and_pull_agree(docker_registry, tmp_path, run_cli) -> None:
    """What curl fetches from the registry is what an untagged pull installs."""
    curl = shutil.which("curl")
    if not curl:
        pytest.skip("needs curl")
    from builders import tiny_gguf

    model = tiny_gguf(tmp_path / "m.gguf", tensors={"token_embd.weight": (1024, 5000)})
    push(docker_registry, "ns/tiny", "1b", model)
    url = f"http://{docker_registry}/v2/ns/tiny/blobs/{digest_path(model)}"
    fetched = tmp_path / "curl"
    subprocess.run([curl, "-sS", "--noproxy", "*", "-o", fetched, url], check=True)
    code, _, _ = run_cli(
        "pull", f"{docker_registry}/ns/tiny:1b", "--no-tag", "--to", tmp_path / "out"
    )
    assert code == 0
    assert (tmp_path / "out" / "tiny-1b.gguf").read_bytes() == fetched.read_bytes()


def test_an_oci_address_goes_through_the_same_engine(tmp_path, run_cli) -> None:
    """Cuts are resumed, an anonymous token is fetched, a wrong byte is found, the model is tagged."""
    from builders import LLAMA, gguf_bytes
    from fakeregistry import FakeRegistry

    model = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 3000)})
    with FakeRegistry(model, license=b"MIT") as registry:
        registry.faults.cut_at, registry.faults.token = [2_000_000, 1_000_000], "t"
        pull = ("pull", f"oci://{registry.name}", "--store", tmp_path / "store", "--json")
        code, out, err = run_cli(*pull)
        assert code == 0, err
        document = json.loads(out)
        assert document["target"] == f"127.0.0.1:{registry.port}/library/tiny:1b-tq"
        assert (document["retries"], document["bytes"]) == (
            2,
            sum(map(len, registry.blobs.values())),
        )
        assert document["tags"]["type_v"] == "turbo4"
        assert json.loads(run_cli(*pull)[1])["state"] == "unchanged"
        registry.faults.corrupt_at = 5_000_000
        code, out, _ = run_cli(*pull[:2], "--store", tmp_path / "other", "--json")
        assert (code, json.loads(out)["error"]["kind"]) == (4, "digest_mismatch")
