"""The launches that `metal bench` times: on the simulator they give what NumPy does, so a time is one of that work."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tqconvert.errors import KernelSourceError, UsageError
from tqconvert.metal.apple import bench
from tqconvert.metal.build import Unit
from tqconvert.metal.check.tree import MetalTree
from tqconvert.metal.launch import Launch
from tqconvert.metal.simulate import Simulator
from tqconvert.metal.turbo import reference
from tqconvert.metal.turbo.check import own_sources

METAL = Path(__file__).parents[3] / "metal"
HEADS = (4, 2)
N_KV, DIM = 64, 128
PAIRS = (("f16", "f16"), ("q8_0", "q8_0"), ("turbo4", "turbo4"), ("f16", "turbo3"), ("q8_0", "turbo4"))  # fmt: skip


def unit_of(tree: MetalTree, launch: Launch) -> Unit:
    """Where a kernel lies: our file, or the one of upstream."""
    keep = f"^{launch.kernel}$"
    own = replace(own_sources(METAL, tree.folder).own_unit(), keep=keep)
    kernel = launch.kernel.removeprefix("kernel_flash_attn_ext_")
    if "turbo" in kernel:
        return own
    name = "fa_aux" if kernel.startswith(("kv_", "vec_reduce")) else f"fa_{kernel.split('_dk')[0]}"
    return tree.unit(tree.folder / "kernels" / f"{name}.metal", keep=keep)


def attention(arrays: dict[str, Any], k: str, v: str, n_q: int) -> np.ndarray:
    """[n_q, head, dim] in float64, from the bytes of the caches."""
    sides = []
    for side, kind in (("k", k), ("v", v)):
        rows = arrays[side].reshape(N_KV, HEADS[1], -1)
        x = reference.decode(kind, rows).transpose(1, 0, 2)
        sides.append(np.repeat(x, HEADS[0] // HEADS[1], 0))
    q = arrays["q"].reshape(n_q, HEADS[0], DIM).transpose(1, 0, 2).astype(np.float64)
    s = q @ sides[0].transpose(0, 2, 1) / np.sqrt(DIM)
    p = np.exp(s - s.max(-1, keepdims=True))
    return (p / p.sum(-1, keepdims=True) @ sides[1]).transpose(1, 0, 2)


@pytest.mark.parametrize(("k", "v"), PAIRS)
@pytest.mark.parametrize("n_q", [1, 37])
def test_what_is_timed_is_attention(
    simulator: Simulator, upstream: MetalTree, k: str, v: str, n_q: int
) -> None:
    """Decode and prefill, of stock types and ours; nothing beyond upstream's known defects is found."""
    if n_q == 1:
        launches, arrays = bench.decode(upstream.structs, k, v, DIM, N_KV, HEADS)
    else:
        launches, arrays = bench.prefill(upstream.structs, k, v, DIM, N_KV, n_q, HEADS)
    steps = [(simulator.build(unit_of(upstream, launch)), launch) for launch in launches]
    outcome = simulator.run_all(steps, arrays, level="turbo" not in k + v)
    assert not outcome.error
    if "turbo" in k + v:
        assert not outcome.findings, outcome.text()
    got = outcome.arrays["out"].reshape(n_q, HEADS[0], DIM)
    assert reference.relative_error(got, attention(arrays, k, v, n_q)) < 2e-3


def test_prompts_take_the_way_of_the_host() -> None:
    """f16 copies for all but turbo beside q8_0, as ggml-metal-turbo.h and upstream's use_kv_f16 decide."""
    assert [bench.by_f16(*p, 256) for p in PAIRS] == [True, True, True, True, False]
    assert not bench.by_f16("turbo4", "turbo4", 512)
    assert [bench.simdgroups(n) for n in (2048, 2112, 4096, 8192)] == [1, 2, 2, 4]


def test_bytes_are_those_of_the_loops() -> None:
    """One query reads the cache of its head once; a prompt once for each eight, behind the copies."""
    assert bench.moved_bytes("turbo4", "turbo4", 128, 64, 1, (8, 2)) == 8 * 64 * 2 * 66
    assert bench.moved_bytes("f16", "f16", 128, 64, 40, (8, 2)) == 8 * 5 * 64 * 512
    copies = 2 * 64 * 2 * (66 + 256)
    assert bench.moved_bytes("turbo4", "turbo4", 128, 64, 40, (8, 2)) == copies + 8 * 5 * 64 * 512
    assert bench.moved_bytes("q8_0", "turbo4", 128, 64, 40, (8, 2)) == 8 * 5 * 64 * (136 + 66)


def test_what_does_not_run_has_no_time(upstream: MetalTree) -> None:
    """A launch that fails ends the measurement; so does a length that kernels would have to pad."""
    failing = SimpleNamespace(run=lambda *_: SimpleNamespace(gpu_s=(0.0,), error="1024 threads"))
    with pytest.raises(KernelSourceError, match="1024 threads"):
        list(bench.measure(failing, upstream.structs, dims=(128,), lengths=(64,), pairs=PAIRS[:1]))
    with pytest.raises(UsageError, match="100 cells"):
        list(bench.measure(failing, upstream.structs, lengths=(100,)))
