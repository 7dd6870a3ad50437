"""`tqconvert quality`: perplexity and KL divergence of cache types, by the runtime."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tqconvert.cli.options import JsonOpt, ModelArg, QuietOpt, RuntimeOpt, StoreOpt, settings
from tqconvert.cli.output import Output, table
from tqconvert.units import format_bytes, parse_context

if TYPE_CHECKING:
    from tqconvert.progress import Steps
    from tqconvert.quality.kld import Kld, KldRow
    from tqconvert.quality.perplexity import PerplexityRow
    from tqconvert.quality.program import Setup
    from tqconvert.quality.subject import Subject
    from tqconvert.settings import Settings

TextOpt = Annotated[
    Path | None,
    typer.Option("--text", metavar="FILE", readable=False, help="Prose to score, UTF-8. Needed."),
]
CtxOpt = Annotated[str, typer.Option("--ctx", metavar="N", help="Tokens of one chunk.")]
ChunksOpt = Annotated[int, typer.Option("--chunks", metavar="N", min=1, help="Chunks at most.")]
PairOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--pair", metavar="K/V", help="Types to measure, such as q8_0/turbo4; repeatable."
    ),
]
QualityTypeKOpt = Annotated[
    str | None, typer.Option("--type-k", metavar="TYPE", help="Cache type of K.")
]
QualityTypeVOpt = Annotated[
    str | None, typer.Option("--type-v", metavar="TYPE", help="Cache type of V.")
]
ThreadsOpt = Annotated[
    int | None,
    typer.Option(
        "--threads", "-t", metavar="N", min=1, help="Threads.", show_default="the runtime's choice"
    ),
]
DEFAULT_CTX, DEFAULT_CHUNKS = "2048", 8


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(
        help="Measure what cache types do to a model.", no_args_is_help=True, rich_markup_mode=None
    )
    for name, command in (("ppl", ppl), ("kld", kld)):
        summary = (command.__doc__ or "").partition("\n")[0]
        group.command(name, short_help=summary)(command)
    app.add_typer(group, name="quality")


def ppl(
    model: ModelArg,
    text: TextOpt = None,
    ctx: CtxOpt = DEFAULT_CTX,
    chunks: ChunksOpt = DEFAULT_CHUNKS,
    pair: PairOpt = None,
    type_k: QualityTypeKOpt = None,
    type_v: QualityTypeVOpt = None,
    threads: ThreadsOpt = None,
    runtime: RuntimeOpt = None,
    store: StoreOpt = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Measure the perplexity of a text by cache type.

    Without --pair, --type-k and --type-v: the types that the model's tags mean,
    f16/f16 without tags. The error is that of a sample of text: differences of
    two cache types on the same text are seen far better by `quality kld`.

    \b
    Examples:
      tqconvert quality ppl model.gguf --text prose.txt
      tqconvert quality ppl model.gguf --text prose.txt --pair f16/f16 \\
        --pair q8_0/turbo4 --chunks 16 --json

    \b
    Writes: nothing.
    -q prints the perplexity of each pair, one a line.
    Exit codes: 0 done, 1 the runtime measured nothing, 2 bad types or text, 4
    not a GGUF, 5 missing, 8 the runtime lacks the types.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.models import find_model
    from tqconvert.quality.perplexity import measure_perplexity
    from tqconvert.quality.request import Asked, ppl_document, prepare
    from tqconvert.store.layout import Store

    out = Output("quality", json=json, quiet=quiet)
    chosen = settings(store=store, runtime=runtime)
    found = find_model(model, Store(chosen.store))
    setup = _setup(out.steps("ppl"), chosen, text, ctx, chunks, threads)
    asked = Asked(found.path, tuple(pair or ()), type_k, type_v)
    try:
        subject, pairs = prepare(setup, asked, default="f16/f16")
        rows = measure_perplexity(setup, subject, pairs)
    finally:
        setup.steps.finish()
    document = {"model": str(found), **ppl_document(setup, subject, rows)}
    short = [f"{row.result.ppl.value:.4f}" for row in rows]
    out.result(document, _ppl_text(str(found), setup, subject, rows), short)


def kld(
    model: ModelArg,
    text: TextOpt = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            readable=False,
            help="Model whose f16 cache is the truth, for a balanced file the original.",
            show_default="the model itself",
        ),
    ] = None,
    ctx: CtxOpt = DEFAULT_CTX,
    chunks: ChunksOpt = DEFAULT_CHUNKS,
    pair: PairOpt = None,
    type_k: QualityTypeKOpt = None,
    type_v: QualityTypeVOpt = None,
    base: Annotated[
        Path | None,
        typer.Option(metavar="FILE", readable=False, help="Keep the base here, and reuse it."),
    ] = None,
    floor: Annotated[
        bool, typer.Option(" /--no-floor", help="Do not measure the noise floor (bf16/bf16).")
    ] = True,
    threads: ThreadsOpt = None,
    runtime: RuntimeOpt = None,
    store: StoreOpt = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Measure how far cache types move a model's predictions from those with f16.

    Each token's predictions are compared with those of the reference with an f16
    cache, the base; the noise floor is the base's distance to the same with bf16.
    The base is a large file, deleted afterwards unless --base names it. Results
    compare only with others of the same runtime. docs/quality.md tells more.

    \b
    Examples:
      tqconvert quality kld model.gguf --text prose.txt --pair turbo4/turbo4 \\
        --pair q8_0/turbo4
      tqconvert quality kld balanced.gguf --reference model.gguf \\
        --text prose.txt --base /tmp/model.base --json

    \b
    Writes: the base, in the cache or in the file of --base.
    -q prints the mean KLD of each pair, one a line.
    Exit codes: 0 done, 1 the runtime measured nothing, 2 bad types or text, 4
    not a GGUF, 5 missing, 6 the file of --base is of something else, 8 the
    runtime lacks the types, 9 disk.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.models import find_model
    from tqconvert.quality.kld import measure_kld
    from tqconvert.quality.request import Asked, kld_document, prepare, prepare_base
    from tqconvert.store.layout import Store

    out = Output("quality", json=json, quiet=quiet)
    chosen = settings(store=store, runtime=runtime)
    found = find_model(model, Store(chosen.store))
    setup = _setup(out.steps("kld"), chosen, text, ctx, chunks, threads)
    try:
        asked = Asked(found.path, tuple(pair or ()), type_k, type_v)
        subject, pairs = prepare(setup, asked, default=None)
        other, plan, key = prepare_base(setup, subject, reference, base, chosen.cache)
        if not plan.reused:
            end = "kept" if plan.kept else "deleted afterwards"
            out.note(f"the base takes about {format_bytes(plan.need)} in {plan.folder}; {end}")
        measured = measure_kld(setup, subject, other, pairs, plan=plan, key=key, floor=floor)
    finally:
        setup.steps.finish()
    document = {"model": str(found), **kld_document(setup, subject, other, plan, measured)}
    short = [f"{row.result.kld.value:.6f}" for row in measured.rows]
    out.result(document, _kld_text(str(found), setup, subject, measured), short)


def _setup(
    steps: "Steps", chosen: "Settings", text: Path | None, ctx: str, chunks: int,
    threads: int | None,
) -> "Setup":  # fmt: skip
    from tqconvert.errors import UsageError
    from tqconvert.quality.program import PROGRAM, Setup
    from tqconvert.runtime.locate import find_runtime

    if text is None:
        raise UsageError(
            "--text: needed (expected a file of prose like what the model is used for)",
            hint="about 20 000 words make 8 chunks of 2048 tokens; none are shipped",
        )
    found = find_runtime(chosen.cache, chosen.runtime, program=PROGRAM)
    return Setup(found, text, parse_context(ctx), chunks, threads, dict(os.environ), steps)


def _headline(name: str, setup: "Setup", n_chunks: int) -> str:
    from tqconvert.quality.base import n_scored

    build = setup.runtime.build
    runtime = f"{build.version}, build {build.id}" if build else str(setup.runtime.folder)
    return (
        f"{name} on {setup.text.name}: {n_chunks} chunks of {setup.n_ctx} tokens, "
        f"{n_chunks * n_scored(setup.n_ctx)} scored\nruntime {runtime}"
    )


def _bits(subject: "Subject", row: "PerplexityRow | KldRow", n_ctx: int) -> str:
    bits = subject.bits(row.pair, n_ctx)
    return "" if bits is None else f"{bits:.3f}".rstrip("0").rstrip(".")


def _ppl_text(
    name: str, setup: "Setup", subject: "Subject", rows: "tuple[PerplexityRow, ...]"
) -> str:
    lines = [["K/V", "bits", "PPL", "95 %"]]
    lines += [
        [row.pair.name, _bits(subject, row, setup.n_ctx), f"{row.result.ppl.value:.4f}",
         f"+-{row.result.ppl.half:.2f}"]
        for row in rows
    ]  # fmt: skip
    return f"{_headline(name, setup, rows[0].result.n_chunks)}\n\n{table(lines, right=(1, 2, 3))}"


def _kld_text(name: str, setup: "Setup", subject: "Subject", measured: "Kld") -> str:
    head = ["K/V", "bits", "PPL", "of base", "mean KLD", "95 %", "net", "99 %", "top-1", "95 %"]
    rows = [*([measured.floor] if measured.floor else []), *measured.rows]
    lines = [head, *(_kld_cells(setup, subject, measured, row) for row in rows)]
    base = measured.ppl_base
    text = table(lines, right=range(1, len(head)))
    return (
        f"{_headline(name, setup, measured.n_chunks)}\n"
        f"base f16/f16: PPL {base.value:.4f} +-{base.half:.2f}\n\n{text}\n"
        "net: above the noise floor; PPL decides nothing"
    )


def _kld_cells(setup: "Setup", subject: "Subject", measured: "Kld", row: "KldRow") -> list[str]:
    result, net = row.result, measured.net(row)
    is_floor = row is measured.floor
    return [
        f"{row.pair.name} (floor)" if is_floor else row.pair.name,
        _bits(subject, row, setup.n_ctx),
        f"{result.ppl.value:.4f}",
        f"{100 * (result.ppl_ratio.value - 1):+.2f} %",
        f"{result.kld.value:.5f}",
        f"+-{result.kld.half:.5f}",
        "" if net is None or is_floor else f"{net:.5f}",
        f"{result.kld_percentiles['99']:.4f}",
        f"{result.same_top.value:.2f} %",
        f"+-{result.same_top.half:.2f}",
    ]
