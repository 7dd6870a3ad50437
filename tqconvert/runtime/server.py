"""A llama-server for as long as a block of code runs: free port, log kept, ended by its id.

What it allocated for the cache is read from its log, the only place where it tells.
"""

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqconvert.errors import ServerFailedError
from tqconvert.fs import storage_error
from tqconvert.runtime.process import end_group, start_group

LOOPBACK = "127.0.0.1"
START_S = 300.0
"""How long a model may take to load."""
_ATTEMPTS = 3

# llama.cpp src/llama-kv-cache.cpp:301; the types of mixed layers may be a list.
_KV_LINE = re.compile(
    r"llama_kv_cache: size = +(?P<mib>[\d.]+) MiB \( *(?P<cells>\d+) cells, +(?P<layers>\d+) layers, "
    r"+(?P<seqs>\d+)/\d+ seqs\), K \((?P<k>[^)]*)\): +(?P<k_mib>[\d.]+) MiB, "
    r"V \((?P<v>[^)]*)\): +(?P<v_mib>[\d.]+) MiB"
)
_TALK = ("-lv", "4")
"""The level of the log at which the caches are told."""
_IN_USE = re.compile(r"couldn't bind|address already in use", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class KvBuffer:
    """One cache of K and V, as the runtime logs it; sizes in MiB have two decimals there."""

    cells: int
    n_layers: int
    n_seq: int
    type_k: str
    type_v: str
    mib: float
    k_mib: float
    v_mib: float


@dataclass(frozen=True, slots=True)
class Server:
    """A running llama-server."""

    host: str
    port: int
    pid: int
    log: Path

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"

    @property
    def kv_buffers(self) -> tuple[KvBuffer, ...]:
        """The caches that it allocated."""
        return parse_kv_buffers(self.log.read_text("utf-8", "replace"))

    def ask(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = 300
    ) -> Any:
        """The JSON that the server answers: POST with a body, else GET. Raises ServerFailedError."""
        status, text = _request(self.host, self.port, path, body, timeout_s)
        if status != 200:
            raise ServerFailedError(
                f"{self.url}{path}: {status or 'no answer'} {text[:300]}".strip()
            )
        return json.loads(text)


def parse_kv_buffers(log: str) -> tuple[KvBuffer, ...]:
    """The caches of K and V that a log of llama.cpp tells, in their order."""
    return tuple(
        KvBuffer(
            cells=int(m["cells"]),
            n_layers=int(m["layers"]),
            n_seq=int(m["seqs"]),
            type_k=m["k"],
            type_v=m["v"],
            mib=float(m["mib"]),
            k_mib=float(m["k_mib"]),
            v_mib=float(m["v_mib"]),
        )
        for m in _KV_LINE.finditer(log)
    )


@contextmanager
def start_server(
    program: Path, model: Path, *, env: Mapping[str, str], log: Path, n_ctx: int = 0,
    args: Sequence[str] = (), timeout_s: float = START_S,
) -> Iterator[Server]:  # fmt: skip
    """A llama-server on a free port of loopback, ready to answer, ended when the block ends.

    Its output is written to `log`. One slot, unless `args` say otherwise. Raises ServerFailedError if
    it ends before it is ready.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        port = free_port()
        command = [
            str(program), "-m", str(model), "-c", str(n_ctx), "-np", "1", "--host", LOOPBACK,
            "--port", str(port), *_TALK, *args,
        ]  # fmt: skip
        try:
            out = log.open("wb")
        except OSError as e:
            raise storage_error(e, log) from e
        with out:
            process = start_group(command, env=env, stdout=out, stderr=subprocess.STDOUT)
        try:
            if _wait(process, port, timeout_s):
                yield Server(LOOPBACK, port, process.pid, log)
                return
        finally:
            end_group(process)
        text = log.read_text("utf-8", "replace")
        # Another process may have taken the port in the meantime.
        if attempt == _ATTEMPTS or not _IN_USE.search(text):
            raise ServerFailedError(
                f"{program.name}: ended with {process.returncode} before it was ready: {_reason(text)}",
                hint=f"the whole log: {log}",
            )


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return int(s.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", port: int, timeout_s: float) -> bool:
    """Whether the server became ready; False if it ended. Raises ServerFailedError in the end."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if process.poll() is not None:
            return False
        if _request(LOOPBACK, port, "/health", None, 5)[0] == 200:
            return True
        time.sleep(0.05)
    raise ServerFailedError(f"llama-server: not ready after {timeout_s:.0f} s")


def _request(
    host: str, port: int, path: str, body: Mapping[str, Any] | None, timeout_s: float
) -> tuple[int, str]:
    """Status and text of the answer; status 0 where there is none. Proxies are not asked."""
    import http.client

    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as e:
        return 0, str(e)
    finally:
        connection.close()


def _reason(log: str) -> str:
    """The first line of the log that tells an error, else its last."""
    lines = [x.strip() for x in log.splitlines() if x.strip()]
    errors = [
        x for x in lines if re.search(r"\berror\b|\bfailed\b|unsupported|invalid", x, re.IGNORECASE)
    ]
    return (errors or lines[-1:] or ["nothing was printed"])[0][:300]
