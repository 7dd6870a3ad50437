"""kill -9 during a pull: whatever the instant, the store stays valid and the next pull ends right."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import killer
import pytest
from builders import LLAMA, gguf_bytes
from fakeregistry import FakeRegistry

from tqconvert.digest import digest_path
from tqconvert.gguf.header import read_header
from tqconvert.gguf.tags import PAGE, read_tags
from tqconvert.reference import ModelName
from tqconvert.store.layout import Store

KILLS = 30
NAME = ModelName.parse("tiny:1b-tq")


def assert_valid(store: Store) -> None:
    """Every blob has the digest of its name, and every manifest has all its blobs."""
    for path in store.blobs.glob("sha256-*"):
        assert digest_path(path).blob_name == path.name
    for name in store.names():
        for layer in store.require_manifest(name).blobs:
            assert store.blob(layer.digest).stat().st_size == layer.size


def assert_pulled(store: Store, model: bytes) -> None:
    """The tagged model is there, and nothing of the way to it is left."""
    assert_valid(store)
    layer = store.require_manifest(NAME).layers_of("model")[0]
    file = store.blob(layer.digest)
    assert file.read_bytes()[PAGE:] == model
    assert read_tags(read_header(file)) is not None
    assert list(store.partials.glob("*")) == []


@pytest.mark.slow
def test_thirty_kills_at_random_times(tmp_path: Path) -> None:
    """30 pulls of a slow 24 MB model are killed at random; each next one goes on or starts right."""
    model = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 6000)})
    rng, store = random.Random(7), Store(tmp_path / "store")
    kills = resumed = 0
    with FakeRegistry(model, template=b"{{ .Prompt }}") as registry:
        registry.faults.delay_s = 0.002
        command = [
            sys.executable, "-m", "tqconvert", "pull", registry.name, "--as", str(NAME),
            "--store", str(store.root), "--json",
        ]  # fmt: skip
        for _ in range(4 * KILLS):
            if kills == KILLS:
                break
            asked = len(registry.requests)
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:
                deadline = time.monotonic() + 30
                while len(registry.requests) == asked and time.monotonic() < deadline:
                    time.sleep(0.002)
                try:
                    process.wait(rng.uniform(0.0, 0.9))
                except subprocess.TimeoutExpired:
                    os.kill(process.pid, signal.SIGKILL)
                out, err = process.communicate(timeout=60)
            if process.returncode == -signal.SIGKILL:
                kills += 1
                assert_valid(store)
                continue
            assert process.returncode == 0, err
            resumed += '"resumed_from": 0,' not in out
            assert_pulled(store, model)
            store.manifest_path(NAME).unlink()
            for path in store.blobs.iterdir():
                path.unlink()
        final = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert final.returncode == 0, final.stderr
    assert kills == KILLS
    assert_pulled(store, model)


@pytest.mark.slow
def test_a_kill_at_every_write(tmp_path: Path) -> None:
    """Killed before, in the middle of and after every call that writes: the next pull ends right."""
    model = gguf_bytes(LLAMA, {"token_embd.weight": (256, 10)})
    pristine = tmp_path / "pristine"
    pristine.mkdir()
    with FakeRegistry(model, template=b"{{ .Prompt }}") as registry:
        arguments = ("pull", registry.name, "--as", str(NAME), "-q", "--store")
        found = killer.states(pristine, tmp_path / "states", *arguments, "@")
        assert len(found) >= 40
        for state in found:
            store = Store(Path(state["folder"]))
            assert_valid(store)
            command = [sys.executable, "-c", _AGAIN, *arguments, str(store.root)]
            again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert again.returncode == 0, (state, again.stderr)
            assert_pulled(store, model)


_AGAIN = "import sys; from tqconvert.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupt_names_what_is_kept(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C ends at once with 130, says where the partial is, and the next pull goes on there."""
    model = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 6000)})
    with FakeRegistry(model) as registry:
        registry.faults.delay_s = 0.05
        command = [
            sys.executable, "-m", "tqconvert", "pull", registry.name, "--as", str(NAME),
            "--store", str(tmp_path / "store"),
        ]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 30
            while registry.sent < 8 << 20 and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(number)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "error: interrupted" in err
        assert ".partial is kept: run the same command again" in err
        assert "Traceback" not in err
        registry.faults.delay_s = 0
        again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0
    assert "kept from before" in again.stderr
    assert_pulled(Store(tmp_path / "store"), model)
