"""`tqconvert balance`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqconvert.cli.options import (
    DryRunOpt,
    FileArg,
    JsonOpt,
    QuietOpt,
    RuntimeOpt,
    YesOpt,
    settings,
)
from tqconvert.cli.output import Output
from tqconvert.errors import UsageError
from tqconvert.units import format_bytes

if TYPE_CHECKING:
    from tqconvert.turbo.balanceplan import BalancePlan
    from tqconvert.turbo.fold import BalanceResult
    from tqconvert.turbo.kvstats import KvStats
    from tqconvert.turbo.scale_rows import Rounding

_SEEN = 1e-7
"""Rounding that is worth a line: more than that of f32."""

_FEW_TOKENS = 2048
"""One chunk: with fewer, factors follow the text more than the model."""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("balance")(balance)


def balance(
    file: FileArg,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", readable=False, help="The file to write."),
    ],
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="TEXT", readable=False, help="Measure K and Q over this text."),
    ] = None,
    chunks: Annotated[
        int, typer.Option(metavar="N", min=1, help="Read so many times 2048 tokens of it.")
    ] = 8,
    stats: Annotated[
        Path | None,
        typer.Option(metavar="JSON", readable=False, help="What llama-kv-stats wrote earlier."),
    ] = None,
    no_mean: Annotated[
        bool, typer.Option("--no-mean", help="Leave the mean of K out of the file.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Scale rows by powers of two only.")
    ] = False,
    runtime: RuntimeOpt = None,
    yes: YesOpt = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Fold a K/Q channel balance into a copy of a model, for low-bit K caches.

    K is multiplied and Q divided by a factor per channel, so that attention stays
    what it is and a quantized K costs less of it, in every runtime. Without a text
    the factors come from the weights, in seconds; --calibrate needs the runtime
    that `ollama-build` builds, and adds the mean of K for it to subtract.

    \b
    Examples:
      tqconvert balance model.gguf -o balanced.gguf
      tqconvert balance model.gguf -o balanced.gguf --calibrate prose.txt

    \b
    Writes: OUT, by way of a temporary file beside it; FILE stays as it is.
    -q prints OUT.
    Exit codes: 0 done, 1 the calibration failed, 2 usage, 4 not a GGUF, 5
    missing, 6 refused: balanced already, a model that it cannot be done to, OUT
    exists, 7 locked, 9 disk.
    """  # noqa: D301 - \b keeps Typer from joining lines
    from tqconvert.fs import require_readable, require_text
    from tqconvert.turbo.balanceplan import plan_balance
    from tqconvert.turbo.fold import apply_balance

    out = Output("balance", json=json, quiet=quiet)
    if calibrate and stats:
        raise UsageError("--calibrate and --stats: give one of them")
    if no_mean and not (calibrate or stats):
        raise UsageError("--no-mean: only a calibration knows the mean")
    require_readable(file)
    measured = None
    if calibrate:
        # What would be refused anyway is refused before minutes of measuring.
        require_text(calibrate)
        plan_balance(file, output, replace=yes, exact=exact)
        measured = _measure(file, calibrate, runtime, out, n_chunks=chunks)
    elif stats:
        from tqconvert.turbo.kvstats import read_stats

        measured = read_stats(stats)
    if measured and measured.n_tokens < _FEW_TOKENS:
        out.warn(f"{measured.n_tokens} tokens are few to calibrate on (expected {_FEW_TOKENS})")
    plan = plan_balance(file, output, replace=yes, stats=measured, mean=not no_mean, exact=exact)
    result = None if dry_run else apply_balance(plan, progress=out.progress())
    out.result(_document(plan, result, measured), _text(plan, result, measured), str(plan.target))


def _measure(
    file: Path, text: Path, runtime: Path | None, out: Output, *, n_chunks: int
) -> "KvStats":
    from tempfile import TemporaryDirectory

    from tqconvert.runtime.kvstats import PROGRAM, measure_kv
    from tqconvert.runtime.locate import find_runtime
    from tqconvert.turbo.kvstats import read_stats

    loaded = settings(runtime=runtime)
    found = find_runtime(loaded.cache, loaded.runtime, program=PROGRAM)
    out.note(f"measuring K and Q over {text}")
    with TemporaryDirectory(prefix="tqconvert-") as folder:
        path = Path(folder) / "kv-stats.json"
        measure_kv(found, file, text, path, env=os.environ, n_chunks=n_chunks)
        return read_stats(path)


def _document(
    plan: "BalancePlan", result: "BalanceResult | None", stats: "KvStats | None"
) -> dict[str, Any]:
    return {
        "file": str(plan.found.path),
        "output": str(plan.target),
        "dry_run": result is None,
        "method": result.method if result else plan.method,
        "why": plan.why,
        "architecture": plan.found.header.architecture,
        "balance": plan.mode,
        "folded_into": list(plan.folds),
        "rope_pairs": plan.pairing,
        "powers_of_two": plan.powers_of_two,
        "k_mean": plan.k_mean is not None,
        "calibration_tokens": stats.n_tokens if stats else None,
        "predicted_gain_db": round(plan.mean_gain_db, 3),
        "tensors": list(plan.tensors),
        "layers": [
            {
                "layer": layer.number,
                "d_min": float(f"{layer.d.min():.6g}"),
                "d_max": float(f"{layer.d.max():.6g}"),
                "predicted_gain_db": round(layer.gain_db, 3),
            }
            for layer in plan.layers
        ],
        "bytes_changed": result.n_changed if result else 0,
        "size": result.size if result else None,
        "rounding": {
            name: {
                "largest": float(f"{r.largest:.3g}"),
                "rms": float(f"{r.rms:.3g}"),
                "scales": r.n,
                "subnormal": r.n_subnormal,
            }
            for name, r in (result.rounding if result else {}).items()
        },
    }


def _text(
    plan: "BalancePlan", result: "BalanceResult | None", stats: "KvStats | None"
) -> str:  # fmt: skip
    source = f"calibrated on {stats.n_tokens} tokens" if stats else "from the weights"
    where = " and ".join({"norms": "norm weights", "rows": "rows"}[fold] for fold in plan.folds)
    done = f"balanced by {result.method}" if result else f"would be balanced by {plan.method}"
    lines = [f"{plan.target}: {done}: {plan.why}"]
    powers = ", powers of two" if plan.powers_of_two and "rows" in plan.folds else ""
    d_min, d_max = (
        min(x.d.min() for x in plan.layers), max(x.d.max() for x in plan.layers),
    )  # fmt: skip
    lines.append(
        f"  {source}, {len(plan.tensors)} tensors in {len(plan.layers)} layers ({where}), "
        f"factors {d_min:.3g} to {d_max:.3g}{powers}"
    )
    if plan.k_mean is not None:
        lines.append(f"  with the mean of K, {plan.k_mean.size} values")
    gains = [layer.gain_db for layer in plan.layers]
    lines.append(
        f"  predicted: {plan.mean_gain_db:.1f} dB less logit noise of a quantized K "
        f"({min(gains):.1f} to {max(gains):.1f} by layer)"
    )
    if result:
        lines.append(f"  changed: {format_bytes(result.n_changed)} of {format_bytes(result.size)}")
        lines += [_rounding_line(name, r) for name, r in result.rounding.items() if r.rms > _SEEN]
    return "\n".join(lines)


def _rounding_line(name: str, r: "Rounding") -> str:
    few_bits = f", {100 * r.n_subnormal / r.n:.0f} % of them subnormal" if r.n_subnormal else ""
    return f"  rounding of {name} scales: {r.rms:.1e} rms{few_bits}"
