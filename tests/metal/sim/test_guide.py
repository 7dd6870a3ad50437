"""What docs/metal.md tells a kernel author to do works as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tqconvert.metal.build import Workshop

PAGE = Path(__file__).parents[3] / "docs" / "metal.md"
BARRIER = "    threadgroup_barrier(mem_flags::mem_threadgroup);\n"


def block(language: str) -> str:
    """The one code block of a language."""
    (text,) = re.findall(
        rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return str(text)


@pytest.mark.parametrize("barrier", [True, False])
def test_the_first_kernel(workshop: Workshop, tmp_path: Path, barrier: bool) -> None:
    """It runs at the first try, and a barrier that is left out is named with the line that misses it."""
    source = block("metal")
    assert BARRIER in source
    (tmp_path / "scale.metal").write_text(source if barrier else source.replace(BARRIER, ""))
    (tmp_path / "check.py").write_text(block("python"))
    (tmp_path / "cache").mkdir()
    # What is compiled of the runtime is kept between runs of the tests.
    (tmp_path / "cache" / "metal").symlink_to(workshop.cache)
    done = subprocess.run(
        [sys.executable, "check.py"], cwd=tmp_path, env={**os.environ, **workshop.env},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    if barrier:
        assert done.stdout == "nothing found\nlargest error 0.0\n"
    else:
        assert re.search(r"scale\.metal:\d+: threadgroup_race in kernel_scale_f32", done.stdout)
