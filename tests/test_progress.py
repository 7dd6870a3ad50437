"""Progress: lines where nobody watches, a bar on a terminal, nothing when asked for nothing."""

import io

import pytest

from tqconvert import progress
from tqconvert.progress import Bar, Lines, Reporting, Silent, progress_for


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_lines_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe: one line at the start, one every ten seconds, one at the end."""
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    with Reporting(Lines(stream), "model", 100 << 20, 20 << 20) as _:
        lines = Lines(stream)
        lines.start("model", 100 << 20, 20 << 20)
        for _ in range(30):
            clock[0] += 1.0
            lines.advance(1 << 20)
        lines.finish()
    text = stream.getvalue().splitlines()
    assert text[1:-1] == [
        "model: 100.0 MiB, 20.0 MiB already here",
        "model: 30 % of 100.0 MiB, 1.0 MiB/s",
        "model: 40 % of 100.0 MiB, 1.0 MiB/s",
        "model: 50 % of 100.0 MiB, 1.0 MiB/s",
        "model: done in 30.0 s",
    ]


def test_the_form_follows_the_stream() -> None:
    """A terminal gets a bar, a pipe lines, --quiet and --json nothing."""
    assert isinstance(progress_for(Terminal()), Bar)
    assert isinstance(progress_for(io.StringIO()), Lines)
    assert isinstance(progress_for(Terminal(), quiet=True), Silent)


def test_a_bar_shows_and_goes() -> None:
    """The bar names its work and leaves nothing behind but what was noted."""
    stream = Terminal()
    bar = Bar(stream)
    bar.start("model", 100 << 20)
    bar.advance(50 << 20)
    bar.note("trying again")
    bar.finish()
    bar.finish()
    text = stream.getvalue()
    assert "model" in text
    assert "trying again" in text
    assert "100M" in text
    assert "iB/s" in text, "units are binary and must say so"
