"""Random models of a few layers, and the logits of their attention, in NumPy and by gguf-py alone.

Only what attention needs is in the files. The forward pass is written from the graphs of llama.cpp
(src/models/*.cpp, ggml_rope_ext), not from our code.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

E = 256
"""Width of the models."""


@dataclass(frozen=True)
class Family:
    """How one architecture does attention; `qk_norm`: values of attn_k_norm and attn_q_norm."""

    arch: str
    rope: str
    """halves, neighbours, none: as ggml's NEOX, NORM."""
    n_head: int = 4
    n_kv: int = 2
    dim: int = 64
    n_rot: int | None = None
    qk_norm: str = ""
    """head: one vector for all heads; all: one over all heads; each: a vector per head, LayerNorm."""
    bias: bool = False
    fused: bool = False
    gated: bool = False
    shared_from: int | None = None
    """Layers from here on read the caches of the two before."""
    n_layers: int = 2
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def rotary(self) -> int:
        """Channels of a head that are turned."""
        return self.dim if self.n_rot is None else self.n_rot

    def source(self, layer: int) -> int:
        """Whose K a layer reads."""
        if self.shared_from is None or layer < self.shared_from:
            return layer
        sliding = layer % 5 < 4
        return self.shared_from - (2 if sliding else 1)


FAMILIES = {
    "llama": Family("llama", "neighbours"),
    "qwen2": Family("qwen2", "halves", bias=True),
    "qwen3": Family("qwen3", "halves", qk_norm="head"),
    "qwen3moe": Family("qwen3moe", "halves", n_kv=1, qk_norm="head"),
    "gemma3": Family("gemma3", "halves", n_head=2, n_kv=1, dim=128, qk_norm="head"),
    "qwen35": Family(
        "qwen35", "halves", dim=128, n_rot=32, qk_norm="head", gated=True, n_layers=4,
        keys={"full_attention_interval": 1, "rope.dimension_sections": [8, 4, 4, 0],
              "ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 128,
              "ssm.group_count": 4, "ssm.time_step_rank": 4},
    ),
    "olmo2": Family("olmo2", "halves", qk_norm="all"),
    "command-r": Family("command-r", "neighbours", qk_norm="each"),
    "phi3": Family("phi3", "halves", fused=True),
    "phi2": Family("phi2", "halves", n_kv=4, n_rot=32, fused=True, bias=True),
    "chatglm": Family("chatglm", "neighbours", n_rot=32, fused=True, bias=True),
    "gpt2": Family("gpt2", "none", n_kv=4, fused=True, bias=True),
    "gemma4": Family(
        "gemma4", "halves", n_head=2, n_kv=1, dim=128, qk_norm="head", n_layers=6, shared_from=4,
        keys={"attention.sliding_window": 512, "attention.shared_kv_layers": 2,
              "attention.sliding_window_pattern": [True, True, True, True, False, True]},
    ),
}  # fmt: skip


def random_tensors(family: Family, seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors of all layers in f32, channels of very different sizes in K and Q."""
    random = np.random.default_rng(seed)
    n_q, n_k = family.n_head * family.dim, family.n_kv * family.dim
    tensors = {"token_embd.weight": random.standard_normal((32, E))}

    def spread(n: int) -> np.ndarray:
        return np.exp(random.normal(0, 0.7, n))

    for i in range(family.n_layers):
        p = f"blk.{i}."
        w = {
            "q": random.normal(0, 1 / 16, (n_q, E)) * spread(n_q)[:, None],
            "k": random.normal(0, 1 / 16, (n_k, E)) * spread(n_k)[:, None],
            "v": random.normal(0, 1 / 16, (n_k, E)),
        }
        b = {s: random.normal(0, 1, len(w[s])) for s in w}
        if family.gated:
            gates = random.normal(0, 1 / 16, (n_q, E))
            heads = np.stack([x.reshape(family.n_head, -1, E) for x in (w["q"], gates)], axis=1)
            w["q"] = heads.reshape(2 * n_q, E)
        tensors[p + "attn_norm.weight"] = random.uniform(0.5, 2, E)
        sides = "qkv" if family.source(i) == i else "q"
        if family.fused:
            tensors[p + "attn_qkv.weight"] = np.concatenate([w[s] for s in "qkv"])
            if family.bias:
                tensors[p + "attn_qkv.bias"] = np.concatenate([b[s] for s in "qkv"])
        else:
            tensors |= {f"{p}attn_{s}.weight": w[s] for s in sides}
            if family.bias:
                tensors |= {f"{p}attn_{s}.bias": b[s] for s in sides}
        for s, n, heads in (("q", n_q, family.n_head), ("k", n_k, family.n_kv)):
            if not family.qk_norm or s not in sides:
                continue
            length = family.dim if family.qk_norm == "head" else n
            weight = spread(length) * random.choice([-1, 1], length)
            if family.qk_norm == "each":
                weight = weight.reshape(heads, -1)
            tensors[f"{p}attn_{s}_norm.weight"] = weight
        tensors[p + "attn_output.weight"] = random.normal(0, 1 / 16, (E, n_q))
    return {name: t.astype(np.float32) for name, t in tensors.items()}


def write_family(
    path: Path, family: Family, types: dict[str, gguf.GGMLQuantizationType] | None = None,
    *, seed: int = 0,
) -> Path:  # fmt: skip
    """Write a random model; `types`: ending of a tensor's name -> its type, by gguf-py's quantizer."""
    writer = gguf.GGUFWriter(path, family.arch)
    keys = {
        "block_count": family.n_layers, "context_length": 4096, "embedding_length": E,
        "feed_forward_length": 32, "attention.head_count": family.n_head,
        "attention.head_count_kv": family.n_kv, "attention.key_length": family.dim,
        "attention.value_length": family.dim, **family.keys,
    }  # fmt: skip
    if family.n_rot is not None:
        keys["rope.dimension_count"] = family.n_rot
    for key, value in keys.items():
        add = writer.add_array if isinstance(value, list) else writer.add_uint32
        add(f"{family.arch}.{key}", value)
    for name, values in random_tensors(family, seed).items():
        kind = next((k for end, k in (types or {}).items() if name.endswith(end)), None)
        if kind is None:
            writer.add_tensor(name, values)
        elif kind == gguf.GGMLQuantizationType.F16:
            writer.add_tensor(name, values.astype(np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_values(path: Path) -> dict[str, np.ndarray]:
    """All tensors, dequantized, in f64."""
    return {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64)
        for t in gguf.GGUFReader(path).tensors
    }


def keys_and_queries(
    family: Family, values: dict[str, np.ndarray], layer: int, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """K [n, n_kv, dim] and Q [n, n_head, dim] after RoPE for inputs x [n, E] at positions 0, 1, ..."""
    n_q, n_k = family.n_head * family.dim, family.n_kv * family.dim

    def project(i: int, side: str) -> np.ndarray:
        p = f"blk.{i}.attn_"
        h = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + 1e-6) * values[p + "norm.weight"]
        if family.fused:
            rows = {"q": slice(0, n_q), "k": slice(n_q, n_q + n_k)}[side]
            y = h @ values[p + "qkv.weight"][rows].T
            if family.bias:
                y += values[p + "qkv.bias"][rows]
        else:
            y = h @ values[f"{p}{side}.weight"].T
            if family.bias:
                y += values[f"{p}{side}.bias"]
        heads = family.n_head if side == "q" else family.n_kv
        y = y.reshape(len(x), heads, -1)[:, :, : family.dim]
        if family.qk_norm:
            weight = values[f"{p}{side}_norm.weight"]
            if family.qk_norm == "each":
                y = y - y.mean(axis=2, keepdims=True)
            if family.qk_norm == "all":
                y = y / np.sqrt(np.mean(y**2, axis=(1, 2), keepdims=True) + 1e-6)
                y = y * weight.reshape(heads, -1)
            else:
                y = y / np.sqrt(np.mean(y**2, axis=2, keepdims=True) + 1e-6) * weight
        return rope(y, family.rotary, family.rope)

    return project(family.source(layer), "k"), project(layer, "q")


def rope(y: np.ndarray, n_rot: int, style: str) -> np.ndarray:
    """Turn y [n, heads, dim] by positions 0, 1, ..., as ggml_rope_ext does."""
    if style == "none":
        return y
    angle = np.arange(len(y))[:, None] * 10000.0 ** (-np.arange(0, n_rot, 2) / n_rot)
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    half = n_rot // 2
    a, b = (
        (slice(0, half), slice(half, n_rot))
        if style == "halves"
        else (slice(0, n_rot, 2), slice(1, n_rot, 2))
    )
    out = y.copy()
    out[..., a], out[..., b] = y[..., a] * cos - y[..., b] * sin, y[..., a] * sin + y[..., b] * cos
    return out


def logits(family: Family, values: dict[str, np.ndarray], *, n: int = 24) -> np.ndarray:
    """q.k of all layers and heads, [layers, n_head, n, n]."""
    x = np.random.default_rng(7).standard_normal((n, E))
    found = []
    for layer in range(family.n_layers):
        k, q = keys_and_queries(family, values, layer, x)
        k = k.repeat(family.n_head // family.n_kv, axis=1)
        found.append(np.einsum("qhd,khd->hqk", q, k))
    return np.stack(found)


def largest_difference(old: np.ndarray, new: np.ndarray) -> float:
    """The largest difference of two arrays of logits, relative to the largest logit."""
    return float(np.abs(old - new).max() / np.abs(old).max())


def stats_of(family: Family, path: Path, *, n: int = 256) -> dict[str, Any]:
    """What llama-kv-stats would write for random inputs whose mean is not zero."""
    values = read_values(path)
    random = np.random.default_rng(3)
    x = random.standard_normal((n, E)) + random.standard_normal(E)
    layers = []
    for i in range(family.n_layers):
        k, q = (a.reshape(n, -1) for a in keys_and_queries(family, values, i, x))
        row = {
            "layer": i, "head_dim": family.dim, "n_head": family.n_head, "n_q": n,
            "n_head_kv": family.n_kv, "n_k": n - 8, "q_sum": q.sum(0).tolist(),
            "q_sq": (q**2).sum(0).tolist(), "k_sum": k[8:].sum(0).tolist(),
            "k_sq": (k[8:] ** 2).sum(0).tolist(),
        }  # fmt: skip
        if family.source(i) == i:
            layers.append(row)
    return {
        "schema": "tqconvert.kv-stats/1", "n_tokens": n, "n_ctx": n, "skip": 8, "layers": layers,
    }  # fmt: skip
