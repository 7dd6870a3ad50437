"""The launches that prove the turbo kernels, as data: which kernel, which shape, which options.

`quick()` takes seconds and runs with the tests; `full()` runs every kernel. Lengths are no multiples of
anything that a kernel counts in, unless a case is about one that is.
"""

from dataclasses import dataclass
from typing import Literal

TURBO = ("turbo2", "turbo3", "turbo4")
PARTNERS = ("f16", "q8_0")
PAIRS = tuple((k, v) for k in (*TURBO, *PARTNERS) for v in (*TURBO, *PARTNERS) if {k, v} & {*TURBO})
"""Types of K and V that have attention kernels."""
_MIXED = ((256, 128), (512, 128), (512, 256), (128, 256), (128, 512), (256, 512))
VEC_HEADS = ((128, 128), (256, 256), (512, 512), *_MIXED)
TILED_HEADS = ((128, 128), (256, 256), (512, 512), (256, 128), (128, 256))
"""Head dimensions of K and V that have kernels."""

_Form = Literal["vec", "tiled"]
Mask = Literal["none", "causal", "holes", "empty", "nan"]
"""causal: a triangle at the end; holes: a third hidden, biases elsewhere; empty: holes, and rows that see
nothing; nan: holes behind which the cache is not a number."""


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """One FLASH_ATTN_EXT."""

    form: _Form
    k: str
    v: str
    dim: int
    """Head dimension of Q and K, and of V unless `dim_v` says another."""
    n_kv: int
    n_q: int = 1
    heads: tuple[int, int] = (4, 2)
    """Of Q, of K and V."""
    mask: Mask = "holes"
    n_seq: int = 1
    workgroups: int = 32
    """That share the cache of a head: 32, as upstream's reduce kernel wants, or 1. Vec only."""
    simdgroups: int = 1
    """In a workgroup. Vec only; a tiled kernel has four."""
    sinks: bool = False
    softcap: float = 0.0
    max_bias: float = 0.0
    by_head: bool = False
    """Heads lie behind each other; otherwise, as in a cache, the heads of one position do."""
    gaps: bool = False
    """Q, K and V are parts of larger arrays."""
    mask_by_head: bool = False
    one_mask: bool = False
    """For all sequences."""
    dim_v: int = 0
    written: bool = False
    """K and V come from set_rows kernels, in random order; otherwise from the reference."""

    @property
    def kernel(self) -> str:
        """Host name."""
        form = "vec_" if self.form == "vec" else ""
        return f"kernel_flash_attn_ext_{form}k{self.k}_v{self.v}_dk{self.dim}_dv{self.dv}"

    @property
    def dv(self) -> int:
        """Head dimension of V."""
        return self.dim_v or self.dim

    @property
    def helpers(self) -> tuple[str, ...]:
        """Upstream's kernels that run before or after."""
        if self.form == "vec":
            return ("kernel_flash_attn_ext_vec_reduce",) if self.workgroups > 1 else ()
        return () if self.mask == "none" else ("kernel_flash_attn_ext_blk",)

    @property
    def name(self) -> str:
        """What tells the case from all others."""
        dims = f"d{self.dim}" + (f"/{self.dv}" if self.dv != self.dim else "")
        rest = [
            f"{self.form} {self.k}/{self.v} {dims} h{self.heads[0]}/{self.heads[1]}",
            f"kv{self.n_kv} q{self.n_q} {self.mask}",
        ]
        if self.form == "vec":
            rest.append(f"wg{self.workgroups}x{self.simdgroups}")
        rest += [f"seq{self.n_seq}"] * (self.n_seq > 1)
        flags = {
            "sinks": self.sinks, "softcap": self.softcap, "alibi": self.max_bias,
            "by-head": self.by_head, "gaps": self.gaps, "head-masks": self.mask_by_head,
            "one-mask": self.one_mask, "written": self.written,
        }  # fmt: skip
        return " ".join([*rest, *(n for n, on in flags.items() if on)])


@dataclass(frozen=True, slots=True)
class RowsCase:
    """One operator that writes or reads whole blocks."""

    op: Literal[
        "set_rows_i32", "set_rows_i64", "from_f32", "to_f32", "to_f16", "get_rows", "kv_f16"
    ]
    type: str
    n_values: int
    """Of a row."""
    n_rows: int
    threads: tuple[int, int] = (32, 1)
    hostile: bool = False
    """Zeros, tiny, huge, infinite and undefined values among the rows."""
    outer: tuple[int, int] = (1, 1)
    """Lengths of the outer dimensions; there are n_rows in each."""
    view: bool = False
    """Arrays are parts of larger ones or transposed, lists of rows are shared, a copy has another shape."""

    @property
    def kernel(self) -> str:
        """Host name."""
        return {
            "set_rows_i32": f"kernel_set_rows_f32_i32_{self.type}",
            "set_rows_i64": f"kernel_set_rows_f32_i64_{self.type}",
            "from_f32": f"kernel_cpy_f32_{self.type}",
            "to_f32": f"kernel_cpy_{self.type}_f32",
            "to_f16": f"kernel_cpy_{self.type}_f16",
            "get_rows": f"kernel_get_rows_{self.type}",
            "kv_f16": f"kernel_flash_attn_ext_kv_{self.type}_f16",
        }[self.op]

    helpers = ()

    @property
    def name(self) -> str:
        """What tells the case from all others."""
        x, y = self.threads
        outer = "x".join(str(n) for n in (*reversed(self.outer), self.n_rows, self.n_values))
        flags = "".join(f" {n}" for n in ("hostile", "view") if getattr(self, n))
        return f"{self.op} {self.type} {outer} threads {x}x{y}{flags}"


@dataclass(frozen=True, slots=True)
class TransformCase:
    """The transform alone."""

    inverse: bool
    n_blocks: int
    helpers = ()

    @property
    def kernel(self) -> str:
        """Host name."""
        return f"kernel_turbo_wht_{'inv_' if self.inverse else ''}f32"

    @property
    def name(self) -> str:
        """What tells the case from all others."""
        return f"transform{' inverse' if self.inverse else ''} {self.n_blocks}"


_EQUAL = (128, 256, 512)
Case = AttentionCase | RowsCase | TransformCase


def _rows(types: tuple[str, ...]) -> list[Case]:
    cases: list[Case] = []
    for t in types:
        cases += [
            RowsCase("set_rows_i64", t, 512, 301, (32, 4), hostile=True),
            # as upstream dispatches a row of three blocks: one simdgroup, one thread left over
            RowsCase("set_rows_i32", t, 384, 5, (3, 11), outer=(3, 2)),
            RowsCase("from_f32", t, 256, 19, (64, 1), hostile=True),
            RowsCase("from_f32", t, 384, 3, outer=(2, 3)),
            RowsCase("to_f32", t, 384, 5, outer=(3, 2)),
            RowsCase("to_f16", t, 384, 5, (64, 1), outer=(2, 2)),
            RowsCase("get_rows", t, 640, 9, (64, 1), outer=(2, 2)),
            RowsCase("kv_f16", t, 256, 7, (64, 1), outer=(3, 2)),
            *(
                RowsCase(op, t, 384, 5, (64, 1), outer=(4, 2), view=True)
                for op in ("set_rows_i64", "from_f32", "to_f32", "get_rows", "kv_f16")
            ),
        ]
    return cases


def quick() -> tuple[Case, ...]:
    """Every template once and every option, on types that take turns."""
    a = AttentionCase
    return (
        TransformCase(inverse=False, n_blocks=37),
        TransformCase(inverse=True, n_blocks=37),
        *_rows(TURBO),
        a("vec", "turbo4", "turbo4", 128, 333, heads=(8, 2), simdgroups=2, written=True),
        a("vec", "turbo4", "turbo4", 128, 1, mask="none", workgroups=1),
        a("vec", "turbo3", "turbo2", 256, 301, mask="nan", simdgroups=4, workgroups=1),
        a("vec", "turbo4", "turbo3", 512, 97, sinks=True, simdgroups=2),
        a("vec", "q8_0", "turbo4", 256, 130, 3, mask="causal", max_bias=8.0, heads=(6, 2)),
        a("vec", "turbo4", "q8_0", 128, 64, 2, softcap=20.0, mask="empty", mask_by_head=True),
        a("vec", "turbo3", "turbo3", 128, 50, 2, mask="empty", workgroups=1),
        a("vec", "f16", "turbo3", 128, 95, n_seq=2, by_head=True, sinks=True),
        a("vec", "turbo2", "f16", 128, 2113, mask="none", simdgroups=2, heads=(2, 1)),
        a("tiled", "turbo4", "turbo4", 128, 333, 21, heads=(8, 2), written=True),
        a("tiled", "turbo3", "turbo2", 256, 161, 11, mask="nan", sinks=True),
        a("tiled", "turbo2", "turbo4", 128, 64, 8, mask="none", softcap=20.0),
        a("tiled", "q8_0", "turbo4", 128, 130, 20, mask="causal", max_bias=8.0, heads=(6, 2)),
        a("tiled", "turbo4", "f16", 128, 95, 13, mask="empty", mask_by_head=True, n_seq=2),
        a("tiled", "f16", "turbo3", 128, 200, 24, mask="causal", by_head=True),
        a("tiled", "turbo4", "turbo4", 512, 70, 9),
        a("tiled", "turbo2", "turbo3", 128, 321, 17, heads=(3, 1), mask_by_head=True, n_seq=2),
        a("vec", "turbo3", "q8_0", 128, 70, 2, n_seq=3, gaps=True, one_mask=True, heads=(6, 3)),
        a("tiled", "q8_0", "turbo2", 128, 97, 11, n_seq=3, gaps=True, one_mask=True, heads=(6, 3)),
        a(
            "tiled",
            "turbo4",
            "turbo4",
            128,
            1,
            3,
            mask="none",
            heads=(3, 1),
            by_head=True,
            gaps=True,
        ),
        *_mixed_quick(),
    )


def _mixed_quick() -> tuple[Case, ...]:
    """Head dimensions of K and V that differ, each way round."""
    a = AttentionCase
    return (
        a("vec", "turbo4", "turbo3", 512, 97, 2, dim_v=128, simdgroups=4, sinks=True),
        a("vec", "q8_0", "turbo4", 256, 130, dim_v=512, simdgroups=2, mask="causal"),
        a("vec", "turbo2", "f16", 128, 70, 21, dim_v=512, simdgroups=4, workgroups=1, mask="empty"),
        a("tiled", "turbo4", "turbo3", 256, 161, 11, dim_v=128, sinks=True, softcap=20.0),
        a("tiled", "turbo3", "turbo4", 128, 130, 20, dim_v=256, mask="empty", heads=(6, 2)),
    )


def _mixed(form: _Form, k: str, v: str, heads: tuple[int, int], turn: int) -> AttentionCase:
    """One kernel for unequal head dimensions; what else is asked of it takes turns."""
    dk, dv = heads
    return AttentionCase(
        form, k, v, dk, (95, 33, 130, 31, 64)[turn % 5], (1, 2, 9)[turn % 3], dim_v=dv,
        written=True, workgroups=(1, 32)[turn % 2], simdgroups=(1, 2, 4)[turn % 3], sinks=turn % 2 == 0,
    )  # fmt: skip


def full() -> tuple[Case, ...]:
    """Every kernel: each pair with each head dimension, through set_rows, besides what is quick."""
    cases: list[Case] = list(quick())
    lengths = (333, 65, 1000, 31, 192)
    ratios = ((8, 2), (4, 4), (6, 2), (4, 1), (7, 7))
    for i, (k, v) in enumerate(PAIRS):
        for dim in _EQUAL:
            n, h = (i + dim // 128) % 5, (i + dim // 256) % 5
            groups = 1 if (i + dim) % 3 == 0 else 32
            cases.append(
                AttentionCase(
                    "vec", k, v, dim, lengths[n], 1 + i % 2, ratios[h], written=True,
                    workgroups=groups, simdgroups=(1, 2, 4)[(i + dim // 128) % 3],
                    sinks=i % 2 == 0, max_bias=8.0 * (i % 4 == 1), softcap=20.0 * (i % 5 == 2),
                )
            )  # fmt: skip
        for dim in _EQUAL:
            n, h = (i + dim // 128 + 2) % 5, (i + dim // 256 + 1) % 5
            cases.append(
                AttentionCase(
                    "tiled", k, v, dim, lengths[n], (20, 33, 9)[i % 3], ratios[h], written=True,
                    mask=("holes", "causal", "empty", "none")[(i + dim // 128) % 4],
                    sinks=i % 2 == 1, max_bias=8.0 * (i % 4 == 3), softcap=20.0 * (i % 5 == 1),
                )
            )  # fmt: skip
        cases += [_mixed("vec", k, v, heads, i + j) for j, heads in enumerate(_MIXED)]
        cases += [_mixed("tiled", k, v, h, i + j) for j, h in enumerate(_MIXED) if h in TILED_HEADS]
    return tuple(cases)
