"""What the servers that tests make have in common: a thread, a port of loopback, an end."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class Server(ThreadingHTTPServer):
    """One that says nothing of clients that are killed or go away: what the tests are about."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


class Loopback:
    """A server in a thread of this process while its `with` block lasts.

    Handlers, of a class that is set as `handler`, find their owner as `registry`.
    """

    handler: type[BaseHTTPRequestHandler]

    def __enter__(self) -> Self:
        bound = type("Bound", (self.handler,), {"registry": self})
        self._server = Server(("127.0.0.1", 0), bound)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
