"""Progress of long work: a bar on a terminal, a line every ten seconds elsewhere, or nothing."""

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from tqconvert.units import format_bytes

LINE_EVERY_S = 10.0


class Progress(Protocol):
    """Where long work reports to."""

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Begin `label`, of `total` bytes, `done` of them already there."""

    def advance(self, n: int) -> None:
        """`n` more bytes are done (negative: bytes turned out wrong and come again)."""

    def note(self, text: str) -> None:
        """Say a thing that the user should see while it goes on, such as a retry."""

    def finish(self) -> None:
        """The work begun last is over."""


class Silent:
    """Reports nothing: --quiet, --json, libraries."""

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Nothing."""

    def advance(self, n: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class Lines:
    """A line at the start, every ten seconds and at the end: pipes and CI logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._label, self._total, self._done, self._began = "", 0, 0, 0.0
        self._kept = 0
        self._next = 0.0

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Print what begins."""
        self._label, self._total, self._done, self._kept = label, total, done, done
        self._began = time.monotonic()
        self._next = self._began + LINE_EVERY_S
        kept = f", {format_bytes(done)} already here" if done else ""
        self.note(f"{label}: {format_bytes(total)}{kept}")

    def advance(self, n: int) -> None:
        """Print a line if ten seconds have passed."""
        self._done += n
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LINE_EVERY_S
            share = 100 * self._done // max(self._total, 1)
            rate = format_bytes(int((self._done - self._kept) / max(now - self._began, 1e-6)))
            self.note(f"{self._label}: {share} % of {format_bytes(self._total)}, {rate}/s")

    def note(self, text: str) -> None:
        """Print the line; work goes on where nobody reads it any more (`2>&1 | head`)."""
        with suppress(BrokenPipeError):
            print(text, file=self._stream, flush=True)

    def finish(self) -> None:
        """Print how long it took."""
        self.note(f"{self._label}: done in {time.monotonic() - self._began:.1f} s")


class Bar:
    """A tqdm bar on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from tqdm import tqdm

        self._tqdm = tqdm
        self._stream = stream
        self._bar: tqdm[Any] | None = None

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Show the bar."""
        self.finish()
        self._bar = self._tqdm(
            total=total, initial=done, desc=label, unit="iB", unit_scale=True, unit_divisor=1024,
            file=self._stream, leave=False, dynamic_ncols=True,
        )  # fmt: skip

    def advance(self, n: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(n)

    def note(self, text: str) -> None:
        """Print above the bar."""
        self._tqdm.write(text, file=self._stream)

    def finish(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def progress_for(stream: TextIO | None = None, *, quiet: bool = False) -> Progress:
    """The form of progress that suits the stream (default: stderr)."""
    stream = stream or sys.stderr
    if quiet:
        return Silent()
    return Bar(stream) if stream.isatty() else Lines(stream)


class Steps:
    """Steps of which only the number is known: nothing is shown. Base of the two forms that show."""

    def step(self, done: int, total: int, text: str) -> None:
        """`done` of `total` steps are over; `text` says what the last one was."""

    def finish(self) -> None:
        """The work is over."""


class StepLines(Steps):
    """A line at the first step and every thirty seconds: pipes and CI logs."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self._stream, self._label, self._next = stream, label, 0.0

    def step(self, done: int, total: int, text: str) -> None:
        """Print a line if the time has come."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 3 * LINE_EVERY_S
            with suppress(BrokenPipeError):
                print(f"{self._label}: {done} of {total}, {text}", file=self._stream, flush=True)


class StepBar(Steps):
    """A tqdm bar of steps on a terminal."""

    def __init__(self, stream: TextIO, label: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=label, unit="step", file=stream, leave=False, dynamic_ncols=True)

    def step(self, done: int, total: int, text: str) -> None:
        """Move the bar; the total may grow while programs find more to do."""
        self._bar.total = total
        self._bar.set_postfix_str(text[-30:], refresh=False)
        self._bar.update(done - self._bar.n)

    def finish(self) -> None:
        """Remove the bar."""
        self._bar.close()


def steps_for(label: str, stream: TextIO | None = None, *, quiet: bool = False) -> Steps:
    """The form of counted progress that suits the stream (default: stderr)."""
    stream = stream or sys.stderr
    if quiet:
        return Steps()
    return StepBar(stream, label) if stream.isatty() else StepLines(stream, label)


class Reporting:
    """`with Reporting(progress, label, total):` begins and ends one piece of work."""

    def __init__(self, progress: Progress, label: str, total: int, done: int = 0) -> None:
        self._progress, self._args = progress, (label, total, done)

    def __enter__(self) -> Self:
        self._progress.start(*self._args)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self._progress.finish()
