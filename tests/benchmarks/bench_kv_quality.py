"""What cache types cost Gemma 3 270M, by KL divergence from f16, plain and with the channel balance.

    python -m tests.benchmarks.bench_kv_quality [--chunks 8] [--calibration licenses] [--work DIR] [--json FILE]

Every row is against one base: the original file with an f16 cache, also those of balanced files. The base takes 0.5 GiB
a chunk. Stock types run in the same build. The text is that of `corpus.py`; calibration text is disjoint from it.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tests.benchmarks.corpus import Kind, calibration_text, evaluation_text
from tests.benchmarks.rows import Table, gemma
from tests.benchmarks.runtimes import name_of, runtime_with, tqconvert_json
from tqconvert.units import format_context

N_CTX, N_CHUNKS, N_THREADS = 2048, 8, 2
CALIBRATION: Kind = "licenses"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A row: a file, a pair, and what it must reach."""

    balance: str
    pair: str
    bar: float | None = None
    within: bool = False
    """Met if the interval reaches the bar: for figures that are only not to become worse."""
    below: str | None = None
    """A stock pair of the same run that it must beat."""
    stretch: float | None = None
    stretch_below: str | None = None

    @property
    def name(self) -> str:
        """As the table has it."""
        return self.pair if self.balance == "none" else f"{self.pair}, {self.balance}"


CASES = (
    Case("none", "turbo4/turbo4", 0.12),
    Case("weights", "turbo4/turbo4", 0.035),
    Case("calibrated", "turbo4/turbo4", 0.030, below="q5_0/q5_0", stretch=0.022),
    Case("none", "turbo3/turbo3"),
    Case("weights", "turbo3/turbo3"),
    Case("calibrated", "turbo3/turbo3", 0.11, stretch_below="q4_0/q4_0"),
    Case("none", "q8_0/turbo4", 0.0131, within=True),
    Case("none", "q8_0/turbo3", 0.0293, within=True),
    Case("none", "q8_0/q8_0"),
    Case("none", "q5_0/q5_0"),
    Case("none", "q4_0/q4_0"),
    Case("weights", "q4_0/q4_0", 0.036),
    Case("calibrated", "q4_0/q4_0"),
    Case("weights", "f16/f16"),
    Case("calibrated", "f16/f16"),
)
EQUIVALENCE = 1.15
"""Times the noise floor that a balanced file with an f16 cache may reach: rounding, nothing else."""


def run(
    work: Path,
    *,
    n_chunks: int = N_CHUNKS,
    calibration: Kind = CALIBRATION,
    cases: tuple[Case, ...] = CASES,
    keep: Callable[[str, Row], None] = lambda _name, _document: None,
) -> list[Table]:
    """The table. Raises NotFoundError without a runtime."""
    runtime = runtime_with("llama-perplexity")
    text, prose = work / "eval.txt", work / "calibration.txt"
    text.write_text(evaluation_text(), encoding="utf-8")
    prose.write_text(calibration_text(calibration), encoding="utf-8")
    models = {"none": gemma()}
    for balance in dict.fromkeys(c.balance for c in cases):
        if balance != "none":
            models[balance] = _balanced(balance, prose, work, runtime.folder)
    rows: dict[str, Row] = {}
    floor: Row | None = None
    ppl_base = 0.0
    for balance, model in models.items():
        own = [c for c in cases if c.balance == balance]
        pairs = [x for c in own for x in ("--pair", c.pair)]
        document = tqconvert_json(
            "quality", "kld", model, "--reference", gemma(), "--text", text, "--ctx", N_CTX,
            "--chunks", n_chunks, "--threads", N_THREADS, "--base", work / "base", *pairs,
            "--runtime", runtime.folder, *(["--no-floor"] if floor else []),
        )  # fmt: skip
        keep(balance, document)
        floor = floor or document["floor"]
        ppl_base = document["base"]["ppl"]["value"]
        rows |= {c.name: row for c, row in zip(own, document["rows"], strict=True)}
    assert floor is not None
    judged = [(c, rows[c.name], *_judge(c, rows, floor)) for c in cases]
    head = ("K/V", "bits", "PPL", "mean KLD", "95 %", "net", "99 %", "top-1 %", "bar", "met")
    lines = [_cells("bf16/bf16 (noise floor)", floor, floor, "", "")]
    lines += [_cells(c.name, row, floor, bar, _verdict(ok)) for c, row, bar, ok in judged]
    title = (
        f"KV types of Gemma 3 270M Q4_K_M, {n_chunks} x {format_context(N_CTX)} tokens, base f16 "
        f"(PPL {ppl_base:.4f}), {N_THREADS} threads, {name_of(runtime)}, calibrated on {calibration}"
    )
    missed = tuple(c.name for c, _, _, ok in judged if ok is False)
    return [Table(title, head, tuple(lines), missed, _stretches(cases, rows))]


def _balanced(balance: str, prose: Path, work: Path, runtime: Path) -> Path:
    out = work / f"{balance}.gguf"
    extra = ["--calibrate", prose, "--runtime", runtime] if balance == "calibrated" else []
    print(f"  balancing, {balance} ...", file=sys.stderr, flush=True)
    tqconvert_json("balance", gemma(), "-o", out, *extra)
    return out


def _judge(case: Case, rows: dict[str, Row], floor: Row) -> tuple[str, bool | None]:
    """The bar as text, and whether it is met; None without one."""
    kld = rows[case.name]["kld"]
    if case.pair == "f16/f16":
        limit = EQUIVALENCE * floor["kld"]["value"]
        return f"<= {limit:.4f}, the floor", kld["value"] <= limit
    if case.bar is None:
        return "", None
    if case.within:
        return f"<= {case.bar:.4f} within 95 %", kld["low"] <= case.bar
    ok, text = kld["value"] <= case.bar, f"<= {case.bar:.3f}"
    if case.below:
        other = rows[case.below]["kld"]["value"]
        ok, text = ok and kld["value"] < other, f"{text}, < {case.below} {other:.4f}"
    return text, ok


def _stretches(cases: tuple[Case, ...], rows: dict[str, Row]) -> tuple[str, ...]:
    notes = []
    for case in cases:
        value = rows[case.name]["kld"]["value"]
        if case.stretch is not None:
            notes.append(_stretch(case.name, value, case.stretch, "<="))
        if case.stretch_below:
            other = rows[case.stretch_below]["kld"]["value"]
            notes.append(_stretch(case.name, value, other, f"below {case.stretch_below},"))
    return tuple(notes)


def _stretch(name: str, value: float, limit: float, how: str) -> str:
    return f"stretch: {name} {value:.4f} {how} {limit:.4f}: {_verdict(value <= limit)}"


def _verdict(ok: bool | None) -> str:
    return "" if ok is None else "yes" if ok else "MISSED"


def _cells(name: str, row: Row, floor: Row, bar: str, met: str) -> tuple[str, ...]:
    kld, top = row["kld"], row["same_top_percent"]
    net = kld["value"] - floor["kld"]["value"]
    return (
        name,
        f"{row['bits_per_value']:.3f}".rstrip("0").rstrip("."),
        f"{row['ppl']['value']:.3f}",
        f"{kld['value']:.5f}",
        f"+-{kld['high'] - kld['value']:.5f}",
        "" if row is floor else f"{net:.5f}",
        f"{row['kld_percentiles']['99']:.4f}",
        f"{top['value']:.2f}",
        bar,
        met,
    )


def main() -> int:
    """Print the table; 1 if a bar is missed."""
    from tests.benchmarks.__main__ import render

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder for base and models (default: temporary)")
    parser.add_argument("--chunks", type=int, default=N_CHUNKS)
    parser.add_argument("--calibration", choices=get_args(Kind), default=CALIBRATION)
    parser.add_argument(
        "--only", help="rows whose name holds this, and those they are compared with"
    )
    parser.add_argument("--json", type=Path, help="write the documents of all runs to this file")
    args = parser.parse_args()
    documents: dict[str, Row] = {}
    cases = CASES
    if args.only:
        chosen = [c for c in CASES if args.only in c.name]
        peers = {p for c in chosen for p in (c.below, c.stretch_below) if p}
        cases = tuple(c for c in CASES if c in chosen or c.name in peers)
    with tempfile.TemporaryDirectory(dir=args.work, prefix="tqconvert-bench-") as work:
        found = run(
            Path(work), n_chunks=args.chunks, calibration=args.calibration, cases=cases,
            keep=documents.__setitem__,
        )  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(documents, indent=1) + "\n")
    print(render(found))
    return 0 if all(t.ok for t in found) else 1


if __name__ == "__main__":
    sys.exit(main())
