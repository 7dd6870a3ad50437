"""Our host code, compiled and run: what it launches is what the operator means.

`hostprogram.cpp` is the host code of a patched llama.cpp on an encoder that writes down what it is told. The
records are run by the simulator, on the kernels of the same tree, and held against NumPy.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ggmlbuilds
import numpy as np
import pytest

from tqconvert.metal.kargs import parse_structs
from tqconvert.metal.launch import Launch, Slot
from tqconvert.metal.simulate import Simulator
from tqconvert.metal.turbo.attention import plan_attention
from tqconvert.metal.turbo.cases import AttentionCase
from tqconvert.metal.turbo.check import Sources
from tqconvert.metal.turbo.reference import relative_error, row_bytes
from tqconvert.patches.apply import plan_patched, write_changes
from tqconvert.patches.series import find_patches, read_series
from tqconvert.runtime.source import open_source
from tqconvert.runtime.tree import copy_files
from tqconvert.turbo import codec

pytestmark = [pytest.mark.runtime, pytest.mark.slow, pytest.mark.xdist_group("metal-host")]
ENV = dict(os.environ)
BLOCKS = {"f32": (4, 1), "f16": (2, 1), "q8_0": (34, 32), "i32": (4, 1), "i64": (8, 1),
          **{t: (codec.block_bytes(t), 128) for t in ("turbo2", "turbo3", "turbo4")}}  # fmt: skip

OUT_OF_BOUNDS = "device_out_of_bounds"
"""Of upstream's kernels too: the memory that they write into is ours to ask for."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of ggml: lengths and strides, innermost first."""

    name: str
    type: str
    ne: tuple[int, ...]
    nb: tuple[int, ...] = ()

    def line(self) -> str:
        """As the program reads it; contiguous if no strides are given."""
        size, block = BLOCKS[self.type]
        nb = [size, self.ne[0] // block * size]
        nb += [nb[1] * self.ne[1], nb[1] * self.ne[1] * self.ne[2]]
        return " ".join(map(str, (self.name, self.type, *self.ne, *(self.nb or nb))))


@dataclass(frozen=True)
class Host:
    """The program and the tree that it was built from."""

    program: Path
    sources: Sources

    def ask(self, op: str, tensors: list[Tensor | None], params: tuple[float, ...] = ()) -> Any:
        """What it says of an operator; dst comes first."""
        lines = [f"op {op}", f"params {' '.join(map(str, params or (0, 0, 0)))}"]
        lines += [t.line() if t else "- f32 0 0 0 0 0 0 0 0" for t in tensors]
        done = subprocess.run(
            [str(self.program)], input="\n".join(lines) + "\n", capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    def run(self, simulator: Simulator, answer: Any, arrays: dict[str, Any]) -> Any:
        """The arrays after its launches, which must be free of findings."""
        data = dict(arrays)
        launches = [
            _launch(step, number, data)
            for number, step in enumerate(answer["steps"])
            if step != "barrier"
        ]
        programs = self.sources.programs(simulator, (x.kernel for x in launches))
        ours = [(programs[x.kernel], x) for x in launches]
        outcome = simulator.run_all(ours, data, level=True)
        assert outcome.error == ""
        strange = [f for f in outcome.findings if "turbo" in str(f) or f.kind == OUT_OF_BOUNDS]
        assert [str(f) for f in strange] == []
        return outcome.arrays


def _launch(step: Any, number: int, data: dict[str, Any]) -> Launch:
    """The record of a launch; its bytes become an array of their own."""
    slots: list[Slot | None] = [None] * (1 + max(map(int, step["buffers"])))
    for index, what in step["buffers"].items():
        if isinstance(what, str):
            data[f"bytes{number}"] = np.frombuffer(bytes.fromhex(what), np.uint8)
            slots[int(index)] = Slot(f"bytes{number}")
        else:
            slots[int(index)] = Slot(*what)
    x, y, z = step["grid"]
    a, b, c = step["threads"]
    constants = {int(k): int(v) for k, v in step["constants"].items()}
    return Launch(
        step["kernel"], tuple(slots), (x, y, z), (a, b, c), constants, tuple(step["threadgroup"])
    )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The pinned llama.cpp with our patches, and the program built from it."""
    source = open_source(str(ggmlbuilds.fetch_base("0.3.36")), ggmlbuilds.CACHE, ENV)
    tree = tmp_path_factory.mktemp("host") / "tree"
    copy_files(source.root, [p for p in source.files if p.startswith("ggml/")], tree)
    patched = plan_patched(source.root, read_series(find_patches()))
    write_changes(patched.files, tree)
    src = tree / "ggml" / "src"
    program = tree.parent / "hostprogram"
    includes = [f"-I{p}" for p in (tree / "ggml/include", src, src / "ggml-metal")]
    subprocess.run(
        ["c++", "-std=c++17", "-O1", "-w", *includes,
         str(Path(__file__).parent / "hostprogram.cpp"), "-o", str(program)],
        check=True,
    )  # fmt: skip
    metal = src / "ggml-metal"
    units = tuple(metal / "kernels" / f"{n}.metal" for n in ("turbo", "fa_aux", "fa_f16"))
    structs = parse_structs(metal / "ggml-metal-impl.h")
    yield Host(program, Sources(units, (metal / "kernels", metal, src), structs))


ATTENTIONS = (
    AttentionCase("vec", "turbo4", "turbo4", 128, 333, heads=(8, 2)),
    AttentionCase("vec", "q8_0", "turbo3", 256, 97, 3, mask="causal", sinks=True, softcap=20.0),
    AttentionCase("vec", "turbo2", "f16", 512, 64, 2, mask="none", max_bias=8.0),
    AttentionCase("tiled", "turbo4", "turbo3", 128, 130, 21, heads=(4, 2), mask="causal"),
    AttentionCase("tiled", "q8_0", "turbo4", 128, 100, 40, sinks=True),
    AttentionCase("tiled", "turbo4", "turbo4", 128, 130, 40, heads=(4, 2), mask="causal"),
    AttentionCase("tiled", "f16", "turbo3", 128, 128, 33, mask="none"),
    AttentionCase("tiled", "f16", "turbo3", 128, 130, 33, heads=(8, 4)),
    AttentionCase("tiled", "turbo4", "f16", 256, 130, 33, heads=(8, 4)),
    AttentionCase("vec", "turbo4", "turbo3", 128, 97, 2, n_seq=2),
    AttentionCase("tiled", "turbo3", "turbo4", 128, 97, 21, n_seq=2),
    AttentionCase("tiled", "turbo4", "turbo3", 128, 130, 40, n_seq=2, sinks=True),
    AttentionCase("vec", "turbo4", "turbo3", 256, 333, 2, dim_v=128, sinks=True),
    AttentionCase("tiled", "turbo3", "turbo4", 128, 130, 40, dim_v=256, mask="causal"),
    AttentionCase("vec", "turbo4", "turbo2", 512, 70, 40, dim_v=128, sinks=True, workgroups=1),
)
"""Prompts of 32 and more become f16, and upstream's kernel does the attention: where K is not q8_0 and heads are equal.
The last is one of heads that have vector kernels only: these, with a workgroup for each query.
"""


@pytest.mark.parametrize("case", ATTENTIONS, ids=lambda c: c.name)
def test_attention(host: Host, simulator: Simulator, case: AttentionCase) -> None:
    """The records compute softmax(q k) v, in memory behind the result that is as large as is asked for."""
    answer = attend(host, simulator, case)
    kernels = [step["kernel"] for step in answer["steps"] if step != "barrier"]
    long = case.n_q >= 32 and case.form == "tiled" and case.dim == case.dv and case.k != "q8_0"
    assert (case.kernel in kernels) != long
    assert (kernels[-1] == "kernel_flash_attn_ext_vec_reduce") == (
        case.form == "vec" and case.workgroups > 1
    )


@pytest.mark.parametrize("n_q", [21, 40])
def test_a_mask_may_be_longer_than_the_cache(host: Host, simulator: Simulator, n_q: int) -> None:
    """Which tiles are empty is counted by cells of the cache, tiled and as f16."""
    attend(host, simulator, AttentionCase("tiled", "turbo4", "turbo3", 128, 130, n_q), more=200)


def attend(host: Host, simulator: Simulator, case: AttentionCase, *, more: int = 0) -> Any:
    """What the host says of a case, whose numbers are right; rows of the mask are `more` cells longer."""
    rng = np.random.default_rng(1)
    planned = plan_attention(case, host.sources.structs, rng)
    arrays = {n: planned.arrays[n] for n in ("q", "k", "v", "mask", "sinks")}
    (n, m), dv, ns = case.heads, case.dv, case.n_seq
    tensors: list[Tensor | None] = [Tensor("dst", "f32", (dv, n, case.n_q, ns))]
    row = 4 * case.dim
    nb = (4, row * n, row, row * n * case.n_q)
    tensors.append(Tensor("q", "f32", (case.dim, case.n_q, n, ns), nb))
    for side, kind, d in (("k", case.k, case.dim), ("v", case.v, dv)):
        row = row_bytes(kind, d)
        # upstream's kernel for the last cells copies rows of all heads, behind the end at the last head
        arrays[side] = np.pad(arrays[side].ravel(), (0, row * m))
        nb = (BLOCKS[kind][0], row * m, row, row * m * case.n_kv)
        tensors.append(Tensor(side, kind, (d, case.n_kv, m, ns), nb))
    masked = case.mask != "none"
    if masked:
        arrays["mask"] = np.pad(arrays["mask"], ((0, 0), (0, 0), (0, 0), (0, more)))
    shape = (case.n_kv + more, case.n_q, 1, ns)
    tensors.append(Tensor("mask", "f16", shape) if masked else None)
    tensors.append(Tensor("sinks", "f32", (n, 1, 1, 1)) if case.sinks else None)
    params = (1 / case.dim**0.5, case.max_bias, case.softcap)
    answer = host.ask("FLASH_ATTN_EXT", tensors, params)
    assert answer["supports"]
    size = 4 * dv * n * case.n_q * ns
    arrays["dst"] = np.zeros(size + answer["extra"], np.uint8)
    left = host.run(simulator, answer, arrays)
    got = left["dst"][:size].view(np.float32).reshape(planned.expected[-1].want.shape)
    assert relative_error(got, planned.expected[-1].want) < 2e-3
    return answer


@pytest.mark.parametrize("kind", ["turbo2", "turbo3", "turbo4"])
@pytest.mark.parametrize("n_rows", [1, 3, 40])
def test_rows(host: Host, simulator: Simulator, kind: str, n_rows: int) -> None:
    """What set_rows writes are the codec's bytes; get_rows and cpy read them back."""
    rng = np.random.default_rng(2)
    width = 384
    x = rng.standard_normal((n_rows, width)).astype(np.float32)
    rows = rng.permutation(n_rows + 2)[:n_rows].astype(np.int64)
    want = codec.quantize(kind, x)
    cache = Tensor("dst", kind, (width, n_rows + 2, 1, 1))
    answer = host.ask(
        "SET_ROWS", [cache, Tensor("x", "f32", (width, n_rows, 1, 1)), Tensor("rows", "i64", (n_rows, 1, 1, 1))],
    )  # fmt: skip
    empty = np.zeros((n_rows + 2, want.shape[-1]), np.uint8)
    left = host.run(simulator, answer, {"dst": empty, "x": x, "rows": rows})["dst"]
    assert np.array_equal(left[rows], want)
    stored = Tensor("x", kind, (width, n_rows, 1, 1))
    index = rows.argsort().astype(np.int32)
    values = codec.dequantize(kind, want)
    for op, others in (("CPY", {}), ("GET_ROWS", {"rows": index})):
        sources = [Tensor("rows", "i32", (n_rows, 1, 1, 1))] if others else []
        answer = host.ask(op, [Tensor("dst", "f32", (width, n_rows, 1, 1)), stored, *sources])
        arrays = {"dst": np.zeros_like(x), "x": want, **others}
        got = host.run(simulator, answer, arrays)["dst"]
        assert np.array_equal(got, values[index] if others else values)
    answer = host.ask(
        "CPY",
        [Tensor("dst", kind, (width, n_rows, 1, 1)), Tensor("x", "f32", (width, n_rows, 1, 1))],
    )
    got = host.run(simulator, answer, {"dst": np.zeros_like(want), "x": x})["dst"]
    assert np.array_equal(got, want)


def q(n_q: int = 1, d: int = 128) -> Tensor:
    """A query."""
    return Tensor("q", "f32", (d, n_q, 4, 1))


def kv(name: str, kind: str, d: int = 128) -> Tensor:
    """One side of a cache."""
    return Tensor(name, kind, (d, 64, 2, 1))


REFUSED = {
    "a type without kernels beside one of ours": ("FLASH_ATTN_EXT", [q(), q(), kv("k", "turbo4"), kv("v", "q4_0")]),
    "a head size without kernels": ("FLASH_ATTN_EXT", [q(d=384), q(d=384), kv("k", "turbo4", 384), kv("v", "turbo4", 384)]),
    "a head size of V without kernels": ("FLASH_ATTN_EXT", [q(), q(d=256), kv("k", "turbo4", 256), kv("v", "turbo4", 384)]),
    "lengths that differ": ("FLASH_ATTN_EXT", [q(), q(), kv("k", "turbo4"), Tensor("v", "turbo4", (128, 32, 2, 1))]),
    "a mask shorter than the cache": ("FLASH_ATTN_EXT", [q(), q(), kv("k", "turbo4"), kv("v", "turbo4"), Tensor("m", "f16", (63, 1, 1, 1))]),
    "an empty cache": ("FLASH_ATTN_EXT", [q(), q(), *(Tensor(n, "turbo4", (128, 0, 2, 1)) for n in "kv")]),
    "a product": ("MUL_MAT", [q(), kv("k", "turbo4"), q()]),
    "a copy from type to type": ("CPY", [kv("dst", "turbo3"), kv("x", "turbo4")]),
    "a copy of f16": ("CPY", [kv("dst", "turbo3"), kv("x", "f16")]),
}  # fmt: skip
BLOCKS["q4_0"] = (18, 32)


@pytest.mark.parametrize("what", REFUSED)
def test_refused(host: Host, what: str) -> None:
    """What has no kernel is ours to answer, and the answer is no."""
    op, tensors = REFUSED[what]
    answer = host.ask(op, list(tensors))
    assert (answer["concerns"], answer["supports"], answer["steps"]) == (1, 0, [])


def test_stock_operators_are_upstreams(host: Host) -> None:
    """Nothing without a turbo type is taken."""
    answer = host.ask("FLASH_ATTN_EXT", [q(), q(), kv("k", "q8_0"), kv("v", "q8_0")])
    assert answer["concerns"] == 0
