"""A registry on loopback that takes uploads, keeps everything in memory and misbehaves on request.

    with PushRegistry() as registry:
        registry.faults.cut_at = [1000]           # the first connection with a large body ends early
        tqconvert push NAME 127.0.0.1:PORT/me/model:1

It keeps what arrived of a chunk that was cut off and tells the offset by GET, as the distribution-spec
has it and docker-registry 2.8 does not.
"""

import base64
import hashlib
import json
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from tests.loopback import Loopback

LARGE = 4096


@dataclass
class Faults:
    """What goes wrong; lists are used up, one entry for each request that can take it."""

    cut_at: list[int] = field(default_factory=list)
    """End the connection after so many bytes of a large body have arrived."""
    status: list[int] = field(default_factory=list)
    """Answer PATCH and PUT of blobs with these first, after reading the body."""
    manifest_status: list[int] = field(default_factory=list)
    max_body: int | None = None
    """Answer 413 to larger ones."""
    no_chunks: bool = False
    forget_uploads: bool = False
    """Know nothing of an upload whose connection ended."""
    no_mounts: bool = False
    stuck: bool = False
    """Say that nothing arrived, whatever did."""
    lose_answer: bool = False
    """Take the blob, and end the connection instead of saying so; once."""
    min_chunk: int | None = None
    relative: bool = False
    """Locations without a host."""
    wrong_digest: bool = False
    rewrite_manifest: bool = False
    delay_s: float = 0.0
    """Wait after each 64 KiB."""
    password: str | None = None
    """Ask for Basic me:PASSWORD, or hand a token to whoever gives that to /token."""
    bearer: bool = False
    identity: str | None = None
    """The token server takes this refresh token."""
    forbidden: bool = False
    """Tokens are good for pulling alone."""
    read_only: bool = False


class PushRegistry(Loopback):
    """The server; use as a context manager."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.blobs: dict[str, dict[str, bytes]] = {}
        """repository -> digest -> bytes"""
        self.manifests: dict[str, dict[str, tuple[str, bytes]]] = {}
        """repository -> tag -> (type, bytes)"""
        self.untagged: dict[str, list[tuple[str, bytes]]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.received = 0
        """Bytes of blobs that arrived, repeated ones counted again."""
        self.token = "t0"
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    def asked(self, method: str, part: str = "") -> list[str]:
        """Paths that were asked for with `method`."""
        return [path for m, path, _ in self.requests if m == method and part in path]

    def complete(self, repository: str) -> bool:
        """Whether every manifest of the repository has all its blobs there."""
        blobs = self.blobs.get(repository, {})
        for _, data in self.manifests.get(repository, {}).values():
            value = json.loads(data)
            for layer in (value["config"], *value["layers"]):
                if len(blobs.get(layer["digest"], b"")) != layer["size"]:
                    return False
        return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: PushRegistry

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        r, f = self.registry, self.registry.faults
        r.requests.append((self.command, self.path, dict(self.headers)))
        parts = urlsplit(self.path)
        if parts.path == "/token":
            return self._token()
        if f.password is not None and not self._allowed():
            return self._refuse()
        if f.forbidden and self.command in ("POST", "PUT", "PATCH"):
            self._body()
            return self._error(403, "DENIED")
        if f.read_only and self.command in ("POST", "PUT", "PATCH"):
            self._body()
            return self._error(405, "UNSUPPORTED")
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        routes = (
            (r"/v2/(.+)/manifests/([^/]+)", self._manifest),
            (r"/v2/(.+)/blobs/uploads/([^/]*)", self._upload),
            (r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})", self._blob),
        )
        for pattern, answer in routes:
            if m := re.fullmatch(pattern, parts.path):
                return answer(m[1], m[2], query)
        return self._send(200 if parts.path == "/v2/" else 404, b"{}")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _token(self) -> None:
        r, f = self.registry, self.registry.faults
        body = parse_qs(self._body().decode())
        given = self.headers.get("Authorization", "")
        good = given == f"Basic {base64.b64encode(f'me:{f.password}'.encode()).decode()}"
        if self.command == "POST":
            good = f.identity is not None and body.get("refresh_token") == [f.identity]
        return self._send(200, json.dumps({"token": r.token if good else "nobody"}).encode())

    def _allowed(self) -> bool:
        f, given = self.registry.faults, self.headers.get("Authorization", "")
        if f.bearer:
            return given == f"Bearer {self.registry.token}"
        return given == f"Basic {base64.b64encode(f'me:{f.password}'.encode()).decode()}"

    def _refuse(self) -> None:
        r, f = self.registry, self.registry.faults
        self._body()
        kind = 'Basic realm="r"'
        if f.bearer:
            kind = (
                f'Bearer realm="http://{r.host}/token",service="s",scope="repository:x:pull,push"'
            )
        return self._error(401, "UNAUTHORIZED", {"WWW-Authenticate": kind})

    def _manifest(self, repository: str, reference: str, query: dict[str, str]) -> None:
        r, f = self.registry, self.registry.faults
        held = r.manifests.setdefault(repository, {})
        if self.command == "PUT":
            data = self._body()
            if f.manifest_status:
                return self._error(f.manifest_status.pop(0), "BUSY")
            value = json.loads(data)
            for layer in (value["config"], *value["layers"]):
                if layer["digest"] not in r.blobs.get(repository, {}):
                    return self._error(400, "MANIFEST_BLOB_UNKNOWN")
            if f.rewrite_manifest:
                data += b"\n"
            if reference in held:  # a tag that moves: what it named is still there
                r.untagged.setdefault(repository, []).append(held[reference])
            held[reference] = (self.headers["Content-Type"], data)
            return self._send(201, b"", {"Docker-Content-Digest": _sha(data)})
        untagged = (("", old) for old in r.untagged.get(repository, ()))
        for tag, (kind, data) in (*held.items(), *untagged):
            if reference in (tag, _sha(data)):
                headers = {"Content-Type": kind, "Docker-Content-Digest": _sha(data)}
                return self._send(200, data, headers)
        return self._error(404, "MANIFEST_UNKNOWN")

    def _blob(self, repository: str, digest: str, query: dict[str, str]) -> None:
        data = self.registry.blobs.get(repository, {}).get(digest)
        if data is None:
            return self._error(404, "BLOB_UNKNOWN")
        return self._send(200, data)

    def _upload(self, repository: str, ident: str, query: dict[str, str]) -> None:
        r, f = self.registry, self.registry.faults
        if not ident:
            return self._begin(repository, query)
        if ident not in r.uploads:
            self._body()
            return self._error(404, "BLOB_UPLOAD_UNKNOWN")
        held = r.uploads[ident]
        if self.command == "DELETE":
            del r.uploads[ident]
            return self._send(204, b"")
        if self.command == "GET":
            return self._send(204, b"", self._at(repository, ident))
        length = int(self.headers.get("Content-Length", "0"))
        if f.max_body is not None and length > f.max_body:
            self._body()
            return self._error(413, "TOO_LARGE")
        if self.command == "PATCH" and f.no_chunks:
            self._body()
            return self._error(405, "UNSUPPORTED")
        if self.command == "PATCH":
            start = int(self.headers["Content-Range"].partition("-")[0])
            if start != len(held):
                self._body()
                return self._error(416, "RANGE_INVALID", self._at(repository, ident))
        if not self._arrive(held, ident, length):
            return None
        if f.status:
            return self._error(f.status.pop(0), "BUSY")
        if self.command == "PATCH":
            return self._send(202, b"", self._at(repository, ident))
        del r.uploads[ident]
        data = bytes(held)
        if _sha(data) != query["digest"]:
            return self._error(400, "DIGEST_INVALID")
        r.blobs.setdefault(repository, {})[query["digest"]] = data
        if f.lose_answer and len(data) > LARGE:
            f.lose_answer, self.close_connection = False, True
            return self.connection.shutdown(2)
        said = "sha256:" + "0" * 64 if f.wrong_digest else query["digest"]
        return self._send(201, b"", {"Docker-Content-Digest": said})

    def _begin(self, repository: str, query: dict[str, str]) -> None:
        r = self.registry
        self._body()
        data = r.blobs.get(query.get("from", ""), {}).get(query.get("mount", ""))
        if data is not None and not r.faults.no_mounts:
            r.blobs.setdefault(repository, {})[query["mount"]] = data
            return self._send(201, b"", {"Docker-Content-Digest": query["mount"]})
        ident = uuid.uuid4().hex
        r.uploads[ident] = bytearray()
        return self._send(202, b"", self._at(repository, ident))

    def _at(self, repository: str, ident: str) -> dict[str, str]:
        r = self.registry
        path = f"/v2/{repository}/blobs/uploads/{ident}?_state=x"
        location = path if r.faults.relative else f"http://{r.host}{path}"
        n = 0 if r.faults.stuck else len(r.uploads[ident])
        headers = {"Location": location, "Range": f"0-{max(0, n - 1)}"}
        if r.faults.min_chunk is not None:
            headers["OCI-Chunk-Min-Length"] = str(r.faults.min_chunk)
        return headers

    def _arrive(self, held: bytearray, ident: str, length: int) -> bool:
        """Take the body in; False if the connection ended before its end."""
        r, f = self.registry, self.registry.faults
        cut = f.cut_at.pop(0) if f.cut_at and length > LARGE else None
        left = length if cut is None else min(cut, length)
        while left:
            data = self.rfile.read(min(left, 1 << 16))
            if not data:
                break
            held += data
            left -= len(data)
            r.received += len(data)
            time.sleep(f.delay_s)
        if not left and cut is None:
            return True
        self.close_connection = True
        self.connection.shutdown(2)
        if f.forget_uploads:
            r.uploads.pop(ident, None)
        return False

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"errors": [{"code": code, "message": f"says {code.lower()}"}]}).encode()
        self._send(status, body, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)


def _sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


PushRegistry.handler = _Handler
