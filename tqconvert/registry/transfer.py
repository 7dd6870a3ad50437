"""The transfer engine: the bytes of one blob, by parallel ranges, into a partial file.

Whatever goes wrong on the way (cut connections, stalls, 5xx, a killed process), the next attempt asks
only for what is missing. This module knows nothing of models: `pull` and every other source use it.

Ranges are asked for in order and are 32 MiB long, so that the hashers, which follow in order, are
never far behind; parallel ones only after the server has proved by a 206 that it has ranges at all.
"""

import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqconvert import fs
from tqconvert.errors import NetworkError
from tqconvert.progress import Progress
from tqconvert.registry.follow import Watermark
from tqconvert.registry.http import (
    Endpoint,
    Http,
    ProtocolError,
    TransientError,
    check,
    connection_error,
    drop,
    same_origin,
)
from tqconvert.registry.partial import JOURNAL_STEP, Sink

if TYPE_CHECKING:
    import urllib3

SPAN = 32 << 20
READ = 1 << 18
TICK_S = 0.1
MAX_WAIT_S = 60.0
REPEAT_S = 5.0
"""A failure is not said again within this time."""

END_S = 5.0
MIN_BYTES = 16 << 10
"""Fewer bytes than these in the stall time are a stall, and are no progress that earns new retries."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@dataclass(slots=True)
class Stats:
    """What a transfer took."""

    received: int = 0
    resumed_from: int = 0
    retries: int = 0
    restarted: bool = False

    def add(self, other: "Stats") -> None:
        """Count another transfer in."""
        self.received += other.received
        self.resumed_from += other.resumed_from
        self.retries += other.retries


@dataclass(slots=True)
class _Span:
    """A range of the blob that one worker fetches: `at` moves from its start to `end`."""

    at: int
    end: int
    noted: int


class Transfer:
    """One blob on its way into `partial`, which is open and locked by the caller."""

    def __init__(
        self, http: Http, source: Endpoint, partial: Sink, *, subject: str, progress: Progress,
        connections: int = 4, retries: int = 6,
    ) -> None:  # fmt: skip
        self._http, self._source, self._partial = http, source, partial
        self._subject, self._progress = subject, progress
        self._connections, self._retries = connections, retries
        self._target = source  # where redirects led; kept until it is refused
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._spans: deque[_Span] = deque()
        self._workers: list[threading.Thread] = []
        self._open: set[urllib3.BaseHTTPResponse] = set()
        self._error: BaseException | None = None
        self._notes: deque[str] = deque()
        self._noted: dict[str, float] = {}
        self.watermark = Watermark()
        self.stats = Stats(resumed_from=partial.done.total())

    def run(self, on_prefix: Callable[[int], None] = lambda _: None) -> Stats:
        """Fetch what is missing; `on_prefix` gets the length of the gapless prefix as it grows.

        Raises NetworkError and its kin when retries are exhausted, StorageError, and whatever
        `on_prefix` raises; the partial keeps what has arrived.
        """
        for start, end in self._partial.done.gaps(self._partial.size):
            for at in range(start, end, SPAN):
                self._spans.append(_Span(at, min(at + SPAN, end), at))
        self.watermark.rise(self._partial.done.prefix())
        reported = 0
        try:
            self._start_workers(1)
            while True:
                busy = self._wait()
                self._say_notes()
                self._progress.advance(self.stats.received - reported)
                reported = self.stats.received
                self._raise_error()
                on_prefix(self.watermark.value)
                if not busy:
                    return self.stats
        except BaseException:
            self.watermark.abort()
            raise
        finally:
            self._end_workers()

    def _wait(self) -> bool:
        """Let the workers work for a moment; whether any of them still does."""
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.join(TICK_S / len(workers))
        with self._lock:  # workers start each other: the list may be longer now
            return any(worker.is_alive() for worker in self._workers)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _note_once(self, message: str, wait_s: float) -> None:
        """Say a failure, but not once for each of the workers that it hits at the same time."""
        now = time.monotonic()
        with self._lock:
            again = now - self._noted.get(message, -REPEAT_S) < REPEAT_S
            self._noted[message] = now
        if not again:
            self._notes.append(f"{message}; trying again in {wait_s:.1f} s")

    def _say_notes(self) -> None:
        while self._notes:
            self._progress.note(self._notes.popleft())

    def _start_workers(self, n: int) -> None:
        """Start up to `n` more, as many as there are spans and connections allowed."""
        with self._lock:  # nobody may see a worker that is not alive yet
            for _ in range(min(n, self._connections - len(self._workers), len(self._spans))):
                worker = threading.Thread(target=self._work, daemon=True, name="transfer")
                worker.start()
                self._workers.append(worker)

    def _end_workers(self) -> None:
        self._stop.set()
        with self._lock:
            waiting = list(self._open)
        for response in waiting:
            try:
                response.shutdown()
            except (ValueError, RuntimeError, OSError):
                continue  # it ended by itself in the meantime
        until = time.monotonic() + END_S
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        """Fetch one span after the other; the first failure that retries do not mend ends them all."""
        try:
            while not self._stop.is_set():
                with self._lock:
                    span = self._spans.popleft() if self._spans else None
                if span is None:
                    return
                self._fetch_span(span)
        except OSError as e:
            self._error = self._error or fs.storage_error(e, self._partial.path)
            self._stop.set()
        except BaseException as e:  # noqa: BLE001 - handed to the thread that waits for us
            self._error = self._error or e
            self._stop.set()

    def _fetch_span(self, span: _Span) -> None:
        failures = 0
        while span.at < span.end and not self._stop.is_set():
            before = span.at
            try:
                self._fetch(span)
            except TransientError as e:
                failures = 1 if span.at - before >= MIN_BYTES else failures + 1
                if failures > self._retries:
                    raise NetworkError(
                        f"{e.message}; gave up after {self._retries} retries",
                        hint=e.hint or "what has arrived is kept: run the same command again",
                    ) from e
                self.stats.retries += 1
                self._pause(failures, e)
            finally:
                self._note(span)

    def _pause(self, failures: int, e: TransientError) -> None:
        """Wait as long as the server asks, else longer each time, and not all workers alike."""
        jitter = 0.7 + 0.6 * random.random()  # noqa: S311 - no secret
        wait_s = 0.5 * 2 ** (failures - 1) * jitter if e.wait_s is None else e.wait_s
        wait_s = min(wait_s, MAX_WAIT_S)
        if failures > 1 or wait_s > 2:
            self._note_once(e.message, wait_s)
        self._stop.wait(wait_s)

    def _fetch(self, span: _Span) -> None:
        """Ask for the rest of the span and write what comes."""
        whole = span.at == 0 and span.end == self._partial.size
        headers = {} if whole else {"Range": f"bytes={span.at}-{span.end - 1}"}
        response = self._ask(headers)
        with self._lock:
            self._open.add(response)
        try:
            check(response, self._subject, self._target.url)
            self._check_answer(response, span, whole=whole)
            self._read(response, span)
        except BaseException:
            drop(response)
            raise
        finally:
            with self._lock:
                self._open.discard(response)
        if span.at < span.end:  # told to stop in the middle
            drop(response)
        else:
            response.release_conn()

    def _ask(self, headers: dict[str, str]) -> "urllib3.BaseHTTPResponse":
        """The answer from where the last redirect led; signed addresses expire, so also from the start."""
        target = self._target
        response, reached = self._http.request("GET", target, headers)
        if response.status in (400, 401, 403, 404, 410) and target is not self._source:
            drop(response)
            response, reached = self._http.request("GET", self._source, headers)
        # A host that was redirected to may not say where our password goes.
        own = same_origin(reached.url, self._source.url)
        if response.status == 401 and own and self._source.renew is not None:
            challenge = response.headers.get("WWW-Authenticate", "")
            drop(response)
            self._source = self._source.renew(challenge) or self._source
            response, reached = self._http.request("GET", self._source, headers)
        if response.status < 300:
            self._target = reached
        return response

    def _check_answer(
        self, response: "urllib3.BaseHTTPResponse", span: _Span, *, whole: bool
    ) -> None:
        size = self._partial.size
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise ProtocolError(
                f"{self._subject}: the server sends {encoding} (expected the bytes as they are)"
            )
        length = response.headers.get("Content-Length")
        if response.status == 200 and not whole:
            self._stream_whole(span)
        if response.status == 200:
            if length is not None and length != str(size):
                raise ProtocolError(
                    f"{self._subject}: the server has {length} bytes (expected {size})"
                )
            return
        got = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        fits = (
            response.status == 206
            and got is not None
            and (int(got[1]), int(got[2])) == (span.at, span.end - 1)
            and got[3] in ("*", str(size))
            and length in (None, str(span.end - span.at))
        )
        if not fits:
            raise ProtocolError(
                f"{self._subject}: asked for bytes {span.at}-{span.end - 1} of {size}, the server answers "
                f"{response.status} {response.headers.get('Content-Range', 'without a range')}"
            )
        self._start_workers(self._connections)  # the server has ranges: several at a time

    def _stream_whole(self, span: _Span) -> None:
        """The server has no ranges and sends everything from the start: take that as one span."""
        with self._lock:
            if len(self._workers) > 1:
                raise TransientError(f"{self._subject}: the server had ranges, and now has none")
            self._spans.clear()
            if self._partial.done.total():
                self._notes.append(f"{self._subject}: the server cannot resume; starting anew")
            self._partial.restart()
            self.stats.resumed_from = 0
        span.at, span.noted, span.end = 0, 0, self._partial.size

    def _read(self, response: "urllib3.BaseHTTPResponse", span: _Span) -> None:
        import urllib3

        until, enough = time.monotonic() + self._http.stall_s, span.at + MIN_BYTES
        while span.at < span.end and not self._stop.is_set():
            try:
                data = response.read1(min(READ, span.end - span.at))
            except urllib3.exceptions.HTTPError as e:
                raise connection_error(self._target.url, e) from e
            if not data:
                raise TransientError(f"{self._subject}: the connection ended early")
            if self._stop.is_set():
                return  # the file may be closed by now
            self._partial.write(data, span.at)
            span.at += len(data)
            with self._lock:
                self.stats.received += len(data)
            if span.at - span.noted >= JOURNAL_STEP:
                self._note(span)
            if time.monotonic() > until:
                if span.at < enough:
                    raise TransientError(f"{self._subject}: bytes only drip in")
                until, enough = time.monotonic() + self._http.stall_s, span.at + MIN_BYTES
        if span.at == span.end and response.headers.get("Content-Length") is None:
            try:
                more = response.read1(1)
            except urllib3.exceptions.HTTPError:
                more = b""
            if more:
                raise ProtocolError(f"{self._subject}: the server sends more bytes than it should")

    def _note(self, span: _Span) -> None:
        with self._lock:
            if span.at > span.noted:
                self._partial.note(span.noted, span.at)
                span.noted = span.at
            prefix = self._partial.done.prefix()
        self.watermark.rise(prefix)
