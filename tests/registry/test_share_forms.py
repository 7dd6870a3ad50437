"""`share` gives every form of a model, and fifty clients at once get the right bytes."""

import hashlib
import http.client
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from builders import LLAMA, gguf_bytes
from stores import MANIFEST_TYPE, put_model, sha256

from tqconvert.forms.types import MODELPACK_CONFIG_TYPE, OCI_MANIFEST_TYPE, OLLAMA_TYPE_KEY
from tqconvert.reference import ModelName
from tqconvert.registry import serve
from tqconvert.registry.serve import Server, serve_store
from tqconvert.store.layout import Store

PATH = "registry.ollama.ai/library/tiny/1b"
MODEL = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 1000)})
CLIENTS = 50


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one GGUF model that has a licence."""
    put_model(tmp_path / "store", PATH, MODEL, license="MIT", template="{{ .Prompt }}")
    return tmp_path / "store"


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    """That store, served."""
    with serve_store(Store(root)) as running:
        yield running


def ask(server: Server | str, path: str, accept: str = "") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one GET."""
    netloc = urlsplit(server if isinstance(server, str) else server.url).netloc
    connection = http.client.HTTPConnection(netloc, timeout=30)
    try:
        connection.request("GET", path, headers={"Accept": accept} if accept else {})
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("form", ["oci", "modelpack", "docker"])
def test_a_suffix_of_the_tag_names_the_form(server: Server, form: str) -> None:
    """The manifest has the OCI type, comes by its digest too, and each of its blobs is served."""
    status, headers, data = ask(server, f"/v2/library/tiny/manifests/1b-{form}")
    assert (status, headers["Content-Type"]) == (200, OCI_MANIFEST_TYPE)
    assert headers["Docker-Content-Digest"] == sha256(data)
    assert ask(server, f"/v2/library/tiny/manifests/{sha256(data)}")[2] == data
    value = json.loads(data)
    for layer in (value["config"], *value["layers"]):
        status, _, blob = ask(server, f"/v2/library/tiny/blobs/{layer['digest']}")
        assert (status, sha256(blob), len(blob)) == (200, layer["digest"], layer["size"])
    assert sha256(MODEL) in [layer["digest"] for layer in value["layers"]]


def test_a_client_of_oci_manifests_alone_gets_one_under_the_plain_tag(server: Server) -> None:
    """Whoever takes Docker's type, or anything, gets the store's own bytes."""
    path = "/v2/library/tiny/manifests/1b"
    assert ask(server, path, OCI_MANIFEST_TYPE)[1]["Content-Type"] == OCI_MANIFEST_TYPE
    for accept in ("", "*/*", MANIFEST_TYPE, f"{OCI_MANIFEST_TYPE}, {MANIFEST_TYPE}", "text/html"):
        assert ask(server, path, accept)[1]["Content-Type"] == MANIFEST_TYPE, accept


def test_a_tag_of_a_model_wins_over_a_form(root: Path, server: Server) -> None:
    """A model named 1b-oci is that model; tags of forms are not listed."""
    put_model(root, "registry.ollama.ai/library/tiny/1b-oci", MODEL)
    status, headers, _ = ask(server, "/v2/library/tiny/manifests/1b-oci")
    assert (status, headers["Content-Type"]) == (200, MANIFEST_TYPE)
    assert json.loads(ask(server, "/v2/library/tiny/tags/list")[2])["tags"] == ["1b", "1b-oci"]
    assert ask(server, "/v2/library/tiny/manifests/2b-oci")[0] == 404
    assert ask(server, "/v2/library/tiny/manifests/1b-nothing")[0] == 404


def test_a_model_without_a_gguf_has_the_forms_that_need_none(root: Path, server: Server) -> None:
    """Ollama's layers in an OCI manifest; no ModelPack of bytes that nobody can describe."""
    put_model(root, "registry.ollama.ai/library/odd/1", b"no gguf")
    assert ask(server, "/v2/library/odd/manifests/1-oci")[0] == 200
    assert ask(server, "/v2/library/odd/manifests/1-modelpack")[0] == 404


def test_modelpack_says_what_the_layers_are(server: Server) -> None:
    """Config by the specification, Ollama's types in annotations, its config beside them."""
    value = json.loads(ask(server, "/v2/library/tiny/manifests/1b-modelpack")[2])
    assert value["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert value["config"]["mediaType"] == MODELPACK_CONFIG_TYPE
    config = json.loads(ask(server, f"/v2/library/tiny/blobs/{value['config']['digest']}")[2])
    assert set(config) == {"descriptor", "modelfs", "config"}
    assert config["config"]["format"] == "gguf"
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in value["layers"]]
    kinds = [x["annotations"][OLLAMA_TYPE_KEY].rpartition(".")[2] for x in value["layers"]]
    assert kinds[:3] == ["model", "license", "template"]


@pytest.mark.server
@pytest.mark.parametrize("form", ["oci", "modelpack", "docker"])
def test_skopeo_copies_the_forms(server: Server, tmp_path: Path, form: str) -> None:
    """A client that is not ours, into an OCI layout: the same blobs."""
    skopeo = shutil.which("skopeo")
    if not skopeo:
        pytest.skip("needs skopeo (apt-get install skopeo)")
    name = f"docker://{urlsplit(server.url).netloc}/library/tiny:1b-{form}"
    done = subprocess.run(
        [skopeo, "copy", "--insecure-policy", "--src-tls-verify=false", name,
         f"oci:{tmp_path}/layout:x"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    blob = tmp_path / "layout/blobs/sha256" / sha256(MODEL).removeprefix("sha256:")
    assert blob.read_bytes() == MODEL


@pytest.mark.parametrize("form", ["oci", "modelpack"])
def test_a_form_comes_back_as_the_model_that_it_is(
    root: Path, server: Server, tmp_path: Path, run_cli, form: str
) -> None:
    """Serve here, pull oci:// there: template, licence and config are those of the store."""
    name = f"oci://{urlsplit(server.url).netloc}/library/tiny:1b-{form}"
    code, _, err = run_cli("pull", name, "--no-tag", "--as", "t:1", "--store", tmp_path / "there")
    assert code == 0, err
    got = json.loads(Store(tmp_path / "there").require_manifest(ModelName.parse("t:1")).data)
    assert got == json.loads((root / "manifests" / PATH).read_bytes())


def rss_and_descriptors(pid: int) -> tuple[int, int]:
    """Largest resident memory of the process in KiB, and its open files."""
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]), len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.server
def test_fifty_clients_at_once(root: Path) -> None:
    """Each fetches a form and all of its blobs by ranges: every digest is right; memory and files stay.

    The server is a process of its own, limited to 256 descriptors as macOS does it.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc; not on macOS")
    few = 'ulimit -n 256; exec "$@"'
    process = subprocess.Popen(
        ["sh", "-c", few, "sh", sys.executable, "-m", "tqconvert", "share", "-l", "127.0.0.1:0",
         "--store", root, "-q"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        url = process.stdout.readline().strip()
        ask(url, "/v2/library/tiny/manifests/1b-modelpack")
        before = rss_and_descriptors(process.pid)
        problems: list[str] = []
        start = threading.Barrier(CLIENTS)

        def client(i: int) -> None:
            try:
                start.wait(30)
                pull_all(url, ("1b", "1b-oci", "1b-modelpack", "1b-docker")[i % 4], keep=i % 2 == 0)
            except Exception as e:
                problems.append(f"{i}: {e!r}")

        threads = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(120)
        assert problems == []
        for connection in KEPT:
            connection.close()
        for _ in range(100):
            after = rss_and_descriptors(process.pid)
            if after[1] <= before[1]:
                break
            threading.Event().wait(0.1)
        assert after[1] <= before[1]
        assert after[0] - before[0] < 40 << 10, "grew by more than 40 MiB"
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


KEPT: list[http.client.HTTPConnection] = []


def pull_all(url: str, tag: str, *, keep: bool) -> None:
    """Manifest and blobs on three connections; raises if a digest is wrong. Leaves some of them open."""
    connections = [http.client.HTTPConnection(urlsplit(url).netloc, timeout=60) for _ in range(3)]

    def get(n: int, path: str, **headers: str) -> bytes:
        for attempt in range(3):  # an idle connection may have given way to another client
            try:
                connections[n].request("GET", path, headers=headers)
                return connections[n].getresponse().read()
            except (http.client.HTTPException, OSError):
                connections[n].close()
                if attempt == 2:
                    raise
        raise AssertionError

    manifest = json.loads(get(0, f"/v2/library/tiny/manifests/{tag}"))
    for layer in (manifest["config"], *manifest["layers"]):
        found, at, step = hashlib.sha256(), 0, 1 << 20
        while at < layer["size"]:
            n = at // step % 3
            body = get(
                n, f"/v2/library/tiny/blobs/{layer['digest']}",
                Range=f"bytes={at}-{min(at + step, layer['size']) - 1}",
            )  # fmt: skip
            found.update(body)
            at += len(body)
        assert f"sha256:{found.hexdigest()}" == layer["digest"]
    if keep:
        KEPT.extend(connections)
    else:
        for connection in connections:
            connection.close()


def test_idle_connections_give_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that keep connections open and ask for nothing do not keep others out."""
    monkeypatch.setattr(serve, "connection_limit", lambda: 8)
    with serve_store(Store(root)) as server:
        host, port = urlsplit(server.url).netloc.split(":")
        sleepers = [socket.create_connection((host, int(port)), timeout=10) for _ in range(20)]
        for _ in range(12):
            assert ask(server, "/v2/")[0] == 200
        for s in sleepers:
            s.close()


def test_the_limit_follows_the_descriptors() -> None:
    """Two for each connection and some to spare; never more than fifty clients of Ollama need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        limit = serve.connection_limit()
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert raised >= min(soft, serve.DESCRIPTORS)
        assert limit == min(serve.MAX_CONNECTIONS, (raised - 64) // 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
