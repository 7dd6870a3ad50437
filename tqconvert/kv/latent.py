"""Architectures whose K/V cache holds a compressed latent (MLA), with or without an indexer.

Each rule is what one file of llama.cpp's src/models/*.cpp does in `load_arch_hparams`, and what
`llama_model::create_memory` does with it (tree 0c1e57098).
"""

from tqconvert.kv.hparams import Hparams, Keys
from tqconvert.kv.windows import listed


def mla(keys: Keys, hp: Hparams) -> None:
    """K holds the compressed latent, V is a view of it; old files have the two dimensions unset."""
    k, v = keys.integer("attention.key_length_mla"), keys.integer("attention.value_length_mla")
    hp.is_mla = k > 0 and v > 0
    if not hp.is_mla:
        hp.notes.append("an old conversion without MLA keys: K and V of every head are stored")


def dsa(keys: Keys, hp: Hparams) -> None:
    """MLA and an indexer with one key head; V is left out of both caches (llama-kv-cache-dsa.cpp:44)."""
    mla(keys, hp)
    hp.trunk_only = True
    hp.indexer_k = keys.need("attention.indexer.key_length")
    hp.indexer_v = 0 if hp.is_mla else hp.v_full
    hp.indexer = [True] * hp.n_layer


def glm_dsa(keys: Keys, hp: Hparams) -> None:
    """DSA; GLM 5.2 and later have an indexer in some layers only."""
    dsa(keys, hp)
    if keys.integer("context_length") >= 1048576:
        # GLM 5.2 without the key: layers 0, 1, 2 and then every fourth (glm-dsa.cpp:8).
        hp.indexer = [i < 2 or (i - 2) % 4 == 0 for i in range(hp.n_layer)]
    indexer_types(keys, hp)


def indexer_types(keys: Keys, hp: Hparams) -> None:
    """Take from the file which layers have an indexer of their own; the others read its choice."""
    default = [int(x) for x in hp.indexer]
    hp.indexer = [bool(x) for x in keys.per_layer("attention.indexer.types", hp.n_layer, default)]


def hy_v4(keys: Keys, hp: Hparams) -> None:
    """MLA with an indexer where the checkpoint has one (llama-model.cpp:2494)."""
    mla(keys, hp)
    if keys.integer("attention.indexer.top_k"):
        hp.indexer_k = keys.integer("attention.indexer.key_length")
        hp.indexer = [False] * hp.n_layer
        indexer_types(keys, hp)
    hp.trunk_only = False


def dots3note(keys: Keys, hp: Hparams) -> None:
    """MLA in windows and over the whole context; an indexer on some of the latter layers."""
    listed(keys, hp)
    mla(keys, hp)
    hp.trunk_only = True
    hp.indexer_k = keys.need("attention.indexer.key_length")
    hp.indexer = [False] * hp.n_layer
    indexer_types(keys, hp)
    hp.indexer = [full and not swa for full, swa in zip(hp.indexer, hp.is_swa, strict=False)]


def minimax_m3(keys: Keys, hp: Hparams) -> None:
    """The indexer's cache is an ordinary one and stores V too (llama-kv-cache-msa.cpp:40)."""
    hp.trunk_only = False
    hp.indexer_k, hp.indexer_v = keys.need("attention.indexer.key_length"), hp.v_full
    dense = keys.integer("leading_dense_block_count")
    hp.indexer = [i >= dense for i in range(hp.n_layer_all)]
