"""What `pip install .` leaves on a machine that has nothing else of ours."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# As it was before the fixtures took home and proxies away: pip must find its index and cache.
ENVIRONMENT = dict(os.environ)


def run(*argv: object) -> str:
    """Output of a program that must succeed."""
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, env=ENVIRONMENT, check=False,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_install_without_extras(tmp_path: Path) -> None:
    """A fresh environment with `pip install .` has a working `tqconvert`, nothing of the tests."""
    wheels = tmp_path / "wheels"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT)
    (wheel,) = wheels.glob("tqconvert-*.whl")
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
    assert {"tqconvert/py.typed", "tqconvert/ollama_patches/llama.cpp/series"} <= set(names)
    locks = {
        f"tqconvert/{p.relative_to(ROOT)}" for p in ROOT.glob("ollama_patches/*/upstream/*.json")
    }
    assert len(locks) == 25
    assert locks <= set(names)
    chat = {
        f"tqconvert/{p.relative_to(ROOT / 'tqconvert')}"
        for p in ROOT.glob("tqconvert/modelfile/templates/*")
    }
    assert len(chat) > 20
    assert chat <= set(names)
    kernels = {f"tqconvert/ollama_patches/metal/{p.name}" for p in (ROOT / "metal").iterdir()}
    assert kernels
    assert kernels <= set(names)
    assert {n.split("/")[0].split("-")[0] for n in names} == {"tqconvert"}

    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", wheel)
    program = tmp_path / "venv" / "bin" / "tqconvert"
    assert "pull" in run(program, "--help")
    assert run(program, "--version").startswith("tqconvert ")
    assert "nothing was changed" in run(program, "doctor", "--offline")
