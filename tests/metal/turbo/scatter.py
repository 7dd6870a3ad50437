"""Random changes of one token in our kernels, and which of them the cases find.

    python -m tests.metal.turbo.scatter [N [SEED]]

Prints what found each, and the count; some changes change nothing, which only a reader can tell.
"""

import os
import sys
import tempfile
from pathlib import Path

from tqconvert.metal.build import Workshop
from tqconvert.metal.compiler import find_compiler
from tqconvert.metal.simulate import Simulator
from tqconvert.metal.turbo.mutants import judge, scattered
from tqconvert.runtime.worktree import patched_tree
from tqconvert.settings import default_cache

METAL = Path(__file__).parents[3] / "metal"


def main(n: int, seed: int) -> None:
    """Judge `n` changes, each in a process of its own."""
    env, cache = dict(os.environ), default_cache()
    workshop = Workshop(find_compiler(env), cache / "metal", env)
    upstream = patched_tree(cache, env) / "ggml" / "src" / "ggml-metal"
    found = 0
    for mutant in scattered(METAL, n, seed):
        with tempfile.TemporaryDirectory() as work, Simulator(workshop, timeout_s=30) as simulator:
            by = judge(simulator, METAL, upstream, mutant, Path(work)).by
        found += bool(by)
        print(f"{by or 'NOT FOUND':20} {mutant.name}", flush=True)
    print(f"{found} of {n} found")


if __name__ == "__main__":
    given = [int(x) for x in sys.argv[1:3]]
    main(*given, *(100, 1)[len(given) :])
