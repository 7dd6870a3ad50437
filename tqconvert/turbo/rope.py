"""Which channels of a head RoPE turns together, by architecture.

A factor per channel commutes with the rotation if and only if both channels of a pair share it. Only
architectures stand here whose graph was read and in which K feeds nothing but the softmax: scaling K
and dividing Q changes nothing else then.
Sources: llama_model_rope_type, src/llama-model.cpp:3023 of llama.cpp 0c1e57098, and src/models/*.cpp.
"""

from typing import TYPE_CHECKING, Literal

from tqconvert.errors import RefusedError
from tqconvert.kv.rules import canonical

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Pairing = Literal["halves", "neighbours", "none"]
"""Channel i with i + n_rot / 2 ("NEOX", and both kinds of M-RoPE), 2i with 2i + 1 ("NORM"), nothing."""


class UnknownArchitectureError(RefusedError):
    """Nobody has read this architecture's graph, or it rules a balance out."""

    kind = "unknown_architecture"


_HALVES = (
    "afmoe", "apertus", "bailingmoe2", "bitnet", "codeshell", "dbrx", "dots1", "exaone", "exaone-moe",
    "exaone4", "falcon", "falcon-h1", "gemma", "gemma2", "gemma3", "gemma3n", "gemma4", "glm4moe",
    "gpt-oss", "gptneox", "grok", "grovemoe", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl", "hy_v3",
    "jais2", "laguna", "lfm2", "lfm2moe", "maple", "mellum", "minimax-m2", "nemotron", "olmo2", "olmoe",
    "orion", "paddleocr", "pangu-embedded", "phi2", "phi3", "phimoe", "qwen", "qwen2",
    "qwen2moe", "qwen2vl", "qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next", "qwen3vl",
    "qwen3vlmoe", "seed_oss", "smallthinker", "stablelm", "starcoder2",
)  # fmt: skip

_NEIGHBOURS = (
    "arcee", "arctic", "baichuan", "bailingmoe", "chameleon", "chatglm", "cohere2", "command-r", "deci",
    "deepseek", "ernie4_5", "ernie4_5-moe", "granite", "granite_swa", "granitehybrid", "granitemoe",
    "internlm2", "llama", "maincoder", "minicpm", "mistral3", "olmo", "smollm3", "starcoder", "xverse",
)  # fmt: skip

_NONE = ("bloom", "gpt2", "jais", "jamba", "mpt", "nemotron_h", "nemotron_h_moe", "refact")

PAIRINGS: dict[str, Pairing] = {
    **dict.fromkeys(_HALVES, "halves"),
    **dict.fromkeys(_NEIGHBOURS, "neighbours"),
    **dict.fromkeys(_NONE, "none"),
    "glm4": "neighbours",
}
"""llama.cpp's name of the architecture -> its pairs."""

_BY_SECTIONS = frozenset({"glm4"})
"""Neighbours, but halves in files with M-RoPE sections (src/llama-model.cpp:3193)."""

_WHY_NOT = {
    "llama4": "normalises Q and K after RoPE without weights that a factor could go into",
    "talkie": "normalises K without weights that a factor could go into",
    **dict.fromkeys(
        ("deepseek2", "deepseek32", "deepseek4", "glm-dsa", "hy_v4", "kimi-k3", "minicpm3", "mistral4", "plm"),
        "makes K from a compressed latent (MLA)",
    ),
}  # fmt: skip


def pairing_of(architecture: str, *, mrope: bool = False) -> Pairing:
    """How RoPE pairs the channels of an architecture; `mrope`: the file has M-RoPE sections.

    Raises UnknownArchitectureError.
    """
    name = canonical(architecture)
    if name in _WHY_NOT:
        raise UnknownArchitectureError(f"{architecture}: cannot be balanced: it {_WHY_NOT[name]}")
    if name not in PAIRINGS:
        raise UnknownArchitectureError(
            f"{architecture or '(none)'}: an architecture whose attention is not known here",
            hint="docs/balance.md lists the known ones",
        )
    return "halves" if mrope and name in _BY_SECTIONS else PAIRINGS[name]


def partners(dim: int, n_rot: int, pairing: Pairing) -> "npt.NDArray[np.intp]":
    """[dim]: the channel that RoPE turns together with each one, itself where nothing is turned."""
    import numpy as np

    partner = np.arange(dim)
    n_rot -= n_rot % 2
    if pairing == "halves":
        half = n_rot // 2
        partner[:half], partner[half:n_rot] = np.arange(half, n_rot), np.arange(half)
    elif pairing == "neighbours":
        partner[:n_rot] ^= 1
    return partner
