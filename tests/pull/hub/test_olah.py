"""Pulls through olah, a mirror of Hugging Face that others wrote, in front of the local hub.

olah pins psutil below 6 (fastapi-utils 0.8), so it lives in an environment of its own: `make olah`.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import LLAMA, gguf_bytes
from conftest import free_port, stop, wait_for
from fakehub import FakeHub
from shards import split_gguf
from stores import check_store

from tqconvert.digest import digest_bytes

MODEL = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 600)})
WHOLE = gguf_bytes(LLAMA, {f"blk.{i}.w": (1024, 300) for i in range(4)})
FILES = {"README.md": b"#", "m-Q4_K_M.gguf": MODEL, **split_gguf(WHOLE, "Q8_0/m-Q8_0", [1, 3])}


@pytest.fixture
def olah(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub behind olah, which HF_ENDPOINT names."""
    own = Path(sys.prefix, "olah", "bin", "olah-cli")
    program = str(own) if own.exists() else shutil.which("olah-cli")
    if not program:
        pytest.skip("needs olah-cli (make olah)")
    with FakeHub({"org/repo": FILES}) as hub:
        port, upstream = free_port(), hub.address.removeprefix("http://")
        address = f"127.0.0.1:{port}"
        command = [
            program, "--host", "127.0.0.1", "--port", str(port), "--hf-scheme", "http",
            "--hf-netloc", upstream, "--hf-lfs-netloc", upstream, "--mirror-scheme", "http",
            "--mirror-netloc", address, "--mirror-lfs-netloc", address,
            "--repos-path", str(tmp_path / "repos"), "--log-path", str(tmp_path / "logs"),
        ]  # fmt: skip
        with (tmp_path / "olah.txt").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
            try:
                # Its front page is broken with the starlette of today; the API is not.
                wait_for(f"http://{address}/api/models/org/repo", process)
                monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
                yield hub
            finally:
                stop(process)


@pytest.mark.server
def test_a_mirror_in_between(olah: FakeHub, tmp_path: Path, run_cli) -> None:
    """A file and a sharded model, a second pull from its cache, and its errors."""
    for name, source in (("hf.co/org/repo", MODEL), ("hf.co/org/repo:Q8_0", WHOLE)):
        code, out, err = run_cli("pull", name, "--json", "--store", tmp_path / "one")
        assert code == 0, err
        assert json.loads(out)["digests"]["source_model"] == str(digest_bytes(source))
    assert check_store(tmp_path / "one") == {"hf.co/org/repo/Q4_K_M-tq", "hf.co/org/repo/Q8_0-tq"}
    code, out, _ = run_cli("pull", "hf.co/org/repo", "--json", "--store", tmp_path / "one")
    assert (code, json.loads(out)["state"]) == (0, "unchanged")
    olah.requests.clear()
    assert run_cli("pull", "hf.co/org/repo", "--store", tmp_path / "two")[0] == 0
    assert not [p for m, p, _ in olah.requests if m == "GET" and "/resolve/" in p]
    code, _, err = run_cli("pull", "hf.co/org/nope", "--store", tmp_path / "one")
    assert (code, "no such repository" in err) == (5, True)
    code, _, err = run_cli("pull", "hf.co/org/repo@nope", "--store", tmp_path / "one")
    assert (code, "no revision nope" in err) == (5, True)
