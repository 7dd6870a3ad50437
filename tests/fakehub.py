"""A Hugging Face Hub on loopback that the real `huggingface_hub` client talks to, and that misbehaves.

    with FakeHub({"org/repo": {"model-Q4_K_M.gguf": data}}) as hub:
        hub.faults.cut_at = [1000]                # as in fakeregistry
        HF_ENDPOINT=hub.address tqconvert pull hf.co/org/repo

GGUFs and whatever `lfs` says are in LFS; the rest has a Git blob id alone. Forms and headers are those that
huggingface_hub 2.4 reads (hf_api.py, file_download.py, utils/_http.py).
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from fakeregistry import Faults, _Handler

from tests.loopback import Loopback

PAGE_ROWS = 3
"""Rows of a listing that are sent at once; the client must follow `Link`."""

Files = dict[str, bytes]


def blob_id(data: bytes) -> str:
    """Git's name for the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Rules:
    """Who may see what."""

    gated: bool = False
    """Files for accepted tokens alone; the listing is for everybody."""
    private: bool = False
    token: str = "hf_good"
    plain: set[str] = field(default_factory=set)
    """GGUFs that are not in LFS."""
    sign_uses: int | None = None
    """Files redirect to another host, with a signature that is good for so many answers."""
    xet: bool = False
    """Files are Xet-backed: their headers say so, plain HTTPS goes on working."""
    status: list[int] = field(default_factory=list)
    """Answer questions to the API with these statuses first."""
    lie_about_commit: bool = False


class FakeHub(Loopback):
    """The server; use as a context manager. `commit` adds a revision."""

    def __init__(self, repositories: dict[str, Files]) -> None:
        self.faults, self.rules = Faults(), Rules()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent = 0
        self.model_digest = ""
        self.signatures: dict[str, int] = {}
        self._digests: dict[int, tuple[bytes, str]] = {}
        self.lies: dict[tuple[str, str], bytes] = {}
        """(commit, path) -> bytes that are sent under the listed digest."""
        self.commits: dict[str, list[tuple[str, Files]]] = {}
        for name, files in repositories.items():
            self.commit(name, files)

    def commit(self, repository: str, files: Files) -> str:
        """A new commit with exactly these files; its id."""
        there = self.commits.setdefault(repository, [])
        made = hashlib.sha1(f"{repository} {len(there)}".encode()).hexdigest()
        there.append((made, files))
        return made

    @property
    def address(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def asked(self, part: str, method: str = "GET") -> list[dict[str, str]]:
        """Headers of the requests whose path holds `part`."""
        return [h for m, path, h in self.requests if part in path and m == method]

    def digest(self, data: bytes) -> str:
        """sha256 of a file, computed once."""
        if id(data) not in self._digests:
            self._digests[id(data)] = (data, hashlib.sha256(data).hexdigest())
        return self._digests[id(data)][1]

    def in_lfs(self, path: str) -> bool:
        """Whether the file has a sha256 in the listing."""
        return path.endswith(".gguf") and path not in self.rules.plain


class _HubHandler(_Handler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        self.registry.requests.append((self.command, self.path, dict(self.headers)))
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/paths-info/([^/]+)", self.path)
        files = self._files(found[1], unquote(found[2])) if found else None
        if files is None:
            return self._send(404, b"{}")
        try:
            paths = json.loads(body)["paths"]
        except ValueError:
            paths = parse_qs(body.decode())["paths"]
        return self._json([self._row(p, files[1][p]) for p in paths if p in files[1]])

    def do_GET(self) -> None:
        hub = self.registry
        hub.requests.append((self.command, self.path, dict(self.headers)))
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if m := re.fullmatch(r"/cdn/(\w+)", path):
            return self._cdn(m[1], query)
        if path.startswith("/api/") and hub.rules.status:
            return self._error(hub.rules.status.pop(0), "", "busy")
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+?))?/?", path):
            return self._api(m[1], m[2], m[3] or "main", query)
        if m := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path):
            return self._file(*m.groups())
        return self._error(404, "", "no such page")

    def _accepted(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.registry.rules.token}"

    def _files(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """Commit and files; an error is sent where there is none."""
        commits = self.registry.commits.get(repository)
        if commits is None or (self.registry.rules.private and not self._accepted()):
            status = 404 if self._accepted() else 401  # the Hub does not tell which
            self._error(status, "RepoNotFound", "Repository not found")
            return None
        if revision == "main":
            return commits[-1]
        found = next((c for c in commits if c[0].startswith(revision)), None)
        if found is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _api(self, repository: str, kind: str, revision: str, query: dict[str, list[str]]) -> None:
        found = self._files(repository, revision)
        if found is None:
            return
        commit, files = found
        if kind != "tree":
            self._json({
                "_id": "1", "id": repository, "modelId": repository, "sha": commit, "private": False,
                "gated": "manual" if self.registry.rules.gated else False, "tags": [], "downloads": 0,
                "siblings": [{"rfilename": f} for f in files],
            })  # fmt: skip
            return
        rows = [self._row(p, data) for p, data in sorted(files.items())]
        at = int(query.get("cursor", ["0"])[0])
        headers = {}
        if at + PAGE_ROWS < len(rows):
            url = f"{self.registry.address}{urlsplit(self.path).path}?recursive=true&cursor={at + PAGE_ROWS}"
            headers["Link"] = f'<{url}>; rel="next"'
        self._json(rows[at : at + PAGE_ROWS], headers)

    def _row(self, path: str, data: bytes) -> dict[str, Any]:
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
        if not self.registry.in_lfs(path):
            return {**row, "oid": blob_id(data)}
        digest = self.registry.digest(data)
        if self.registry.rules.xet:
            row["xetHash"] = hashlib.sha256(digest.encode()).hexdigest()
        pointer = {"oid": digest, "size": len(data), "pointerSize": 134}
        return {**row, "oid": blob_id(digest.encode()), "lfs": pointer}

    def _file(self, repository: str, revision: str, path: str) -> None:
        hub, rules = self.registry, self.registry.rules
        found = self._files(repository, revision)
        if found is None:
            return
        commit, files = found
        if rules.gated and not self._accepted():
            status = 403 if "Authorization" in self.headers else 401
            self._error(status, "GatedRepo", f"Access to model {repository} is restricted.")
            return
        if path not in files:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        data = files[path]
        digest = hub.digest(data)
        hub.model_digest = digest  # what `corrupt_at` is about
        headers = {"X-Repo-Commit": "0" * 40 if rules.lie_about_commit else commit}
        if hub.in_lfs(path):
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            if rules.xet:
                headers |= {
                    "X-Xet-Hash": hashlib.sha256(digest.encode()).hexdigest(),
                    "Link": f'<{hub.address}/api/models/{repository}/xet-read-token/{commit}>; rel="xet-auth"',
                }
        if rules.sign_uses is not None and hub.in_lfs(path):
            signature = f"s{len(hub.signatures)}"
            hub.signatures[signature] = rules.sign_uses
            # Another host than the Hub's: no token may arrive there.
            url = f"http://localhost:{hub.port}/cdn/{digest}?sig={quote(signature)}"
            self._send(302, b"", {**headers, "Location": url})
        elif self.command == "HEAD":
            etag = digest if hub.in_lfs(path) else blob_id(data)
            self.send_response(200)
            for k, v in {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}.items():
                self.send_header(k, v)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
        else:
            self._blob(digest, hub.lies.get((commit, path), data))

    def _cdn(self, digest: str, query: dict[str, list[str]]) -> None:
        """The bytes, while the signature lasts."""
        hub, signature = self.registry, query["sig"][0]
        hub.signatures[signature] -= 1
        if hub.signatures[signature] < 0:
            return self._send(403, b"<Error><Code>AccessDenied</Code></Error>")
        for commits in hub.commits.values():
            for _, files in commits:
                for data in files.values():
                    if hub.digest(data) == digest:
                        return self._blob(digest, data)
        return self._send(404, b"")

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._send(200, body, {"Content-Type": "application/json", **(headers or {})})

    def _error(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message}
        if code:
            headers["X-Error-Code"] = code
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self.command != "HEAD":
            super()._send(status, body, headers)
            return
        self.send_response(status)
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        self.send_header("Content-Length", "0" if 300 <= status < 400 else str(len(body)))
        self.end_headers()


FakeHub.handler = _HubHandler
