"""A random-weight qwen3.5 with its real head dimension, for engines whose own code attends.

    python tests/qwen35.py OUT.gguf [--type-k NAME[,NAME...]] [--type-v NAME[,NAME...]]

Four layers, two of them full attention with 12 query and 2 KV heads of 256 (six to one, as in
qwen3.5-27b), the others gated delta nets. Names and shapes: model/models/qwen3next at Ollama v0.19.0.
"""

import argparse
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

N_LAYER, N_EMBD, N_FF = 4, 256, 512
N_HEAD, N_HEAD_KV, HEAD = 12, 2, 256
INTERVAL = 2
"""Layers 1 and 3 are full attention."""
STATE, GROUPS, DT_RANK, CONV = 128, 2, 4, 4
INNER = STATE * DT_RANK
N_VOCAB = 260


def _bytes_as_text() -> list[str]:
    """The 256 characters by which byte-level BPE writes bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(b if b in shown else next(hidden)) for b in range(256)]


def _vocabulary(out: GGUFWriter) -> None:
    tokens = [*_bytes_as_text(), "he", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    kinds = [TokenType.NORMAL] * (N_VOCAB - 3) + [TokenType.CONTROL] * 3
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen35")
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    out.add_token_merges(["h e"])
    out.add_eos_token_id(N_VOCAB - 1)
    out.add_bos_token_id(N_VOCAB - 3)
    out.add_add_bos_token(False)


def _shape(out: GGUFWriter) -> None:
    out.add_block_count(N_LAYER)
    out.add_context_length(8192)
    out.add_embedding_length(N_EMBD)
    out.add_feed_forward_length(N_FF)
    out.add_head_count(N_HEAD)
    out.add_head_count_kv([0 if (i + 1) % INTERVAL else N_HEAD_KV for i in range(N_LAYER)])
    out.add_key_length(HEAD)
    out.add_value_length(HEAD)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_dimension_count(64)
    out.add_rope_freq_base(1e7)
    out.add_rope_dimension_sections([11, 11, 10, 0])
    out.add_bool("qwen35.rope.mrope_interleaved", True)
    out.add_uint32("qwen35.full_attention_interval", INTERVAL)
    out.add_ssm_conv_kernel(CONV)
    out.add_ssm_inner_size(INNER)
    out.add_ssm_state_size(STATE)
    out.add_ssm_group_count(GROUPS)
    out.add_ssm_time_step_rank(DT_RANK)


def _attention() -> dict[str, tuple[int, ...]]:
    return {
        "attn_q.weight": (2 * N_HEAD * HEAD, N_EMBD),
        "attn_k.weight": (N_HEAD_KV * HEAD, N_EMBD),
        "attn_v.weight": (N_HEAD_KV * HEAD, N_EMBD),
        "attn_q_norm.weight": (HEAD,),
        "attn_k_norm.weight": (HEAD,),
        "attn_output.weight": (N_EMBD, N_HEAD * HEAD),
    }


def _delta_net() -> dict[str, tuple[int, ...]]:
    channels = INNER + 2 * GROUPS * STATE
    return {
        "attn_qkv.weight": (channels, N_EMBD),
        "attn_gate.weight": (INNER, N_EMBD),
        "ssm_beta.weight": (DT_RANK, N_EMBD),
        "ssm_alpha.weight": (DT_RANK, N_EMBD),
        "ssm_conv1d.weight": (channels, CONV),
        "ssm_dt.bias": (DT_RANK,),
        "ssm_a": (DT_RANK,),
        "ssm_norm.weight": (STATE,),
        "ssm_out.weight": (N_EMBD, INNER),
    }


def _tensors() -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (N_VOCAB, N_EMBD),
        "output_norm.weight": (N_EMBD,),
        "output.weight": (N_VOCAB, N_EMBD),
    }
    for i in range(N_LAYER):
        layer = _delta_net() if (i + 1) % INTERVAL else _attention()
        layer |= {
            "attn_norm.weight": (N_EMBD,),
            "post_attention_norm.weight": (N_EMBD,),
            "ffn_gate.weight": (N_FF, N_EMBD),
            "ffn_up.weight": (N_FF, N_EMBD),
            "ffn_down.weight": (N_EMBD, N_FF),
        }
        tensors |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    return tensors


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(shape).astype(np.float32)
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        # scores of standard deviation 2: attention that prefers some positions
        return np.float32(2**0.5) * (1 + noise / 10)
    if "norm" in name:
        return 1 + noise / 10
    if name.endswith("ssm_a"):
        return -np.exp(noise)
    if name == "output.weight":
        return noise * np.float32(3 / N_EMBD**0.5)
    if len(shape) == 1 or name == "token_embd.weight":
        return noise
    return noise / np.float32(shape[1] ** 0.5)


def write_qwen35(
    path: Path, *, type_k: list[str] | None = None, type_v: list[str] | None = None
) -> Path:
    """Write the model, the same bytes each time; a list of one type is a string key. Return path."""
    rng = np.random.default_rng(35)
    out = GGUFWriter(path, "qwen35")
    out.add_name("random qwen3.5")
    _shape(out)
    _vocabulary(out)
    for key, types in (("type_k", type_k), ("type_v", type_v)):
        if types and len(types) == 1:
            out.add_string(f"general.kv_cache.{key}", types[0])
        elif types:
            out.add_array(f"general.kv_cache.{key}", types)
    for name, shape in _tensors().items():
        out.add_tensor(name, _values(name, shape, rng))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def main() -> None:
    """Write a file with the types that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type-k", type=lambda s: s.split(","))
    parser.add_argument("--type-v", type=lambda s: s.split(","))
    given = parser.parse_args()
    write_qwen35(given.out, type_k=given.type_k, type_v=given.type_v)


if __name__ == "__main__":
    main()
