"""`metal gpu` and `metal bench`: what takes a Mac."""

import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tqconvert.cli.options import JsonOpt, QuietOpt, settings
from tqconvert.cli.output import Output
from tqconvert.errors import UsageError

if TYPE_CHECKING:
    from tqconvert.metal.apple.bench import Time
    from tqconvert.metal.apple.verify import Step
    from tqconvert.metal.tree import MetalTree

SHORTEST_PROMPT = 32
"""Queries from which on the host makes K and V f16 first."""
TreeArg = Annotated[
    Path, typer.Argument(metavar="[TREE]", help="A llama.cpp or Ollama tree with our patches.")
]


def gpu(
    tree: TreeArg = Path(),
    validate: Annotated[
        bool,
        typer.Option("--validate/--no-validate", help="Let Metal check every call and access."),
    ] = True,
    full: Annotated[
        bool, typer.Option("--full", help="Every kernel, not one of each kind.")
    ] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Compile with Apple's compiler, run on this Mac's GPU, compare with NumPy.

    Each file in each version of the language, with bfloat and without; libraries
    from source; pipelines of our kernels in all combinations of their constants;
    the launches that `metal check` runs on the CPU, with Metal's validation,
    and once more on the CPU: GPU against simulator against NumPy.
    Written without a Mac: this command has not been run on one.

    \b
    Examples:
      tqconvert metal gpu ../llama.cpp
      tqconvert metal gpu ../llama.cpp --full --no-validate --json

    \b
    Writes: temporary files, and the user's cache for the simulator.
    -q prints what failed, one a line.
    Exit codes: 0 all is right, 1 something failed, 2 usage, 5 no Metal there,
      8 no Mac: no xcrun, no PyObjC or no GPU.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.metal.apple.verify import NOT_COVERED, VALIDATION, Report
    from tqconvert.metal.tree import find_metal

    mac = platform.system() == "Darwin"
    if mac and validate and not all(name in os.environ for name in VALIDATION):
        # Metal reads these when the process starts to use it: not after.
        os.execve(  # noqa: S606 - this program again
            sys.executable,
            [sys.executable, "-m", "tqconvert", *sys.argv[1:]],
            {**os.environ, **VALIDATION},
        )
    out = Output("metal.gpu", json=json, quiet=quiet)
    found = find_metal(tree.expanduser().absolute())
    steps: list[Step] = []
    names = ["", ""]
    uncovered: list[str] = []
    for step in _steps(found, full=full, names=names, uncovered=uncovered):
        steps.append(step)
        out.note(f"{step.what}: {'ok' if step.ok else 'FAILED'}")
    covered = (*NOT_COVERED, *uncovered)
    if not validate:
        covered = (*covered, "accesses out of bounds (--no-validate)")
    report = Report(names[0], names[1], tuple(steps), covered)
    failed = [s for s in steps if not s.ok]
    lines = [f"{s.what}: {s.text}" for s in steps if s.text and (s.note or not s.ok)]
    lines.append(f"{report.gpu}, {report.compiler}: {len(steps)} steps, {len(failed)} failed")
    lines += [f"  not looked at: {text}" for text in covered]
    out.result(
        {"tree": str(found.folder), **report.as_json()}, "\n".join(lines), [s.what for s in failed]
    )
    if not report.ok:
        raise typer.Exit(1)


def _steps(
    tree: "MetalTree", *, full: bool, names: list[str], uncovered: list[str]
) -> "Iterator[Step]":
    """All steps; `names` gets those of the compiler and the GPU, `uncovered` what turns out to be missing."""
    from tempfile import TemporaryDirectory

    from tqconvert.errors import ToolMissingError
    from tqconvert.metal.apple import verify
    from tqconvert.metal.apple.compiler import find_xcrun
    from tqconvert.metal.apple.gpu import Gpu
    from tqconvert.metal.kargs import parse_structs
    from tqconvert.metal.simulate import open_simulator
    from tqconvert.metal.turbo import cases

    xcrun = find_xcrun(os.environ)
    device = Gpu()
    names[:] = [xcrun.version, device.name]
    with TemporaryDirectory(prefix="tqconvert-metal-") as work:
        yield from verify.compile_all(tree, xcrun, Path(work))
    yield from verify.load_all(tree, device)
    yield from verify.make_pipelines(tree, device)
    structs = parse_structs(tree.folder / "ggml-metal-impl.h")
    chosen = cases.full() if full else cases.quick()
    try:
        simulator = open_simulator(settings().cache, os.environ)
    except ToolMissingError as e:
        uncovered.append(f"GPU against simulator: {e.message} ({e.hint})")
        yield from verify.run_cases(device, structs, chosen)
        return
    with simulator:
        simulate = verify.simulator_of(tree, simulator)
        yield from verify.run_cases(device, structs, chosen, simulate)


def bench(
    tree: TreeArg = Path(),
    dim: Annotated[
        list[int] | None, typer.Option("--dim", help="Head size; may be repeated.")
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option("--length", help="Cells of the cache, a multiple of 64; may be repeated."),
    ] = None,
    prompt: Annotated[
        list[int] | None,
        typer.Option(
            "--prompt", help="Queries at once, 32 or more; may be repeated. [default: 512]"
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Time attention on this Mac's GPU: turbo caches beside f16 and q8_0.

    Decode (one query) and prefill (a prompt) over caches of several lengths, 32
    heads on 8, no mask, by the clock of the GPU; medians of 10 rounds after 5.
    Bytes are what the kernels load of K and V and store of their f16 copies.
    Written without a Mac: this command has not been run on one.

    \b
    Examples:
      tqconvert metal bench ../llama.cpp
      tqconvert metal bench ../llama.cpp --dim 256 --length 8192 --json

    \b
    Writes: nothing.
    -q prints the microseconds of each row.
    Exit codes: 0 measured, 1 a kernel does not run, 2 usage, 5 no Metal there,
      8 no Mac: no PyObjC or no GPU.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.metal.apple import bench as benchmark
    from tqconvert.metal.apple.flatten import flatten
    from tqconvert.metal.apple.gpu import Gpu
    from tqconvert.metal.kargs import parse_structs
    from tqconvert.metal.tree import find_metal

    out = Output("metal.bench", json=json, quiet=quiet)
    if any(n < SHORTEST_PROMPT for n in prompt or ()):
        raise UsageError(f"--prompt: fewer than {SHORTEST_PROMPT} queries take other kernels")
    found = find_metal(tree.expanduser().absolute())
    device = Gpu()
    for path in found.units:
        if found.single or path.stem.startswith(("fa_aux", "fa_vec_", "fa_f16", "turbo")):
            device.load(flatten(path, found.includes), {"GGML_METAL_HAS_BF16": "1"})
    rows = list(
        benchmark.measure(
            device, parse_structs(found.folder / "ggml-metal-impl.h"),
            dims=dim or (128, 256), lengths=length or (2048, 8192, 32768),
            queries=(1, *(prompt or (benchmark.PROMPT,))),
        )
    )  # fmt: skip
    lines = [f"{device.name}: microseconds, MB moved, GB/s, time beside q8_0 and f16"]
    for r in rows:
        beside = [_ratio(r, rows, kind) for kind in ("q8_0", "f16")]
        lines.append(
            f"{r.k:>7} {r.v:>7} d{r.dim} {r.n_kv:>6} cells {r.n_q:>4} queries {r.seconds * 1e6:10.1f} "
            f"{r.moved_bytes / 1e6:9.1f} {r.bytes_per_second / 1e9:7.1f} {beside[0]:>6} {beside[1]:>6}"
        )
    not_covered = ["masks", "whole models: llama-bench measures those"]
    lines += [f"  not looked at: {text}" for text in not_covered]
    document = {
        "gpu": device.name, "rows": [asdict(r) for r in rows], "not_covered": not_covered,
    }  # fmt: skip
    out.result(document, "\n".join(lines), [f"{r.seconds * 1e6:.1f}" for r in rows])


def _ratio(row: "Time", rows: "Iterable[Time]", kind: str) -> str:
    """Its time over that of caches of one type, of the same shape."""
    for other in rows:
        same = (other.dim, other.n_kv, other.n_q) == (row.dim, row.n_kv, row.n_q)
        if same and (other.k, other.v) == (kind, kind) and other.seconds:
            return f"{row.seconds / other.seconds:.2f}x"
    return "-"


COMMANDS: tuple[Callable[..., None], ...] = (gpu, bench)
