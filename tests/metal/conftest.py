"""A simulator and llama.cpp's Metal folder for all tests of kernels; results are kept in the tests' cache."""

import os
from collections.abc import Iterator

import pytest
from conftest import CACHE
from ggmlbuilds import fetch_base

from tqconvert.errors import ToolMissingError
from tqconvert.metal.build import Workshop
from tqconvert.metal.check.tree import MetalTree, open_tree
from tqconvert.metal.compiler import find_compiler
from tqconvert.metal.simulate import Simulator
from tqconvert.runtime.source import open_source

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


@pytest.fixture(scope="session")
def upstream() -> MetalTree:
    """The Metal folder of llama.cpp as llama-cpp-python 0.3.36 has it, unpacked in the cache."""
    return open_tree(open_source(str(fetch_base("0.3.36")), CACHE, _ENV).root)
