"""A local hub for the tests of this folder; the client that talks to it is the real one."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fakehub import FakeHub, Files

from tqconvert.store.layout import Store

StartHub = Callable[[Files], FakeHub]


@pytest.fixture
def start_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StartHub]:
    """Start a hub that has these files as `org/repo`; HF_ENDPOINT names it."""
    with ExitStack() as stack:

        def start(files: Files) -> FakeHub:
            hub = stack.enter_context(FakeHub({"org/repo": files}))
            monkeypatch.setenv("HF_ENDPOINT", hub.address)
            return hub

        yield start


@pytest.fixture
def store() -> Store:
    """The store of this test."""
    return Store(Path(os.environ["OLLAMA_MODELS"]))
