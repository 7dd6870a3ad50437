"""Architectures with recurrent states, alone or between attention layers.

Each rule is what one file of llama.cpp's src/models/*.cpp does in `load_arch_hparams`; sizes of the
states are llama_hparams::n_embd_r and n_embd_s (tree 0c1e57098).
"""

from tqconvert.kv.hparams import Hparams, Keys
from tqconvert.kv.latent import indexer_types, mla
from tqconvert.kv.layers import LayerKind
from tqconvert.kv.windows import WINDOW


def _ssm(keys: Keys, hp: Hparams, *, groups: bool = True) -> None:
    """Convolution history and state of a state-space layer (llama-hparams.cpp:208, :236)."""
    conv, inner = keys.need("ssm.conv_kernel"), keys.need("ssm.inner_size")
    state = keys.need("ssm.state_size")
    n_group = keys.need("ssm.group_count") if groups else 0
    hp.state_r = max(0, conv - 1) * (inner + 2 * n_group * state)
    hp.state_s = state * inner


def mamba(keys: Keys, hp: Hparams) -> None:
    """States alone, without groups."""
    _ssm(keys, hp, groups=False)
    hp.is_recr = [True] * hp.n_layer_all


def mamba2(keys: Keys, hp: Hparams) -> None:
    """States alone."""
    _ssm(keys, hp)
    hp.is_recr = [True] * hp.n_layer_all


def rwkv(keys: Keys, hp: Hparams) -> None:
    """Token shift and one square state per head, no attention (llama-hparams.cpp:208, :236)."""
    hp.state_r = keys.integer("token_shift_count", 2) * hp.n_embd
    hp.state_s = hp.n_embd * keys.need("wkv.head_size")
    hp.is_recr = [True] * hp.n_layer_all


def _no_heads_recur(hp: Hparams) -> None:
    """Layers without K/V heads are the recurrent ones."""
    hp.is_recr = [i < hp.n_layer and hp.n_head_kv[i] == 0 for i in range(hp.n_layer_all)]
    hp.trunk_only = False


def jamba(keys: Keys, hp: Hparams) -> None:
    """Mamba layers between attention layers."""
    _ssm(keys, hp, groups=False)
    _no_heads_recur(hp)


def ssm_hybrid(keys: Keys, hp: Hparams) -> None:
    """Mamba-2 layers between attention layers."""
    _ssm(keys, hp)
    _no_heads_recur(hp)


def falcon_h1(keys: Keys, hp: Hparams) -> None:
    """Attention and Mamba-2 side by side in every layer (llama-model.cpp:2688)."""
    _ssm(keys, hp)
    hp.attention_beside_state = True
    hp.trunk_only = False


def nemotron_h(keys: Keys, hp: Hparams) -> None:
    """Layers with a feed-forward length are nothing else (nemotron-h.cpp:12, llama-model.cpp:2691)."""
    ssm_hybrid(keys, hp)
    for i in range(hp.n_layer_all):
        if hp.n_ff[i]:
            hp.is_recr[i] = False
            hp.n_head_kv[i] = 0


def lfm2(keys: Keys, hp: Hparams) -> None:
    """Short convolutions between attention layers."""
    hp.state_r = hp.n_embd * max(0, keys.need("shortconv.l_cache") - 1)
    _no_heads_recur(hp)


def lfm2_sliding(keys: Keys, hp: Hparams) -> None:
    """LFM2; its attention layers slide where the file has a window (lfm2.cpp:26)."""
    lfm2(keys, hp)
    if keys.integer(WINDOW):
        hp.window, hp.window_kind = keys.integer(WINDOW), LayerKind.SLIDING
        hp.is_swa = [i < hp.n_layer and not recr for i, recr in enumerate(hp.is_recr)]


def kda(keys: Keys, hp: Hparams) -> None:
    """Kimi's delta attention: three convolutions and a square state per head (llama-hparams.cpp:219)."""
    mla(keys, hp)
    dim, conv = keys.need("kda.head_dim"), keys.need("ssm.conv_kernel")
    hp.state_r = 3 * (conv - 1 if conv else 3) * hp.n_head[0] * dim
    hp.state_s = dim * dim * hp.n_head[0]
    _no_heads_recur(hp)


def kimi_k3(keys: Keys, hp: Hparams) -> None:
    """Kimi's delta attention and MLA whose value length older files lack (kimi-k3.cpp:28)."""
    hp.v_full = hp.v_swa = keys.need("attention.kv_lora_rank")
    kda(keys, hp)


def glm5_next(keys: Keys, hp: Hparams) -> None:
    """Kimi's delta attention, MLA and an indexer."""
    kimi_k3(keys, hp)
    hp.trunk_only = True
    # Key, gate and pooled value of each token (llama-memory-hybrid-idx.cpp:57).
    hp.indexer_k = 3 * keys.need("attention.indexer.key_length")
    hp.indexer = [True] * hp.n_layer
    indexer_types(keys, hp)
    hp.indexer = [full and not recr for full, recr in zip(hp.indexer, hp.is_recr, strict=False)]


def _set_interval(keys: Keys, hp: Hparams, default: int) -> None:
    """Every n-th layer has full attention, the others recur.

    A head_count_kv array with zeros says the same per layer in files that Ollama published first
    (ollama model/models/qwen3next/model.go, inferRecurrentLayers).
    """
    hp.trunk_only = True
    if keys.has("attention.recurrent_layers"):
        zeros = [0] * hp.n_layer_all
        own = keys.per_layer("attention.recurrent_layers", hp.n_layer_all, zeros)
        hp.is_recr = [bool(x) for x in own]
    elif 0 in hp.n_head_kv[: hp.n_layer] and any(hp.n_head_kv[: hp.n_layer]):
        hp.is_recr = [n == 0 for n in hp.n_head_kv]
    else:
        n = keys.integer("full_attention_interval", default) or default
        hp.is_recr = [(i + 1) % n != 0 for i in range(hp.n_layer_all)]
    hp.is_recr[hp.n_layer :] = [False] * hp.n_nextn


def delta_net(keys: Keys, hp: Hparams) -> None:
    """Gated delta net with every fourth layer full attention: Qwen3-Next, Qwen3.5."""
    _ssm(keys, hp)
    _set_interval(keys, hp, 4)


def qwen4exp(keys: Keys, hp: Hparams) -> None:
    """Gated delta net, an indexer on the full layers, one n-gram embedding with a history."""
    delta_net(keys, hp)
    hp.indexer_k = keys.need("attention.indexer.key_length")
    hp.indexer = [not recr for recr in hp.is_recr[: hp.n_layer]]
    # The n-gram embedding's convolution keeps its own history (llama-hparams.cpp:268).
    rows = max(0, keys.integer("ple.conv_kernel") - 1) * keys.integer("ple.ngram_size")
    values = rows * keys.integer("hyper_connection.count") * hp.n_embd
    hp.extra_state = dict.fromkeys(keys.array("ple.layers") or (), values)


def minimax_01(keys: Keys, hp: Hparams) -> None:
    """Lightning attention: one square state per head, no convolution."""
    hp.state_s = hp.k_full * hp.k_full * hp.n_head[0]
    _set_interval(keys, hp, 8)


def add_unknown_state(keys: Keys, hp: Hparams) -> None:
    """Give every layer the state that the ssm keys describe, where there are such keys."""
    if keys.has("ssm.inner_size"):
        conv, inner = keys.integer("ssm.conv_kernel"), keys.integer("ssm.inner_size")
        state = keys.integer("ssm.state_size")
        hp.state_r = max(0, conv - 1) * (inner + 2 * keys.integer("ssm.group_count") * state)
        hp.state_s = state * inner
        hp.attention_beside_state = True
