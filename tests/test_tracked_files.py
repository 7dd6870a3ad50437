"""What must not be in the repository: paths of one machine, hosts of one network, large files."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MACHINE_PATHS = re.compile(r"(?<![\w.~}])/(?:work|root|Users|home)/\w")
HOSTS = re.compile(r"\b[\w.-]+\.(?:internal|corp|lan)\b|https?://10\.\d+\.\d+\.\d+")
DOCKER_HOST = "host.docker." + "internal"  # a name that every Docker gives its host
EXAMPLE_HOMES = ("/home/me", "/home/user")
MAX_BYTES = 256 << 10


def tracked() -> list[Path]:
    """Files that git tracks; outside a clone there is nothing to check."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in done.stdout.decode().split("\0") if name]


def texts() -> list[tuple[Path, str]]:
    """Tracked text files and what is in them."""
    found = []
    for path in tracked():
        if not path.is_file():
            continue
        data = path.read_bytes()
        if b"\0" not in data:
            found.append((path, data.decode("utf-8")))
    return found


def test_no_path_of_one_machine() -> None:
    """No tracked file names somebody's home or working folder."""
    for path, text in texts():
        for line in text.splitlines():
            found = MACHINE_PATHS.search(line)
            allowed = any(example in line for example in EXAMPLE_HOMES)
            assert not found or allowed, f"{path.name}: {line.strip()}"


def test_the_patterns_find_what_they_are_for() -> None:
    """The checks above can fail."""
    for name in ("work", "root", "home"):
        assert MACHINE_PATHS.search(f"see /{name}/" + "main")
    assert not MACHINE_PATHS.search("https://example.org/workbench/" + "x")
    assert HOSTS.search("pypi.mirror" + ".internal")
    assert HOSTS.search("http://" + "10.1.2.3/simple")


def test_no_host_of_one_network() -> None:
    """No tracked file names a host or mirror that only one network has."""
    for path, text in texts():
        found = HOSTS.search(text.replace(DOCKER_HOST, ""))
        assert not found, f"{path.name}: {found[0]}"


def test_no_large_file() -> None:
    """Models and builds stay out: fixtures are small enough to read."""
    for path in tracked():
        assert not path.is_file() or path.stat().st_size <= MAX_BYTES, path.name
