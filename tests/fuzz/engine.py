"""Mutated inputs, one after the other, in forked workers with limits on time and memory.

Input number I of a target comes from the seed and I alone: a failure is made again by `--seed N --only I`.
A worker is forked for each batch. What ends it (a signal, the memory limit, standing still) is a failure of the
input it was at, and the next worker goes on behind that.
"""

import json
import mmap
import os
import random
import resource
import select
import signal
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

CPU_S = 1.0
"""CPU time of one input."""
STILL_S = 60.0
"""Wall time without a finished input after which a worker is ended: an input that no signal interrupts."""
MEMORY_BYTES = 100 << 20
"""Memory of a whole worker, interpreter and imports included."""
BATCH = 20_000
MINIMISE_S = 10.0
"""Wall time for making an input that failed smaller."""


@dataclass(frozen=True)
class Case:
    """An input: its bytes and, for files, the length that the file has (zeros follow the bytes)."""

    data: bytes
    size: int = -1

    @property
    def length(self) -> int:
        """Bytes of the file."""
        return max(self.size, len(self.data))


class Target(Protocol):
    """What is fuzzed."""

    name: str

    def make(self, rng: random.Random) -> Case:
        """The next input."""

    def check(self, case: Case, number: int) -> str:
        """How the program ended, in a word; raises whatever is a defect."""


@dataclass
class Failure:
    """An input that ended in anything but a result or a typed error."""

    number: int
    signature: str
    detail: str


@dataclass
class Report:
    """What came of a run."""

    count: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    base_bytes: int = 0
    peak_bytes: int = 0


class TooSlowError(BaseException):
    """The input took more CPU time than it may."""


def rng_of(seed: int, number: int) -> random.Random:
    """The random numbers of one input."""
    return random.Random(f"{seed}/{number}")


def signature_of(e: BaseException) -> str:
    """The exception's type and the last place of the package in its traceback: one defect, one text."""
    frames = [f for f in traceback.extract_tb(e.__traceback__) if "/tqconvert/" in f.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "tests"
    return f"{type(e).__name__} at {place}"


def run_one(target: Target, case: Case, number: int) -> tuple[str, Failure | None]:
    """Check one input under the time limit: its outcome, or the failure."""

    def late(_number: int, _frame: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        return target.check(case, number), None
    except Exception as e:
        return "failure", Failure(number, signature_of(e), traceback.format_exc(limit=-6))
    except TooSlowError as e:
        return "failure", Failure(
            number, f"slow: {signature_of(e)}", traceback.format_exc(limit=-6)
        )
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def run(
    target: Target, *, count: int, seed: int, jobs: int, start: int = 0,
    say: Callable[[Report], None] = lambda _: None, memory_bytes: int = MEMORY_BYTES,
) -> Report:  # fmt: skip
    """Check inputs `start` to `start + count`; `say` hears of the report after each batch."""
    report, began = Report(), time.monotonic()
    todo = [(a, min(a + BATCH, start + count)) for a in range(start, start + count, BATCH)]
    todo.reverse()
    running: dict[int, _Worker] = {}
    while todo or running:
        while todo and len(running) < jobs:
            worker = _Worker(target, seed, *todo.pop(), memory_bytes)
            running[worker.read] = worker
        ready, _, _ = select.select(list(running), [], [], 1.0)
        for fd in [*running]:
            worker = running[fd]
            if fd in ready and not worker.receive():
                del running[fd]
                rest = worker.settle(report)
                if rest:
                    todo.append(rest)
                report.seconds = time.monotonic() - began
                say(report)
            elif worker.stands_still():
                os.kill(worker.pid, signal.SIGKILL)
    report.seconds = time.monotonic() - began
    return report


class _Worker:
    """A forked process that checks inputs `first` to `end`."""

    def __init__(self, target: Target, seed: int, first: int, end: int, most: int) -> None:
        self.first, self.end = first, end
        self._at = mmap.mmap(-1, 8)
        self._at[:] = struct.pack("q", first)
        self._seen, self._seen_at = first, time.monotonic()
        self.read, write = os.pipe()
        self._answer = b""
        self.pid = os.fork()
        if not self.pid:
            os.close(self.read)
            code = 1
            try:
                answer = _batch(target, seed, first, end, self._at, most)
                with os.fdopen(write, "wb") as f:
                    f.write(json.dumps(answer).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(write)

    def receive(self) -> bool:
        """Take what has come; False at the end."""
        data = os.read(self.read, 1 << 16)
        self._answer += data
        return bool(data)

    def stands_still(self) -> bool:
        """Whether the same input has been under way for too long."""
        (at,) = struct.unpack("q", self._at[:])
        if at != self._seen:
            self._seen, self._seen_at = at, time.monotonic()
        return time.monotonic() - self._seen_at > STILL_S

    def settle(self, report: Report) -> tuple[int, int] | None:
        """Add the results to the report; the inputs that are still to be done."""
        os.close(self.read)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if status == 0:
            answer = json.loads(self._answer)
            report.count += self.end - self.first
            report.outcomes.update(answer["outcomes"])
            report.failures += [Failure(**f) for f in answer["failures"]]
            report.base_bytes = max(report.base_bytes, answer["base"])
            report.peak_bytes = max(report.peak_bytes, answer["peak"])
            return None
        (at,) = struct.unpack("q", self._at[:])
        report.count += at - self.first + 1
        report.outcomes["of a worker that died"] += at - self.first
        report.outcomes["failure"] += 1
        report.failures.append(Failure(at, f"worker ended with {status}", ""))
        return (at + 1, self.end) if at + 1 < self.end else None


def _batch(
    target: Target, seed: int, first: int, end: int, at: mmap.mmap, most: int
) -> dict[str, object]:  # fmt: skip
    base = memory("VmRSS")
    limit_memory(base, most)
    outcomes: Counter[str] = Counter()
    failures: list[Failure] = []
    for number in range(first, end):
        at[:] = struct.pack("q", number)
        outcome, failure = run_one(target, target.make(rng_of(seed, number)), number)
        outcomes[outcome] += 1
        if failure is not None and len(failures) < 100:
            failures.append(failure)
    peak = memory("VmHWM")
    if peak > most:
        failures.append(Failure(end - 1, f"memory: {peak >> 20} MiB at the end of a batch", ""))
    return {
        "outcomes": outcomes, "failures": [vars(f) for f in failures], "base": base, "peak": peak,
    }  # fmt: skip


def limit_memory(base: int, most: int) -> None:
    """Let this process, of `base` bytes now, have data that keep it under `most`; then MemoryError."""
    data = memory("VmData") + max(most - base, 0)
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))


def memory(name: str) -> int:
    """Bytes of one line of /proc/self/status: VmRSS (now), VmHWM (at most), VmData."""
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def minimise(target: Target, case: Case, failure: Failure) -> Case:
    """A smaller input that fails in the same way: pieces are left out while that holds."""
    until = time.monotonic() + MINIMISE_S

    def fails(smaller: Case) -> bool:
        found = run_one(target, smaller, failure.number)[1]
        return found is not None and found.signature == failure.signature

    step = max(len(case.data) // 2, 1)
    while step and time.monotonic() < until:
        for smaller in _without(case, step):
            if time.monotonic() >= until:
                break
            if fails(smaller):
                case = smaller
                break
        else:
            step //= 2
    return case


def _without(case: Case, step: int) -> Iterator[Case]:
    for at in range(len(case.data) - step, -1, -step):
        yield Case(case.data[:at] + case.data[at + step :], case.size)
