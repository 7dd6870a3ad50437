"""The plan against what Ollama's Go engine logs with the patches of ollama_patches/legacy.

Figures: `msg="kv cache bytes"` of a patched v0.19.0, per cache (cells, bytes of K, bytes of V).
"""

from pathlib import Path

import pytest
from qwen35 import write_qwen35

from tqconvert.gguf.header import read_header
from tqconvert.kv.arch import layout_of
from tqconvert.kv.size import kv_bytes
from tqconvert.kv.types import CACHE_TYPES

Caches = list[tuple[int, int, int]]

QWEN35 = {
    "f16/f16": [(1024, 2097152, 2097152)],
    "q8_0/turbo4": [(1024, 1114112, 540672)],
    "turbo4/turbo4": [(1024, 540672, 540672)],
    "turbo3/turbo3": [(1024, 409600, 409600)],
    "turbo2/turbo2": [(1024, 278528, 278528)],
}
GEMMA = {
    "f16/f16": [(1024, 7864320, 7864320), (4096, 6291456, 6291456)],
    "q8_0/turbo4": [(1024, 4177920, 2027520), (4096, 3342336, 1622016)],
    "turbo4/turbo4": [(1024, 2027520, 2027520), (4096, 1622016, 1622016)],
    "turbo3/turbo3": [(1024, 1536000, 1536000), (4096, 1228800, 1228800)],
    "q8_0/turbo2": [(1024, 4177920, 1044480), (4096, 3342336, 835584)],
}


def planned(path: Path, n_ctx: int, k: list[str], v: list[str]) -> Caches:
    """Cells and bytes of each cache, the smaller first."""
    one_or_all = [[CACHE_TYPES[name] for name in names] for names in (k, v)]
    k_types, v_types = (types[0] if len(types) == 1 else types for types in one_or_all)
    size = kv_bytes(layout_of(read_header(path)), n_ctx, k=k_types, v=v_types)
    return sorted((cache.cells, cache.k, cache.v) for cache in size.caches)


@pytest.mark.parametrize("pair", QWEN35)
def test_qwen35(tmp_path: Path, pair: str) -> None:
    """Two layers of full attention at 1024 tokens; the recurrent ones have no cells."""
    k, v = pair.split("/")
    assert planned(write_qwen35(tmp_path / "m.gguf"), 1024, [k], [v]) == QWEN35[pair]


def test_qwen35_by_layer(tmp_path: Path) -> None:
    """Each layer of full attention has its own types; entries of the others are not read."""
    k, v = ["f16", "turbo4", "f16", "q8_0"], ["f16", "turbo3", "f16", "turbo4"]
    path = write_qwen35(tmp_path / "m.gguf", type_k=k, type_v=v)
    assert planned(path, 1024, k, v) == [(1024, 827392, 475136)]


@pytest.mark.parametrize("pair", GEMMA)
def test_gemma(gemma: Path, pair: str) -> None:
    """Windows of 512 hold a batch more; three layers hold all 4096 tokens."""
    k, v = pair.split("/")
    assert planned(gemma, 4096, [k], [v]) == GEMMA[pair]
