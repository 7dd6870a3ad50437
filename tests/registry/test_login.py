"""Who learns a password, and addresses of registries."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, Self

import pytest
from fakepush import PushRegistry

from tqconvert.digest import Digest
from tqconvert.errors import AuthError, NetworkError, UsageError
from tqconvert.pull.head import fetch_head
from tqconvert.reference import ModelName
from tqconvert.registry.credentials import Credential, DockerConfig
from tqconvert.registry.http import Endpoint, Http
from tqconvert.registry.login import Login, fetch_token
from tqconvert.registry.oci import OciRegistry
from tqconvert.registry.ocireference import OciReference
from tqconvert.registry.ollama import OllamaRegistry

ME = Credential("me", "hunter2")


@pytest.fixture
def client() -> Iterator[Http]:
    """An HTTP client that is closed at the end."""
    made = Http(stall_s=5.0)
    yield made
    made.close()


class Listener:
    """A server that remembers what it is told, and sends everybody elsewhere if it is to."""

    def __init__(self, location: str | None = None, *, asks: bool = False) -> None:
        """`asks`: 401 to all but its own token address, which it names as realm."""
        self.heard: list[str] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                owner.heard.append(f"{self.path} {self.headers}{self.rfile.read(length)!r}")
                asking = asks and not self.path.startswith("/token")
                self.send_response(307 if location else 401 if asking else 200)
                if asking:
                    self.send_header("WWW-Authenticate", challenge(owner.url))
                if location:
                    self.send_header("Location", location)
                body = json.dumps({"token": "abc"}).encode()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_GET

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def challenge(realm: str) -> str:
    """A 401's WWW-Authenticate."""
    return f'Bearer realm="{realm}",service="s",scope="repository:a:pull repository:b:pull"'


def test_a_token_server_hears_the_password_and_both_scopes(client: Http) -> None:
    """Each scope is a parameter of its own, as Docker sends them."""
    with Listener() as server:
        assert fetch_token(client, challenge(server.url), "http://127.0.0.1/v2/", ME) == "abc"
        assert "Basic bWU6aHVudGVyMg==" in server.heard[0]
        scopes = "service=s&scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull "
        assert server.heard[0].startswith(f"/token?{scopes}")


@pytest.mark.parametrize(
    ("realm", "registry"),
    [("http://127.0.0.1:1/t", "https://registry.example/v2/"),
     ("https://127.0.0.1:1/t", "http://registry.example/v2/"),
     ("http://127.0.0.1:1/t", "http://registry.example/v2/"), ("ftp://127.0.0.1/t", "http://127.0.0.1/v2/"),
     ("", "http://127.0.0.1/v2/"), ("/token", "http://127.0.0.1/v2/")],
)  # fmt: skip
def test_realms_that_are_not_asked(client: Http, realm: str, registry: str) -> None:
    """A plain registry on the network may not send a password elsewhere, nobody to plain http."""
    assert fetch_token(client, challenge(realm), registry, ME) is None


def test_a_redirect_does_not_take_the_password_along(client: Http) -> None:
    """Neither the header nor the form with a refresh token."""
    with Listener() as thief, Listener(thief.url.replace("127.0.0.1", "localhost")) as server:
        fetch_token(client, challenge(server.url), "http://127.0.0.1/v2/", ME)
        token = Credential(identity_token="secret-refresh")
        assert fetch_token(client, challenge(server.url), "http://127.0.0.1/v2/", token) is None
        assert "secret-refresh" in server.heard[1]
        assert not [x for x in thief.heard if "bWU6" in x or "secret-refresh" in x]


def test_an_upload_elsewhere_gets_no_credentials(client: Http) -> None:
    """A Location on another host is asked without the header."""
    with PushRegistry() as registry, Listener() as other:
        registry.faults.password = "hunter2"
        reference = OciReference.parse(f"oci://{registry.host}/a/b")
        oci = OciRegistry(client, reference, lambda: ME)
        assert oci.ask("GET", oci.url("manifests/x")).status == 404
        assert "Basic" in registry.requests[-1][2]["Authorization"]
        oci.ask("PUT", other.url, {"Content-Length": "0"})
        assert "Basic" not in other.heard[0]


def test_a_host_that_was_redirected_to_gets_no_password(client: Http) -> None:
    """Its 401 names a realm of its own: nobody answers it, for a manifest, a header or a blob."""
    with (
        Listener(asks=True) as thief,
        Listener(thief.url.replace("127.0.0.1", "localhost").replace("token", "x")) as server,
    ):
        host = server.url.split("/")[2]
        oci = OciRegistry(client, OciReference.parse(f"oci://{host}/a/b"), lambda: ME)
        assert oci.ask("GET", oci.url("manifests/x")).status == 401
        digest = Digest("0" * 64)
        with pytest.raises(AuthError):
            fetch_head(client, oci.blob(digest), 100, "model")
        name = ModelName.parse(f"{host}/a/b:1")
        with pytest.raises(AuthError):
            OllamaRegistry(client, name, lambda: ME).fetch_manifest(name)
        assert len(thief.heard) == 3
        assert not [x for x in thief.heard if "bWU6" in x or "/token" in x]


@pytest.mark.parametrize("order", ["{bearer}, {basic}", "{basic}, {bearer}"])
def test_the_realm_is_bearers(client: Http, order: str) -> None:
    """Of Gitea's two challenges the second is Basic, with a realm that is no address."""
    with Listener() as server:
        both = order.format(bearer=challenge(server.url), basic='Basic realm="Container Registry"')
        assert fetch_token(client, both, "http://127.0.0.1/v2/", ME) == "abc"


def test_a_header_that_never_comes(client: Http) -> None:
    """An answer that is shorter than it was asked for is an error, not a reason to ask for ever."""
    with Listener() as server, pytest.raises(NetworkError, match="ended early"):
        fetch_head(client, Endpoint(server.url), 1000, "model")


def test_basic_and_bearer_in_one_challenge(client: Http) -> None:
    """Bearer is the one that scopes; without a password Basic is no answer."""
    with Listener() as server:
        both = f'Basic realm="x", {challenge(server.url)}'
        login = Login(client, lambda: ME)
        assert login.answer(both, "http://127.0.0.1/v2/")
        assert login.headers == {"Authorization": "Bearer abc"}
        assert not login.answer(both, "http://127.0.0.1/v2/"), "the same again makes no sense"
    assert not Login(client).answer('Basic realm="x"', "http://127.0.0.1/v2/")
    assert not Login(client, lambda: ME).answer("Negotiate", "http://127.0.0.1/v2/")


def test_a_password_that_is_no_header(client: Http) -> None:
    """Line breaks in it become base64; a registry token with one is not sent."""
    bad = Credential(registry_token="a\r\nX: y")
    assert not Login(client, lambda: bad).answer('Basic realm="x"', "http://127.0.0.1/v2/")


def test_credentials_are_not_shown() -> None:
    """Not in a traceback or a log line."""
    assert "hunter2" not in repr(ME)


def test_docker_hub_has_an_old_name(tmp_path: Any) -> None:
    """`docker login` without a registry writes it under index.docker.io."""
    value = {"auths": {"https://index.docker.io/v1/": {"username": "me", "password": "p"}}}
    (tmp_path / "config.json").write_text(json.dumps(value))
    assert DockerConfig(tmp_path).find("docker.io") == Credential("me", "p")
    assert DockerConfig(tmp_path).find("registry.example") is None
    assert DockerConfig(tmp_path / "none").find("docker.io") is None


REFERENCES = [
    ("oci://h:5000/a/b/c:t", "h:5000", "a/b/c", "t", "h:5000/b/c:t"),
    ("oci://registry.example/model", "registry.example", "model", "latest", "registry.example/library/model:latest"),
    ("oci://docker.io/gemma3", "docker.io", "library/gemma3", "latest", "docker.io/library/gemma3:latest"),
    ("oci://index.docker.io/ai/gemma3:1", "docker.io", "ai/gemma3", "1", "docker.io/ai/gemma3:1"),
    ("oci://LOCALHOST:1/a.b/m__x:T", "localhost:1", "a.b/m__x", "T", "localhost:1/a-b/m__x:T"),
    ("oci://[::1]:5000/a/b", "[::1]:5000", "a/b", "latest", "0::1:5000/a/b:latest"),
    ("http://127.0.0.1:5000/a", "127.0.0.1:5000", "a", "latest", "127.0.0.1:5000/library/a:latest"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "host", "repository", "tag", "name"), REFERENCES)
def test_addresses(text: str, host: str, repository: str, tag: str, name: str) -> None:
    """Host, repository of any depth, tag; and the name that the model gets in a store."""
    found = OciReference.parse(text)
    assert (found.host, found.repository, found.tag) == (host, repository, tag)
    assert found.model_name() == ModelName.parse(name)


def test_a_digest_stands_for_the_tag() -> None:
    """Alone or beside one; its first digits are the tag in a store."""
    digest = Digest("ab" * 32)
    alone = OciReference.parse(f"oci://h.x/a/b@{digest}")
    assert (alone.tag, alone.digest, alone.wanted) == (None, digest, str(digest))
    assert str(alone.model_name()) == "h.x/a/b:abababababab"
    both = OciReference.parse(f"oci://h.x/a/b:t@{digest}")
    assert (both.tag, both.wanted, str(both)) == ("t", str(digest), f"oci://h.x/a/b:t@{digest}")


@pytest.mark.parametrize(
    "text",
    ["oci://", "oci:///a", "oci://a/b", "oci://h.x", "oci://h.x/", "oci://h.x/A", "oci://h.x/a//b",
     "oci://h.x/a:", "oci://h.x/a:-", "oci://h.x/../b", "oci://h.x/a@sha256:1", "oci://h.x:port/a",
     "oci://u:p@h.x/a", "oci://h.x/a?b", "oci://h.x/a:" + "t" * 129, "oci://h.x/" + "a" * 256],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    """A usage error."""
    with pytest.raises(UsageError):
        OciReference.parse(text)


def test_a_broken_configuration_matters_only_where_somebody_is_wanted(
    client: Http, tmp_path: Any
) -> None:
    """Public models need no helper; where nobody is refused, what is wrong is said."""
    (tmp_path / "config.json").write_text('{"credsStore": "not-there"}')
    login = Login(client, lambda: DockerConfig(tmp_path).find("h.x"))
    with Listener() as server:
        assert login.answer(challenge(server.url), "http://127.0.0.1/v2/")
    assert login.problem is not None
    assert "docker-credential-not-there" in login.problem.message
