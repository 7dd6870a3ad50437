"""The transfer engine against a server that misbehaves in every way we could think of."""

import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakeregistry import FakeRegistry

from tqconvert import fs
from tqconvert.digest import Digest, digest_bytes, digest_path
from tqconvert.errors import (
    AuthError,
    DigestMismatchError,
    NetworkError,
    NotFoundError,
    StorageError,
    TqError,
)
from tqconvert.progress import Silent
from tqconvert.pull.receive import Blob, Workplace, fetch_blob
from tqconvert.registry import follow, transfer
from tqconvert.registry.follow import Follower, Watermark
from tqconvert.registry.http import Endpoint, Http, ProtocolError, proxy_for
from tqconvert.registry.partial import JOURNAL_STEP, Partial, Ranges

DATA = random.Random(1).randbytes(3 * JOURNAL_STEP + 12345)
DIGEST = digest_bytes(DATA)


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    """A registry that has DATA as its model."""
    with FakeRegistry(DATA) as registry:
        yield registry


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans small enough that a test's blob has several."""
    monkeypatch.setattr(transfer, "SPAN", 2 << 20)


class Pull:
    """A destination folder and how to fetch into it."""

    def __init__(self, folder: Path, server: FakeRegistry) -> None:
        self.folder, self.server = folder, server
        self.target = folder / "done"
        self.partials = folder / "partial"

    def fetch(self, *, digest: Digest = DIGEST, size: int = len(DATA), url: str = "", **options):
        http = Http(stall_s=options.pop("stall_s", 5.0), insecure=options.pop("insecure", False))
        headers = options.pop("headers", {})
        place = Workplace(self.partials, http, Silent(), retries=options.pop("retries", 2))
        url = url or f"http://127.0.0.1:{self.server.port}/v2/library/tiny/blobs/{digest}"
        try:
            return fetch_blob(
                place, Blob("model", digest, size), Endpoint(url, headers), lambda _: self.target
            )
        finally:
            http.close()

    def fails(self, error: type[TqError], match: str, **options) -> TqError:
        """The fetch ends in this error, nothing has the target's name."""
        with pytest.raises(error, match=match) as caught:
            self.fetch(**options)
        assert not self.target.exists()
        return caught.value


@pytest.fixture
def pull(tmp_path: Path, server: FakeRegistry) -> Pull:
    """Fetch into a folder of the test's own."""
    return Pull(tmp_path, server)


def test_a_blob_arrives_whole_by_parallel_ranges(pull: Pull, server: FakeRegistry) -> None:
    """Every byte is asked for once, by ranges, and the partial is gone afterwards."""
    done, stats = pull.fetch()
    assert digest_path(pull.target) == done.digest == DIGEST
    assert stats.received == len(DATA) == server.sent
    ranges = [h["Range"] for h in server.asked("blobs")]
    assert len(ranges) == -(-len(DATA) // (2 << 20))
    assert list(pull.partials.iterdir()) == []


def test_no_range_is_asked_for_in_parallel_before_a_206(pull: Pull, server: FakeRegistry) -> None:
    """A server without ranges gets one request and its one body is used."""
    server.faults.no_ranges = True
    done, stats = pull.fetch()
    assert done.digest == DIGEST
    assert len(server.asked("blobs")) == 1
    assert stats.received == len(DATA)


def test_cut_connections_go_on_where_they_ended(pull: Pull, server: FakeRegistry) -> None:
    """Twelve cuts at random offsets cost no byte twice."""
    rng = random.Random(2)
    server.faults.cut_at = [rng.randrange(1, 2 << 20) for _ in range(12)]
    done, stats = pull.fetch()
    assert done.digest == DIGEST
    assert stats.retries >= 6
    assert stats.received == len(DATA)


def test_cuts_without_ranges_start_anew_and_end(pull: Pull, server: FakeRegistry) -> None:
    """Where the server cannot resume, a cut costs the bytes, not the download."""
    server.faults.no_ranges = True
    server.faults.cut_at = [5 << 20]
    done, stats = pull.fetch()
    assert done.digest == DIGEST
    assert stats.retries == 1


def test_a_dead_server_is_given_up_and_the_bytes_are_kept(pull: Pull, server: FakeRegistry) -> None:
    """Retries end in an error that says that what arrived is kept; the next run fetches the rest."""
    server.faults.cut_at = [1 << 20] * 2 + [0] * 60
    error = pull.fails(NetworkError, "gave up")
    assert error.exit_code == 11
    server.faults.cut_at = []
    before = server.sent
    _, stats = pull.fetch()
    assert stats.resumed_from > 0
    assert server.sent - before == len(DATA) - stats.resumed_from
    assert digest_path(pull.target) == DIGEST


def test_what_was_kept_is_hashed_again(pull: Pull, server: FakeRegistry) -> None:
    """A kept byte that went bad on the disk is found, and the blob is fetched anew, once."""
    server.faults.cut_at = [1 << 20, *[0] * 60]
    pull.fails(NetworkError, "gave up")
    server.faults.cut_at = []
    partial = next(pull.partials.glob("*.partial"))
    raw = bytearray(partial.read_bytes())
    raw[1000] ^= 1
    partial.write_bytes(raw)
    done, stats = pull.fetch()
    assert done.digest == DIGEST
    assert stats.restarted


def test_a_corrupt_byte_is_never_given_the_name(pull: Pull, server: FakeRegistry) -> None:
    """One flipped bit: digest mismatch, exit 4, no partial left to resume from."""
    server.faults.corrupt_at = 5_000_000
    error = pull.fails(DigestMismatchError, str(DIGEST))
    assert error.exit_code == 4
    assert list(pull.partials.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "value", "match"),
    [
        ("short_by", 7, "expected|answers"),
        ("lie_about_ranges", True, "asked for bytes"),
        ("wrong_total", True, "asked for bytes"),
        ("gzip", True, "gzip"),
    ],
)
def test_servers_that_contradict_themselves(
    pull: Pull, server: FakeRegistry, fault: str, value: object, match: str
) -> None:
    """Wrong lengths, wrong ranges, encodings nobody asked for: refused at once, not retried."""
    setattr(server.faults, fault, value)
    pull.fails(ProtocolError, match)
    assert len(server.asked("blobs")) <= 8


def test_an_endless_body_is_cut_off(pull: Pull, server: FakeRegistry) -> None:
    """A body that goes on behind its size is refused; it never fills the disk."""
    server.faults.no_ranges = server.faults.endless = True
    pull.fails(ProtocolError, "more bytes")


def test_a_stalled_server_is_left_and_asked_again(pull: Pull, server: FakeRegistry) -> None:
    """No byte for `stall_s` seconds ends the connection; the next one goes on."""
    server.faults.stall_after = [100_000]
    server.faults.stall_s = 0.8
    _, stats = pull.fetch(stall_s=0.3)
    assert digest_path(pull.target) == DIGEST
    assert stats.retries >= 1


def test_a_server_that_drips_is_given_up(pull: Pull, server: FakeRegistry) -> None:
    """A byte now and then is a stall: asked again, then given up, not waited for for years."""
    server.faults.drip_s = 0.01
    error = pull.fails(NetworkError, "drip.*gave up after 1 ", stall_s=0.3, retries=1)
    assert error.exit_code == 11


def test_a_connection_cut_after_every_few_bytes_is_given_up(
    pull: Pull, server: FakeRegistry
) -> None:
    """A few bytes in each connection are no progress that earns another round of retries."""
    server.faults.cut_at = [9] * 400
    pull.fails(NetworkError, "gave up", retries=1)
    assert len(server.asked("blobs")) <= 8


def test_an_abort_stops_hashing_of_what_was_kept(tmp_path: Path) -> None:
    """Ctrl-C does not wait until gigabytes that were kept from before have been hashed."""
    file = tmp_path / "f"
    with file.open("wb") as f:
        f.truncate(8 << 30)
    with file.open("rb") as f:
        watermark = Watermark()
        follower = Follower(f.fileno(), 8 << 30, watermark)
        follower.start()
        watermark.rise(8 << 30)
        watermark.abort()
        follower.join(1.0)
        assert not follower.is_alive()


def test_bytes_are_put_on_the_disk_while_they_arrive(
    pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synced during the download, not only after the last byte."""
    synced: list[int] = []
    monkeypatch.setattr(fs, "sync", synced.append)
    monkeypatch.setattr(follow, "FLUSH_STEP", 4 << 20)
    pull.server.faults.delay_s = 0.005
    pull.fetch()
    assert len(synced) >= 3


def test_a_disk_error_found_while_bytes_arrive_is_not_lost(
    pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports a failed write to one fsync alone: the download ends with it."""
    real, calls = fs.sync, []

    def sync(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(fs, "sync", sync)
    monkeypatch.setattr(follow, "FLUSH_STEP", 4 << 20)
    assert pull.fails(StorageError, "Input/output error").exit_code == 9


def test_busy_servers_are_asked_again_when_they_say(pull: Pull, server: FakeRegistry) -> None:
    """429 and 503 with Retry-After: 0 are retried without the usual wait."""
    server.faults.status = [429, 503]
    server.faults.retry_after = "0"
    _, stats = pull.fetch(retries=3)
    assert stats.retries == 2


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [(404, NotFoundError, 5), (403, AuthError, 12), (401, AuthError, 12)],
)
def test_final_answers_are_not_retried(
    pull: Pull, server: FakeRegistry, status: int, error: type[TqError], code: int
) -> None:
    """404, 401 and 403 end the transfer with their own exit codes."""
    server.faults.status = [status] * 9
    assert pull.fails(error, "127.0.0.1").exit_code == code
    assert len(server.asked("blobs")) == 1


def test_a_redirect_to_another_host_loses_the_token(pull: Pull, server: FakeRegistry) -> None:
    """The storage behind a registry never sees the registry's Authorization header."""
    with FakeRegistry(DATA) as storage:
        server.faults.redirect = f"http://127.0.0.1:{storage.port}/cdn/{{digest}}"
        pull.fetch(headers={"Authorization": "Bearer secret"})
        assert all(h.get("Authorization") == "Bearer secret" for h in server.asked("blobs"))
        assert storage.asked("cdn")
        assert not any("Authorization" in h for h in storage.asked("cdn"))
    assert digest_path(pull.target) == DIGEST


def test_an_expired_signed_address_is_asked_for_again(pull: Pull, server: FakeRegistry) -> None:
    """A 403 from the storage leads back to the registry for a new address."""
    with FakeRegistry(DATA) as storage:
        server.faults.redirect = f"http://127.0.0.1:{storage.port}/cdn/{{digest}}"

        def expire() -> None:
            for _ in range(5000):
                if storage.sent:  # the redirect was followed: from here on its target is remembered
                    break
                time.sleep(0.001)
            storage.faults.status.append(403)

        other = threading.Thread(target=expire)
        storage.faults.delay_s = 0.005
        other.start()
        pull.fetch()
        other.join()
        assert storage.faults.status == [], "the 403 was met in the middle of the transfer"
        assert len(server.asked("blobs")) >= 2
    assert digest_path(pull.target) == DIGEST


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/", ""])
def test_redirects_lead_to_http_only(pull: Pull, server: FakeRegistry, where: str) -> None:
    """file: and its kin are refused, and so is a redirect to nowhere."""
    server.faults.redirect = where
    pull.fails(ProtocolError, "redirects to|redirect to nowhere")


def test_a_redirect_loop_ends(pull: Pull, server: FakeRegistry) -> None:
    """A server that sends us round in circles is left."""
    server.faults.redirect = "/v2/library/tiny/blobs/{digest}"
    pull.fails(ProtocolError, "redirects")


def test_plain_http_needs_loopback_or_insecure(pull: Pull) -> None:
    """Plain http over a network is refused before a connection is made."""
    error = pull.fails(NetworkError, "plain http", url="http://registry.example/v2/x")
    assert "--insecure" in (error.hint or "")


def test_proxies_come_from_the_environment(
    pull: Pull, server: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY is asked with the whole address; NO_PROXY and loopback go past it."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    url = f"http://registry.example/v2/library/tiny/blobs/{DIGEST}"
    pull.fetch(url=url, insecure=True)
    assert digest_path(pull.target) == DIGEST
    assert all(path == url for _, path, _ in server.requests)
    monkeypatch.setenv("no_proxy", "registry.example")
    assert proxy_for(url) is None
    assert proxy_for("http://127.0.0.1:5000/v2/") is None
    assert proxy_for("http://other.example/") == f"http://127.0.0.1:{server.port}"


def test_a_redirect_to_plain_http_elsewhere_is_refused(pull: Pull, server: FakeRegistry) -> None:
    """A loopback registry cannot send us to plain http on the network."""
    server.faults.redirect = "http://storage.example/{digest}"
    pull.fails(NetworkError, "plain http")


def test_no_server_at_all_names_the_host(pull: Pull) -> None:
    """A refused connection is a network error with the host's name and a next step."""
    error = pull.fails(NetworkError, "127.0.0.1:1", url="http://127.0.0.1:1/v2/x", retries=0)
    assert error.exit_code == 11
    assert error.hint


def test_offline_asks_nobody(pull: Pull, server: FakeRegistry) -> None:
    """Offline forbids what a transfer would ask; nothing is created."""
    http = Http(offline=True)
    place = Workplace(pull.partials, http, Silent())
    with pytest.raises(NetworkError, match="--offline"):
        fetch_blob(
            place, Blob("model", DIGEST, len(DATA)), Endpoint("http://127.0.0.1:1/x"),
            lambda _: pull.target,
        )  # fmt: skip
    assert server.requests == []


def test_a_full_disk_is_found_before_the_first_byte(
    pull: Pull, server: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole length is reserved first: ENOSPC or EFBIG come before any request."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        error = pull.fails(StorageError, "partial")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert error.exit_code == 9
    assert server.requests == []


def test_an_empty_blob_needs_no_request(pull: Pull, server: FakeRegistry) -> None:
    """A blob of no bytes exists without the network."""
    done, stats = pull.fetch(digest=digest_bytes(b""), size=0)
    assert done.size == 0
    assert pull.target.read_bytes() == b""
    assert stats.received == 0
    assert server.requests == []


def test_ranges_know_their_gaps() -> None:
    """Ranges merge, and what is missing comes in order."""
    ranges = Ranges()
    ranges.add(10, 20)
    ranges.add(30, 40)
    ranges.add(20, 25)
    assert ranges.prefix() == 0
    assert ranges.gaps(50) == [(0, 10), (25, 30), (40, 50)]
    ranges.add(0, 31)
    assert ranges.prefix() == 40
    assert ranges.total() == 40
    ranges.add(5, 5)
    assert ranges.gaps(40) == []


@pytest.mark.parametrize("seed", range(20))
def test_ranges_agree_with_a_set(seed: int) -> None:
    """Random ranges: prefix, total and gaps equal those of a set of numbers."""
    rng, ranges, numbers = random.Random(seed), Ranges(), set[int]()
    for _ in range(40):
        a = rng.randrange(100)
        b = a + rng.randrange(12)
        ranges.add(a, b)
        numbers |= set(range(a, b))
    assert ranges.total() == len(numbers)
    missing = {i for a, b in ranges.gaps(120) for i in range(a, b)}
    assert missing == set(range(120)) - numbers
    assert ranges.prefix() == next(i for i in range(200) if i not in numbers)


@pytest.mark.parametrize("line", [b"x y\n", b"5\n", b"9 3\n", b"0 99999999999\n", b"0 4"])
def test_a_journal_that_lies_is_not_believed(tmp_path: Path, line: bytes) -> None:
    """Lines that are torn, reversed or outside the blob are left out."""
    with_close = Partial(tmp_path, DIGEST, 100, room=0).open()
    with_close.note(10, 20)
    with_close.close()
    journal = tmp_path / f"{DIGEST.hex}.journal"
    journal.write_bytes(journal.read_bytes() + line)
    again = Partial(tmp_path, DIGEST, 100, room=0).open()
    again.close()
    assert again.done.gaps(100) == [(0, 10), (20, 100)]
