"""Our kernel file beside the headers and helpers of the pinned llama.cpp."""

from pathlib import Path

import ggmlbuilds
import pytest

from tqconvert.metal.turbo.check import Sources, own_sources
from tqconvert.runtime.source import open_source

METAL = Path(__file__).parents[3] / "metal"


@pytest.fixture(scope="session")
def upstream() -> Path:
    """The folder ggml-metal of the pinned source."""
    archive = ggmlbuilds.fetch_base("0.3.36")
    source = open_source(str(archive), ggmlbuilds.CACHE, ggmlbuilds._ENV)
    return source.root / "ggml" / "src" / "ggml-metal"


@pytest.fixture(scope="session")
def sources(upstream: Path) -> Sources:
    """The checked build of our kernels."""
    return own_sources(METAL, upstream)
