"""A simulator for all tests of Metal kernels; compiled code is kept in the tests' cache."""

import os
from collections.abc import Iterator

import pytest
from conftest import CACHE

from tqconvert.errors import ToolMissingError
from tqconvert.metal.build import Workshop
from tqconvert.metal.compiler import find_compiler
from tqconvert.metal.simulate import Simulator

_ENV = dict(os.environ)


@pytest.fixture(scope="session")
def workshop() -> Workshop:
    """The compiler of this machine."""
    try:
        compiler = find_compiler(_ENV)
    except ToolMissingError as e:
        pytest.skip(f"{e.message} ({e.hint})")
    return Workshop(compiler, CACHE / "metal", _ENV)


@pytest.fixture(scope="module")
def simulator(workshop: Workshop) -> Iterator[Simulator]:
    """A simulator without emulated lock step."""
    with Simulator(workshop, timeout_s=120) as s:
        yield s
