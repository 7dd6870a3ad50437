"""The stock llama-server computes the same with a balanced model: small random models in f32."""

import json
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from conftest import free_port, stop, wait_for
from golden import kv_models
from golden.kv_models import FF, VOCAB, E

from tqconvert.turbo.balanceplan import plan_balance
from tqconvert.turbo.fold import apply_balance

Shapes = dict[str, tuple[int, ...]]
PROMPTS = [[1, 5, 9, 30, 7, 12], [1, *range(6, 31, 2)], [1, *([8, 21, 13] * 12)]]


def _llama_like(*, bias: bool = False, qk_norm: bool = False) -> tuple[dict[str, Any], Shapes]:
    keys, shapes = kv_models.llama()
    for i in range(4):
        p = f"blk.{i}.attn_"
        if bias:
            shapes |= {p + "q.bias": (256,), p + "k.bias": (128,), p + "v.bias": (128,)}
        if qk_norm:
            shapes |= {p + "q_norm.weight": (64,), p + "k_norm.weight": (64,)}
    return keys, shapes


MODELS: dict[str, Callable[[], tuple[dict[str, Any], Shapes]]] = {
    "llama": kv_models.llama,
    "qwen2": lambda: _llama_like(bias=True),
    "qwen3": lambda: _llama_like(qk_norm=True),
    "qwen35": kv_models.qwen35,
    "gemma3": kv_models.gemma3,
    "phi3": kv_models.phi3,
}


def write_random(arch: str, path: Path) -> Path:
    """A small model whose attention is far from flat, in f32."""
    own, shapes = MODELS[arch]()
    if arch == "phi3":  # as published files have it
        for i in range(4):
            p = f"blk.{i}.attn_"
            for side in "qkv":
                del shapes[f"{p}{side}.weight"]
            shapes[p + "qkv.weight"] = (E, 512)
    keys = {
        "context_length": 512, "embedding_length": E, "feed_forward_length": FF,
        "attention.layer_norm_rms_epsilon": 1e-5, **own,
    }  # fmt: skip
    writer = gguf.GGUFWriter(path, arch)
    for name, value in keys.items():
        kv_models._add_key(writer, f"{arch}.{name}", value)
    kv_models._add_vocabulary(writer)
    random = np.random.default_rng(11)
    common = {"token_embd.weight": (E, VOCAB), "output_norm.weight": (E,)}
    for name, shape in (common | shapes).items():
        values = random.standard_normal(shape[::-1])
        if "norm" in name:
            values = np.exp(0.4 * values)
        elif len(shape) > 1:
            values /= shape[0] ** 0.5
        if name.endswith(("attn_q.weight", "attn_k.weight", "attn_qkv.weight")):
            values *= np.exp(random.normal(0, 0.5, (shape[1], 1)))
        if name.endswith("ssm_a"):
            values = -np.exp(values)
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def log_probabilities(server: Path, model: Path, log: Path) -> np.ndarray:
    """[prompts, vocabulary]: what the server gives each token to come next, with K and V in f32."""
    port = free_port()
    command = [
        server, "-m", model, "-c", "256", "-ngl", "0", "-t", "1", "-fa", "off", "-ctk", "f32",
        "-ctv", "f32", "-np", "1", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    found = []
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, seconds=120)
            for prompt in PROMPTS:
                body = {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": VOCAB}
                request = urllib.request.Request(
                    f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(),
                    {"Content-Type": "application/json"},
                )  # fmt: skip
                with opener.open(request, timeout=120) as answer:
                    (token,) = json.load(answer)["completion_probabilities"]
                row = np.full(VOCAB, np.nan)
                for top in token["top_logprobs"]:
                    row[top["id"]] = top["logprob"]
                found.append(row)
        finally:
            stop(process)
    return np.array(found)


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("arch", MODELS)
def test_probabilities_stay(tmp_path: Path, llama_server: Path, arch: str) -> None:
    """1e-5 of the spread of the log-probabilities; a scaled K alone moves them a thousand times that."""
    file = write_random(arch, tmp_path / "m.gguf")
    out, spoiled = tmp_path / "out.gguf", tmp_path / "spoiled.gguf"
    plan = plan_balance(file, out, sigma="rows")
    assert min(layer.d.max() / layer.d.min() for layer in plan.layers) > 1.5
    apply_balance(plan)
    only_k = tuple(e for e in plan.edits if e.tensor.split(".")[2].startswith("attn_k"))
    apply_balance(plan._replace(target=spoiled, edits=only_k or plan.edits[:1]))
    plain, balanced, wrong = (
        log_probabilities(llama_server, path, tmp_path / "log") for path in (file, out, spoiled)
    )
    assert np.isfinite(plain).all()
    spread = np.ptp(plain)
    assert spread > 1
    assert np.abs(balanced - plain).max() <= 1e-5 * spread
    assert np.abs(wrong - plain).max() > 1e-2 * spread
