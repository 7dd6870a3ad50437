"""Our Metal kernels on the CPU: bytes are the reference's, attention is float64 attention."""

import itertools
import re

import pytest

from tqconvert.metal.simulate import Simulator
from tqconvert.metal.turbo.cases import PAIRS, TILED_HEADS, VEC_HEADS, AttentionCase, full, quick
from tqconvert.metal.turbo.check import Sources, check_turbo

QUICK = quick()


@pytest.fixture(scope="module")
def results(simulator: Simulator, sources: Sources):
    """Name of a quick case -> its result in the checked build."""
    return {r.case.name: r for r in check_turbo(simulator, sources, QUICK)}


@pytest.mark.parametrize("name", [c.name for c in QUICK])
def test_kernel_equals_the_reference(results, name: str) -> None:
    """Right numbers, no access out of bounds, no race, no reliance on lanes in step."""
    assert results[name].ok, str(results[name])


def test_names_of_cases_are_unique() -> None:
    """A case's random numbers come from its name."""
    names = [c.name for c in full()]
    assert len(set(names)) == len(names)


def test_full_set_runs_every_kernel(sources: Sources, workshop) -> None:
    """No kernel of our file is left out of the matrix, and none of the matrix is missing in the file."""
    unit = sources.own_unit()
    ours = {k.host_name for k in workshop.rewritten(unit).kernels}
    assert ours == {c.kernel for c in full()}
    pairs = len(PAIRS) * (len(VEC_HEADS) + len(TILED_HEADS))
    assert len(ours) == pairs + 3 * 7 + 2


def test_matrix_holds_what_it_should() -> None:
    """Written caches for every pair, lengths off every step, all masks, one and many workgroups."""
    cases = [c for c in full() if isinstance(c, AttentionCase)]
    for form in ("vec", "tiled"):
        mine = [c for c in cases if c.form == form]
        assert {(c.k, c.v) for c in mine if c.written} == set(PAIRS)
        assert {c.mask for c in mine} >= {"none", "causal", "holes", "empty", "nan"}
        assert any(c.sinks and c.max_bias for c in mine) or form == "vec"
        assert {c.heads[0] // c.heads[1] for c in mine} >= {1, 3, 4}
        assert any(c.n_kv % 32 for c in mine)
    vec = [c for c in cases if c.form == "vec"]
    assert set(itertools.product((1, 32), (1, 2, 4))) <= {(c.workgroups, c.simdgroups) for c in vec}


@pytest.mark.slow
def test_plain_and_fast_math_builds_give_the_same(simulator: Simulator, sources: Sources) -> None:
    """Without instruments, and with a compiler that may reorder floats, nothing moves but the last digits."""
    for options in ({"checked": False}, {"checked": False, "fast_math": True}):
        for result in check_turbo(simulator, sources.with_options(**options), QUICK):
            assert result.ok, f"{options}: {result}"


def test_threadgroup_memory_is_what_the_header_says(sources: Sources) -> None:
    """The sizes that the launches ask for are those of the macros, and fit into 32 KiB."""
    from tqconvert.metal.turbo.attention import tiled_shared, vec_shared

    header = (sources.units[0].parent / "ggml-metal-turbo-impl.h").read_text("utf-8")
    body = dict(re.findall(r"#define (TURBO_\w+)(?:\([\w, ]+\))?\s+(?:\\\n\s+)?(.+)", header))
    scope = {
        "TURBO_MAX": max, "TURBO_PAD16": lambda n: -(-n // 16) * 16,
        "TURBO_FA_ROWS": 8, "TURBO_FA_POSITIONS": 32,
    }  # fmt: skip

    def value(name: str, **of: int) -> int:
        return int(eval(body[name].split("//")[0].replace("/128", "//128"), {}, {**scope, **of}))

    for dk, dv in VEC_HEADS:
        for nsg in (1, 2, 4):
            size = value("TURBO_FA_VEC_SHARED", dk=dk, dv=dv, nsg=nsg)
            assert size == vec_shared(dk, dv, nsg)
            # what upstream's host sets for a kernel of the same shape
            assert dk != dv or size <= (dk + 128 + 2 * dv) * nsg * 2
            assert size <= 32768
    for dk, dv in TILED_HEADS:
        assert value("TURBO_FA_SHARED", dk=dk, dv=dv) == tiled_shared(dk, dv) <= 32768


def test_readme_states_sizes_and_counts(sources: Sources) -> None:
    """The table of threadgroup memory and the number of cases are what the code says."""
    from tqconvert.metal.turbo.attention import tiled_shared, vec_shared

    text = (sources.units[0].parent / "README.md").read_text("utf-8")
    for dim in (128, 256, 512):
        sizes = [dim, *(vec_shared(dim, dim, n) for n in (1, 2, 4)), tiled_shared(dim, dim)]
        assert f"| {' | '.join(map(str, sizes))} |" in text
    assert f"{len(QUICK)} cases with the tests, {len(full())} with every kernel" in text
