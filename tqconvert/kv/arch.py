"""The layers of a model from its header: what llama.cpp would make of the file.

Source: llama_model::create_memory, src/llama-model.cpp:2352 of llama.cpp 0c1e57098, for which layers
get a cache, and the rules of `tqconvert.kv.rules` for the architectures.
"""

from tqconvert.gguf.header import Header
from tqconvert.kv.hparams import Hparams, Keys, MissingKeyError, read_hparams
from tqconvert.kv.layers import Layer, LayerKind, Layout
from tqconvert.kv.recurrent import add_unknown_state
from tqconvert.kv.rules import DENSE, NO_CACHE, RULES, canonical


def layout_of(header: Header) -> Layout:
    """The layers of the model, by kind.

    An architecture that is not in the tables, or lacks a key that the runtime needs, is not `known`:
    then every layer counts as full attention, an upper bound. Without the common keys there are no layers.
    Raises InvalidGgufError for values that no runtime accepts.
    """
    arch, keys = header.architecture, Keys(header)
    n_ctx_train = keys.integer("context_length")
    name = canonical(arch)
    if name in NO_CACHE:
        return _without_cache(keys, arch, n_ctx_train)
    try:
        hp = read_hparams(keys)
    except MissingKeyError as e:
        return Layout(arch, (), n_ctx_train, known=False, notes=(f"the file has no {e}",))
    rule = RULES.get(name)
    if rule is None:
        if name in DENSE:
            return _layout(arch, hp, n_ctx_train)
        return _upper_bound(keys, arch, n_ctx_train, f"unknown architecture {arch or '(none)'}")
    try:
        rule(keys, hp)
    except MissingKeyError as e:
        return _upper_bound(keys, arch, n_ctx_train, f"the file has no {e}")
    return _layout(arch, hp, n_ctx_train)


def _upper_bound(keys: Keys, arch: str, n_ctx_train: int, reason: str) -> Layout:
    """Full attention in every layer, and the largest state that the keys allow for."""
    hp = read_hparams(keys)
    n_head = max(hp.n_head)
    if not n_head and not keys.has("ssm.inner_size"):
        note = f"{reason}, and the file has no {arch}.attention.head_count"
        return Layout(arch, (), n_ctx_train, known=False, notes=(note,))
    even = hp.n_embd // n_head if n_head else 0
    hp.k_full = max(keys.integer("attention.key_length", even), hp.k_swa)
    hp.v_full = max(keys.integer("attention.value_length", even), hp.v_swa)
    hp.n_head, hp.n_head_kv = [n_head] * hp.n_layer_all, [max(hp.n_head_kv)] * hp.n_layer_all
    hp.trunk_only = False
    add_unknown_state(keys, hp)
    layout = _layout(arch, hp, n_ctx_train)
    note = f"{reason}: every layer is counted as full attention, an upper bound"
    return Layout(arch, layout.layers, n_ctx_train, known=False, notes=(note, *layout.notes))


def _without_cache(keys: Keys, arch: str, n_ctx_train: int) -> Layout:
    n = min(keys.integer("block_count"), 512)
    layers = tuple(Layer(i, LayerKind.NONE, 0, 0, 0, 0) for i in range(n))
    return Layout(arch, layers, n_ctx_train, known=True, notes=(f"{arch} models have no KV cache",))


def _layout(arch: str, hp: Hparams, n_ctx_train: int) -> Layout:
    return Layout(
        arch,
        tuple(_layer(hp, i) for i in range(hp.n_layer_all)),
        n_ctx_train,
        known=True,
        notes=tuple(hp.notes),
        is_mla=hp.is_mla,
        flash_attention=hp.flash_attention,
    )


def _layer(hp: Hparams, i: int) -> Layer:
    kind = _kind(hp, i)
    swa = hp.is_swa[i]
    has_indexer = i < len(hp.indexer) and hp.indexer[i]
    has_state = kind in (LayerKind.RECURRENT, LayerKind.PARALLEL)
    return Layer(
        number=i,
        kind=kind,
        n_head=hp.n_head[i],
        n_head_kv=hp.n_head_kv[i],
        head_dim_k=hp.k_swa if swa else hp.k_full,
        head_dim_v=hp.v_swa if swa else hp.v_full,
        window=hp.window if kind in (LayerKind.SLIDING, LayerKind.CHUNKED) else 0,
        stores_v=not hp.is_mla,
        state_r=hp.state_r + hp.extra_state.get(i, 0) if has_state else 0,
        state_s=hp.state_s if has_state else 0,
        indexer_k=hp.indexer_k if has_indexer else 0,
        indexer_v=hp.indexer_v if has_indexer else 0,
        is_nextn=hp.trunk_only and i >= hp.n_layer,
    )


def _kind(hp: Hparams, i: int) -> LayerKind:
    if hp.trunk_only and i >= hp.n_layer:
        return LayerKind.NONE
    if hp.attention_beside_state:
        return LayerKind.PARALLEL
    if hp.is_recr[i]:
        return LayerKind.RECURRENT
    if 0 <= hp.n_layer_kv_from_start <= i:
        return LayerKind.SHARED
    if hp.n_head_kv[i] == 0:
        return LayerKind.NONE
    if hp.window_kind is not None and hp.is_swa[i]:
        return hp.window_kind
    return LayerKind.LATENT if hp.is_mla else LayerKind.FULL
