"""`tqconvert --help` against an empty Typer app with two commands, whole processes."""

import sys
from pathlib import Path

from tests.benchmarks.rows import Row, fastest_of, measure, seconds

BAR_S = 0.100
RUNS = 15
EMPTY = """
import typer
app = typer.Typer(rich_markup_mode=None)
@app.command()
def one(): "One."
@app.command()
def two(): "Two."
app()
"""


def run(work: Path) -> list[Row]:
    """One row: the difference."""
    script = work / "empty.py"
    script.write_text(EMPTY)
    empty = fastest_of(RUNS, lambda: measure([sys.executable, script, "--help"]))
    ours = fastest_of(RUNS, lambda: measure([sys.executable, "-m", "tqconvert", "--help"]))
    over = ours.seconds - empty.seconds
    return [
        Row("--help, over an empty Typer app", f"+{seconds(over)}",
            f"empty app {seconds(empty.seconds)}", f"{ours.seconds / empty.seconds:.2f}x",
            f"<= +{seconds(BAR_S)}", over <= BAR_S)
    ]  # fmt: skip
