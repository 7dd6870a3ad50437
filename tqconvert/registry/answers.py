"""Answers to the requests of one connection to a store that is served.

    GET|HEAD /v2/                                          {}
    GET|HEAD /v2/_catalog                                  repositories
    GET|HEAD /v2/<namespace>/<model>/tags/list             tags
    GET|HEAD /v2/<namespace>/<model>/manifests/<tag|digest>
    GET|HEAD /v2/<namespace>/<model>/blobs/<digest>        one range, ETag, Location

Only manifests that parse and blobs that they name are served. A model is asked for without the host
that it was pulled from; where two hosts have the same name, Ollama's registry wins.

Stock `ollama pull` asks once for the whole blob, reads `Location` from the answer even if it is a 200,
hangs up and fetches ranges from there (server/download.go run, v0.19.0 and v0.32.15 alike); without
the header it fails. Hence `Location`, relative, on every answer with a whole blob.
"""

import contextlib
import ipaddress
import json
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

from tqconvert import __version__
from tqconvert.digest import Digest, digest_bytes
from tqconvert.errors import IntegrityError, TqError, UsageError
from tqconvert.forms.types import OCI_MANIFEST_TYPE
from tqconvert.registry.shelf import Shelf
from tqconvert.store.manifest import MANIFEST_TYPE

IDLE_S: Final = 60.0
"""A connection on which nothing moves for so long is closed."""

MAX_RANGE_DIGITS: Final = 18
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_LOCAL_NAMES: Final = (".localhost", ".local", ".internal")

Log = Callable[[str], None]


@dataclass(slots=True)
class Desk:
    """What all connections of a server share."""

    shelf: Shelf
    log: Log
    loopback: bool = True
    """Whether only this machine can reach the server."""
    served: int = 0
    """Bytes of blobs sent so far."""
    idle: dict[socket.socket, float] = field(default_factory=dict)
    """Connections that wait for a request, the longest first, and since when."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_on(self, connection: socket.socket) -> None:
        """The connection waits for a request."""
        with self._lock:
            self.idle[connection] = time.monotonic()

    def busy(self, connection: socket.socket) -> None:
        """The connection has a request, or has ended."""
        with self._lock:
            self.idle.pop(connection, None)

    def end_longest_idle(self) -> None:
        """Hang up on the client that has asked for nothing for the longest time: others want in."""
        with self._lock:
            found = next(iter(self.idle), None)
            if found is not None:
                del self.idle[found]
        if found is not None:
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)

    def count(self, n: int) -> None:
        """`n` more bytes of blobs were sent."""
        with self._lock:
            self.served += n


@dataclass(frozen=True, slots=True)
class _Error(Exception):
    """An answer that is no success."""

    status: HTTPStatus
    code: str
    message: str


class Handler(BaseHTTPRequestHandler):
    """One connection: requests one after the other."""

    protocol_version = "HTTP/1.1"
    server_version = f"tqconvert/{__version__}"
    sys_version = ""
    timeout = IDLE_S
    disable_nagle_algorithm = True

    def __init__(
        self, desk: Desk, request: socket.socket, address: Any, server: HTTPServer
    ) -> None:
        self.desk = desk
        super().__init__(request, address, server)

    def handle_one_request(self) -> None:
        """Wait for a request, and answer it."""
        self.desk.wait_on(self.connection)
        try:
            super().handle_one_request()
        finally:
            self.desk.busy(self.connection)

    def parse_request(self) -> bool:
        """Read the headers of a request that has begun."""
        self.desk.busy(self.connection)
        return super().parse_request()

    def do_GET(self) -> None:
        """Answer with a body."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer the same without a body."""
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Not a line for every range."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what the base class refuses: other methods, requests that are no HTTP."""
        del explain
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == 501 else HTTPStatus(code)
        self.close_connection = True
        self._send_error(_Error(status, "UNSUPPORTED", message or status.phrase))

    def _answer(self) -> None:
        try:
            # A request with a body would leave it in the stream, to be read as the next request.
            if (
                self.headers.get("Content-Length", "0") != "0"
                or "Transfer-Encoding" in self.headers
            ):
                self.close_connection = True
            self._check_host()
            self._route(unquote(urlsplit(self.path).path, errors="strict"))
        except _Error as e:
            self._send_error(e)
        except (IntegrityError, UsageError, ValueError) as e:
            self._send_error(_Error(HTTPStatus.BAD_REQUEST, "NAME_INVALID", str(e)))
        except TqError as e:  # the store can no longer be read; its path is nobody's business
            self.desk.log(e.message)
            self._send_error(
                _Error(HTTPStatus.INTERNAL_SERVER_ERROR, "UNKNOWN", "the store cannot be read")
            )

    def _check_host(self) -> None:
        """On loopback, refuse names that a web page could have pointed here (DNS rebinding).

        The same names pass as in Ollama's own check (server/routes.go allowedHostsMiddleware).
        """
        if not self.desk.loopback:
            return
        host = urlsplit("//" + self.headers.get("Host", "")).hostname or ""
        if not host or host in ("localhost", socket.gethostname().lower()):
            return
        if host.endswith(_LOCAL_NAMES):
            return
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host.partition("%")[0])
            return
        raise _Error(HTTPStatus.FORBIDDEN, "DENIED", f"Host {host} is not local")

    def _route(self, path: str) -> None:
        match path.split("/"):
            case ["", "v2"] | ["", "v2", ""]:
                self._send(b"{}", "application/json")
            case ["", "v2", "_catalog"]:
                self._send_json({"repositories": list(self.desk.shelf.repositories())})
            case ["", "v2", namespace, model, "tags", "list"]:
                self._send_tags(f"{namespace}/{model}")
            case ["", "v2", namespace, model, "manifests", reference]:
                self._send_manifest(f"{namespace}/{model}", reference)
            case ["", "v2", namespace, model, "blobs", digest]:
                self._send_blob(f"{namespace}/{model}", Digest.parse(digest))
            case _:
                raise _Error(HTTPStatus.NOT_FOUND, "NOT_FOUND", "no such page")

    def _send_tags(self, repository: str) -> None:
        tags = self.desk.shelf.repositories().get(repository)
        if tags is None:
            raise _Error(HTTPStatus.NOT_FOUND, "NAME_UNKNOWN", f"{repository}: no such model")
        self._send_json({"name": repository, "tags": list(tags)})

    def _send_manifest(self, repository: str, reference: str) -> None:
        accept = ",".join(self.headers.get_all("Accept", []))
        oci_only = OCI_MANIFEST_TYPE in accept and not _takes_docker(accept)
        served = self.desk.shelf.manifest(repository, reference, oci_only=oci_only)
        if served is None:
            raise _Error(
                HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", f"{repository}: no manifest {reference}"
            )
        if self.command == "GET":
            self.desk.log(f"{self.client_address[0]} pulls {repository}:{reference}")
        self._send(served.data, _media_type(served.data), digest_bytes(served.data))

    def _send_blob(self, repository: str, digest: Digest) -> None:
        path = self.desk.shelf.blob(repository, digest)
        if isinstance(path, bytes):
            self._send(path, "application/octet-stream", digest)
            return
        found = _open(path) if path else None
        if found is None:
            raise _Error(HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN", f"{repository}: no blob {digest}")
        with found as f:
            size = os.fstat(f.fileno()).st_size
            etag = f'"{digest}"'
            if self.headers.get("If-None-Match") in (etag, "*"):
                self._begin(HTTPStatus.NOT_MODIFIED, 0, digest=digest)
                return
            wanted = self.headers.get("Range", "")
            if self.headers.get("If-Range", etag) != etag:
                wanted = ""
            span = _span(wanted, size)
            extra = {"Accept-Ranges": "bytes", "Cache-Control": "max-age=31536000, immutable"}
            if span is None:
                location = f"/v2/{repository}/blobs/{digest}"
                extra["Location"] = location
                span, status = (0, size), HTTPStatus.OK
            else:
                status = HTTPStatus.PARTIAL_CONTENT
                extra["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
            self._begin(status, span[1] - span[0], "application/octet-stream", digest, extra)
            if self.command == "GET":
                self._send_file(f, span[0], span[1] - span[0])

    def _send_file(self, f: BinaryIO, offset: int, length: int) -> None:
        """Send through the kernel; a file that shrank meanwhile ends the connection."""
        if not length:
            return
        sent = 0
        try:
            f.seek(offset)
            sent = self.connection.sendfile(f, offset, length)
        finally:
            # sendfile leaves the position behind what was sent, also when the client vanished.
            self.desk.count(max(sent, f.tell() - offset))
        if sent < length:
            self.close_connection = True

    def _send_json(self, value: dict[str, Any]) -> None:
        self._send(json.dumps(value).encode(), "application/json")

    def _send(self, body: bytes, media_type: str, digest: Digest | None = None) -> None:
        self._begin(HTTPStatus.OK, len(body), media_type, digest)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_error(self, e: _Error) -> None:
        body = json.dumps({"errors": [{"code": e.code, "message": e.message}]}).encode()
        extra = {"Allow": "GET, HEAD"} if e.status is HTTPStatus.METHOD_NOT_ALLOWED else {}
        if e.code == "RANGE_INVALID":
            extra["Content-Range"] = e.message
        self._begin(e.status, len(body), "application/json", None, extra)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(
        self, status: HTTPStatus, length: int, media_type: str | None = None,
        digest: Digest | None = None, extra: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Send status and headers."""
        self.send_response(status)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(length))
        if media_type:
            self.send_header("Content-Type", media_type)
        if digest is not None:
            self.send_header("Docker-Content-Digest", str(digest))
            self.send_header("ETag", f'"{digest}"')
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _span(header: str, size: int) -> tuple[int, int] | None:
    """Begin and end of the one range that is asked for; None: the whole.

    Forms that are no single range of bytes are ignored, as RFC 9110 14.2 allows.
    """
    m = _RANGE.fullmatch(header.strip())
    if not m or not (m[1] or m[2]) or max(len(m[1]), len(m[2])) > MAX_RANGE_DIGITS:
        return None
    if not m[1]:
        start, end = max(0, size - int(m[2])), size
    else:
        start, end = int(m[1]), min(size, int(m[2]) + 1) if m[2] else size
        if m[2] and int(m[2]) < start:
            return None
    if start >= end:
        raise _Error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "RANGE_INVALID", f"bytes */{size}")
    return start, end


def _open(path: Path) -> BinaryIO | None:
    """The blob, if it is a regular file that can be read; never waits for a pipe."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return open(fd, "rb", buffering=0)


def _takes_docker(accept: str) -> bool:
    """Whether a client takes Ollama's form: it names the type, or takes anything."""
    return MANIFEST_TYPE in accept or re.search(r"\*/\*|application/\*", accept) is not None


def _media_type(data: bytes) -> str:
    """What the manifest says it is, if that can stand in a header."""
    value = json.loads(data).get("mediaType")
    known = isinstance(value, str) and re.fullmatch(r"application/[\w.+-]{1,100}", value)
    return value if known else MANIFEST_TYPE
