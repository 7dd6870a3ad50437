"""The runtime that `make runtime` built: what it is, that it serves, that it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import free_port, stop, wait_for
from kvruntime import our_runtime

from tqconvert.patches.series import find_patches, read_series
from tqconvert.runtime.llamacpp import PROGRAMS
from tqconvert.runtime.locate import Runtime
from tqconvert.runtime.server import parse_kv_buffers, start_server

pytestmark = pytest.mark.runtime
Run = Callable[..., tuple[int, str, str]]
BODY = {"prompt": "The capital of France is", "n_predict": 16, "temperature": 0, "seed": 1}


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    """The programs under test."""
    return our_runtime()


def test_it_is_built_from_this_checkout(runtime: Runtime, run_cli: Run) -> None:
    """All programs are there, unchanged; the patches are those that lie here."""
    code, out, _ = run_cli("ollama-build", "whatis", runtime.folder, "--json")
    document = json.loads(out)
    assert (code, document["changed"]) == (0, [])
    names = [p["name"] for p in document["programs"]]
    assert names[: len(PROGRAMS["all"])] == list(PROGRAMS["all"])
    assert {"llama-kv-stats", "test-turbo"} <= set(names)
    assert document["series"] == read_series(find_patches()).id


def test_two_runs_say_the_same(runtime: Runtime, gemma: Path, tmp_path: Path) -> None:
    """At temperature 0, in two servers; the log tells both caches of the model."""
    said = []
    for name in ("a.log", "b.log"):
        with start_server(
            runtime.program("llama-server"), gemma, env=os.environ, log=tmp_path / name, n_ctx=512,
            args=["-t", "2"],
        ) as server:  # fmt: skip
            said.append(server.ask("/completion", BODY)["content"])
            buffers = server.kv_buffers
    assert said[0] == said[1]
    assert "Paris" in said[0] or "France" in said[0]
    assert [(b.cells, b.n_layers, b.type_k, b.type_v) for b in buffers] == [
        (512, 3, "f16", "f16"), (512, 15, "f16", "f16"),
    ]  # fmt: skip


def test_serve_obeys_tags(runtime: Runtime, gemma: Path, tmp_path: Path, run_cli: Run) -> None:
    """`serve` on a tagged copy: no flag, and yet the cache has the tag's types; Ctrl-C is exit 0."""
    model = tmp_path / "gemma.gguf"
    shutil.copyfile(gemma, model)
    assert run_cli("tag", model)[0] == 0
    port = free_port()
    command = [
        "serve",
        str(model),
        "--ctx",
        "512",
        "--port",
        str(port),
        "--runtime",
        str(runtime.folder),
        "--json",
        *("--", "-lv", "4"),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "tqconvert", *command], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, seconds=120)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        stop(process)
        model.unlink()
    document = json.loads(out)
    assert process.returncode == 0, err
    assert not re.search(r"-ctk|-ctv", " ".join(document["command"]))
    buffers = parse_kv_buffers(err)
    assert {(b.type_k, b.type_v) for b in buffers} == {("q8_0", "turbo4")}
    assert document["kv_bytes"] / 2**20 == pytest.approx(sum(b.mib for b in buffers), abs=0.01)
