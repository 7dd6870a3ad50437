"""Which tensors of a model take the factors, by architecture, and what is refused."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from golden.kv_models import MODELS, write_model
from turbo.attentions import FAMILIES, write_family

from tqconvert.errors import InvalidGgufError, RefusedError
from tqconvert.gguf.header import read_header
from tqconvert.kv.rules import canonical
from tqconvert.turbo.attention import Attention, read_attention
from tqconvert.turbo.rope import PAIRINGS, UnknownArchitectureError, pairing_of, partners


def attention(path: Path) -> tuple[Attention, ...]:
    """The layers of a file."""
    return read_attention(read_header(path), subject=path.name).layers


def names(layer: Attention) -> tuple[list[str], list[str]]:
    """Tensors of K and of Q without the layer's prefix."""
    k, q = ([part.tensor.name.split(".", 2)[2] for part in parts] for parts in (layer.k, layer.q))
    return k, q


@pytest.mark.parametrize(
    ("arch", "n_layers", "fold", "n_rot"),
    [
        ("llama", 4, "rows", 64), ("gemma3", 12, "norms", 128), ("cohere2", 8, "rows", 64),
        ("gpt-oss", 4, "rows", 64), ("phi3", 4, "rows", 64), ("gemma3n", 25, "norms", 128),
        ("qwen35", 3, "norms", 32), ("granitehybrid", 2, "rows", 32), ("nemotron_h", 2, "rows", 32),
        ("falcon-h1", 4, "rows", 32), ("lfm2", 2, "norms", 128),
    ],
)  # fmt: skip
def test_layers_with_attention_are_found(
    tmp_path: Path, arch: str, n_layers: int, fold: str, n_rot: int
) -> None:
    """In files that the runtime loads, hybrids and a next-token-prediction layer among them."""
    layers = attention(write_model(arch, tmp_path / "m.gguf"))
    assert len(layers) == n_layers
    assert {layer.fold for layer in layers} == {fold}
    assert {layer.n_rot for layer in layers} == {n_rot}
    assert all(layer.has_weights for layer in layers if layer.source == layer.number)


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("llama4", "normalises Q and K after RoPE"), ("deepseek2", "compressed latent"),
        ("glm-dsa", "compressed latent"), ("mamba", "not known"),
    ],
)  # fmt: skip
def test_models_without_a_place_for_factors_are_refused(
    tmp_path: Path, arch: str, words: str
) -> None:
    """The reason is in the message, and the exit code is that of refusals."""
    path = write_model(arch, tmp_path / "m.gguf")
    with pytest.raises(RefusedError, match=words) as caught:
        attention(path)
    assert caught.value.exit_code == 6
    assert isinstance(caught.value, UnknownArchitectureError)


def test_golden_models_are_all_decided() -> None:
    """Each of them stands in one of the two tests above."""
    decided = {"llama4", "deepseek2", "glm-dsa", "mamba"}
    assert {arch for arch in MODELS if canonical(arch) not in PAIRINGS} == decided


def test_layers_that_share_a_cache_name_its_layer(tmp_path: Path) -> None:
    """Gemma 3n: layers 20 to 24 read 18, and 19 where they see the whole context."""
    layers = attention(write_model("gemma3n", tmp_path / "m.gguf"))
    assert [layer.source for layer in layers[18:]] == [18, 19, 18, 18, 18, 18, 19]
    assert all(not layer.k for layer in layers[20:])
    assert names(layers[20])[1] == ["attn_q_norm.weight"]


def test_biases_and_fused_projections(tmp_path: Path) -> None:
    """Q, K and V lie behind each other in attn_qkv, in weights and bias."""
    layers = attention(write_family(tmp_path / "a.gguf", FAMILIES["qwen2"]))
    assert names(layers[0]) == (["attn_k.weight", "attn_k.bias"], ["attn_q.weight", "attn_q.bias"])
    layer = attention(write_family(tmp_path / "b.gguf", FAMILIES["chatglm"]))[1]
    assert names(layer) == (["attn_qkv.weight", "attn_qkv.bias"],) * 2
    assert [(part.first, part.n, part.row_bytes) for part in layer.k] == [
        (256, 128, 1024),
        (256, 128, 4),
    ]
    assert [(part.first, part.n, part.row_bytes) for part in layer.q] == [
        (0, 256, 1024),
        (0, 256, 4),
    ]


def test_gates_between_the_heads_of_q(tmp_path: Path) -> None:
    """Only of the architectures that have them; elsewhere rows twice as many are an error."""
    assert attention(write_family(tmp_path / "a.gguf", FAMILIES["qwen35"]))[0].q_gated
    wide = replace(FAMILIES["llama"], gated=True)
    with pytest.raises(InvalidGgufError, match=r"layer 0: no attn_k and attn_q"):
        attention(write_family(tmp_path / "b.gguf", wide))


def test_one_norm_alone_and_clamped_values_are_refused(tmp_path: Path) -> None:
    """Both in words."""
    path = write_family(tmp_path / "a.gguf", FAMILIES["qwen3"])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"attn_k_norm", b"attn_x_norm"))
    with pytest.raises(RefusedError, match="has only one of attn_k_norm and attn_q_norm"):
        attention(path)
    clamped = replace(FAMILIES["llama"], arch="olmo", keys={"attention.clamp_kqv": 8})
    with pytest.raises(RefusedError, match="K and Q are clamped"):
        attention(write_family(tmp_path / "b.gguf", clamped))


def test_mla_is_told_by_keys_too(tmp_path: Path) -> None:
    """Whatever the architecture is called."""
    header = read_header(write_model("deepseek2", tmp_path / "m.gguf"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tqconvert.turbo.attention.pairing_of", lambda *_, **__: "neighbours")
        with pytest.raises(RefusedError, match=r"its cache holds a compressed latent \(MLA\)"):
            read_attention(header, subject="m")


def test_pairs() -> None:
    """By hand: halves of the rotary part, neighbours, none; the rest of a head alone."""
    assert partners(8, 8, "halves").tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert partners(8, 4, "halves").tolist() == [2, 3, 0, 1, 4, 5, 6, 7]
    assert partners(8, 4, "neighbours").tolist() == [1, 0, 3, 2, 4, 5, 6, 7]
    assert partners(4, 4, "none").tolist() == [0, 1, 2, 3]


def test_pairings_of_known_models() -> None:
    """As llama_model_rope_type has them; GLM-4 by its sections, Ollama's names as llama.cpp's."""
    expected = {
        "llama": "neighbours", "qwen2": "halves", "qwen2vl": "halves", "qwen35": "halves",
        "command-r": "neighbours", "gptoss": "halves", "gpt2": "none",
    }  # fmt: skip
    assert {arch: pairing_of(arch) for arch in expected} == expected
    assert (pairing_of("glm4"), pairing_of("glm4", mrope=True)) == ("neighbours", "halves")
    with pytest.raises(UnknownArchitectureError, match=re.escape("(none): an architecture")):
        pairing_of("")
