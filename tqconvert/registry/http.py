"""HTTP as registries need it: proxies, redirects without credentials, no plain http by accident.

urllib3 does the protocol; this module decides what may be asked and who may see a token.
"""

import ipaddress
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tqconvert import __version__
from tqconvert.errors import AuthError, ConfigError, NetworkError, NotFoundError, TqError

if TYPE_CHECKING:
    import urllib3

MAX_REDIRECTS = 8
CONNECT_TIMEOUT_S = 15.0
SEND_TIMEOUT_S = 60.0
REDIRECTS = {301, 302, 303, 307, 308}
KEEPING = {307, 308}
RETRYABLE = {408, 425, 429, 500, 502, 503, 504}
BODY_TIMEOUT_S = 60.0
"""Seconds in which a manifest or a token must have arrived."""


Body = bytes | Callable[[], Iterable[bytes]]
"""What a request sends: bytes, or what makes them anew for each attempt (with a Content-Length)."""


class ProtocolError(NetworkError):
    """The server's answer contradicts itself or what was asked for; asking again will not help."""

    kind = "protocol"


class TransientError(NetworkError):
    """A failure that may pass: connection lost, time-out, 429, 5xx."""

    def __init__(
        self, message: str, *, hint: str | None = None, wait_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a request is sent to: a URL and headers that only its own host may see."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    renew: Callable[[str], "Endpoint | None"] | None = None
    """From the challenge of a 401 to an endpoint with another token: tokens end after minutes."""


def is_loopback(host: str | None) -> bool:
    """Whether the host name is this machine itself."""
    name = (host or "").strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Http:
    """Connections of one command. Thread-safe, as urllib3's pools are."""

    def __init__(
        self, *, insecure: bool = False, offline: bool = False, stall_s: float = 30.0,
        connections: int = 4,
    ) -> None:  # fmt: skip
        self.insecure = insecure
        self.offline = offline
        self.stall_s = stall_s
        self._connections = connections
        self._lock = threading.Lock()
        self._pools: dict[str | None, urllib3.PoolManager] = {}

    def request(
        self, method: str, endpoint: Endpoint, headers: Mapping[str, str] | None = None, *,
        body: Body | None = None, timeout_s: float | None = None,
        redirects: int = MAX_REDIRECTS,
    ) -> tuple["urllib3.BaseHTTPResponse", Endpoint]:  # fmt: skip
        """The response after redirects, body unread, and the endpoint that gave it.

        `timeout_s` is for answers that take long to come; with a body, only redirects that keep it
        are followed. Raises TransientError, ProtocolError, NetworkError. HTTP errors are left to `check`.
        """
        followed = REDIRECTS if body is None else KEEPING
        for _ in range(max(redirects, 1)):
            response = self._send(method, endpoint, headers or {}, body, timeout_s)
            if response.status not in followed or not redirects:
                return response, endpoint
            location = response.headers.get("Location", "")
            drop(response)
            endpoint = self._redirected(endpoint, location)
        raise ProtocolError(f"{host_of(endpoint.url)}: more than {redirects} redirects")

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.clear()

    def _send(
        self, method: str, endpoint: Endpoint, headers: Mapping[str, str], body: Body | None,
        timeout_s: float | None,
    ) -> "urllib3.BaseHTTPResponse":  # fmt: skip
        import urllib3

        self.allow(endpoint.url)
        sent = {
            "User-Agent": f"tqconvert/{__version__}",
            "Accept-Encoding": "identity",
            **endpoint.headers,
            **headers,
        }
        more: dict[str, Any] = {}
        if timeout_s is not None or body is not None:
            # Until a body is sent, the time to connect is also what a piece of it may take.
            connect = CONNECT_TIMEOUT_S if body is None else SEND_TIMEOUT_S
            more["timeout"] = urllib3.Timeout(connect=connect, read=timeout_s or self.stall_s)
        try:
            return self._pool(endpoint.url).request(
                method, endpoint.url, headers=sent, redirect=False, retries=False,
                preload_content=False, decode_content=False,
                body=body() if callable(body) else body, **more,
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as e:
            raise connection_error(endpoint.url, e) from e

    def allow(self, url: str) -> None:
        """Refuse what must not be asked: --offline, file:, plain http over a network."""
        parts = split_url(url)
        if self.offline:
            raise NetworkError(
                f"{parts.hostname}: not asked, because --offline forbids the network",
                hint="run it without --offline (or unset HF_HUB_OFFLINE, TQCONVERT_OFFLINE)",
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ProtocolError(f"{url[:80]}: not an http address")
        if parts.scheme == "http" and not (self.insecure or is_loopback(parts.hostname)):
            raise NetworkError(
                f"{parts.hostname}: plain http, where anybody on the way can change the bytes",
                hint="use https, or allow it with --insecure",
            )

    def _redirected(self, old: Endpoint, location: str) -> Endpoint:
        if not location:
            raise ProtocolError(f"{host_of(old.url)}: a redirect to nowhere")
        try:
            url = urllib.parse.urljoin(old.url, location)
        except ValueError:  # such as an IPv6 address without its end
            raise ProtocolError(f"{host_of(old.url)}: redirects to {location[:80]!r}") from None
        was, now = split_url(old.url), split_url(url)
        if now.scheme not in ("http", "https"):
            raise ProtocolError(
                f"{was.hostname}: redirects to {now.scheme}: (expected http or https)"
            )
        if was.scheme == "https" and now.scheme == "http" and not self.insecure:
            raise ProtocolError(f"{was.hostname}: redirects from https to plain http")
        return Endpoint(url, old.headers if same_origin(old.url, url) else {})

    def _pool(self, url: str) -> "urllib3.PoolManager":
        import urllib3

        proxy = proxy_for(url)
        with self._lock:
            if proxy not in self._pools:
                pool = _through(proxy) if proxy else urllib3.PoolManager()
                pool.connection_pool_kw.update(
                    timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=self.stall_s),
                    maxsize=self._connections + 1,
                )
                self._pools[proxy] = pool
            return self._pools[proxy]


def split_url(url: str) -> urllib.parse.SplitResult:
    """Parts of a URL whose host and port can be read. Raises ProtocolError."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.hostname, parts.port
    except ValueError as e:
        raise ProtocolError(f"{url[:80]!r}: no address that can be asked ({e})") from None
    return parts


def _through(proxy: str) -> "urllib3.ProxyManager":
    """Connections through a proxy; user and password in its URL are for it alone."""
    import urllib3

    try:
        parts = urllib3.util.parse_url(proxy)
        headers = {}
        if parts.auth:
            auth = urllib.parse.unquote(parts.auth)
            headers = urllib3.make_headers(proxy_basic_auth=auth)
        plain = parts._replace(auth=None).url
        return urllib3.ProxyManager(plain, proxy_headers=headers)
    except (ValueError, UnicodeError):  # LocationParseError, ProxySchemeUnknown
        raise ConfigError(
            f"{host_of(proxy)}: cannot be a proxy (expected http://[user:password@]host:port)",
            hint="check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY",
        ) from None


def proxy_for(url: str) -> str | None:
    """Proxy that the environment names for the URL; never one for loopback hosts."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if found and "://" not in found:
        found = f"http://{found}"
    return found


def check(response: "urllib3.BaseHTTPResponse", subject: str, url: str) -> None:
    """Turn an HTTP error into ours; `subject` is what was asked for, in the user's words."""
    status = response.status
    if status < 400:
        return
    host = host_of(url)
    wait_s = retry_after(response.headers)
    drop(response)
    if status == 404:
        raise NotFoundError(
            f"{subject}: {host} does not have it", hint="check the name and the tag"
        )
    if status in (401, 403):
        raise AuthError(
            f"{subject}: {host} refused ({status})",
            hint=f"docker login {host} (credentials are read from Docker's configuration)",
        )
    if status == 412:
        raise NetworkError(f"{subject}: {host} wants a newer client for this model (412)")
    if status in RETRYABLE:
        raise TransientError(f"{subject}: {host} answered {status}", wait_s=wait_s)
    raise ProtocolError(f"{subject}: {host} answered {status}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header, given as a number or as a date."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    if not text:
        return None
    import email.utils
    import time

    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):  # no date, or one before time began
        return None


def read_body(response: "urllib3.BaseHTTPResponse", limit: int, subject: str) -> bytes:
    """The whole body if it is no longer than `limit` bytes and comes in time."""
    import time

    import urllib3

    until = time.monotonic() + BODY_TIMEOUT_S
    try:
        parts, n = [], 0
        while part := response.read1(1 << 16):
            parts.append(part)
            n += len(part)
            if n > limit:
                raise ProtocolError(f"{subject}: an answer of more than {limit} bytes")
            if time.monotonic() > until:
                raise TransientError(f"{subject}: not even {limit} bytes in {BODY_TIMEOUT_S:.0f} s")
        return b"".join(parts)
    except urllib3.exceptions.HTTPError as e:
        raise connection_error(subject, e) from e
    except TqError:
        drop(response)
        raise
    finally:
        response.release_conn()


def drop(response: "urllib3.BaseHTTPResponse") -> None:
    """Give the response up; its connection is not used again, the body may be endless."""
    response.close()
    response.release_conn()


def connection_error(subject: str, e: Exception) -> TqError:
    """A urllib3 failure in words."""
    import urllib3

    host = host_of(subject)
    exceptions = urllib3.exceptions
    if isinstance(e, exceptions.LocationValueError):
        return ProtocolError(f"{host}: no address that can be asked", hint="check the name")
    if isinstance(e, exceptions.SSLError) and "WRONG_VERSION_NUMBER" in str(e):
        return NetworkError(
            f"{host}: does not speak TLS", hint="plain http can be allowed with --insecure"
        )
    if isinstance(e, exceptions.SSLError):
        return NetworkError(
            f"{host}: TLS failed: {e}",
            hint="a private certificate authority goes into SSL_CERT_FILE",
        )
    if isinstance(e, exceptions.ProxyError):
        return TransientError(
            f"{host}: the proxy failed: {e}", hint="check HTTPS_PROXY and NO_PROXY"
        )
    if isinstance(e, exceptions.NameResolutionError):
        return TransientError(
            f"{host}: no such host, or no network", hint="check the name and the network"
        )
    if isinstance(e, exceptions.ReadTimeoutError):
        return TransientError(f"{host}: no bytes for a while, given up")
    if isinstance(e, exceptions.NewConnectionError):
        return TransientError(
            f"{host}: cannot connect", hint="is the server up, and the port right?"
        )
    if isinstance(e, exceptions.ConnectTimeoutError):  # the base of NewConnectionError: comes last
        return TransientError(f"{host}: no connection in {CONNECT_TIMEOUT_S:.0f} s")
    return TransientError(f"{host}: connection lost ({type(e).__name__})")


def base_url(http: Http, host: str, scheme: str | None) -> str:
    """`scheme://host`: what the user wrote; http on this machine; else https.

    Under --insecure a host that does not speak TLS is asked by plain http.
    """
    if scheme is None:
        scheme = "http" if is_loopback(urllib.parse.urlsplit(f"//{host}").hostname) else "https"
        if scheme == "https" and http.insecure and not http.offline:
            scheme = _spoken(http, host)
    return f"{scheme}://{host}"


def _spoken(http: Http, host: str) -> str:
    try:
        response, _ = http.request("GET", Endpoint(f"https://{host}/v2/"))
    except NetworkError:
        return "http"
    drop(response)
    return "https"


def same_origin(one: str, other: str) -> bool:
    """Whether both are the same server by the same scheme: what may be told to one may be told to the other."""
    try:
        a, b = (
            (x.scheme, x.hostname, x.port or {"http": 80, "https": 443}.get(x.scheme))
            for x in map(urllib.parse.urlsplit, (one, other))
        )
    except ValueError:
        return False
    return a == b


def host_of(url: str) -> str:
    """Host and port of the URL, without what only the server may see."""
    try:
        netloc = urllib.parse.urlsplit(url).netloc
    except ValueError:
        netloc = ""
    return netloc.rpartition("@")[2] or url[:80]
