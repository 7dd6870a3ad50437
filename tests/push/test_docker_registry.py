"""Push to a real registry and pull back: every form, byte for byte; and what other clients make of it."""

import hashlib
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import LLAMA, gguf_bytes
from conftest import free_port, stop, wait_for
from stores import check_store, put_model, sha256

from tqconvert.digest import digest_path
from tqconvert.gguf.tags import PAGE
from tqconvert.reference import ModelName
from tqconvert.store.layout import Store

Cli = Callable[..., tuple[int, str, str]]
PATH = "registry.ollama.ai/library/tiny/1b"
NAME = ModelName.parse("tiny:1b")
MODEL = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 1800)})
PROJECTOR = gguf_bytes({"general.architecture": "clip", "general.type": "projector"})
FORMS = ("oci", "modelpack", "docker")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a model that has one layer of most kinds."""
    put_model(
        tmp_path / "store", PATH, MODEL, template="{{ .Prompt }}", license="MIT",
        params='{"stop":["x"]}', system="You are.",
    )  # fmt: skip
    return tmp_path / "store"


def store_manifest(root: Path) -> dict[str, Any]:
    """The model's manifest."""
    return json.loads((root / "manifests" / PATH).read_bytes())


def call(url: str, method: str = "GET", accept: str = "*/*") -> tuple[bytes, dict[str, str]]:
    """One request without any code of ours."""
    request = urllib.request.Request(url, method=method, headers={"Accept": accept})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as response:
        return response.read(), dict(response.headers)


@pytest.mark.server
def test_ollamas_form_is_the_store_byte_for_byte(
    docker_registry: str, store: Path, tmp_path: Path, run_cli: Cli
) -> None:
    """The manifest that stock `ollama pull` asks for has the bytes of the store's; so have all blobs."""
    code, out, err = run_cli(
        "push", "tiny:1b", f"{docker_registry}/library/tiny:1b", "--store", store, "--json"
    )
    assert code == 0, err
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    data, headers = call(f"http://{docker_registry}/v2/library/tiny/manifests/1b", accept=docker)
    assert data == (store / "manifests" / PATH).read_bytes()
    assert headers["Content-Type"] == docker
    assert json.loads(out)["manifests"][0]["digest"] == sha256(data)
    for blob in (store / "blobs").iterdir():
        url = f"http://{docker_registry}/v2/library/tiny/blobs/{blob.name.replace('-', ':')}"
        assert call(url)[0] == blob.read_bytes()
    there = tmp_path / "there"
    name = f"{docker_registry}/library/tiny:1b"
    assert run_cli("pull", name, "--no-tag", "--as", "tiny:1b", "--store", there)[0] == 0
    assert (there / "manifests" / PATH).read_bytes() == data
    check_store(there)


@pytest.mark.server
def test_all_forms_over_one_upload(
    docker_registry: str, store: Path, tmp_path: Path, run_cli: Cli
) -> None:
    """Four tags, the weights once; oci and modelpack come back as the model that was pushed."""
    dest = f"{docker_registry}/deep/er/tiny:1b"
    code, out, err = run_cli("push", "tiny:1b", dest, "--form", "all", "--store", store, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["bytes"] < len(MODEL) + 8192
    for form in ("", "-oci", "-modelpack"):
        there = tmp_path / f"there{form}"
        code, out, err = run_cli(
            "pull", f"oci://{dest}{form}", "--no-tag", "--as", "tiny:1b", "--store", there, "--json"
        )
        assert code == 0, err
        assert store_manifest(there) == store_manifest(store)
        check_store(there)
    there = tmp_path / "docker"
    pull = (
        "pull",
        f"oci://{dest}-docker",
        "--no-tag",
        "--as",
        "tiny:1b",
        "--store",
        there,
        "--json",
    )
    assert run_cli(*pull)[0] == 0
    layers = {
        x["mediaType"].rpartition(".")[2]: x["digest"] for x in store_manifest(there)["layers"]
    }
    assert layers["model"] == sha256(MODEL)
    assert layers["license"] == sha256(b"MIT")
    assert run_cli("verify", "tiny:1b", "--store", there)[0] == 0
    code, out, _ = run_cli(*pull)
    assert json.loads(out)["state"] == "unchanged"


@pytest.mark.server
def test_a_manifest_by_its_digest(
    docker_registry: str, store: Path, tmp_path: Path, run_cli: Cli
) -> None:
    """`@sha256:` pins it, beside a tag or alone; another digest is an error, and so is a wrong tag."""
    dest = f"{docker_registry}/a/tiny"
    push = ("push", "tiny:1b", f"{dest}:1b", "--form", "oci", "--store", store, "-q")
    code, out, _ = run_cli(*push)
    assert code == 0
    pinned = out.strip()
    assert pinned.startswith(f"oci://{dest}:1b@sha256:")
    there = ("--no-tag", "--store", tmp_path / "there", "--json")
    assert run_cli("pull", pinned, *there)[0] == 0
    digest = pinned.partition("@")[2]
    code, out, _ = run_cli("pull", f"oci://{dest}@{digest}", *there)
    assert code == 0
    assert json.loads(out)["target"] == f"{dest}:{digest[7:19]}"
    for wrong in (
        f"oci://{dest}@sha256:{'0' * 64}",
        f"oci://{dest}:2b",
        f"oci://{docker_registry}/b",
    ):
        assert run_cli("pull", wrong, *there)[0] == 5


@pytest.mark.server
def test_a_projector_travels_with_its_model(
    docker_registry: str, tmp_path: Path, run_cli: Cli
) -> None:
    """In every form, and is a projector again when it comes back."""
    store = tmp_path / "store"
    put_model(store, PATH, MODEL, projector=PROJECTOR.decode("latin-1"))
    path = store / "manifests" / PATH
    wrong = store / "blobs" / sha256(PROJECTOR.decode("latin-1").encode()).replace(":", "-")
    right = store / "blobs" / sha256(PROJECTOR).replace(":", "-")
    wrong.rename(right)
    right.write_bytes(PROJECTOR)
    value = json.loads(path.read_bytes())
    value["layers"][1].update(digest=sha256(PROJECTOR), size=len(PROJECTOR))
    path.write_text(json.dumps(value))
    dest = f"{docker_registry}/a/tiny:1b"
    assert run_cli("push", "tiny:1b", dest, "--form", "all", "--store", store)[0] == 0
    for form in FORMS:
        there = tmp_path / form
        code, _, err = run_cli(
            "pull", f"oci://{dest}-{form}", "--no-tag", "--as", "tiny:1b", "--store", there
        )
        assert code == 0, err
        kinds = {x["mediaType"]: x["digest"] for x in store_manifest(there)["layers"]}
        assert kinds["application/vnd.ollama.image.projector"] == sha256(PROJECTOR)


@pytest.mark.server
@pytest.mark.slow
def test_the_real_model_there_and_back(
    docker_registry: str, gemma: Path, tmp_path: Path, run_cli: Cli
) -> None:
    """Gemma from a file in Docker's form; pulled back it is tagged, and the source's bytes are in it."""
    dest = f"{docker_registry}/ai/gemma3:270m"
    code, out, err = run_cli("push", gemma, dest, "--form", "docker", "--json")
    assert code == 0, err
    assert json.loads(out)["bytes"] > gemma.stat().st_size
    code, out, err = run_cli("pull", f"oci://{dest}", "--store", tmp_path / "there", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["digests"]["source_model"] == str(digest_path(gemma))
    with Path(document["model"]).open("rb") as f:
        f.seek(PAGE)
        assert "sha256:" + hashlib.file_digest(f, "sha256").hexdigest() == str(digest_path(gemma))


@pytest.mark.server
def test_skopeo_brings_a_form_to_another_repository(
    docker_registry: str, store: Path, tmp_path: Path, run_cli: Cli
) -> None:
    """What skopeo copied is the same model, and what it pushed can be pulled."""
    skopeo = shutil.which("skopeo")
    if not skopeo:
        pytest.skip("needs skopeo (apt-get install skopeo)")
    dest = f"{docker_registry}/me/tiny:1b"
    assert run_cli("push", "tiny:1b", dest, "--form", "all", "--store", store)[0] == 0
    for form in FORMS:
        copy = [
            skopeo, "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false",
            f"docker://{dest}-{form}", f"docker://{docker_registry}/mirror/{form}:x",
        ]  # fmt: skip
        done = subprocess.run(copy, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        there = tmp_path / form
        name = f"oci://{docker_registry}/mirror/{form}:x"
        assert run_cli("pull", name, "--no-tag", "--as", "tiny:1b", "--store", there)[0] == 0
        assert (
            Store(there).blob(Store(there).require_manifest(NAME).layers[0].digest).read_bytes()
            == MODEL
        )


def put(url: str, body: bytes, content_type: str) -> str:
    """PUT without any code of ours; the digest of the body."""
    request = urllib.request.Request(
        url, data=body, method="PUT", headers={"Content-Type": content_type}
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()
    return sha256(body)


OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def put_artifact(
    registry: str, repository: str, tag: str, files: dict[str, bytes]
) -> tuple[str, int]:
    """What `oras push registry/repository:tag FILE...` makes; digest and size of its manifest."""

    def blob(data: bytes) -> dict[str, Any]:
        start = urllib.request.Request(
            f"http://{registry}/v2/{repository}/blobs/uploads/", data=b"", method="POST"
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(start, timeout=30) as answer:
            where = answer.headers["Location"]
        put(f"{where}&digest={sha256(data)}", data, "application/octet-stream")
        return {"digest": sha256(data), "size": len(data)}

    layers = [
        {"mediaType": "application/octet-stream", **blob(data),
         "annotations": {"org.opencontainers.image.title": name}}
        for name, data in files.items()
    ]  # fmt: skip
    config = {"mediaType": "application/vnd.oci.empty.v1+json", **blob(b"{}")}
    value = {
        "schemaVersion": 2, "mediaType": OCI, "artifactType": "application/vnd.unknown.artifact.v1",
        "config": config, "layers": layers,
    }  # fmt: skip
    body = json.dumps(value).encode()
    return put(f"http://{registry}/v2/{repository}/manifests/{tag}", body, OCI), len(body)


@pytest.mark.server
def test_artifacts_and_indexes_of_other_tools(
    docker_registry: str, tmp_path: Path, run_cli: Cli
) -> None:
    """A file pushed by oras; an index of one weight; an index of two, of which one must be named."""
    other = gguf_bytes(LLAMA, fill=9)
    one = put_artifact(docker_registry, "a/m", "one", {"m.gguf": MODEL, "LICENSE": b"MIT"})
    two = put_artifact(docker_registry, "a/m", "two", {"renamed.gguf": MODEL})
    three = put_artifact(docker_registry, "a/m", "three", {"other.gguf": other})
    readme = put_artifact(docker_registry, "a/m", "readme", {"README.md": b"# no model"})

    def index(tag: str, *entries: tuple[str, int]) -> None:
        value = {
            "schemaVersion": 2, "mediaType": INDEX,
            "manifests": [{"mediaType": OCI, "digest": d, "size": n} for d, n in entries],
        }  # fmt: skip
        url = f"http://{docker_registry}/v2/a/m/manifests/{tag}"
        put(url, json.dumps(value).encode(), INDEX)

    index("same", readme, one, two)
    index("different", one, three)
    index("nothing", readme)

    def pull(reference: str, name: str) -> tuple[int, dict[str, Any]]:
        code, out, _ = run_cli(
            "pull", f"oci://{docker_registry}/a/m{reference}", "--no-tag", "--as", f"{name}:1",
            "--store", tmp_path / "there", "--json",
        )  # fmt: skip
        return code, json.loads(out)

    for reference in (":one", ":same", f"@{one[0]}"):
        code, document = pull(reference, f"m{len(reference)}")
        assert code == 0
        assert document["digests"]["source_model"] == sha256(MODEL)
    code, document = pull(":different", "d")
    assert (code, document["error"]["kind"]) == (2, "usage")
    assert "an index of 2 different models" in document["error"]["message"]
    hint = document["error"]["hint"]
    assert hint == f"name one: oci://{docker_registry}/a/m@{one[0]}"
    assert pull(f"@{three[0]}", "d")[1]["digests"]["source_model"] == sha256(other)
    for reference in (":nothing", ":readme"):
        assert pull(reference, "n")[0] == 5
    check_store(tmp_path / "there")


@pytest.fixture
def closed_registry(tmp_path: Path) -> Iterator[str]:
    """A docker-registry that wants user me and password secret (bcrypt, by libxcrypt's crypt(3))."""
    program = shutil.which("docker-registry")
    if not program:
        pytest.skip("needs docker-registry (apt-get install docker-registry)")
    port = free_port()
    (tmp_path / "htpasswd").write_text(
        "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
    )
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', debug: {{addr: '127.0.0.1:{free_port()}'}}}}\n"
        f"auth: {{htpasswd: {{realm: r, path: {tmp_path}/htpasswd}}}}\n"
    )
    process = subprocess.Popen(
        [program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_answer(f"http://127.0.0.1:{port}/v2/", process)
        yield f"127.0.0.1:{port}"
    finally:
        stop(process)


def wait_for_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers at all: 401 is what it says without a password."""
    import time

    for _ in range(300):
        assert process.poll() is None, "the registry ended"
        try:
            wait_for(url, process, seconds=0.1)
        except (OSError, RuntimeError) as e:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            try:
                opener.open(url, timeout=2)
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
            del e
    raise RuntimeError(f"no answer from {url}")


@pytest.mark.server
def test_a_registry_with_a_password(
    closed_registry: str, store: Path, tmp_path: Path, run_cli: Cli
) -> None:
    """Refused without, accepted with what `docker login` writes; both kinds of pull know it too."""
    push = ("push", "tiny:1b", f"{closed_registry}/me/tiny:1b", "--store", store, "--json")
    code, out, _ = run_cli(*push)
    assert (code, json.loads(out)["error"]["kind"]) == (12, "auth")
    config = Path(os.environ["HOME"]) / ".docker/config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"auths": {closed_registry: {"auth": "bWU6c2VjcmV0"}}}))
    assert run_cli(*push)[0] == 0
    for name in (f"oci://{closed_registry}/me/tiny:1b", f"{closed_registry}/me/tiny:1b"):
        there = tmp_path / name.partition(":")[0]
        code, _, err = run_cli("pull", name, "--no-tag", "--as", "tiny:1b", "--store", there)
        assert code == 0, err
        assert store_manifest(there) == store_manifest(store)


@pytest.mark.server
def test_a_tagged_file_says_what_it_was_made_of(
    docker_registry: str, tmp_path: Path, run_cli: Cli
) -> None:
    """As `install` writes it: `verify` proves after a pull that only the tag page was added."""
    file = tmp_path / "m.gguf"
    file.write_bytes(MODEL)
    assert run_cli("tag", file, "--type-k", "q8_0", "--type-v", "turbo4", "-q")[0] == 0
    dest = f"{docker_registry}/a/tagged:1"
    assert run_cli("push", file, dest, "--form", "modelpack", "--form", "docker", "-q")[0] == 0
    for tag in (dest, f"{dest}-docker"):
        there = tmp_path / tag.rpartition(":")[2]
        assert run_cli("pull", f"oci://{tag}", "--as", "t:1", "--store", there, "-q")[0] == 0
        code, out, _ = run_cli("verify", "t:1", "--store", there, "--json")
        assert code == 0
        assert json.loads(out)["source"] == sha256(MODEL)
        assert "source" in {c["check"] for c in json.loads(out)["checks"]}
