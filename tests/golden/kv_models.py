"""Small random-weight models of many architectures, and what the stock llama-server allocates for them.

As a program it writes kv.toml anew:

    python tests/golden/kv_models.py --server .../bin/llama-server --gemma gemma.gguf

Each model has the tensors that llama.cpp's src/models/<arch>.cpp asks for, a vocabulary of 32 tokens
and layers of a few kilobytes. The server's log is complete before it computes anything.
"""

import argparse
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

E, FF, VOCAB, EXPERTS = 256, 32, 32, 2
"""Embedding, feed-forward, vocabulary, experts: of every model here."""

Keys = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]
"""Tensor name -> shape, the fastest dimension first as in ggml."""

HERE = Path(__file__).parent
PAIRS = (("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q5_0"))
ATTEMPTS = 4
MADE = "compute buffer size"
"""What the log says once all caches are allocated."""

SIZE = re.compile(
    r"(?P<what>llama_kv_cache|llama_memory_recurrent): size = +(?P<total>[\d.]+) MiB \( *(?P<cells>\d+) cells, "
    r"+(?P<layers>\d+) layers, .*?\), [KR] \(\w+\): +(?P<a>[\d.]+) MiB, [VS] \(\w+\): +(?P<b>[\d.]+) MiB"
)


def _attention(
    i: int, n_head: int, n_kv: int, dim: int, *, q: int = 1, qk_norm: bool = False
) -> Shapes:
    p = f"blk.{i}."
    shapes = {
        p + "attn_norm.weight": (E,),
        p + "attn_q.weight": (E, dim * n_head * q),
        p + "attn_k.weight": (E, dim * n_kv),
        p + "attn_v.weight": (E, dim * n_kv),
        p + "attn_output.weight": (dim * n_head, E),
    }
    if qk_norm:
        shapes |= {p + "attn_q_norm.weight": (dim,), p + "attn_k_norm.weight": (dim,)}
    return shapes


def _ffn(i: int, *, norm: str = "ffn_norm.weight") -> Shapes:
    p = f"blk.{i}."
    shapes = {
        p + "ffn_gate.weight": (E, FF),
        p + "ffn_up.weight": (E, FF),
        p + "ffn_down.weight": (FF, E),
    }
    return {p + norm: (E,), **shapes} if norm else shapes


def _experts(i: int, *, shared: bool) -> Shapes:
    p = f"blk.{i}."
    shapes = {
        p + "ffn_gate_inp.weight": (E, EXPERTS),
        p + "ffn_gate_exps.weight": (E, FF, EXPERTS),
        p + "ffn_up_exps.weight": (E, FF, EXPERTS),
        p + "ffn_down_exps.weight": (FF, E, EXPERTS),
    }
    if shared:
        shapes |= {
            p + "ffn_gate_shexp.weight": (E, FF),
            p + "ffn_up_shexp.weight": (E, FF),
            p + "ffn_down_shexp.weight": (FF, E),
        }
    return shapes


def _mamba2(i: int, inner: int, state: int, groups: int, heads: int, conv: int) -> Shapes:
    p, width = f"blk.{i}.", inner + 2 * groups * state
    return {
        p + "attn_norm.weight": (E,),
        p + "ssm_in.weight": (E, inner + width + heads),
        p + "ssm_conv1d.weight": (conv, width),
        p + "ssm_conv1d.bias": (width,),
        p + "ssm_dt.bias": (heads,),
        p + "ssm_a": (1, heads),
        p + "ssm_d": (1, heads),
        p + "ssm_norm.weight": (inner // groups, groups),
        p + "ssm_out.weight": (inner, E),
    }


def _heads(n_head: int, n_kv: int | list[int], dim: int | None = None) -> Keys:
    keys: Keys = {"attention.head_count": n_head, "attention.head_count_kv": n_kv}
    if dim:
        keys |= {"attention.key_length": dim, "attention.value_length": dim}
    return keys


def _ssm_keys(inner: int, state: int, groups: int, heads: int, conv: int) -> Keys:
    return {
        "ssm.conv_kernel": conv, "ssm.inner_size": inner, "ssm.state_size": state,
        "ssm.group_count": groups, "ssm.time_step_rank": heads,
    }  # fmt: skip


def _experts_keys() -> Keys:
    return {"expert_count": EXPERTS, "expert_used_count": 1, "expert_feed_forward_length": FF}


def gemma3() -> tuple[Keys, Shapes]:
    """12 layers, every 6th full, the pattern not in the file."""
    shapes: Shapes = {}
    for i in range(12):
        shapes |= _attention(i, 2, 1, 128, qk_norm=True) | _ffn(i)
        shapes |= {
            f"blk.{i}.post_attention_norm.weight": (E,),
            f"blk.{i}.post_ffw_norm.weight": (E,),
        }
    return {"block_count": 12, "attention.sliding_window": 512, **_heads(2, 1, 128)}, shapes


def cohere2() -> tuple[Keys, Shapes]:
    """8 layers, every 4th full."""
    shapes: Shapes = {}
    for i in range(8):
        shapes |= _attention(i, 4, 2, 64) | _ffn(i, norm="")
    keys = {"block_count": 8, "attention.sliding_window": 1000, "logit_scale": 0.25}
    return {**keys, **_heads(4, 2)}, shapes


def gpt_oss() -> tuple[Keys, Shapes]:
    """4 layers, every second one full, attention sinks, experts."""
    shapes: Shapes = {"output.weight": (E, VOCAB)}
    for i in range(4):
        p = f"blk.{i}."
        shapes |= _attention(i, 4, 2, 64) | _experts(i, shared=False)
        shapes |= {
            p + "post_attention_norm.weight": (E,), p + "attn_sinks.weight": (4,),
            p + "attn_output.bias": (E,), p + "ffn_gate_inp.bias": (EXPERTS,),
            p + "ffn_gate_exps.bias": (FF, EXPERTS), p + "ffn_up_exps.bias": (FF, EXPERTS),
            p + "ffn_down_exps.bias": (E, EXPERTS),
        }  # fmt: skip
    keys = {"block_count": 4, "attention.sliding_window": 128, "rope.dimension_count": 64}
    return {**keys, **_heads(4, 2, 64), **_experts_keys()}, shapes


def phi3() -> tuple[Keys, Shapes]:
    """A window in the file that the runtime does not use."""
    shapes: Shapes = {}
    for i in range(4):
        shapes |= _attention(i, 4, 2, 64) | _ffn(i) | {f"blk.{i}.ffn_up.weight": (E, 2 * FF)}
        del shapes[f"blk.{i}.ffn_gate.weight"]
    return {"block_count": 4, "attention.sliding_window": 512, **_heads(4, 2)}, shapes


def llama4() -> tuple[Keys, Shapes]:
    """8 layers, 3 chunked of 8192 and 1 full in turn."""
    shapes: Shapes = {}
    for i in range(8):
        shapes |= _attention(i, 2, 1, 128) | _ffn(i)
        if i % 2:
            shapes |= _experts(i, shared=True)
            for name in ("gate", "up", "down"):
                del shapes[f"blk.{i}.ffn_{name}.weight"]
    keys = {"block_count": 8, "interleave_moe_layer_step": 2, **_heads(2, 1, 128)}
    return {**keys, **_experts_keys(), "expert_shared_count": 1}, shapes


def gemma3n() -> tuple[Keys, Shapes]:
    """25 layers of which the last 5 share the caches of layers 18 and 19."""
    n, altup, rank, wide = 25, 4, 64, 256
    shapes: Shapes = {
        "altup_proj.weight": (E, E, altup - 1), "altup_unembd_proj.weight": (E, E, altup - 1),
        "per_layer_token_embd.weight": (wide * n, VOCAB), "per_layer_model_proj.weight": (E, wide * n),
        "per_layer_proj_norm.weight": (wide,),
    }  # fmt: skip
    for i in range(n):
        p = f"blk.{i}."
        shapes |= _attention(i, 2, 1, 128, qk_norm=True) | _ffn(i)
        shapes |= {
            p + "post_attention_norm.weight": (E,), p + "post_ffw_norm.weight": (E,),
            p + "inp_gate.weight": (E, wide), p + "proj.weight": (wide, E), p + "post_norm.weight": (E,),
            p + "altup_correct_coef.weight": (altup, altup), p + "altup_correct_scale.weight": (E,),
            p + "altup_predict_coef.weight": (altup, altup * altup), p + "altup_router.weight": (E, altup),
            p + "altup_router_norm.weight": (E,), p + "laurel_l.weight": (E, rank),
            p + "laurel_r.weight": (rank, E), p + "laurel_post_norm.weight": (E,),
        }  # fmt: skip
    return {"block_count": n, "attention.sliding_window": 512, **_heads(2, 1, 128)}, shapes


def deepseek2() -> tuple[Keys, Shapes]:
    """MLA: a latent of 512 and 64 rotary values per token, no V."""
    return _mla("deepseek2", 4)


def glm_dsa() -> tuple[Keys, Shapes]:
    """MLA with an indexer's cache beside it."""
    keys, shapes = _mla("glm-dsa", 4)
    indexer = {"head_count": 2, "key_length": 128, "top_k": 64}
    keys |= {f"attention.indexer.{name}": value for name, value in indexer.items()}
    for i in range(4):
        p = f"blk.{i}.indexer."
        shapes |= {
            p + "k_norm.weight": (128,), p + "k_norm.bias": (128,), p + "proj.weight": (E, 2),
            p + "attn_k.weight": (E, 128), p + "attn_q_b.weight": (32, 256),
        }  # fmt: skip
    return keys, shapes


def _mla(arch: str, n: int) -> tuple[Keys, Shapes]:
    heads, latent, rope, nope, v = 4, 512, 64, 128, 128
    shapes: Shapes = {}
    for i in range(n):
        p = f"blk.{i}."
        shapes |= {
            p + "attn_norm.weight": (E,), p + "attn_q_a.weight": (E, 32), p + "attn_q_a_norm.weight": (32,),
            p + "attn_q_b.weight": (32, heads * (nope + rope)), p + "attn_kv_a_norm.weight": (latent,),
            p + "attn_kv_a_mqa.weight": (E, latent + rope), p + "attn_k_b.weight": (nope, latent, heads),
            p + "attn_v_b.weight": (latent, v, heads), p + "attn_output.weight": (heads * v, E),
        } | _ffn(i)  # fmt: skip
    keys: Keys = {
        "block_count": n, "leading_dense_block_count": n, "attention.head_count": heads,
        "attention.head_count_kv": 1, "attention.key_length": latent + rope,
        "attention.value_length": latent, "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": v, "attention.q_lora_rank": 32, "attention.kv_lora_rank": latent,
        "rope.dimension_count": rope, "expert_shared_count": 1, "expert_gating_func": 2,
        "expert_weights_scale": 1.0, **_experts_keys(),
    }  # fmt: skip
    return keys, shapes


def qwen35() -> tuple[Keys, Shapes]:
    """8 layers, every 4th with attention, and one more that predicts next tokens."""
    state, groups, heads, conv = 128, 4, 8, 8
    inner, width = state * heads, state * groups * 2 + state * heads
    shapes: Shapes = {}
    for i in range(9):
        p = f"blk.{i}."
        shapes |= {p + "post_attention_norm.weight": (E,)} | _ffn(i, norm="")
        if i == 8 or i % 4 == 3:
            shapes |= _attention(i, 4, 2, 128, q=2, qk_norm=True)
            continue
        shapes |= {
            p + "attn_norm.weight": (E,), p + "attn_qkv.weight": (E, width),
            p + "attn_gate.weight": (E, inner), p + "ssm_conv1d.weight": (conv, width),
            p + "ssm_dt.bias": (heads,), p + "ssm_a": (heads,), p + "ssm_beta.weight": (E, heads),
            p + "ssm_alpha.weight": (E, heads), p + "ssm_norm.weight": (state,),
            p + "ssm_out.weight": (inner, E),
        }  # fmt: skip
    p = "blk.8.nextn."
    shapes |= {
        p + "eh_proj.weight": (2 * E, E), p + "enorm.weight": (E,), p + "hnorm.weight": (E,),
        p + "shared_head_norm.weight": (E,),
    }  # fmt: skip
    keys: Keys = {"block_count": 9, "nextn_predict_layers": 1, "full_attention_interval": 4}
    keys |= {"rope.dimension_count": 32, "rope.dimension_sections": [8, 4, 4, 0]}
    return {**keys, **_heads(4, 2, 128), **_ssm_keys(inner, state, groups, heads, conv)}, shapes


def granitehybrid() -> tuple[Keys, Shapes]:
    """6 layers; those with K/V heads are the ones with attention."""
    kv, ssm = [0, 0, 1, 0, 0, 1], (2 * E, 128, 8, 8, 8)
    shapes: Shapes = {}
    for i, n in enumerate(kv):
        shapes |= (_attention(i, 2, n, 32) if n else _mamba2(i, *ssm)) | _ffn(i)
    keys: Keys = {"block_count": 6, "rope.dimension_count": 32, "logit_scale": 1.0}
    keys |= {"residual_scale": 1.0, "embedding_scale": 1.0, "attention.scale": 1.0}
    return {**keys, **_heads(2, kv, 32), **_ssm_keys(*ssm)}, shapes


def nemotron_h() -> tuple[Keys, Shapes]:
    """6 layers that are each a state, an attention or a feed-forward layer."""
    kinds, ssm = "sfasfa", (2 * E, 128, 8, 8, 8)
    shapes: Shapes = {}
    for i, kind in enumerate(kinds):
        if kind == "s":
            shapes |= _mamba2(i, *ssm)
        elif kind == "a":
            shapes |= _attention(i, 2, 1, 32)
        else:
            p = f"blk.{i}."
            shapes |= {p + "attn_norm.weight": (E,), p + "ffn_up.weight": (E, FF)}
            shapes |= {p + "ffn_down.weight": (FF, E)}
    keys: Keys = {"block_count": 6, "feed_forward_length": [FF * (k == "f") for k in kinds]}
    heads = _heads(2, [int(k == "a") for k in kinds], 32)
    return {**keys, **heads, **_ssm_keys(*ssm), "rope.dimension_count": 32}, shapes


def falcon_h1() -> tuple[Keys, Shapes]:
    """4 layers with attention and a state side by side."""
    ssm = (2 * E, 128, 8, 8, 8)
    shapes: Shapes = {}
    for i in range(4):
        shapes |= _mamba2(i, *ssm) | _attention(i, 2, 1, 32) | _ffn(i, norm="ffn_norm")
    return {"block_count": 4, **_heads(2, 1, 32), **_ssm_keys(*ssm)}, shapes


def lfm2() -> tuple[Keys, Shapes]:
    """6 layers, short convolutions between attention layers."""
    kv = [0, 0, 2, 0, 0, 2]
    shapes: Shapes = {}
    for i, n in enumerate(kv):
        p = f"blk.{i}."
        shapes |= _ffn(i) | {p + "attn_norm.weight": (E,)}
        if n:
            shapes |= _attention(i, 2, n, E // 2, qk_norm=True)
        else:
            shapes |= {
                p + "shortconv.conv.weight": (65, E), p + "shortconv.in_proj.weight": (E, 3 * E),
                p + "shortconv.out_proj.weight": (E, E),
            }  # fmt: skip
    return {"block_count": 6, "shortconv.l_cache": 65, **_heads(2, kv)}, {
        **shapes, "token_embd_norm.weight": (E,),
    }  # fmt: skip


def mamba() -> tuple[Keys, Shapes]:
    """4 layers of state alone."""
    inner, state, rank, conv = 2 * E, 64, 8, 16
    shapes: Shapes = {}
    for i in range(4):
        p = f"blk.{i}."
        shapes |= {
            p + "attn_norm.weight": (E,), p + "ssm_in.weight": (E, 2 * inner),
            p + "ssm_conv1d.weight": (conv, inner), p + "ssm_conv1d.bias": (inner,),
            p + "ssm_x.weight": (inner, rank + 2 * state), p + "ssm_dt.weight": (rank, inner),
            p + "ssm_dt.bias": (inner,), p + "ssm_a": (state, inner), p + "ssm_d": (inner,),
            p + "ssm_out.weight": (inner, E),
        }  # fmt: skip
    keys = {"block_count": 4, "feed_forward_length": 0, "attention.head_count": 0}
    ssm = {"conv_kernel": conv, "inner_size": inner, "state_size": state, "time_step_rank": rank}
    return {**keys, **{f"ssm.{name}": value for name, value in ssm.items()}}, shapes


def llama() -> tuple[Keys, Shapes]:
    """4 layers of full attention."""
    shapes: Shapes = {}
    for i in range(4):
        shapes |= _attention(i, 4, 2, 64) | _ffn(i)
    return {"block_count": 4, "rope.dimension_count": 64, **_heads(4, 2, 64)}, shapes


MODELS: dict[str, Callable[[], tuple[Keys, Shapes]]] = {
    "llama": llama, "gemma3": gemma3, "cohere2": cohere2, "gpt-oss": gpt_oss, "phi3": phi3,
    "llama4": llama4, "gemma3n": gemma3n, "deepseek2": deepseek2, "glm-dsa": glm_dsa,
    "qwen35": qwen35, "granitehybrid": granitehybrid, "nemotron_h": nemotron_h,
    "falcon-h1": falcon_h1, "lfm2": lfm2, "mamba": mamba,
}  # fmt: skip


def write_model(arch: str, path: Path) -> Path:
    """Write the small model of that architecture with gguf-py."""
    import gguf
    import numpy as np

    own, shapes = MODELS[arch]()
    keys = {"context_length": 32768, "embedding_length": E, "feed_forward_length": FF, **own}
    keys |= {"attention.layer_norm_rms_epsilon": 1e-5, "attention.layer_norm_epsilon": 1e-5}
    writer = gguf.GGUFWriter(path, arch)
    for name, value in keys.items():
        _add_key(writer, f"{arch}.{name}", value)
    _add_vocabulary(writer)
    random = np.random.default_rng(1)
    common = {"token_embd.weight": (E, VOCAB), "output_norm.weight": (E,)}
    if arch == "lfm2":
        del common["output_norm.weight"]
    for name, shape in (common | shapes).items():
        values = random.standard_normal(shape[::-1], dtype=np.float32) * 0.02
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_key(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def _add_vocabulary(writer: Any) -> None:
    tokens = ["<unk>", "<s>", "</s>", "▁", "\n"] + [f"t{i}" for i in range(VOCAB - 5)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * VOCAB)
    writer.add_token_types([2, 3, 3] + [1] * (VOCAB - 3))


def context_of(arch: str) -> int:
    """The context that shows what is special about the architecture."""
    return 12288 if arch == "llama4" else 4096


def pairs_of(arch: str) -> tuple[tuple[str, str], ...]:
    """The pairs of types that the runtime takes for it; MLA takes equal types only."""
    return PAIRS[:2] if arch in ("deepseek2", "glm-dsa") else PAIRS


def arguments(n_ctx: int, n_seq: int, k: str, v: str) -> list[str]:
    """Arguments of llama-server for `n_seq` slots of `n_ctx` tokens each."""
    return ["-c", str(n_ctx * n_seq), "-np", str(n_seq), "-ctk", k, "-ctv", v, "-ub", "512",
            "--fit", "off", "--no-warmup", "-t", "1", "-lv", "5"]  # fmt: skip


def logged(
    server: Path, model: Path, args: list[str], *, seconds: float = 60
) -> list[dict[str, str]]:
    """The `size =` lines of the server's log: what (kv, state), cells, layers, and MiB of K (R) and V (S).

    The server is ended once it has made its context. It need not be able to compute: where its own
    processor differs it dies right after, sometimes with log lines unwritten; then it is run again.
    """
    for _ in range(ATTEMPTS):
        text = _log(server, model, args, seconds)
        if MADE in text:
            return _sizes(text)
    raise RuntimeError(f"no context in {ATTEMPTS} runs: {text[-3000:]}")


def _log(server: Path, model: Path, args: list[str], seconds: float) -> str:
    """The server's log up to the moment its context is made, or its end."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [str(server), "-m", str(model), *args, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            for _ in range(int(seconds / 0.05)):
                ended = process.poll() is not None
                # Not seek and read: the server writes at the same offset.
                text = os.pread(log.fileno(), 1 << 26, 0).decode("utf-8", "replace")
                if MADE in text or ended:
                    return text
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(10)
    raise RuntimeError(f"no context after {seconds} s")


def _sizes(text: str) -> list[dict[str, str]]:
    found = [m.groupdict() for m in SIZE.finditer(text)]
    if not found:
        raise RuntimeError(text[-3000:])
    return [
        {
            "what": "state" if row["what"] == "llama_memory_recurrent" else "kv",
            **{name: row[name] for name in ("cells", "layers", "a", "b")},
        }
        for row in found
    ]


def runs(gemma: Path | None) -> Iterator[tuple[str, int, int, str, str]]:
    """(model, n_ctx, n_seq, k, v) of every entry of kv.toml."""
    if gemma is not None:
        yield from (("gemma-3-270m", 32768, 1, k, k) for k in ("f16", "q8_0"))
    for arch in MODELS:
        for k, v in pairs_of(arch):
            for n_seq in (1, 2):
                yield arch, context_of(arch), n_seq, k, v


def main() -> None:
    """Write kv.toml from the logs of the server."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--server", type=Path, required=True)
    parser.add_argument("--gemma", type=Path, help="gemma-3-270m-q4_k_m.gguf")
    options = parser.parse_args()
    out = [
        "# What the stock llama-server b10434 logs (`size =` lines), written by kv_models.py.",
        "# a, b: MiB of K and V, for state: of R and S. Models: kv_models.py, same names.",
    ]
    with tempfile.TemporaryDirectory() as folder:
        paths = {arch: write_model(arch, Path(folder) / f"{arch}.gguf") for arch in MODELS}
        if options.gemma:
            paths["gemma-3-270m"] = options.gemma
        for model, n_ctx, n_seq, k, v in runs(options.gemma):
            args = arguments(n_ctx, n_seq, k, v)
            rows = logged(options.server, paths[model], args)
            out += ["", "[[run]]", f'model = "{model}"', f"n_ctx = {n_ctx}", f"n_seq = {n_seq}"]
            out += [f'k = "{k}"', f'v = "{v}"', "log = ["]
            for row in rows:
                fields = f'what = "{row["what"]}", cells = {row["cells"]}, layers = {row["layers"]}'
                out.append(f'  {{ {fields}, a = "{row["a"]}", b = "{row["b"]}" }},')
            out += ["]", f'command = "llama-server -m {paths[model].name} {" ".join(args)}"']
            print(model, n_seq, k, v, len(rows))
    (HERE / "kv.toml").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
