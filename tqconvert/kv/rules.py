"""Architectures by their names in GGUF files (llama.cpp src/llama-arch.cpp) and the rule of each."""

from tqconvert.errors import InvalidGgufError
from tqconvert.kv import latent, recurrent, windows
from tqconvert.kv.hparams import MAX_LAYERS, Hparams, Keys
from tqconvert.kv.windows import Rule

DENSE = frozenset({
    "apertus", "arcee", "arctic", "baichuan", "bailingmoe", "bailingmoe2", "bitnet", "bloom",
    "chameleon", "chatglm", "codeshell", "cogvlm", "command-r", "dbrx", "deci", "deepseek",
    "deepseek2-ocr", "dots1", "eagle3", "ernie4_5", "ernie4_5-moe", "exaone", "falcon", "gemma",
    "glm4", "glm4moe", "gpt2", "gptneox", "granite", "granitemoe", "grovemoe", "hrm_text",
    "hunyuan-dense", "hunyuan-moe", "hunyuan_vl", "hy_v3", "internlm2", "jais", "jais2",
    "llama", "llama-embed", "maincoder", "minicpm", "minicpm3", "minimax-m2", "mistral3", "mpt",
    "nemotron", "olmo", "olmoe", "openelm", "orion", "paddleocr", "pangu-embedded", "phi2",
    "phimoe", "plamo", "plm", "pockettts", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3",
    "qwen3moe", "qwen3tts", "qwen3vl", "qwen3vlmoe", "refact", "seed_oss", "smollm3",
    "stablelm", "starcoder", "starcoder2", "t5", "t5encoder", "talkie", "xverse",
})  # fmt: skip
"""Full attention in every layer: their load_arch_hparams touches none of the fields that matter."""

NO_CACHE = frozenset({
    "bert", "clip", "dream", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3",
    "llada", "llada-moe", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "rnd1",
    "wavtokenizer-dec",
})  # fmt: skip
"""create_memory gives them none: encoders and diffusion models (src/llama-model.cpp:2358)."""


def _grok(keys: Keys, hp: Hparams) -> None:  # noqa: ARG001 - all rules are called alike
    # Flash attention is forced off (llama-context.cpp:3816).
    hp.flash_attention = False


def _nanbeige(keys: Keys, hp: Hparams) -> None:
    """All layers are run several times, each time with a cache of their own (nanbeige.cpp:20)."""
    if not hp.n_layer:
        raise InvalidGgufError(f"{keys.subject}: all {hp.n_layer_all} layers predict next tokens")
    loops = min(max(1, keys.integer("num_loops", 1)), MAX_LAYERS // hp.n_layer)
    hp.n_layer_all, hp.n_nextn = hp.n_layer * loops, 0
    for numbers in (hp.n_head, hp.n_head_kv, hp.n_ff):
        numbers[:] = numbers[: hp.n_layer_all // loops] * loops
    for flags in (hp.is_swa, hp.is_recr):
        flags[:] = flags[: hp.n_layer_all // loops] * loops


def _granite_switch(keys: Keys, hp: Hparams) -> None:  # noqa: ARG001
    """One more layer with a single head routes between adapters (granite-switch.cpp:56)."""
    for values, own in ((hp.n_head, 1), (hp.n_head_kv, 1), (hp.n_ff, 0)):
        values.append(own)
    hp.is_swa.append(False)
    hp.is_recr.append(False)
    hp.n_layer_all += 1
    hp.trunk_only = False


ALIASES = {
    "deepseekocr": "deepseek2-ocr", "glmocr": "glm4", "gptoss": "gpt-oss",
    "olmo3": "olmo2", "qwen25vl": "qwen2vl",
}  # fmt: skip
"""Names of files that Ollama made for its own engine -> llama.cpp's (llama/compat/llama-ollama-compat.cpp)."""


def canonical(architecture: str) -> str:
    """llama.cpp's name of the architecture."""
    return ALIASES.get(architecture, architecture)


RULES: dict[str, Rule] = {
    "afmoe": windows.sliding(4, optional=True),
    "cohere2": windows.sliding(4),
    "cohere2moe": windows.sliding(4, dense_first=True),
    "exaone-moe": windows.sliding(4, default=128),
    "exaone4": windows.exaone4,
    "gemma2": windows.sliding(2, default=4096),
    "gemma3": windows.sliding(6, optional=True),
    "gemma3n": windows.gemma3n,
    "gemma4": windows.gemma4,
    "gemma4-assistant": windows.gemma4_assistant,
    "gpt-oss": windows.sliding(2),
    "granite_swa": windows.listed,
    "laguna": windows.sliding(4, optional=True, dense_first=True),
    "llama4": windows.llama4,
    "maple": windows.listed,
    "mellum": windows.sliding(4, optional=True),
    "mimo2": windows.listed,
    "muse-glimmer": windows.sliding(4),
    "olmo2": windows.sliding(4, optional=True),
    "phi3": windows.phi3,
    "plamo3": windows.sliding(8, optional=True),
    "smallthinker": windows.sliding(4, optional=True, fixed=4096, dense_first=True),
    "spark2_5": windows.listed,
    "step35": windows.listed,
    "grok": _grok,
    "graniteswitch": _granite_switch,
    "nanbeige": _nanbeige,
    "deepseek2": latent.mla,
    "mistral4": latent.mla,
    "deepseek32": latent.dsa,
    "glm-dsa": latent.glm_dsa,
    "hy_v4": latent.hy_v4,
    "dots3note": latent.dots3note,
    "minimax-m3": latent.minimax_m3,
    "mamba": recurrent.mamba,
    "mamba2": recurrent.mamba2,
    "rwkv6": recurrent.rwkv,
    "rwkv6qwen2": recurrent.rwkv,
    "rwkv7": recurrent.rwkv,
    "arwkv7": recurrent.rwkv,
    "jamba": recurrent.jamba,
    "granitehybrid": recurrent.ssm_hybrid,
    "plamo2": recurrent.ssm_hybrid,
    "falcon-h1": recurrent.falcon_h1,
    "nemotron_h": recurrent.nemotron_h,
    "nemotron_h_moe": recurrent.nemotron_h,
    "lfm2": recurrent.lfm2_sliding,
    "lfm2moe": recurrent.lfm2,
    "kimi-linear": recurrent.kda,
    "bailingmoe3": recurrent.kda,
    "kimi-k3": recurrent.kimi_k3,
    "glm5-next": recurrent.glm5_next,
    "qwen3next": recurrent.delta_net,
    "qwen35": recurrent.delta_net,
    "qwen35moe": recurrent.delta_net,
    "qwen4exp": recurrent.qwen4exp,
    "minimax-01": recurrent.minimax_01,
}
