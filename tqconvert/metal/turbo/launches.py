"""A case as launches on arrays, with what must come out: for the simulator and for a GPU alike."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tqconvert.metal.kargs import Struct
from tqconvert.metal.launch import Launch, slots
from tqconvert.metal.turbo.attention import plan_attention
from tqconvert.metal.turbo.cases import AttentionCase, Case, RowsCase, TransformCase
from tqconvert.metal.turbo.plan import Expected, Plan, normal
from tqconvert.metal.turbo.rows import plan_rows
from tqconvert.turbo import codec


def plan(case: Case, structs: Mapping[str, Struct]) -> Plan:
    """The launches of a case; the structs are those of the tree's ggml-metal-impl.h.

    Values are random but the same for the same case. Raises KernelSourceError where a struct lacks a field.
    """
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    match case:
        case AttentionCase():
            return plan_attention(case, structs, rng)
        case RowsCase():
            return plan_rows(case, structs, rng)
        case TransformCase():
            return _transform(case, rng)


def _transform(case: TransformCase, rng: Any) -> Plan:
    x = normal(rng, case.n_blocks, codec.BLOCK)
    arrays = {
        "args": np.int32(case.n_blocks).tobytes(),
        "x": x,
        "y": np.zeros_like(x),
    }
    grid, threads = (-(-case.n_blocks // 3), 1, 1), (96, 1, 1)
    launch = Launch(case.kernel, slots("args", "x", "y"), grid, threads)
    want = codec.rotate_inverse(x) if case.inverse else codec.rotate(x)
    return Plan(arrays, (launch,), (Expected("y", want, gpu_bar=1e-6),))
