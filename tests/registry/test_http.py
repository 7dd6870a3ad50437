"""What servers and environments say about where to ask, when to come back, and who may know."""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakeregistry import FakeRegistry

from tqconvert.errors import ConfigError, NetworkError
from tqconvert.registry import http
from tqconvert.registry.http import Endpoint, Http, ProtocolError, TransientError, proxy_for
from tqconvert.registry.login import fetch_token


@pytest.fixture
def client() -> Iterator[Http]:
    """An HTTP client that is closed at the end."""
    made = Http(stall_s=5.0, insecure=True)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 86400 ", 86400.0),
        ("9" * 400, float("inf")),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Mon, 01 Jan 0001 00:00:00 -0000", None),
        ("soon", None),
        ("-3", None),
        ("\u00b2", None),
        ("", None),
    ],
)
def test_retry_after_in_all_its_forms(text: str, seconds: float | None) -> None:
    """Seconds, dates and nonsense; nothing of it is an exception."""
    got = http.retry_after({"Retry-After": text})
    assert got == seconds or (seconds is None and got == 0.0)


@pytest.mark.parametrize(
    "where",
    ["http://[::1", "http://127.0.0.1:99999999/x", "http://127.0.0.1:x/", "http://a..b/"],
)
def test_redirects_to_what_is_no_address(client: Http, where: str) -> None:
    """A Location that cannot be parsed is the server's fault, and asked for once."""
    with FakeRegistry(b"x") as server:
        server.faults.redirect = where
        with pytest.raises(ProtocolError):
            client.request("GET", server.endpoint())
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [b"[" * 60000, b"{}", b'{"token": 5}', json.dumps({"token": "a\r\nX: y"}).encode(),
     json.dumps({"token": "\u20ac"}).encode(), b'["token"]'],
    ids=["deep", "empty", "number", "header", "euro", "list"],
)  # fmt: skip
def test_a_token_that_is_none(client: Http, answer: bytes) -> None:
    """What cannot be a token, or would smuggle a header in, is no token."""
    with FakeRegistry(b"x") as server:
        server.faults.token_answer = answer
        challenge = f'Bearer realm="http://127.0.0.1:{server.port}/token",service="s"'
        assert fetch_token(client, challenge, server.endpoint().url) is None


def test_a_body_that_drips_is_given_up(client: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest must be there in a minute, though a byte comes now and then."""
    monkeypatch.setattr(http, "BODY_TIMEOUT_S", 0.3)
    with FakeRegistry(bytes(2000)) as server:
        server.faults.drip_s = 0.02
        response, _ = client.request("GET", server.endpoint())
        began = time.monotonic()
        with pytest.raises(TransientError, match="bytes in"):
            http.read_body(response, 4096, "manifest")
        assert time.monotonic() - began < 2


def test_credentials_of_a_proxy_reach_the_proxy(
    client: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """user:password@ in HTTP_PROXY becomes Proxy-Authorization; percent signs are decoded."""
    with FakeRegistry(b"x" * 10) as server:
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{server.port}")
        digest = server.model_digest
        url = f"http://registry.example/v2/library/tiny/blobs/{digest}"
        response, _ = client.request("GET", Endpoint(url))
        assert http.read_body(response, 100, "blob") == b"x" * 10
        sent = server.requests[0][2]["proxy-authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"me:p@ss"


def test_no_proxy_may_name_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY=host:port is for that port alone."""
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "registry.example:5000")
    assert proxy_for("http://registry.example:5000/v2/") is None
    assert proxy_for("http://registry.example:5001/v2/") is not None


@pytest.mark.parametrize("proxy", ["socks5://me:secret@127.0.0.1:1", "http://[::1", "http://h:x"])
def test_a_proxy_that_cannot_be_one(
    client: Http, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """Another scheme or half an address: a configuration error that keeps the password."""
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ConfigError) as caught:
        client.request("GET", Endpoint("http://registry.example/"))
    assert "secret" not in caught.value.message


def test_a_proxy_that_is_down_is_named_without_its_password(
    client: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a proxy that does not answer holds no credentials."""
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:1")
    with pytest.raises(NetworkError) as caught:
        client.request("GET", Endpoint("http://registry.example/"))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
    ids=["1.0", "close", "chunked"],
)  # fmt: skip
def test_old_and_simple_servers(tmp_path: Path, head: bytes) -> None:
    """HTTP/1.0, Connection: close and chunks: bodies without a length arrive whole."""
    from tqconvert.digest import digest_bytes
    from tqconvert.progress import Silent
    from tqconvert.pull.receive import Blob, Workplace, fetch_blob

    data = bytes(range(256)) * 400
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if b"chunked" in head else data
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(head + body)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/x"
        place = Workplace(tmp_path / "partial", Http(), Silent(), retries=0)
        try:
            fetch_blob(
                place, Blob("x", digest_bytes(data), len(data)), Endpoint(url),
                lambda _: tmp_path / "done",
            )  # fmt: skip
        finally:
            thread.join(10)
            place.http.close()
    assert (tmp_path / "done").read_bytes() == data


def test_a_server_that_speaks_no_tls_is_told_from_a_bad_certificate(client: Http) -> None:
    """Registries on a network are often asked by https though they have none: the next step is another."""
    with FakeRegistry(b"x") as server, pytest.raises(NetworkError) as raised:
        client.request("GET", Endpoint(f"https://127.0.0.1:{server.port}/v2/"))
    assert "does not speak TLS" in raised.value.message
    assert raised.value.hint is not None
    assert "--insecure" in raised.value.hint


def test_under_insecure_a_host_is_asked_by_what_it_speaks() -> None:
    """Https first, then plain http; without it https alone, and on this machine http."""
    with FakeRegistry(b"x") as server:
        for insecure, host, scheme in (
            (False, f"127.0.0.1:{server.port}", "http"),
            (False, "registry.example", "https"),
        ):
            assert http.base_url(Http(insecure=insecure), host, None) == f"{scheme}://{host}"
        assert http.base_url(Http(insecure=True), "h.example", "https") == "https://h.example"
        assert http._spoken(Http(insecure=True), f"127.0.0.1:{server.port}") == "http"
