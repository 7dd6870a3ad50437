"""The header of a GGUF that is not here yet: its first megabytes, by ranges."""

from typing import TYPE_CHECKING

from tqconvert.errors import IncompleteHeaderError
from tqconvert.gguf.header import Header, parse_header
from tqconvert.registry.http import (
    Endpoint,
    Http,
    TransientError,
    check,
    connection_error,
    drop,
    read_body,
    same_origin,
)

if TYPE_CHECKING:
    import urllib3

FIRST_BYTES = 1 << 20
MOST_BYTES = 256 << 20
"""A header that is longer is no model's; a vocabulary of 262,144 tokens takes 7 MiB."""


def fetch_head(
    http: Http, source: Endpoint, size: int, subject: str, *, most: int = MOST_BYTES
) -> tuple[bytes, Header] | None:
    """The first bytes of a file of `size` bytes, its header and perhaps more, and the header.

    None where the header is longer than `most`. Raises what asking a server raises, InvalidGgufError.
    """
    data, n = b"", min(FIRST_BYTES, size)
    while True:
        wanted = f"bytes={len(data)}-{n - 1}"
        response, reached = http.request("GET", source, {"Range": wanted})
        if response.status == 401 and source.renew and same_origin(reached.url, source.url):
            challenge = response.headers.get("WWW-Authenticate", "")
            drop(response)
            source = source.renew(challenge) or source
            response, reached = http.request("GET", source, {"Range": wanted})
        check(response, subject, reached.url)
        if response.status == 206 or (not data and n == size):
            data += read_body(response, n - len(data), subject)
        else:
            data = _beginning(response, n, subject)
        if len(data) < n:
            raise TransientError(f"{subject}: the answer ended early ({len(data)} of {n} bytes)")
        try:
            header = parse_header(data, size, subject=subject)
        except IncompleteHeaderError:
            if n >= most:
                return None
            n = min(4 * n, size)
            continue
        return data, header


def _beginning(response: "urllib3.BaseHTTPResponse", n: int, subject: str) -> bytes:
    """The first `n` bytes of an answer by a server that has no ranges and sends everything."""
    import urllib3

    data = b""
    try:
        while len(data) < n and (part := response.read1(min(1 << 16, n - len(data)))):
            data += part
    except urllib3.exceptions.HTTPError as e:
        raise connection_error(subject, e) from e
    finally:
        drop(response)
    return data
