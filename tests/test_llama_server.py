"""The stock llama-server takes what we write: untagged, tagged and installed models say the same."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import halves
import pytest
from conftest import free_port, stop, wait_for

from tqconvert.digest import digest_path

Cli = Callable[..., tuple[int, str, str]]


def generated(server: Path, model: Path, folder: Path) -> str:
    """What the stock llama-server makes of a prompt at temperature 0; its log is in the folder."""
    port = free_port()
    command = [
        server, "-m", model, "-c", "512", "-ngl", "0", "-lv", "4", "--host", "127.0.0.1",
        "--port", str(port),
    ]  # fmt: skip
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, seconds=120)
            body = {
                "prompt": "The capital of France is",
                "n_predict": 24,
                "temperature": 0,
                "seed": 1,
            }
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )  # fmt: skip
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=120) as answer:
                return str(json.load(answer)["content"])
        finally:
            stop(process)


@pytest.mark.server
@pytest.mark.slow
def test_the_text_is_the_same(
    run_cli: Cli, gemma: Path, llama_server: Path, tmp_path: Path
) -> None:
    """Gemma 3 270M untagged, tagged in place and installed by pull: one text; untag gives it back.

    As f16 where the processor lacks AVX-VNNI, which the binary wants for quantized weights.
    """
    model = tmp_path / "gemma.gguf"
    if "avx_vnni" in Path("/proc/cpuinfo").read_text().split():
        shutil.copyfile(gemma, model)
    else:
        halves.as_f16(gemma, model)
    before = digest_path(model)
    plain = generated(llama_server, model, tmp_path)
    assert "France" in plain
    store = tmp_path / "store"
    code, out, _ = run_cli("pull", model, "--as", "gemma", "--store", store, "--json")
    assert code == 0
    assert generated(llama_server, Path(json.loads(out)["model"]), tmp_path) == plain
    assert run_cli("tag", model)[0] == 0
    assert generated(llama_server, model, tmp_path) == plain
    assert b"general.kv_cache.type_k" in (tmp_path / "server.log").read_bytes()
    assert run_cli("untag", model)[0] == 0
    assert digest_path(model) == before
