"""kill -9 during a push: no tag names what is not there, and the next push ends right."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import LLAMA, gguf_bytes
from fakepush import PushRegistry
from stores import put_model, sha256

PATH = "registry.ollama.ai/library/tiny/1b"
KILLS = 10


def put(root: Path, rows: int) -> bytes:
    """A model of 4 KiB a row in a store; its GGUF."""
    model = gguf_bytes(LLAMA, {"token_embd.weight": (1024, rows)})
    put_model(root, PATH, model, license="MIT")
    return model


@pytest.mark.slow
def test_a_kill_at_every_write(tmp_path: Path) -> None:
    """Before and after each call that writes a note: what the registry has is not sent again."""
    model = put(tmp_path / "store", 1800)
    with PushRegistry() as registry:
        command = [
            sys.executable, str(Path(__file__).parent / "killpush.py"), str(tmp_path / "store"),
            str(tmp_path / "work"), registry.host,
        ]  # fmt: skip
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=200, check=False, env=env
        )
        assert ran.returncode == 0, ran.stderr
        found = json.loads(ran.stdout)
        assert len(found) >= 16
        for state in found:
            assert registry.blobs[state["repository"]][sha256(model)] == model
            assert registry.complete(state["repository"])
        resumed = [s for s in found if s["again"]["resumed_from"]]
        assert len(resumed) >= 5
        for state in resumed:
            again = state["again"]
            assert again["resumed_from"] + again["sent_bytes"] >= len(model)
            assert again["sent_bytes"] <= len(model) - again["resumed_from"] + 8192


@pytest.mark.slow
def test_kills_at_random_times(tmp_path: Path) -> None:
    """Pushes of 12 MB to a slow registry are killed; each goes on, and the tag appears with the last."""
    model = put(tmp_path / "store", 3000)
    rng = random.Random(5)
    with PushRegistry() as registry:
        registry.faults.delay_s = 0.004
        command = [
            sys.executable, "-m", "tqconvert", "push", "tiny:1b", f"{registry.host}/me/tiny:1b",
            "--store", str(tmp_path / "store"), "--chunk", "2MiB", "--json", "--form", "all",
        ]  # fmt: skip
        kills = 0
        for _ in range(KILLS):
            asked = len(registry.requests)
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:
                deadline = time.monotonic() + 30
                while len(registry.requests) == asked and time.monotonic() < deadline:
                    time.sleep(0.002)
                try:
                    process.wait(rng.uniform(0.0, 0.3))
                except subprocess.TimeoutExpired:
                    os.kill(process.pid, signal.SIGKILL)
                    kills += 1
                process.communicate(timeout=60)
            assert registry.complete("me/tiny")
            if process.returncode == 0:
                break
        registry.faults.delay_s = 0
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert kills >= 3
        assert registry.blobs["me/tiny"][sha256(model)] == model
        assert len(registry.manifests["me/tiny"]) == 4
        assert registry.received < 2 * len(model)


@pytest.mark.server
@pytest.mark.slow
def test_kills_and_docker_registry(docker_registry: str, tmp_path: Path, run_cli) -> None:
    """It gives up an upload that was cut within a chunk: that costs bytes, and nothing else."""
    model = put(tmp_path / "store", 12_000)
    dest = f"{docker_registry}/me/tiny:1b"
    push = [
        "push",
        "tiny:1b",
        dest,
        "--store",
        str(tmp_path / "store"),
        "--chunk",
        "1MiB",
        "--json",
    ]
    kills = 0
    for delay_s in (0.01, 0.03, 0.06):
        with subprocess.Popen(
            [sys.executable, "-m", "tqconvert", *push], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            uploads = tmp_path / "registry/docker/registry/v2/repositories/me/tiny/_uploads"
            deadline = time.monotonic() + 30
            while not any(uploads.glob("*/data")) and time.monotonic() < deadline:
                if process.poll() is not None:
                    break
                time.sleep(0.002)
            try:
                process.wait(delay_s)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.communicate(timeout=60)
    assert kills >= 1
    code, out, err = run_cli(*push)
    assert code == 0, (out, err)
    there = tmp_path / "there"
    assert run_cli("pull", f"oci://{dest}", "--no-tag", "--as", "t:1", "--store", there)[0] == 0
    blob = there / "blobs" / sha256(model).replace(":", "-")
    assert blob.read_bytes() == model
