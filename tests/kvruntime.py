"""What tests of the built runtime's KV cache share: its programs, and models with keys of their own."""

import os
import re
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from builders import keys_of, string, tiny_gguf, value

from tqconvert.errors import NotFoundError
from tqconvert.gguf.header import read_header
from tqconvert.runtime.locate import Runtime, find_runtime
from tqconvert.runtime.server import Server, start_server
from tqconvert.settings import default_cache

# Read now: tests have an environment and a home of their own.
_GIVEN = os.environ.get("TQCONVERT_RUNTIME")
_CACHE = Path(os.environ.get("TQCONVERT_CACHE") or default_cache())


def our_runtime() -> Runtime:
    """The runtime under test; skips where none is built."""
    try:
        return find_runtime(_CACHE, Path(_GIVEN) if _GIVEN else None)
    except NotFoundError as e:
        pytest.skip(f"needs a built runtime (make runtime): {e}")


def with_keys(source: Path, target: Path, keys: dict[str, Any]) -> Path:
    """Write a copy of the little-endian model `source` that has further keys."""
    header = read_header(source)
    with source.open("rb") as f, target.open("wb") as out:
        head = f.read(header.data_start)
        out.write(head[:16] + struct.pack("<Q", header.n_kv + len(keys)) + head[24 : header.kv_end])
        out.write(b"".join(string(k) + value(v) for k, v in keys.items()))
        out.write(head[header.kv_end : header.infos_end])
        out.write(bytes(-out.tell() % header.alignment))
        while block := f.read(1 << 22):
            out.write(block)
    return target


def types(k: Any, v: Any) -> dict[str, Any]:
    """The keys of a tagged file."""
    return {"general.kv_cache.type_k": k, "general.kv_cache.type_v": v}


def tiny_llama(path: Path, keys: dict[str, Any] | None = None, *, head_dim: int = 64) -> Path:
    """A llama of two layers and two heads that loads and runs; its weights mean nothing."""
    n = 2 * head_dim
    own = keys_of(
        "llama", block_count=2, context_length=512, embedding_length=n, feed_forward_length=32,
        attention__head_count=2, attention__head_count_kv=2, vocab_size=32,
        attention__layer_norm_rms_epsilon=1e-5,
    )  # fmt: skip
    tensors = {"token_embd.weight": (n, 32), "output_norm.weight": (n,), "output.weight": (n, 32)}
    for i in range(2):
        layer = {
            "attn_norm": (n,), "attn_q": (n, n), "attn_k": (n, n), "attn_v": (n, n),
            "attn_output": (n, n), "ffn_norm": (n,), "ffn_gate": (n, 32), "ffn_up": (n, 32),
            "ffn_down": (32, n),
        }  # fmt: skip
        tensors |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
    vocab = {"tokenizer.ggml.model": "none"}
    return tiny_gguf(path, {**own, **vocab, **(keys or {})}, tensors=tensors)


def tiny_latent(path: Path, keys: dict[str, Any] | None = None) -> Path:
    """A deepseek2 of one dense layer with multi-head latent attention (MLA) that loads."""
    own = keys_of(
        "deepseek2", block_count=1, context_length=512, embedding_length=64, feed_forward_length=32,
        attention__head_count=2, attention__head_count_kv=1, attention__layer_norm_rms_epsilon=1e-5,
        attention__kv_lora_rank=192, attention__key_length=256, attention__value_length=192,
        attention__key_length_mla=96, attention__value_length_mla=32, rope__dimension_count=64,
        leading_dense_block_count=1, expert_count=0, expert_used_count=0, vocab_size=32,
        expert_feed_forward_length=32, expert_shared_count=1, attention__q_lora_rank=0,
    )  # fmt: skip
    layer = {
        "attn_norm": (64,), "attn_q": (64, 192), "attn_kv_a_mqa": (64, 256), "attn_kv_a_norm": (192,),
        "attn_k_b": (32, 192, 2), "attn_v_b": (192, 32, 2), "attn_output": (64, 64),
        "ffn_norm": (64,), "ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64),
    }  # fmt: skip
    tensors = {
        "token_embd.weight": (64, 32),
        "output_norm.weight": (64,),
        "output.weight": (64, 32),
    }
    tensors |= {f"blk.0.{name}.weight": shape for name, shape in layer.items()}
    vocab = {"tokenizer.ggml.model": "none"}
    return tiny_gguf(path, {**own, **vocab, **(keys or {})}, tensors=tensors)


def run_program(runtime: Runtime, name: str, *args: object) -> "subprocess.CompletedProcess[str]":
    """The program's exit code and output: a short run without a server."""
    command = [str(runtime.program(name)), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@contextmanager
def serving(
    runtime: Runtime, model: Path, log: Path, *args: str, n_ctx: int = 1024
) -> Iterator[Server]:
    """llama-server with the model: one slot, two threads, a log with all lines."""
    fixed = ("-t", "2", "-tb", "2", "-lv", "4", "--no-warmup", "-fit", "off")
    program = runtime.program("llama-server")
    with start_server(program, model, env={}, log=log, n_ctx=n_ctx, args=(*fixed, *args)) as server:
        yield server


def complete(
    server: Server, prompt: str | Sequence[int], *, n: int = 24, **further: Any
) -> dict[str, Any]:
    """The server's answer at temperature 0, with the tokens that it made; `further` is sent as well."""
    body = {
        "prompt": prompt if isinstance(prompt, str) else list(prompt), "n_predict": n,
        "temperature": 0, "seed": 1, "id_slot": 0, "return_tokens": True, "ignore_eos": True, **further,
    }  # fmt: skip
    answer = server.ask("/completion", body)
    assert isinstance(answer, dict)
    return answer


def logged(text: str) -> str:
    """The one line that tells the cache's types and where they came from."""
    found = re.findall(r"llama_context: KV cache types: (.*)", text)
    assert len(found) == 1, found
    return str(found[0])
