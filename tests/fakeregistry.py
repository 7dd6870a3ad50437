"""A registry on loopback that serves one model and misbehaves on request.

    with FakeRegistry(gguf_bytes) as registry:
        registry.faults.cut_at = [1000, 5000]     # connections end after so many bytes
        tqconvert pull http://127.0.0.1:PORT/library/tiny:1b

Everything is served from memory; `requests` records what was asked, with which headers.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import Loopback
from tqconvert.registry.http import Endpoint

MODEL = "application/vnd.ollama.image.model"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass
class Faults:
    """What goes wrong; lists are used up, one entry for each answer that can take it."""

    cut_at: list[int] = field(default_factory=list)
    """End the connection after so many bytes of a blob's body."""
    status: list[int] = field(default_factory=list)
    """Answer blobs with these statuses first."""
    retry_after: str | None = None
    no_ranges: bool = False
    lie_about_ranges: bool = False
    wrong_total: bool = False
    corrupt_at: int | None = None
    """Flip a bit of this byte of the model, each time."""
    short_by: int = 0
    endless: bool = False
    stall_after: list[int] = field(default_factory=list)
    """Send so many bytes, then nothing for `stall_s`."""
    stall_s: float = 5.0
    delay_s: float = 0.0
    """Wait after each 64 KiB."""
    redirect: str | None = None
    """Send blobs elsewhere; {path} is the blob's path."""
    gzip: bool = False
    token: str | None = None
    """Ask for `Authorization: Bearer TOKEN` and hand the token to whoever asks /token."""
    token_uses: int | None = None
    """After so many uses another token is wanted, as when it expired."""
    token_answer: bytes | None = None
    """Answer /token with this."""
    drip_s: float = 0.0
    """Send single bytes, so far apart."""
    manifest: bytes | None = None
    """Serve this instead of the manifest."""


class FakeRegistry(Loopback):
    """The server; use as a context manager."""

    def __init__(self, model: bytes, **other: bytes) -> None:
        self.faults = Faults()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent = 0
        self.blobs: dict[str, bytes] = {}
        self.kept: dict[str, bytes] = {}
        """Manifests that tags were moved away from, by digest."""
        layers = [self._layer(MODEL, model)]
        for kind, data in other.items():
            layers.append(self._layer(f"application/vnd.ollama.image.{kind}", data))
        config = self._layer(
            "application/vnd.docker.container.image.v1+json",
            json.dumps({"model_format": "gguf", "model_family": "llama", "unknown": 1}).encode(),
        )
        self.model_digest = layers[0]["digest"]
        value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        self.manifest = json.dumps(value).encode()
        self.manifest_digest = "sha256:" + hashlib.sha256(self.manifest).hexdigest()

    def _layer(self, media_type: str, data: bytes) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    @property
    def name(self) -> str:
        """Name of the model for `pull`."""
        return f"127.0.0.1:{self.port}/library/tiny:1b"

    def move(self, model: bytes, *, keep: bool = True) -> None:
        """Give the tag to another model; the old one can be had by its digest if it is kept."""
        if keep:
            self.kept[self.manifest_digest] = self.manifest
        other = FakeRegistry(model)
        self.blobs |= other.blobs
        self.manifest, self.manifest_digest = other.manifest, other.manifest_digest

    def endpoint(self) -> Endpoint:
        """Where the model's blob is."""
        return Endpoint(f"http://127.0.0.1:{self.port}/v2/library/tiny/blobs/{self.model_digest}")

    def asked(self, part: str) -> list[dict[str, str]]:
        """Headers of the requests whose path holds `part`."""
        return [headers for _, path, headers in self.requests if part in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: FakeRegistry

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        r, f = self.registry, self.registry.faults
        r.requests.append((self.command, self.path, dict(self.headers)))
        self.path = re.sub(r"^http://[^/]+", "", self.path)  # asked as a proxy
        if self.path.startswith("/token"):
            if f.token_answer is not None:
                return self._send(200, f.token_answer)
            return self._send(200, json.dumps({"token": f.token}).encode())
        if f.token and self.headers.get("Authorization") != f"Bearer {f.token}":
            realm = f'Bearer realm="http://127.0.0.1:{r.port}/token",service="s",scope="x"'
            return self._send(401, b"", {"WWW-Authenticate": realm})
        if f.token_uses is not None:
            f.token_uses -= 1
            if not f.token_uses:
                f.token = f"{f.token}+"
        if m := re.fullmatch(r"/v2/library/tiny/manifests/(.+)", self.path):
            if m[1] in r.kept:
                return self._send(200, r.kept[m[1]])
            if m[1] not in ("1b", "1b-tq", "latest", r.manifest_digest):
                return self._send(404, b"{}")
            return self._send(200, r.manifest if f.manifest is None else f.manifest)
        if m := re.fullmatch(r"(?:/v2/library/tiny/blobs|/cdn)/(.+)", self.path):
            if f.redirect is not None and not self.path.startswith("/cdn"):
                return self._send(307, b"", {"Location": f.redirect.format(digest=m[1])})
            if m[1] not in r.blobs:
                return self._send(404, b"{}")
            return self._blob(m[1], r.blobs[m[1]])
        return self._send(404, b"{}")

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _blob(self, digest: str, data: bytes) -> None:
        r, f = self.registry, self.registry.faults
        if f.status:
            extra = {"Retry-After": f.retry_after} if f.retry_after else {}
            return self._send(f.status.pop(0), b"busy", extra)
        if f.corrupt_at is not None and digest == r.model_digest:
            data = bytearray(data)
            data[f.corrupt_at] ^= 1
        if f.short_by:
            data = data[: -f.short_by]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if asked and not f.no_ranges:
            first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
            body = data[first : last + 1]
            if f.lie_about_ranges:
                body = data[: len(body)]
                first, last = 0, len(body) - 1
            total = len(data) + 7 if f.wrong_total else len(data)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        else:
            body = data
            self.send_response(200)
        if f.gzip:
            self.send_header("Content-Encoding", "gzip")
        if f.endless:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._body(body)
        return None

    def _body(self, body: bytes) -> None:
        f = self.registry.faults
        large = len(body) > 4096
        cut = f.cut_at.pop(0) if f.cut_at and large else None
        stall = f.stall_after.pop(0) if f.stall_after and large else None
        step = 1 << 16
        sent = 0
        try:
            if cut == 0:
                self.close_connection = True
                self.connection.shutdown(2)
                return
            while sent < len(body):
                end = min(sent + (1 if f.drip_s else step), len(body))
                time.sleep(f.drip_s)
                for limit in (cut, stall):
                    if limit is not None and sent < limit:
                        end = min(end, limit)
                self.wfile.write(body[sent:end])
                self.registry.sent += end - sent
                sent = end
                if cut is not None and sent >= cut:
                    self.close_connection = True
                    self.wfile.flush()
                    self.connection.shutdown(2)
                    return
                if stall is not None and sent >= stall:
                    stall = None
                    time.sleep(f.stall_s)
                if f.delay_s:
                    time.sleep(f.delay_s)
            for _ in range(64 if f.endless else 0):
                self.wfile.write(b"\0" * step)
            if f.endless:
                self.close_connection = True
        except OSError:
            self.close_connection = True


Start = Callable[[bytes], FakeRegistry]


FakeRegistry.handler = _Handler
