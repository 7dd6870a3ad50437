"""Bytes of a KV cache against the runtime's own log, and by hand."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import keys_of, tiny_gguf
from golden import kv_models
from hypothesis import given
from hypothesis import strategies as st

from tqconvert.errors import UsageError
from tqconvert.gguf.header import read_header
from tqconvert.kv.arch import layout_of
from tqconvert.kv.layers import Layer, LayerKind, Layout
from tqconvert.kv.size import KvSize, kv_bytes, unusable, unusable_pair, usable_types
from tqconvert.kv.types import CACHE_TYPES as T

GOLDEN = Path(kv_models.__file__).with_name("kv.toml")
RUNS: list[dict[str, Any]] = tomllib.loads(GOLDEN.read_text())["run"]
MIB = 2**20


def layout(tmp_path: Path, arch: str, **own: Any) -> Layout:
    """Layout of a header with these keys."""
    keys = keys_of(arch, context_length=262144, embedding_length=1024, **own)
    return layout_of(read_header(tiny_gguf(tmp_path / "m.gguf", keys)))


def rows(layout: Layout, size: KvSize, n_seq: int) -> list[tuple[str, int, int, str, str]]:
    """What the runtime would log: one row for each cache, one for the states."""
    found = [
        ("kv", c.cells, c.n_layers, f"{c.k / MIB:.2f}", f"{c.v / MIB:.2f}") for c in size.caches
    ]
    if size.state:
        r = sum(x.state_r for x in layout.layers) * 4 * n_seq
        s = sum(x.state_s for x in layout.layers) * 4 * n_seq
        n = sum(not x.is_nextn for x in layout.layers)
        found.append(("state", n_seq, n, f"{r / MIB:.2f}", f"{s / MIB:.2f}"))
    return sorted(found)


def expected(run: dict[str, Any]) -> list[tuple[str, int, int, str, str]]:
    """The rows of the golden log."""
    return sorted((r["what"], r["cells"], r["layers"], r["a"], r["b"]) for r in run["log"])


def run_id(run: dict[str, Any]) -> str:
    """Name of the test of a run."""
    return f"{run['model']}-{run['n_seq']}x-{run['k']}-{run['v']}"


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of the small model of an architecture, written once."""
    folder = tmp_path_factory.mktemp("kv-models")

    def path_of(arch: str) -> Path:
        path = folder / f"{arch}.gguf"
        return path if path.exists() else kv_models.write_model(arch, path)

    return path_of


@pytest.mark.parametrize("run", [r for r in RUNS if r["model"] != "gemma-3-270m"], ids=run_id)
def test_small_models_take_what_the_runtime_logged(
    run: dict[str, Any], model_of: Callable[[str], Path]
) -> None:
    """Cells, layers and MiB of every cache and state equal the log of llama-server."""
    own = layout_of(read_header(model_of(run["model"])))
    assert own.known
    size = kv_bytes(own, run["n_ctx"], k=T[run["k"]], v=T[run["v"]], n_seq=run["n_seq"])
    assert rows(own, size, run["n_seq"]) == expected(run)


@pytest.mark.parametrize("run", [r for r in RUNS if r["model"] == "gemma-3-270m"], ids=run_id)
def test_gemma_takes_what_the_runtime_logged(run: dict[str, Any], gemma: Path) -> None:
    """The real model too, whose pattern of windows is not in the file."""
    own = layout_of(read_header(gemma))
    size = kv_bytes(own, run["n_ctx"], k=T[run["k"]], v=T[run["v"]])
    assert rows(own, size, 1) == expected(run)


@pytest.mark.parametrize(("name", "mib"), [("f16", "111.00"), ("q8_0", "58.97")])
def test_gemma_at_32768_tokens(name: str, mib: str, gemma: Path) -> None:
    """3 full layers of 32768 cells and 15 of 1024: 111.00 MiB f16, 58.97 MiB q8_0."""
    size = kv_bytes(layout_of(read_header(gemma)), 32768, k=T[name], v=T[name])
    assert f"{size.total / MIB:.2f}" == mib


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("arch", kv_models.MODELS)
def test_server_still_logs_the_goldens(
    arch: str, llama_server: Path, model_of: Callable[[str], Path]
) -> None:
    """The goldens come from the log of the server that is installed."""
    for run in (r for r in RUNS if r["model"] == arch):
        args = kv_models.arguments(run["n_ctx"], run["n_seq"], run["k"], run["v"])
        log = kv_models.logged(llama_server, model_of(arch), args)
        found = [(r["what"], int(r["cells"]), int(r["layers"]), r["a"], r["b"]) for r in log]
        assert sorted(found) == expected(run)


def qwen35_27b(tmp_path: Path, **own: Any) -> Layout:
    """Qwen3.5 27B: 64 layers, 16 with attention, 24 heads, 4 K/V heads of 256."""
    shape: dict[str, Any] = {
        "block_count": 64, "attention__head_count": 24, "attention__head_count_kv": 4,
        "attention__key_length": 256, "attention__value_length": 256, "full_attention_interval": 4,
        "ssm__conv_kernel": 4, "ssm__inner_size": 6144, "ssm__state_size": 128,
        "ssm__group_count": 16, "ssm__time_step_rank": 48,
    }  # fmt: skip
    return layout(tmp_path, "qwen35", **(shape | own))


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"attention__head_count_kv": [0, 0, 0, 4] * 16},
        {"block_count": 65, "nextn_predict_layers": 1},
        {
            "block_count": 65,
            "nextn_predict_layers": 1,
            "attention__head_count_kv": [0, 0, 0, 4] * 16 + [4],
        },
    ],
    ids=["scalar", "array", "nextn", "nextn-array"],
)
def test_qwen35_27b_takes_65536_bytes_per_token(own: dict[str, Any], tmp_path: Path) -> None:
    """16 layers x 4 heads x (256 + 256) x 2 bytes, and 48 states of 30,720 + 786,432 f32 values."""
    model = qwen35_27b(tmp_path, **own)
    size = kv_bytes(model, 32768, k=T["f16"], v=T["f16"])
    assert model.known
    assert (model.kinds[LayerKind.FULL], model.kinds[LayerKind.RECURRENT]) == (16, 48)
    assert size.k + size.v == 65536 * 32768 == 2048 * MIB
    assert size.state == 48 * (30720 + 786432) * 4


@pytest.mark.parametrize(
    ("k", "v", "mib"),
    [("q8_0", "q8_0", 1088), ("q4_0", "q4_0", 576), ("turbo4", "turbo4", 528), ("turbo3", "turbo3", 400),
     ("turbo2", "turbo2", 272), ("q8_0", "turbo4", 808), ("q8_0", "turbo3", 744)],
)  # fmt: skip
def test_qwen35_27b_by_type(k: str, v: str, mib: int, tmp_path: Path) -> None:
    """16 x 4 x 256 values of each side per token at 32768 tokens, by bytes per block."""
    size = kv_bytes(qwen35_27b(tmp_path), 32768, k=T[k], v=T[v])
    assert size.k + size.v == mib * MIB


def test_one_type_per_layer(tmp_path: Path) -> None:
    """A list gives each layer its own type; recurrent layers have an entry and take nothing."""
    model = qwen35_27b(tmp_path)
    types = [T["f16"] if i == 63 else T["turbo4"] for i in range(64)]
    size = kv_bytes(model, 1024, k=types, v=T["f16"])
    assert size.k == (15 * 8 * 66 + 1024 * 2) * 1024
    with pytest.raises(UsageError, match="63 cache types for 64 layers"):
        kv_bytes(model, 1024, k=types[1:], v=T["f16"])


def test_contexts_are_padded_to_256_cells(tmp_path: Path) -> None:
    """1000 tokens take 1024 cells; for three slots of 300 the runtime pads the sum, then each share."""
    model = layout(tmp_path, "llama", block_count=1, attention__head_count=8)
    one = kv_bytes(model, 1000, k=T["f16"], v=T["f16"])
    three = kv_bytes(model, 300, k=T["f16"], v=T["f16"], n_seq=3)
    assert one.caches[0].cells == 1024
    assert (three.caches[0].cells, three.k) == (512, 3 * 512 * 1024 * 2)


def test_a_window_is_never_larger_than_the_context(tmp_path: Path) -> None:
    """At 512 tokens the window of 512 and a batch of 512 hold 512 cells; at 8192 they hold 1024."""
    own = {"attention__head_count": 8, "attention__sliding_window": 512}
    model = layout(tmp_path, "gemma3", block_count=6, **own)
    small = kv_bytes(model, 512, k=T["f16"], v=T["f16"])
    large = kv_bytes(model, 8192, k=T["f16"], v=T["f16"], n_ubatch=1024)
    assert [c.cells for c in small.caches] == [512, 512]
    assert [c.cells for c in large.caches] == [8192, 1536]


def test_block_that_does_not_divide_names_dimension_and_layer(tmp_path: Path) -> None:
    """64 is not a multiple of 128; 80 not of 32."""
    model = layout(tmp_path, "llama", block_count=2, attention__head_count=16)
    assert unusable(model, T["q8_0"], "k") is None
    assert unusable(model, T["turbo4"], "v") == (
        "turbo4 packs 128 values, which does not divide head dimension 64 of V (layer 0)"
    )
    odd = layout(
        tmp_path, "llama", block_count=2, attention__head_count=1, attention__key_length=80
    )
    assert usable_types(odd, "k") == ("f32", "f16", "bf16")
    assert "turbo2" in usable_types(odd, "v")


def test_mla_takes_equal_types_without_turbo(tmp_path: Path) -> None:
    """K and V are one vector; its 576 values are not blocks of 128."""
    own = {
        "attention__head_count": 16, "attention__head_count_kv": 1, "attention__key_length": 576,
        "attention__value_length": 512, "attention__key_length_mla": 192,
        "attention__value_length_mla": 128,
    }  # fmt: skip
    model = layout(tmp_path, "deepseek2", block_count=27, **own)
    assert model.kinds == {LayerKind.LATENT: 27}
    assert kv_bytes(model, 1024, k=T["q8_0"], v=T["q8_0"]).total == 27 * 576 // 32 * 34 * 1024
    assert "equal types only" in str(unusable_pair(model, T["q8_0"], T["f16"]))
    assert "MLA" in str(unusable(model, T["turbo4"], "k"))


def test_grok_cannot_quantize_v(tmp_path: Path) -> None:
    """The runtime turns flash attention off for it."""
    model = layout(tmp_path, "grok", block_count=2, attention__head_count=8)
    assert unusable(model, T["q8_0"], "k") is None
    assert "flash attention" in str(unusable(model, T["q8_0"], "v"))


@given(
    n_ctx=st.integers(1, 1 << 20),
    n_seq=st.integers(1, 8),
    n_ubatch=st.integers(1, 4096),
    window=st.integers(0, 1 << 16),
)
def test_more_context_never_takes_less(n_ctx: int, n_seq: int, n_ubatch: int, window: int) -> None:
    """Sizes grow with context and sequences, and a window never takes more than full attention."""
    kind = LayerKind.SLIDING if window else LayerKind.FULL
    layers = tuple(Layer(i, kind, 8, 2, 128, 128, window=window) for i in range(2))
    full = tuple(Layer(i, LayerKind.FULL, 8, 2, 128, 128) for i in range(2))
    model, dense = Layout("x", layers, 0, known=True), Layout("x", full, 0, known=True)

    def total(own: Layout, ctx: int, seq: int) -> int:
        return kv_bytes(own, ctx, k=T["q8_0"], v=T["turbo4"], n_ubatch=n_ubatch, n_seq=seq).total

    assert total(model, n_ctx, n_seq) <= total(model, n_ctx + 1, n_seq)
    assert total(model, n_ctx, n_seq) <= total(model, n_ctx, n_seq + 1)
    assert total(model, n_ctx, n_seq) <= total(dense, n_ctx, n_seq)
