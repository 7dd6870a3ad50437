"""Run launches on the CPU: `Simulator`.

A launch runs in a child process; what a kernel must not do comes back as findings with the line of the
.metal source, also where it ended that process. Numbers are what a GPU with 32 lanes a simdgroup would give,
but for the order of reductions and for fast-math.

    from tqconvert.metal.build import Unit
    from tqconvert.metal.launch import Launch, slots
    from tqconvert.metal.simulate import open_simulator

    with open_simulator(cache, env) as simulator:
        program = simulator.build(Unit(Path("scale.metal"), keep="kernel_scale_f32$"))
        launch = Launch("kernel_scale_f32", slots("args", "x", "y"), (4, 1, 1), (64, 1, 1))
        arrays = {"args": struct.pack("<f", 2.0), "x": x, "y": np.zeros_like(x)}
        outcome = simulator.run(program, launch, arrays)
    assert outcome.ok, outcome.text()
    outcome.arrays["y"]  # a new array with the shape and type of the one that was given

`Unit(..., checked=True)`, the default, checks every memory access; `checked=False` is plain code, in which
only accesses behind the end of a buffer or of threadgroup memory are found. Several launches, also of
several programs, share arrays in `run_all`. `level=True` emulates lanes that run in step: kernels that are
right only then rely on what Metal does not promise, and `simdgroup_race` tells so in either case. Between lanes
that a shuffle or a product of matrices brought level, but no barrier, it is `simdgroup_unordered`.
"""

import json
import mmap
import os
import select
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, Self

from tqconvert.errors import KernelSourceError
from tqconvert.fs import storage_error
from tqconvert.metal.build import Program, Unit, Workshop
from tqconvert.metal.compiler import find_compiler
from tqconvert.metal.findings import describe, merge
from tqconvert.metal.launch import Finding, Launch
from tqconvert.metal.places import Places
from tqconvert.runtime.process import end_group

if TYPE_CHECKING:
    import numpy as np

_WORKER = Path(__file__).with_name("worker.py")
_ALIGN = 16
_MOST_WORKERS = 4
_ENDED = "the kernel ended its process"
_SHARED = Path("/dev/shm")  # noqa: S108 - memory, where there is such a thing; names are random


@dataclass(frozen=True, slots=True)
class Outcome:
    """What launches left."""

    arrays: Mapping[str, "np.ndarray[Any, Any]"]
    findings: tuple[Finding, ...]
    error: str
    """Why a launch could not end; the arrays are then as far as it came."""
    seconds: float
    collectives: int = 0
    barriers: int = 0

    @property
    def ok(self) -> bool:
        """Whether all launches ended, with nothing found."""
        return not self.findings and not self.error

    def text(self) -> str:
        """Findings and error, one a line."""
        return "\n".join([*map(str, self.findings), *([self.error] if self.error else [])])


class Simulator:
    """Builds units and runs their kernels; keeps one child process for each program."""

    def __init__(self, workshop: Workshop, *, level: bool = False, timeout_s: float = 300) -> None:
        self.workshop = workshop
        self.level = level
        self.timeout_s = timeout_s
        self._programs: dict[Unit, Program] = {}
        self._workers: dict[Path, Popen[bytes]] = {}
        self._places: dict[Path, Places] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes."""
        while self._workers:
            self._end(next(iter(self._workers)))

    def build(self, unit: Unit) -> Program:
        """`Workshop.build`, once for each unit: a source that changes later is not seen."""
        if unit not in self._programs:
            self._programs[unit] = self.workshop.build(unit)
        return self._programs[unit]

    def run(
        self, program: Program, launch: Launch, arrays: Mapping[str, Any], *,
        level: bool | None = None,
    ) -> Outcome:  # fmt: skip
        """Run one launch; arrays are NumPy arrays or bytes by name. Raises KernelSourceError."""
        return self.run_all([(program, launch)], arrays, level=level)

    def run_all(
        self, steps: Sequence[tuple[Program, Launch]], arrays: Mapping[str, Any], *,
        level: bool | None = None,
    ) -> Outcome:  # fmt: skip
        """Run launches one after the other on the same arrays, up to the first that cannot end."""
        import numpy as np

        for program, launch in steps:
            _require(program, launch, arrays)
        given = {
            n: np.frombuffer(a, np.uint8) if isinstance(a, bytes) else a for n, a in arrays.items()
        }
        layout, total = _layout(given)
        folder = _folder(total, self.workshop.cache)
        findings: list[Finding] = []
        error, counts, began = "", [0, 0], time.monotonic()
        with NamedTemporaryFile(prefix="tqconvert-", dir=folder) as file:
            file.truncate(total)
            with mmap.mmap(file.fileno(), total) as memory:
                for name, a in given.items():
                    start, size = layout[name]
                    memory[start : start + size] = a.tobytes()
                for program, launch in steps:
                    order = {
                        "file": file.name, "arrays": layout, "launch": launch.to_json(),
                        "level": self.level if level is None else level,
                    }  # fmt: skip
                    found, error, more = self._order(program, launch, order)
                    findings += found
                    counts = [a + b for a, b in zip(counts, more, strict=True)]
                    if error:
                        break
                left = {
                    n: np.frombuffer(memory[s : s + size], a.dtype).reshape(a.shape)
                    for (n, a), (s, size) in zip(given.items(), layout.values(), strict=True)
                }
        return Outcome(left, merge(findings), error, time.monotonic() - began, *counts)

    def _order(
        self, program: Program, launch: Launch, order: dict[str, Any]
    ) -> tuple[list[Finding], str, list[int]]:
        """Findings, error and counts of one launch in the child process."""
        worker = self._worker(program.library)
        assert worker.stdin is not None
        try:
            worker.stdin.write(json.dumps(order).encode() + b"\n")
            worker.stdin.flush()
            lines, why = _answer(worker, self.timeout_s)
        except BrokenPipeError:
            lines, why = [], _ENDED
        if why:
            why = self._end(program.library) or why
        findings, error, counts = [], "", [0, 0]
        for line in lines:
            match line.split("\t"):
                case ["F", *fields]:
                    findings.append(self._finding(program, launch, fields))
                case ["E", collectives, barriers, _, text]:
                    error, counts = text, [int(collectives), int(barriers)]
                case _:
                    pass
        if why and not error:
            error = f"{launch.kernel}: {why}"
        elif error:
            error = f"{launch.kernel}: {error}"
        return findings, error, counts

    def _finding(self, program: Program, launch: Launch, fields: list[str]) -> Finding:
        kind, count, line, file, callers, a, b, group, thread = fields
        if not int(line):
            if program.library not in self._places:
                self._places[program.library] = Places(program.library)
            addresses = [int(c, 16) for c in callers.split(",") if c not in ("", "-")]
            place = self._places[program.library].of_callers(addresses)
            file, line = (place.file, str(place.line)) if place else ("", "0")
        x, y, z = (int(n) for n in group.split(","))
        detail = describe(kind, int(a, 16), int(b, 16))
        return Finding(
            kind, launch.kernel, file, int(line), int(count), detail, (x, y, z), int(thread)
        )

    def _worker(self, library: Path) -> "Popen[bytes]":
        if library not in self._workers:
            while len(self._workers) >= _MOST_WORKERS:
                self._end(next(iter(self._workers)))
            argv = [sys.executable, "-I", str(_WORKER), str(library)]
            self._workers[library] = Popen(
                argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
            )
        return self._workers[library]

    def _end(self, library: Path) -> str:
        """End a child process; what it said last on stderr, where Python itself failed in it."""
        worker = self._workers.pop(library)
        end_group(worker)
        assert worker.stderr is not None
        said = worker.stderr.read().decode("utf-8", "replace").strip().splitlines()
        for stream in (worker.stdin, worker.stdout, worker.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        return said[-1] if said else ""


def open_simulator(
    cache: Path, env: Mapping[str, str], *, level: bool = False, timeout_s: float = 300
) -> Simulator:
    """A simulator with the compiler that is found; `cache` is tqconvert's. Raises ToolMissingError."""
    # The compiler runs in another folder.
    workshop = Workshop(find_compiler(env), cache.absolute() / "metal", env)
    return Simulator(workshop, level=level, timeout_s=timeout_s)


def _require(program: Program, launch: Launch, arrays: Mapping[str, Any]) -> None:
    """Raise KernelSourceError where the launch does not fit the kernel or the arrays."""
    if launch.kernel not in program.names:
        raise KernelSourceError(f"{launch.kernel}: not in {program.unit.path.name}")
    for slot in launch.buffers:
        if slot and slot.array not in arrays:
            raise KernelSourceError(f"{launch.kernel}: no array {slot.array!r}")
    known = {c.index for c in program.source.constants}
    if strange := sorted(set(launch.constants) - known):
        raise KernelSourceError(f"{launch.kernel}: no function constant {strange[0]}")
    for p in program.source.parameters(launch.kernel):
        bound = launch.buffers[p.index : p.index + 1]
        if p.kind == "BUFFER" and (not bound or bound[0] is None):
            raise KernelSourceError(f"{launch.kernel}: nothing at buffer {p.index} ({p.text})")
        if p.kind == "TGMEM" and p.index >= len(launch.threadgroup):
            raise KernelSourceError(f"{launch.kernel}: no threadgroup memory {p.index}")


def _layout(arrays: Mapping[str, "np.ndarray[Any, Any]"]) -> tuple[dict[str, list[int]], int]:
    """Start and size of each array; each ends where a page ends, up to its alignment."""
    page, at, layout = mmap.PAGESIZE, 0, {}
    for name, a in arrays.items():
        room = -(-max(a.nbytes, 1) // _ALIGN) * _ALIGN
        end = at + -(-room // page) * page
        layout[name] = [end - room, a.nbytes]
        at = end
    return layout, max(at, page)


def _folder(size: int, cache: Path) -> Path:
    """Where a file of the arrays may lie: in memory, where there is room for it."""
    if _SHARED.is_dir() and shutil.disk_usage(_SHARED).free > 2 * size:
        return _SHARED
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise storage_error(e, cache) from e
    return cache


def _answer(worker: "Popen[bytes]", timeout_s: float) -> tuple[list[str], str]:
    """Lines of the answer, and why it is not whole (empty: it is)."""
    assert worker.stdout is not None
    fd, text, end = worker.stdout.fileno(), b"", time.monotonic() + timeout_s
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return _lines(text), f"did not end within {timeout_s:g} s"
        piece = os.read(fd, 1 << 16)
        if not piece:
            return _lines(text), _ENDED
        text += piece
        if text.endswith(b"\n") and text.rsplit(b"\n", 2)[-2].startswith(b"D\t"):
            return _lines(text), ""


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "replace").splitlines()
