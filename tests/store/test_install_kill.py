"""kill -9 at every write of install and remove: the store is valid, and the next run succeeds."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import tiny_gguf
from killer import states
from stores import check_store

from tqconvert.reference import ModelName
from tqconvert.store.install import apply_install, plan_install
from tqconvert.store.layout import Store

NAME = ModelName.parse("tiny:1b")
PATH = "registry.ollama.ai/library/tiny/1b"
OTHER = "registry.ollama.ai/library/other/latest"
MODELFILE = "FROM ./m.gguf\nTEMPLATE t\nLICENSE l\nPARAMETER top_k 1\n"


def install(source: Path, root: Path, name: ModelName = NAME) -> str:
    """Plan and apply; the status."""
    return apply_install(plan_install(source, name, Store(root))).status


@pytest.fixture
def pristine(tmp_path: Path) -> Path:
    """A folder with a GGUF, its Modelfile, and a store that holds another model."""
    folder = tmp_path / "pristine"
    folder.mkdir()
    tiny_gguf(folder / "m.gguf", tensors={"token_embd.weight": (32, 2000)})
    (folder / "Modelfile").write_text(MODELFILE)
    install(tiny_gguf(folder / "o.gguf", fill=9), folder / "store", ModelName.parse("other"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("link", ["hardlink", "copy"])
def test_a_killed_install_leaves_a_valid_store(pristine: Path, tmp_path: Path, link: str) -> None:
    """At every write, before, in the middle and after: no half blob, no manifest without blobs."""
    work = tmp_path / "work"
    work.mkdir()
    found = states(
        pristine, work, "install", "@/m.gguf", "--as", "tiny:1b", "--store", "@/store",
        "--modelfile", "@/Modelfile", "--link", link, "--quiet",
    )  # fmt: skip
    assert len(found) >= 20
    assert {"link" if link == "hardlink" else "copy_range", "replace"} <= {s["call"] for s in found}
    source = (pristine / "m.gguf").read_bytes()
    seen = set()
    for state in found:
        folder = Path(state["folder"])
        models = check_store(folder / "store")
        assert models in ({OTHER}, {OTHER, PATH}), state
        seen.add(len(models))
        assert (folder / "m.gguf").read_bytes() == source
        install_again(folder)
        assert check_store(folder / "store") == {OTHER, PATH}, state
        assert list(Store(folder / "store").staging().iterdir()) == []
    assert seen == {1, 2}


def install_again(folder: Path) -> None:
    """What the user does after the kill."""
    from tqconvert.store.recipe import read_recipe

    source = folder / "m.gguf"
    recipe = read_recipe(folder / "Modelfile", source)
    plan = plan_install(source, NAME, Store(folder / "store"), recipe=recipe)
    apply_install(plan)
    if plan.status == "unchanged":  # sweeping is for runs that write
        apply_install(plan_install(source, NAME, Store(folder / "store"), replace=True))


@pytest.mark.slow
def test_a_killed_remove_leaves_a_valid_store(pristine: Path, tmp_path: Path) -> None:
    """The manifest goes first, so no model is left without its blobs."""
    install(pristine / "m.gguf", pristine / "store")
    work = tmp_path / "work"
    work.mkdir()
    found = states(
        pristine, work, "install", "--remove", "tiny:1b", "--store", "@/store", "--quiet"
    )
    assert len(found) >= 5
    for state in found:
        folder = Path(state["folder"])
        assert check_store(folder / "store") >= {OTHER}
        install(folder / "m.gguf", folder / "store")
        assert check_store(folder / "store") == {OTHER, PATH}


@pytest.mark.slow
def test_processes_killed_at_random_times_leave_a_valid_store(pristine: Path) -> None:
    """Twenty processes of a real command line, killed at times drawn over its whole duration."""
    command = [
        sys.executable, "-m", "tqconvert", "install", pristine / "m.gguf", "--as", "tiny:1b",
        "--store", pristine / "store", "--link", "copy", "--quiet",
    ]  # fmt: skip
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    duration = time.monotonic() - began
    draw, killed = random.Random(20), 0
    for _ in range(20):
        subprocess.run(
            [sys.executable, "-m", "tqconvert", "install", "--remove", "tiny:1b", "--store",
             pristine / "store", "--quiet"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.3, 1.0) * duration)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert check_store(pristine / "store") in ({OTHER}, {OTHER, PATH})
    assert killed >= 5
    install(pristine / "m.gguf", pristine / "store")
    assert check_store(pristine / "store") == {OTHER, PATH}


def test_a_file_size_limit_is_a_clear_error(pristine: Path) -> None:
    """RLIMIT_FSIZE in the middle of the copy: exit 9, the store as it was, a run without it works."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000));"
        "from tqconvert.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "install", pristine / "m.gguf", "--as", "tiny:1b", "--store",
         pristine / "store", "--link", "copy"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 9, ran.stderr
    assert "File too large" in ran.stderr
    assert check_store(pristine / "store") == {OTHER}
    install(pristine / "m.gguf", pristine / "store")
    assert check_store(pristine / "store") == {OTHER, PATH}
