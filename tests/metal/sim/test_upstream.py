"""The kernels of llama.cpp as they are: all compile, those with a case are right, three defects are seen."""

from collections.abc import Callable

import pytest

from tqconvert.metal.build import Workshop
from tqconvert.metal.check import engine
from tqconvert.metal.check.attention import Shape, tile, vector
from tqconvert.metal.check.case import Bench, Case
from tqconvert.metal.check.tree import MetalTree
from tqconvert.metal.simulate import Outcome, Simulator
from tqconvert.progress import Steps

pytestmark = pytest.mark.xdist_group("metal-upstream")
FILES = ("fa_aux", "fa_q8_0", "fa_vec_q8_0")


@pytest.fixture(scope="module")
def attention(upstream: MetalTree, workshop: Workshop) -> Bench:
    """What the files of attention over q8_0 offer."""
    return engine.bench_of(
        upstream,
        [workshop.rewritten(upstream.unit(s)) for s in upstream.sources if s.stem in FILES],
    )


@pytest.fixture
def run(upstream: MetalTree, simulator: Simulator) -> Callable[..., Outcome]:
    """Run a case, in lock step or not."""

    def run(case: Case, *, level: bool = False) -> Outcome:
        names = "|".join(launch.kernel for launch in case.launches)
        steps = []
        for launch in case.launches:
            for source in (s for s in upstream.sources if s.stem in FILES):
                program = simulator.build(upstream.unit(source, keep=f"^({names})$"))
                if launch.kernel in program.names:
                    steps.append((program, launch))
        return simulator.run_all(steps, case.arrays, level=level)

    return run


def lines(outcome: Outcome, kind: str) -> set[str]:
    """Places of the findings of a kind, without folders."""
    return {
        f"{f.file.rsplit('/', 1)[1]}:{f.line}" for f in outcome.findings if f.kind == kind
    }  # fmt: skip


def test_all_kernels_compile(upstream: MetalTree, workshop: Workshop) -> None:
    """34 files with 1066 kernels; fa_common and fa_vec_common are parts of others."""
    sources = [workshop.verify(upstream.unit(s)) for s in upstream.sources]
    assert len(sources) == 34
    assert len({k.host_name for s in sources for k in s.kernels}) == 1066


def test_kernels_agree_with_numpy(upstream: MetalTree, workshop: Workshop) -> None:
    """Norms, softmax, copies to q8_0, rotary embeddings, products, attention: a few of each kind."""
    names = (
        r"norm_mul_f32_4|soft_max_f16|(cpy|set_rows_\w+)_q8_0|rope_neox|mul_m[mv]_q4_K|fwht_f32_128|"
        r"flash_attn_ext_q8_0_dk128"
    )
    report = engine.check(upstream, workshop, kernels=names, steps=Steps())
    assert [c.problem for c in report.cases if c.problem] == []
    assert {c.title.split()[0] for c in report.cases} >= {
        "kernel_rms_norm_mul_f32_4", "kernel_soft_max_f16", "kernel_set_rows_f32_i64_q8_0",
        "kernel_rope_neox_f32", "kernel_mul_mm_q4_K_f32", "kernel_flash_attn_ext_q8_0_dk128_dv128",
    }  # fmt: skip
    assert not report.failed


def test_attention_relies_on_lanes_in_step(attention: Bench, run: Callable[..., Outcome]) -> None:
    """S and M are stored over the scores that other lanes still read: right in step, garbage else."""
    from tqconvert.metal.check.case import error_of

    case = vector(attention, Shape("q8_0", 128, 4, 2, 512, 1))
    loose, level = run(case), run(case, level=True)
    assert "fa_vec_common.metal:572" in lines(loose, "simdgroup_race")
    assert error_of(loose.arrays["out"], case.want) > 0.1
    assert error_of(level.arrays["out"], case.want) < 2e-3


def test_attention_clears_beyond_its_memory(attention: Bench, run: Callable[..., Outcome]) -> None:
    """Four queries with four lanes each: the zeros of the output run over the end."""
    outcome = run(vector(attention, Shape("q8_0", 128, 4, 2, 512, 4, "_q4_ne4")))
    assert lines(outcome, "threadgroup_out_of_bounds") == {"fa_vec_common.metal:134"}


def test_tiled_attention_of_wide_heads_asks_for_too_much(
    attention: Bench, run: Callable[..., Outcome]
) -> None:
    """Heads of 512 over quantized K and V: 36864 bytes, where a threadgroup has 32768."""
    outcome = run(tile(attention, Shape("q8_0", 512, 1, 1, 64, 24)))
    assert "36864 bytes of threadgroup memory (at most 32768)" in outcome.error
