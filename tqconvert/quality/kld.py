"""KL divergence of cache types from f16, with the model's own noise floor measured beside it.

The base is the reference with f16 for K and V. Its noise floor is its distance to itself with bf16, which
rounds elsewhere and loses nothing that matters: weights and activations of few bits amplify any change to this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqconvert.errors import MeasureFailedError, UsageError
from tqconvert.kv.pairs import Pair
from tqconvert.quality.base import BasePlan, Key, check_base, keep_base, place_for
from tqconvert.quality.parse import parse_divergence, parse_perplexity, parse_threads
from tqconvert.quality.program import Setup, require_types, run_perplexity, type_arguments
from tqconvert.quality.subject import FLOOR, Subject, check_caches, pair_json
from tqconvert.quality.values import Divergence, Estimate
from tqconvert.runtime.server import KvBuffer, parse_kv_buffers


@dataclass(frozen=True, slots=True)
class KldRow:
    """One pair against the base."""

    pair: Pair
    result: Divergence
    caches: tuple[KvBuffer, ...]
    n_threads: int | None


@dataclass(frozen=True, slots=True)
class Kld:
    """A measurement."""

    n_chunks: int
    ppl_base: Estimate
    floor: KldRow | None
    rows: tuple[KldRow, ...]

    def net(self, row: KldRow) -> float | None:
        """Mean KLD above the noise floor: what the types cost."""
        return None if self.floor is None else row.result.kld.value - self.floor.result.kld.value


def measure_kld(
    setup: Setup,
    subject: Subject,
    reference: Subject,
    pairs: Sequence[Pair],
    *,
    plan: BasePlan,
    key: Key | None = None,
    floor: bool = True,
) -> Kld:
    """Write the base unless there is one, then run the floor and each pair against it.

    `key` belongs to a base that is kept. Raises MeasureFailedError, StorageError, ToolMissingError.
    """
    require_types(setup.runtime, pairs)
    run = _Run(setup, 1 - plan.reused + floor + len(pairs))
    if plan.reused:
        return _compare(run, plan.path, subject, reference, pairs, floor=floor)
    with place_for(plan) as written:
        run.write_base(reference, written)
        if not plan.kept:
            return _compare(run, written, subject, reference, pairs, floor=floor)
        assert key is not None
        keep_base(written, plan, key)
    return _compare(run, plan.path, subject, reference, pairs, floor=floor)


def require_same_vocabulary(subject: Subject, reference: Subject) -> None:
    """Probabilities of different words cannot be compared. Raises UsageError."""
    if subject.n_vocab != reference.n_vocab:
        raise UsageError(
            f"{reference.path}: {reference.n_vocab} words, {subject.path.name} has {subject.n_vocab} "
            "(expected the same model)"
        )


def row_json(measured: Kld, subject: Subject, row: KldRow, n_ctx: int) -> dict[str, Any]:
    """The part of a document."""
    net = measured.net(row)
    return {
        **pair_json(subject, row.pair, n_ctx, row.caches),
        **row.result.to_json(),
        "kld_net": None if net is None or row is measured.floor else round(net, 6),
    }


class _Run:
    """The runs of one measurement, counted."""

    def __init__(self, setup: Setup, n_runs: int) -> None:
        self.setup, self.n_runs, self._done = setup, n_runs, 0

    def write_base(self, reference: Subject, path: Path) -> None:
        """The reference with f16, its probabilities in `path`."""
        f16 = reference.pair("f16", "f16")
        arguments = [
            *self.setup.arguments(reference.path), *self.setup.text_arguments, *type_arguments(f16),
            "--kl-divergence-base", str(path),
        ]  # fmt: skip
        log = self._run(arguments, "base f16/f16")
        done = parse_perplexity(log)
        check_caches(f16, parse_kv_buffers(log))
        if check_base(path) != done.n_chunks:
            raise MeasureFailedError(
                f"llama-perplexity: {done.n_chunks} chunks, another count in the base"
            )

    def against(self, base: Path, subject: Subject, pair: Pair) -> KldRow:
        """The subject with a pair of types, against the base, which tells the chunks."""
        arguments = [
            *self.setup.arguments(subject.path), *type_arguments(pair),
            "--kl-divergence", "--kl-divergence-base", str(base),
        ]  # fmt: skip
        log = self._run(arguments, pair.name)
        row = KldRow(pair, parse_divergence(log), parse_kv_buffers(log), parse_threads(log))
        check_caches(pair, row.caches)
        return row

    def _run(self, arguments: Sequence[str], name: str) -> str:
        on_chunk = self.setup.counter(self._done, self.n_runs, name)
        self._done += 1
        return run_perplexity(self.setup, arguments, on_chunk=on_chunk)


def _compare(
    run: _Run,
    base: Path,
    subject: Subject,
    reference: Subject,
    pairs: Sequence[Pair],
    *,
    floor: bool,
) -> Kld:
    n_chunks = check_base(base)
    lowest = run.against(base, reference, reference.pair(FLOOR, FLOOR, "floor")) if floor else None
    rows = tuple(run.against(base, subject, pair) for pair in pairs)
    first = lowest or rows[0]
    counts = {row.result.n_chunks for row in (first, *rows)}
    if counts != {n_chunks}:
        raise MeasureFailedError(f"llama-perplexity: chunks {sorted(counts)} (expected {n_chunks})")
    return Kld(n_chunks, first.result.ppl_base, lowest, rows)
