"""A store served read-only on the network: the address, the threads, the end.

What is answered: `tqconvert.registry.answers`.
"""

import contextlib
import ipaddress
import re
import socket
import threading
from functools import partial
from http.server import HTTPServer
from types import TracebackType
from typing import Any, Final, Self

from tqconvert.errors import NotFoundError, StorageError, UsageError
from tqconvert.registry.answers import Desk, Handler, Log
from tqconvert.registry.shelf import Shelf
from tqconvert.store.layout import Store

DEFAULT_PORT: Final = 11435
MAX_CONNECTIONS: Final = 1024
"""Fifty clients with the 16 connections that stock `ollama pull` opens need 800."""

DESCRIPTORS: Final = 4096
WAITS: Final = 20
WAIT_S: Final = 0.5
"""For a place a new connection waits ten seconds at most; the kernel holds those behind it."""


def serve_store(
    store: Store, host: str = "127.0.0.1", port: int = 0, *, log: Log | None = None
) -> "Server":
    """Start serving in threads of this process; port 0 takes a free one.

    The caller closes the server, or uses it as a context manager.
    Raises NotFoundError if there is no store, StorageError if the address cannot be had.
    """
    if not store.root.is_dir():
        raise NotFoundError(f"{store.root}: no such store", hint="tqconvert install FILE --as NAME")
    return Server(store, host, port, log)


def parse_listen(text: str, *, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Host and port of `HOST`, `HOST:PORT`, `:PORT` (all addresses) or `[IPV6]:PORT`."""
    m = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s\[\]:/]*))(?::(\d{1,5}))?", text)
    if not text or not m or int(m[3] or 0) > 65535:
        raise UsageError(f"{text!r}: no address to listen on (expected HOST:PORT)")
    port = default_port if m[3] is None else int(m[3])
    return m[1] or m[2] or "0.0.0.0", port  # noqa: S104 - the user wrote ":PORT"


class Server:
    """A running registry."""

    def __init__(self, store: Store, host: str, port: int, log: Log | None) -> None:
        self._shelf = Shelf(store)
        try:
            info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._http = _Http(info[0], info[4], Desk(self._shelf, log or _drop))
        except (OSError, UnicodeError) as e:
            reason = (e.strerror if isinstance(e, OSError) else None) or str(e)
            raise StorageError(
                f"{host}:{port}: cannot listen there: {reason}", hint="--listen 127.0.0.1:0"
            ) from None
        self._host, self._port = self._http.server_address[:2]
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """HOST:PORT that it listens on."""
        host = str(self._host)
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"

    @property
    def url(self) -> str:
        """URL for clients on this machine."""
        ip = ipaddress.ip_address(str(self._host).partition("%")[0])
        if ip.is_unspecified:
            return f"http://{'[::1]' if ip.version == 6 else '127.0.0.1'}:{self._port}"
        return f"http://{self.address}"

    @property
    def public(self) -> bool:
        """Whether other machines may reach it."""
        return not ipaddress.ip_address(str(self._host).partition("%")[0]).is_loopback

    @property
    def served(self) -> int:
        """Bytes of blobs sent so far."""
        return self._http.desk.served

    def models(self) -> list[str]:
        """Names to ask for: namespace/model:tag."""
        found = self._shelf.repositories()
        return [f"{repository}:{tag}" for repository, tags in found.items() for tag in tags]

    def wait(self) -> None:
        """Wait until the server is closed from elsewhere, or for KeyboardInterrupt."""
        while self._thread.is_alive():
            self._thread.join(1.0)

    def close(self) -> None:
        """End all connections and threads, and free the port."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._http.end_connections()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self.close()


def connection_limit() -> int:
    """Connections that this process has descriptors for: a socket and a file each.

    The soft limit is raised where it is low: many systems start programs with 1024 or 256.
    """
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < want:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (want, hard))
            soft = want
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(8, min(MAX_CONNECTIONS, (soft - 64) // 2))


def _drop(_text: str) -> None:
    """Log nowhere."""


class _Http(HTTPServer):
    """One daemon thread for each connection, as many as there are descriptors for.

    When they are all taken the connection that is idle for the longest time gives way; the rest waits in
    the kernel.
    """

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, family: int, address: Any, desk: Desk) -> None:
        self.address_family = socket.AddressFamily(family)
        self.desk = desk
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(connection_limit())
        self._live: dict[socket.socket, threading.Thread] = {}
        super().__init__(address, partial(Handler, desk))
        bound = str(self.server_address[0]).partition("%")[0]
        desk.loopback = ipaddress.ip_address(bound).is_loopback

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse lookup of the name, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand the connection to a thread of its own."""
        if not self._has_room():
            self.shutdown_request(request)
            return
        thread = threading.Thread(target=self._serve, args=(request, client_address), daemon=True)
        with self._lock:
            self._live[request] = thread
        thread.start()

    def _has_room(self) -> bool:
        """Take a place for a connection; idle ones give way one by one until there is one."""
        if self._free.acquire(blocking=False):
            return True
        for _ in range(WAITS):
            self.desk.end_longest_idle()
            if self._free.acquire(timeout=WAIT_S):
                return True
        return False

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            # A client that vanishes is no event; OSError here is always about its socket.
            with contextlib.suppress(OSError):
                self.finish_request(request, client_address)
        finally:
            self.shutdown_request(request)
            with self._lock:
                self._live.pop(request, None)
            self._free.release()

    def end_connections(self) -> None:
        """Cut the connections that are open and wait for their threads."""
        with self._lock:
            live = dict(self._live)
        for connection in live:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in live.values():
            thread.join(5)
