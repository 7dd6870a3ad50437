"""The texts of our own quality figures: `python -m tests.benchmarks.corpus [--out DIR]`.

Prose of the Debian Administrator's Handbook (Debian package debian-handbook, GPL-2+ or CC-BY-SA-3.0), which is
fetched with `apt-get download` where it is not installed and is never part of this repository. Calibration texts
are disjoint from the evaluation text: licences, and other pages of the handbook.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal, get_args

from tqconvert.errors import NotFoundError

PACKAGE = "debian-handbook"
PAGES_AT = Path("usr/share/doc/debian-handbook/html/en-US")
LICENSES_AT = Path("/usr/share/common-licenses")

EVALUATION_PAGES = (
    "the-debian-project", "sect.foundation-documents", "sect.release-lifecycle", "case-study",
    "sect.why-debian-stable", "sect.why-debian", "sect.why-gnu-linux", "sect.master-plan",
    "sect.how-to-migrate", "installation", "sect.automated-installation", "sect.installation-steps",
    "sect.kernel-installation", "sect.apt-get",
)  # fmt: skip
EVALUATION_SHA256 = "1548f69b9172248eaad8d1a29a624cb64fa680362a1d1fdb6cd61f9d8cb52026"
"""Of the text from version 11.20220922; another version's text gives other figures."""

OTHER_PAGES = (
    "sect.virtualization", "sect.ldap-directory", "solving-problems", "sect.selinux",
    "short-remedial-course", "sect.backup", "network-services", "security", "sect.config-misc",
    "sect.hotplug", "sect.firewall-packet-filtering", "sect.remote-login", "sect.task-scheduling-cron-atd",
    "workstation", "sect.computer-layers", "sect.kernel-role-and-tasks", "sect.user-space",
    "sect.debian-internals", "packaging-system",
)  # fmt: skip

LICENSES = (
    "GPL-3", "Apache-2.0", "MPL-2.0", "CC0-1.0", "Artistic", "GFDL-1.3", "LGPL-2.1", "MPL-1.1", "GPL-1",
)  # fmt: skip
"""Each once: GPL-2, LGPL-2, LGPL-3 and GFDL-1.2 say again what others of the list say."""

Kind = Literal["licenses", "handbook-other"]

_BLOCKS = frozenset(["p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "pre", "tr"])
_DROPPED = frozenset(("script", "style", "head", "title"))
_NAVIGATION = "docnav"


class CorpusError(NotFoundError):
    """A text cannot be made on this machine; the message says what is missing."""


class _PlainText(HTMLParser):
    """The words of a page; a new line at the end of each block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        is_navigation = tag == "ul" and (dict(attrs).get("class") or "").startswith(_NAVIGATION)
        if self._inside or tag in _DROPPED or is_navigation:
            self._inside.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing: an empty element has no words."""

    def handle_endtag(self, tag: str) -> None:
        if self._inside:
            self._inside.pop()
        elif tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.parts.append(data)


def plain_text(page: str) -> str:
    """The text of an XHTML page, with runs of blanks and of empty lines reduced to one."""
    parser = _PlainText()
    parser.feed(page)
    parser.close()
    text = re.sub(r"[ \t]+", " ", "".join(parser.parts).replace("\xa0", " "))
    text = re.sub(r"\n\s*\n+", "\n\n", text).strip()
    return text.replace("Download the ebook\n\n", "Download the ebook\n", 1)


def evaluation_text() -> str:
    """The 14 pages that all figures are measured on, 155,913 bytes. Raises CorpusError."""
    text = _pages(EVALUATION_PAGES)
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != EVALUATION_SHA256:
        raise CorpusError(f"{PACKAGE}: its text has sha256 {found} (expected {EVALUATION_SHA256})")
    return text


def calibration_text(kind: Kind) -> str:
    """At least 32,000 tokens of which none is in the evaluation text. Raises CorpusError."""
    if kind == "handbook-other":
        return _pages(OTHER_PAGES)
    missing = [name for name in LICENSES if not (LICENSES_AT / name).is_file()]
    if missing:
        raise CorpusError(f"{LICENSES_AT}: has no {', '.join(missing)} (Debian's base-files)")
    return "\n\n".join((LICENSES_AT / name).read_text("utf-8") for name in LICENSES)


def _pages(names: tuple[str, ...]) -> str:
    folder = _handbook()
    return "".join(plain_text((folder / f"{n}.html").read_text("utf-8")) + "\n\n" for n in names)


def _handbook() -> Path:
    """The folder of the handbook's English pages: installed, or unpacked in the tests' cache."""
    installed = Path("/") / PAGES_AT
    if installed.is_dir():
        return installed
    from tests.conftest import cache_folder

    unpacked = cache_folder() / PACKAGE
    if not (unpacked / PAGES_AT).is_dir():
        _unpack(unpacked)
    return unpacked / PAGES_AT


def _unpack(target: Path) -> None:
    for program in ("apt-get", "dpkg-deb"):
        if not shutil.which(program):
            raise CorpusError(f"the handbook needs {program}, or the package {PACKAGE} installed")
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    command = ["apt-get", "-qq", "download", PACKAGE]
    done = subprocess.run(command, cwd=part, capture_output=True, text=True, check=False)
    archives = list(part.glob("*.deb"))
    if done.returncode or not archives:
        raise CorpusError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
    subprocess.run(["dpkg-deb", "-x", archives[0], part / "x"], check=True)
    # The other languages and the pictures are most of its 100 MB.
    shutil.copytree(part / "x" / PAGES_AT, part / "y" / PAGES_AT)
    (part / "y").replace(target)
    shutil.rmtree(part)


def main() -> int:
    """Write the three texts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the files")
    folder = parser.parse_args().out
    try:
        texts = {"eval": evaluation_text(), **{k: calibration_text(k) for k in get_args(Kind)}}
    except CorpusError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        path.write_text(text, encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        print(f"{path}: {len(text.encode())} bytes, sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
