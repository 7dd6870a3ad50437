"""Defects of upstream kernels that are known: told as such, and no reason to fail.

Each was found by this check in llama.cpp as llama-cpp-python 0.3.36 vendors it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tqconvert.metal.launch import Finding


@dataclass(frozen=True, slots=True)
class Known:
    """One defect."""

    kinds: tuple[str, ...]
    kernel: str
    """Regular expression."""
    file: str
    """Where the kernel has a file of its own; in a tree with one file for all it is that."""
    why: str
    in_step: bool = False
    """Whether the numbers are right only with lanes that run in step."""


_SINGLE_FILE = "ggml-metal.metal"
_FA_TILED = r"^kernel_flash_attn_ext_(f16|f32|q\d_\d)_dk"
_FA_TILED_ODD = r"^kernel_flash_attn_ext_(f16|f32|q\d_\d)_dk(32|40|72|80|96|112)_"
_FA_VEC = r"^kernel_flash_attn_ext_vec_(f16|f32|q\d_\d)_"
KNOWN: tuple[Known, ...] = (
    Known(
        ("device_out_of_bounds",), r"^kernel_mul_mv_(?!ext|id)", "mul_mv.metal",
        "reads rows behind the last one where they do not fill a simdgroup, and drops the result",
    ),
    Known(
        ("device_out_of_bounds",), r"^kernel_cpy_f32_f32$", _SINGLE_FILE,
        "copies rows behind the last one where they do not fill a threadgroup; later versions stop",
    ),
    Known(
        ("device_out_of_bounds",), r"^kernel_flash_attn_ext_blk$", _SINGLE_FILE,
        "reads rows of the mask behind the last one, of eight queries each; later versions stop",
    ),
    Known(
        ("threadgroup_race",), r"^kernel_mul_mv_(id_)?(iq4_nl|iq4_xs|mxfp4)_", "mul_mv.metal",
        "each simdgroup writes the same table of values",
    ),
    Known(
        ("uninitialised_threadgroup_read",), r"^kernel_cumsum_blk_", "reduce.metal",
        "sums of simdgroups that there are not are read, and not used",
    ),
    Known(
        ("simdgroup_race", "simdgroup_unordered", "threadgroup_race"), _FA_VEC,
        "fa_vec_common.metal",
        "relies on lanes that run in step: a barrier is missing between reads and the next writes",
        in_step=True,
    ),
    Known(
        ("device_race",), r"^kernel_argmax_f32$", "misc.metal",
        "all threads of a threadgroup write the same result",
    ),
    Known(
        ("threadgroup_out_of_bounds", "uninitialised_threadgroup_read"), _FA_VEC,
        "fa_vec_common.metal", "clears more than its part of the output, at the end beyond it",
    ),
    Known(
        ("uninitialised_threadgroup_read", "device_out_of_bounds"),
        _FA_TILED_ODD, "fa_common.metal",
        "reads V and its sums up to a multiple of 64 columns, behind a shorter head, and drops them",
    ),
    Known(
        ("simdgroup_unordered",), _FA_TILED, "fa_common.metal",
        "stores the next tile over one that products of matrices have read, with no barrier between",
    ),
)  # fmt: skip


def known(finding: Finding) -> Known | None:
    """The entry that the finding belongs to."""
    for k in KNOWN:
        if (
            finding.kind in k.kinds
            and Path(finding.file).name in (k.file, _SINGLE_FILE)
            and re.search(k.kernel, finding.kernel)
        ):
            return k
    return None


def relies_on_step(kernel: str) -> bool:
    """Whether the kernel is known to be right only with lanes that run in step."""
    return any(k.in_step and re.search(k.kernel, kernel) for k in KNOWN)
