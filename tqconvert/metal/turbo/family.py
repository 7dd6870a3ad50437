"""The matrix as a family of `tqconvert metal check`: runs where a tree holds our kernels."""

from collections.abc import Iterator

from tqconvert.metal.check.case import Bench, Case
from tqconvert.metal.turbo.cases import full
from tqconvert.metal.turbo.launches import plan


def turbo(bench: Bench) -> Iterator[Case]:
    """Every kernel of ours, where the tree has been patched; the last array of a case is the one compared."""
    if not any("turbo" in name for name in bench.names):
        return
    for case in full():
        planned = plan(case, bench.structs)
        last = planned.expected[-1]
        yield Case(
            f"turbo {case.name}", planned.launches, planned.arrays, last.array, last.want, last.bar
        )


FAMILIES = (turbo,)
