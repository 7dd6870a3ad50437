"""A store served as a registry: what is given, what is not, and to whom."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import MANIFEST_TYPE, put_blob, put_manifest, put_model, sha256

from tqconvert.errors import NotFoundError, StorageError, UsageError
from tqconvert.registry.serve import Server, parse_listen, serve_store
from tqconvert.store.layout import Store

WEIGHTS = bytes(range(256)) * 5000
PATH = "registry.ollama.ai/library/tiny/1b"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one model."""
    put_model(tmp_path / "store", PATH, WEIGHTS, license="MIT")
    return tmp_path / "store"


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    """That store, served."""
    with serve_store(Store(root)) as running:
        yield running


class Client:
    """One keep-alive connection."""

    def __init__(self, server: Server) -> None:
        self.http = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)

    def ask(self, path: str, method: str = "GET", **headers: str):
        """(status, headers, body)."""
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        self.http.request(method, path, headers=named)
        r = self.http.getresponse()
        return r.status, r.headers, r.read()

    def raw(self, request: bytes) -> bytes:
        """Send bytes on a connection of their own; all that comes back."""
        with socket.create_connection((self.http.host, self.http.port), timeout=10) as s:
            s.sendall(request)
            s.shutdown(socket.SHUT_WR)
            parts = []
            while part := s.recv(65536):
                parts.append(part)
        return b"".join(parts)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of that server."""
    c = Client(server)
    yield c
    c.http.close()


BLOB = f"/v2/library/tiny/blobs/{sha256(WEIGHTS)}"


def test_a_manifest_comes_byte_for_byte_by_tag_and_by_digest(root: Path, client: Client) -> None:
    """With its digest, its type and, for HEAD, its length."""
    data = (root / "manifests" / PATH).read_bytes()
    for reference in ("1b", sha256(data)):
        status, headers, body = client.ask(f"/v2/library/tiny/manifests/{reference}")
        assert (status, body) == (200, data)
        assert headers["Docker-Content-Digest"] == sha256(data)
        assert headers["Content-Type"] == MANIFEST_TYPE
        status, headers, body = client.ask(f"/v2/library/tiny/manifests/{reference}", "HEAD")
        assert (status, headers["Content-Length"], body) == (200, str(len(data)), b"")


def test_a_whole_blob_names_its_own_location(server: Server, client: Client) -> None:
    """Stock `ollama pull` reads Location from a 200 and fetches ranges from there."""
    status, headers, body = client.ask(BLOB)
    assert (status, body) == (200, WEIGHTS)
    assert headers["Location"]  # urljoin takes None for the same page
    assert urljoin(server.url + BLOB, headers["Location"]) == server.url + BLOB
    assert headers["ETag"] == f'"{sha256(WEIGHTS)}"'
    assert headers["Accept-Ranges"] == "bytes"
    assert client.ask(BLOB, "HEAD")[1]["Content-Length"] == str(len(WEIGHTS))
    assert server.served == len(WEIGHTS)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=5-99", 5, 100), ("bytes=1279990-", 1279990, 1280000),
     ("bytes=-7", 1279993, 1280000), ("bytes=10-99999999", 10, 1280000),
     ("bytes=-99999999", 0, 1280000)],
)  # fmt: skip
def test_ranges_are_partial_content(client: Client, asked: str, start: int, end: int) -> None:
    """206 with the range in Content-Range; HEAD says the same."""
    for method in ("GET", "HEAD"):
        status, headers, body = client.ask(BLOB, method, Range=asked)
        assert status == 206
        assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(WEIGHTS)}"
        assert headers["Content-Length"] == str(end - start)
        assert body == (WEIGHTS[start:end] if method == "GET" else b"")


@pytest.mark.parametrize("asked", ["bytes=1280000-", "bytes=9999999-99999999", "bytes=-0"])
def test_a_range_behind_the_end_is_416(client: Client, asked: str) -> None:
    """With the size, and a connection that can be used again."""
    status, headers, _ = client.ask(BLOB, Range=asked)
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(WEIGHTS)}")
    assert client.ask("/v2/")[0] == 200


@pytest.mark.parametrize(
    "asked", ["bytes=9-5", "bytes=", "bytes=-", "bytes=1-2,4-5", "lines=1-2", "bytes=" + "9" * 99]
)
def test_what_is_no_single_range_gets_the_whole(client: Client, asked: str) -> None:
    """RFC 9110 14.2: a server may ignore Range."""
    assert client.ask(BLOB, Range=asked)[::2] == (200, WEIGHTS)


def test_conditions_are_kept(client: Client) -> None:
    """If-None-Match saves the body; If-Range with another tag gives the whole."""
    etag = f'"{sha256(WEIGHTS)}"'
    assert client.ask(BLOB, If_None_Match=etag)[::2] == (304, b"")
    assert client.ask(BLOB, Range="bytes=0-3", If_Range=etag)[0] == 206
    assert client.ask(BLOB, Range="bytes=0-3", If_Range='"other"')[0] == 200


def test_one_connection_serves_many_requests(client: Client) -> None:
    """Errors included; nothing of one answer is left in the next."""
    for path, status in (("/v2/", 200), ("/x", 404), (BLOB, 200), ("/v2", 200)) * 3:
        client.http.request("GET", path)
        connection = client.http.sock
        response = client.http.getresponse()
        response.read()
        assert response.status == status
        assert client.http.sock is connection


def test_the_shelf_is_listed(client: Client) -> None:
    """Repositories and tags, sorted."""
    assert json.loads(client.ask("/v2/_catalog")[2]) == {"repositories": ["library/tiny"]}
    tags = json.loads(client.ask("/v2/library/tiny/tags/list")[2])
    assert tags == {"name": "library/tiny", "tags": ["1b"]}
    assert client.ask("/v2/library/none/tags/list")[0] == 404


def test_models_come_and_go_without_a_restart(root: Path, client: Client) -> None:
    """Manifests are read when they are asked for."""
    put_model(root, "registry.ollama.ai/me/new/x", b"new weights")
    assert client.ask("/v2/me/new/manifests/x")[0] == 200
    blob = f"/v2/me/new/blobs/{sha256(b'new weights')}"
    assert client.ask(blob)[::2] == (200, b"new weights")
    (root / "manifests/registry.ollama.ai/me/new/x").unlink()
    assert client.ask("/v2/me/new/manifests/x")[0] == 404
    assert client.ask(blob)[0] == 404


def test_the_host_of_a_model_is_not_asked_for(root: Path, client: Client) -> None:
    """hf.co/org/m:t is served as org/m:t; a name of two hosts is Ollama's registry's."""
    put_model(root, "hf.co/org/m/t", b"from hf")
    put_model(root, "hf.co/library/tiny/1b", b"not this one")
    put_model(root, "a.example/library/tiny/1b", b"nor this")
    manifest = json.loads(client.ask("/v2/org/m/manifests/t")[2])
    assert manifest["layers"][0]["digest"] == sha256(b"from hf")
    manifest = json.loads(client.ask("/v2/library/tiny/manifests/1b")[2])
    assert manifest["layers"][0]["digest"] == sha256(WEIGHTS)


def test_only_what_a_manifest_names_is_served(root: Path, tmp_path: Path, client: Client) -> None:
    """Not orphans, not blobs of another repository, not broken manifests, not folders or pipes."""
    orphan = put_blob(root, b"secret")["digest"]
    assert client.ask(f"/v2/library/tiny/blobs/{orphan}")[0] == 404
    put_model(root, "registry.ollama.ai/me/other/x", b"other")
    assert client.ask(f"/v2/library/tiny/blobs/{sha256(b'other')}")[0] == 404
    put_manifest(root, "registry.ollama.ai/me/broken/x", b"{")
    assert client.ask("/v2/me/broken/manifests/x")[0] == 404
    blob = root / "blobs" / sha256(WEIGHTS).replace(":", "-")
    blob.unlink()
    assert client.ask(BLOB)[0] == 404
    blob.mkdir()
    assert client.ask(BLOB)[0] == 404
    blob.rmdir()
    os.mkfifo(blob)
    assert client.ask(BLOB)[0] == 404


ESCAPES = (
    "/v2/library/tiny/blobs/sha256:../../../../etc/passwd", "/v2/../../etc/passwd", "/etc/passwd",
    "/v2/library/tiny/manifests/..%2f..%2f..%2fetc%2fpasswd", "/v2/library/tiny/manifests/../1b",
    "/v2/%2e%2e/%2e%2e/manifests/x", "/v2/library%2ftiny/manifests/1b/", "//v2/library/tiny",
    "/v2/library/tiny/blobs/sha256:" + "0" * 63 + "%00", "/v2/library/tiny/manifests/1b%00",
    "/v2/library/tiny/blobs/" + "A" * 3000, "/v2/%ff/%fe/tags/list", "http://x/../v2",
    "/v2/registry.ollama.ai/library/tiny/manifests/1b", "/v2/library/tiny/manifests/sha256:x",
)  # fmt: skip


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leaves_the_shelf(client: Client, path: str) -> None:
    """Refused, and the connection goes on."""
    status, _, body = client.ask(path)
    assert status in (400, 403, 404)
    assert b"root:" not in body
    assert json.loads(body)["errors"][0]["code"]
    assert client.ask("/v2/")[0] == 200


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.binary(max_size=120)
    | st.from_regex(rb"(GET|HEAD|PUT|\w+) /[!-~]{0,60} HTTP/1\.[01]\r\n")
)
def test_any_bytes_get_an_answer_or_a_closed_connection(server: Server, data: bytes) -> None:
    """The server neither stops nor shows a traceback; the next client is served."""
    host, port = urlsplit(server.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as s:
        s.sendall(data + b"\r\n\r\n")
        s.shutdown(socket.SHUT_WR)
        try:
            while s.recv(65536):
                pass
        except ConnectionResetError:
            pass
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        server.url + "/v2/"
    ) as r:
        assert r.status == 200


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_nothing_can_be_written(client: Client, method: str) -> None:
    """405 with what is allowed."""
    answer = client.raw(f"{method} /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET, HEAD\r\n" in answer


def test_a_body_is_not_taken_for_the_next_request(client: Client) -> None:
    """Request smuggling: a GET with a body gets one answer and the connection ends."""
    inner = b"GET /v2/_catalog HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner)
    answer = client.raw(head + inner)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"repositories" not in answer


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("192.168.1.2", 200),
     ("box.local", 200), ("host.docker.internal:11435", 200), ("evil.example", 403),
     ("127.0.0.1.evil.example", 403)],
)  # fmt: skip
def test_a_web_page_cannot_point_its_name_here(client: Client, host: str, status: int) -> None:
    """DNS rebinding: on loopback, foreign names in Host are refused, as Ollama does."""
    assert client.ask("/v2/", Host=host)[0] == status


def test_clients_that_vanish_do_not_matter(server: Server, client: Client) -> None:
    """As stock Ollama does once for each blob: hang up in the middle of the body."""
    host, port = urlsplit(server.url).netloc.split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            s.sendall(f"GET {BLOB} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            s.recv(100)
    assert client.ask(BLOB)[2] == WEIGHTS


def test_many_ranges_at_once_are_all_right(server: Server) -> None:
    """Sixteen connections, as Ollama opens them."""
    wrong: list[int] = []

    def fetch(i: int) -> None:
        c = Client(server)
        for start in range(i * 1000, len(WEIGHTS), 160_000):
            _, _, body = c.ask(BLOB, Range=f"bytes={start}-{start + 9999}")
            if body != WEIGHTS[start : start + 10_000]:
                wrong.append(start)
        c.http.close()

    threads = [threading.Thread(target=fetch, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_closing_ends_connections_and_threads(root: Path) -> None:
    """An idle keep-alive client does not hold the server up, and the port is free."""
    before = threading.active_count()
    server = serve_store(Store(root))
    client = Client(server)
    client.ask("/v2/")
    began = time.monotonic()
    server.close()
    assert time.monotonic() - began < 5
    assert threading.active_count() == before
    port = int(urlsplit(server.url).netloc.split(":")[1])
    serve_store(Store(root), "127.0.0.1", port).close()
    client.http.close()


def test_a_taken_port_and_a_missing_store_are_clear_errors(server: Server, tmp_path: Path) -> None:
    """Not a traceback."""
    port = int(urlsplit(server.url).netloc.split(":")[1])
    with pytest.raises(StorageError, match="cannot listen there: Address already in use"):
        serve_store(Store(tmp_path), "127.0.0.1", port)
    with pytest.raises(NotFoundError):
        serve_store(Store(tmp_path / "none"))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:0", "127.0.0.1", 0), ("0.0.0.0", "0.0.0.0", 11435), (":80", "0.0.0.0", 80),
     ("[::1]:99", "::1", 99), ("box.local:1", "box.local", 1)],
)  # fmt: skip
def test_addresses_are_read(text: str, host: str, port: int) -> None:
    """Host, port, or both."""
    assert parse_listen(text) == (host, port)


@pytest.mark.parametrize("text", ["", "x:y", "::1", "1.2.3.4:65536", "http://x:1", "a b:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """With the form that is expected."""
    with pytest.raises(UsageError, match="HOST:PORT"):
        parse_listen(text)


def test_who_can_read_is_known(root: Path) -> None:
    """A wildcard address is public, and its URL is one that this machine can use."""
    with serve_store(Store(root), "0.0.0.0") as server:
        assert server.public
        assert server.url.startswith("http://127.0.0.1:")
        client = Client(server)
        assert client.ask("/v2/", Host="any.example")[0] == 200
        client.http.close()


@pytest.mark.server
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_the_command_prints_its_url_and_ends_cleanly(root: Path, how: signal.Signals) -> None:
    """--json: one document at the start, exit 0 at the end, with a client connected."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tqconvert", "share", "--listen", "127.0.0.1:0", "--store", root,
         "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            text += line if line.startswith((" ", "{", "}")) else ""
        document = json.loads(text)
        assert document["models"] == ["library/tiny:1b"]
        assert document["public"] is False
        connection = http.client.HTTPConnection(urlsplit(document["url"]).netloc, timeout=10)
        connection.request("GET", BLOB)
        assert connection.getresponse().read() == WEIGHTS
        process.send_signal(how)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")
        connection.close()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.server
def test_curl_resumes_a_download(server: Server, tmp_path: Path) -> None:
    """A client that is not ours continues a partial file by a range."""
    curl = shutil.which("curl")
    if not curl:
        pytest.skip("needs curl")
    part = tmp_path / "part"
    part.write_bytes(WEIGHTS[:1000])
    subprocess.run(
        [curl, "--noproxy", "*", "-sS", "-C", "-", "-o", part, server.url + BLOB], check=True
    )
    assert part.read_bytes() == WEIGHTS
