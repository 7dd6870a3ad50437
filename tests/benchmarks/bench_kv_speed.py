"""How fast attention over turbo caches is, against f16, q8_0 and q4_0 of the same build, in the same run.

    python -m tests.benchmarks.bench_kv_speed [--rounds 3] [--depth 8192]

Types take turns; a figure is the best of the rounds, because other processes only ever slow one down. The operation is
test-backend-ops' (32 query heads, 8 KV heads, head size 128); the whole model is Gemma 3 270M under llama-bench.
"""

import argparse
import json
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.rows import Table, gemma
from tests.benchmarks.runtimes import name_of, output_of, portable_with, runtime_with
from tqconvert.errors import MeasureFailedError
from tqconvert.runtime.locate import Runtime
from tqconvert.units import format_context

N_THREADS, N_KV, DEPTH, ROUNDS = 2, 32768, 8192, 3
TURBO = ("turbo4", "turbo3", "turbo2")
OP_TYPES = ("f16", "q8_0", "q4_0", *TURBO)
MODEL_TYPES = ("f16", "q8_0", *TURBO)
"""Without q4_0: upstream takes minutes to prefill 8192 tokens with it."""
OP_BARS = {"f16": 6.0, "q8_0": 10.0, "q4_0": 20.0}
PORTABLE_BARS = {"f16": 3.0}
DECODE_BAR, PREFILL_BAR = 1.15, 0.95
N_PREFILL, N_DECODE = 512, 32

_TIME = re.compile(
    r"FLASH_ATTN_EXT\(.*?kv=(\d+),nb=(\d+),.*?type_K=(\w+),type_V=(\w+),.*?([\d.]+) us/run"
)
_THREADS = "TEST_BACKEND_OPS_THREADS"


def run(_work: Path, *, rounds: int = ROUNDS, depth: int = DEPTH) -> list[Table]:
    """Two tables: the operation, the whole model. Raises NotFoundError without a runtime."""
    runtime = runtime_with("test-backend-ops")
    tables = [_op_table(runtime, OP_BARS, rounds)]
    if portable := portable_with("test-backend-ops"):
        tables.append(_op_table(portable, PORTABLE_BARS, rounds, " (AVX2)"))
    else:
        note = "AVX2 alone: not measured (tqconvert ollama-build build --cpu portable, then make runtime)"
        tables[0] = replace(tables[0], notes=(note,))
    return [*tables, _model_table(runtime, rounds, depth)]


def parse_times(text: str) -> dict[str, float]:
    """Microseconds of one operation by cache type, of decoding at the full context, K as V."""
    found = {}
    for n_kv, n_tokens, k, v, us in _TIME.findall(text):
        if (int(n_kv), int(n_tokens)) == (N_KV, 1) and k == v:
            # f16 is in upstream's own list too.
            found[k] = min(float(us), found.get(k, float(us)))
    return found


def parse_speeds(text: str) -> dict[str, float]:
    """Tokens per second, `prefill` and `decode`, of the fastest repetition."""
    found = {}
    for test in json.loads(text):
        kind = "decode" if test["n_gen"] else "prefill"
        found[kind] = max(test["samples_ts"])
    return found


def _op_table(runtime: Runtime, bars: dict[str, float], rounds: int, label: str = "") -> Table:
    best: dict[str, float] = {}
    program = runtime.program("test-backend-ops")
    has_threads = _THREADS.encode() in program.read_bytes()
    shape = rf"hsk=128,hsv=128,nh=8,nr23=\[4,1\],kv={N_KV},nb=1,.*type_K=({'|'.join(OP_TYPES)}),.*n_kv_max=0"
    for number in range(rounds):
        print(
            f"  operation{label}, round {number + 1} of {rounds} ...", file=sys.stderr, flush=True
        )
        text = output_of(
            [str(program), "perf", "-b", "CPU", "-o", "FLASH_ATTN_EXT", "-p", shape],
            env={_THREADS: str(N_THREADS)},
        )
        for name, us in parse_times(text).items():
            best[name] = min(us, best.get(name, us))
    if missing := [name for name in OP_TYPES if name not in best]:
        raise MeasureFailedError(f"{program.name}: no figure for {', '.join(missing)}")
    missed, rows = [], []
    for name in OP_TYPES:
        ratios = [best[peer] / best[name] for peer in OP_BARS]
        judged = [r >= bars[p] for p, r in zip(OP_BARS, ratios, strict=True) if p in bars]
        has_bar = name == "turbo4"
        if has_bar and not all(judged):
            missed.append(f"operation{label}: {name}")
        bar = " / ".join(f"{b:g}x {p}" for p, b in bars.items()) if has_bar else ""
        rows.append(
            (name, f"{best[name] / 1000:.2f} ms", *(f"{r:.2f}x" for r in ratios),
             f">= {bar}" if has_bar else "", _verdict(all(judged)) if has_bar else "")
        )  # fmt: skip
    threads = f"{N_THREADS} threads" if has_threads else "the program's own number of threads"
    title = (
        f"Flash attention{label}, decode, 32 Q / 8 KV heads x 128, KV {format_context(N_KV)}, {threads}, "
        f"{name_of(runtime)}"
    )
    head = ("K and V", "time", *(f"faster than {p}" for p in OP_BARS), "bar", "met")
    return Table(title, head, tuple(rows), tuple(missed))


def _model_table(runtime: Runtime, rounds: int, depth: int) -> Table:
    program = runtime.program("llama-bench")
    best: dict[str, dict[str, float]] = {name: {} for name in MODEL_TYPES}
    for number in range(rounds):
        print(f"  whole model, round {number + 1} of {rounds} ...", file=sys.stderr, flush=True)
        for name in MODEL_TYPES:
            text = output_of(
                [str(program), "-m", str(gemma()), "-t", str(N_THREADS), "-fa", "on", "-ctk", name, "-ctv", name,
                 "-p", str(N_PREFILL), "-n", str(N_DECODE), "-d", str(depth), "-r", "2", "-o", "json"],
            )  # fmt: skip
            for kind, speed in parse_speeds(text).items():
                best[name][kind] = max(speed, best[name].get(kind, speed))
    f16, missed, rows = best["f16"], [], []
    for name in MODEL_TYPES:
        decode, prefill = (best[name][k] / f16[k] for k in ("decode", "prefill"))
        has_bar = name == "turbo4"
        ok = decode >= DECODE_BAR and prefill >= PREFILL_BAR
        if has_bar and not ok:
            missed.append(f"whole model: {name}")
        bar = f"decode >= {DECODE_BAR}x, prefill >= {PREFILL_BAR}x" if has_bar else ""
        rows.append(
            (name, f"{best[name]['decode']:.1f}", f"{decode:.2f}x", f"{best[name]['prefill']:.0f}",
             f"{prefill:.2f}x", bar, _verdict(ok) if has_bar else "")
        )  # fmt: skip
    title = (
        f"Gemma 3 270M Q4_K_M, llama-bench, tg{N_DECODE} and pp{N_PREFILL} at depth {depth}, "
        f"{N_THREADS} threads, {name_of(runtime)}"
    )
    head = ("K and V", "decode t/s", "of f16", "prefill t/s", "of f16", "bar", "met")
    return Table(title, head, tuple(rows), tuple(missed))


def _verdict(ok: bool) -> str:
    return "yes" if ok else "MISSED"


def main() -> int:
    """Print the tables; 1 if a bar is missed."""
    from tests.benchmarks.__main__ import render

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--depth", type=int, default=DEPTH)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tqconvert-bench-") as work:
        found = run(Path(work), rounds=args.rounds, depth=args.depth)
    print(render(found))
    return 0 if all(t.ok for t in found) else 1


if __name__ == "__main__":
    sys.exit(main())
