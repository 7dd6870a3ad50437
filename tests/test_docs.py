"""The generated pages are what the code says now."""

import re
import subprocess
import sys
from pathlib import Path

from tqconvert import __version__
from tqconvert.errors import EXIT_CODES, TqError

ROOT = Path(__file__).parents[1]
GENERATE = [sys.executable, str(ROOT / "docs" / "generate.py")]


def kinds(base: type[TqError]) -> list[type[TqError]]:
    """The error class and all below it."""
    return [base, *(k for below in base.__subclasses__() for k in kinds(below))]


def test_generated_pages_are_fresh() -> None:
    """docs/cli.md and docs/exit-codes.md equal what `make docs` writes now."""
    done = subprocess.run([*GENERATE, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_error_has_a_code_of_the_table() -> None:
    """No error class has an exit code that the table does not explain, or a kind of another."""
    found = [k for k in kinds(TqError) if k.__module__.startswith("tqconvert.errors")]
    assert len(found) > 10
    assert {k.exit_code for k in found} <= set(EXIT_CODES)
    own = [k.kind for k in found if "kind" in vars(k)]
    assert len(set(own)) == len(own)


def test_links_between_documents_lead_somewhere() -> None:
    """Relative links in README and docs/ name files that are there."""
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_changelog_knows_the_version() -> None:
    """The changelog has a section for the version, or one for what is not released."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{__version__}]" in text or "## [Unreleased]" in text
