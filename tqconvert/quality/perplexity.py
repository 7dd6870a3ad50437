"""Perplexity of a model on a text by cache type: shown, never decisive (docs/quality.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqconvert.kv.pairs import Pair
from tqconvert.quality.parse import parse_perplexity, parse_threads
from tqconvert.quality.program import Setup, require_types, run_perplexity, type_arguments
from tqconvert.quality.subject import Subject, check_caches, pair_json
from tqconvert.quality.values import Perplexity
from tqconvert.runtime.server import KvBuffer, parse_kv_buffers


@dataclass(frozen=True, slots=True)
class PerplexityRow:
    """One pair."""

    pair: Pair
    result: Perplexity
    caches: tuple[KvBuffer, ...]
    n_threads: int | None


def measure_perplexity(
    setup: Setup, subject: Subject, pairs: Sequence[Pair]
) -> tuple[PerplexityRow, ...]:
    """Run the text with each pair. Raises MeasureFailedError, ToolMissingError."""
    require_types(setup.runtime, pairs)
    rows = []
    for number, pair in enumerate(pairs):
        arguments = [*setup.arguments(subject.path), *setup.text_arguments, *type_arguments(pair)]
        on_chunk = setup.counter(number, len(pairs), pair.name)
        log = run_perplexity(setup, arguments, on_chunk=on_chunk)
        result, caches = parse_perplexity(log), parse_kv_buffers(log)
        check_caches(pair, caches)
        rows.append(PerplexityRow(pair, result, caches, parse_threads(log)))
    return tuple(rows)


def row_json(subject: Subject, row: PerplexityRow, n_ctx: int) -> dict[str, Any]:
    """The part of a document."""
    return {
        **pair_json(subject, row.pair, n_ctx, row.caches),
        **row.result.to_json(),
    }
