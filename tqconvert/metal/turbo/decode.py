"""The cost of one step of decoding: a turbo cache against upstream's q8_0 on the same work."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqconvert.metal.build import Unit, Workshop
from tqconvert.metal.kargs import Struct, pack, parse_structs
from tqconvert.metal.launch import Launch, slots
from tqconvert.metal.turbo.cases import TURBO
from tqconvert.metal.turbo.check import OWN
from tqconvert.metal.turbo.cost import Cost, measure

BYTES_BAR, ARITHMETIC_BAR = 0.5, 1.3
"""At most so much of what q8_0 costs."""
_WORKGROUPS = 32


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two costs of one head, one query row."""

    type: str
    dim: int
    turbo: Cost
    q8_0: Cost

    @property
    def bytes_ratio(self) -> float:
        """Of what is loaded from K and V."""
        return sum(self.turbo.bytes_loaded[2:4]) / sum(self.q8_0.bytes_loaded[2:4])

    @property
    def arithmetic_ratio(self) -> float:
        """Of operations, without those across lanes."""
        return self.turbo.arithmetic / self.q8_0.arithmetic

    @property
    def ok(self) -> bool:
        """Whether both ratios are within the bars."""
        return self.bytes_ratio <= BYTES_BAR and self.arithmetic_ratio <= ARITHMETIC_BAR


def compare(
    workshop: Workshop, metal: Path, upstream: Path, dim: int, *, n_kv: int = 1024
) -> list[Comparison]:
    """The costs of each turbo type, on both sides, and of q8_0. Raises what compiling raises."""
    structs = parse_structs(upstream / "ggml-metal-impl.h")
    includes = (metal, upstream, upstream / "kernels", upstream.parent)

    def cost(kind: str, path: Path) -> Cost:
        launch, arrays = _decode(kind, dim, n_kv, structs)
        unit = Unit(path, includes, keep=f"^{launch.kernel}$", checked=False)
        return measure(workshop, unit, launch, arrays)

    theirs = cost("q8_0", upstream / "kernels" / "fa_vec_q8_0.metal")
    ours = metal / f"{OWN}.metal"
    return [Comparison(t, dim, cost(t, ours), theirs) for t in TURBO]


def _decode(
    kind: str, dim: int, n_kv: int, structs: Mapping[str, Struct]
) -> tuple[Launch, dict[str, Any]]:
    """One query row against one head; the cache is shared by 32 workgroups of one simdgroup."""
    import numpy as np

    from tqconvert.metal.turbo import reference as ref
    from tqconvert.metal.turbo.attention import vec_shared

    rng = np.random.default_rng(1)
    k, v = (ref.encode(kind, rng.standard_normal((n_kv, dim)).astype(np.float32)) for _ in "kv")
    size = k.shape[-1]
    args = {
        "ne01": 1, "ne02": 1, "ne03": 1, "nb01": 4 * dim, "nb02": 4 * dim, "nb03": 4 * dim,
        "ne11": n_kv, "ne_12_2": 1, "ne_12_3": 1, "ns10": dim, "ns20": dim, "nb11": size,
        "nb12": size * n_kv, "nb13": size * n_kv, "nb21": size, "nb22": size * n_kv,
        "nb23": size * n_kv, "ne31": 1, "ne32": 1, "ne33": 1, "nb31": 2 * n_kv, "nb32": 2 * n_kv,
        "nb33": 2 * n_kv, "ne1": 1, "ne2": 1, "ne3": 1, "scale": 0.1, "m0": 1, "m1": 1,
        "n_head_log2": 1,
    }  # fmt: skip
    arrays = {
        "args": pack(structs, "flash_attn_ext_vec", args),
        "q": rng.standard_normal(dim).astype(np.float32), "k": k, "v": v,
        "mask": np.zeros(n_kv, np.float16), "unused": np.zeros(64, np.float32),
        "out": np.zeros(_WORKGROUPS * (dim + 2), np.float32),
    }  # fmt: skip
    names = ["args", "q", "k", "v", "mask", "unused", "unused", "out"]
    if kind == "q8_0":
        kernel = f"kernel_flash_attn_ext_vec_q8_0_dk{dim}_dv{dim}"
        constants = {420: dim, 421: dim, 422: 1, 423: _WORKGROUPS, 400: 1}
        constants |= dict.fromkeys((401, 402, 403, 404, 405), 0)
        # upstream's kernel clears more than its region
        shared = (3 * dim + 128) * 2 + 8192
        names.append("unused")
    else:
        kernel = f"kernel_flash_attn_ext_vec_k{kind}_v{kind}_dk{dim}_dv{dim}"
        constants = {2200: 1, 2201: 0, 2202: 0, 2203: 0, 2204: _WORKGROUPS}
        shared = vec_shared(dim, dim, 1)
    return Launch(
        kernel, slots(*names), (1, 1, _WORKGROUPS), (32, 1, 1), constants, (shared,)
    ), arrays
