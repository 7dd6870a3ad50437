"""Which compiler is taken, and what is said where there is none."""

from pathlib import Path

import pytest

from tqconvert.errors import ToolMissingError
from tqconvert.metal import compiler
from tqconvert.metal.compiler import find_compiler


def clang(folder: Path, name: str, version: str) -> str:
    """A program that says it is of this version."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("Debian clang version 19.1.7", True),
        ("Debian clang version 16.0.6", False),
        ("Apple clang version 17.0.0 (clang-1700.0.13.3)", True),
        ("Apple clang version 15.0.0", False),
        ("g++ (Debian) 12.2.0", False),
    ],
)
def test_versions(tmp_path: Path, monkeypatch, version: str, good: bool) -> None:
    """19 is the oldest; Apple counts otherwise."""
    monkeypatch.setattr(compiler, "find_spec", lambda _: None)
    path = clang(tmp_path, "clang++", version)
    env = {"PATH": str(tmp_path)}
    if good:
        assert find_compiler(env).argv == (path,)
        return
    with pytest.raises(ToolMissingError) as e:
        find_compiler(env)
    assert e.value.exit_code == 8
    assert e.value.hint == "pip install ziglang, or: apt-get install clang-19"


def test_a_newer_one_beside_an_old_one(tmp_path: Path) -> None:
    """Names with a version are tried as well."""
    clang(tmp_path, "clang++", "clang version 14.0.6")
    path = clang(tmp_path, "clang++-19", "clang version 19.1.7")
    assert find_compiler({"PATH": str(tmp_path)}).argv == (path,)


def test_the_one_that_is_named(tmp_path: Path) -> None:
    """It must be good: another is not taken instead."""
    path = clang(tmp_path, "mine", "clang version 20.1.0")
    assert find_compiler({"PATH": "", "TQCONVERT_CLANG": path}).argv == (path,)
    with pytest.raises(ToolMissingError, match="not clang 19 or newer"):
        find_compiler({"PATH": "", "TQCONVERT_CLANG": "/bin/true"})


def test_zig_of_the_wheel(tmp_path: Path) -> None:
    """Where no clang is."""
    pytest.importorskip("ziglang", reason="needs ziglang")
    found = find_compiler({"PATH": str(tmp_path)})
    assert found.zig
    assert found.version.startswith("zig ")
