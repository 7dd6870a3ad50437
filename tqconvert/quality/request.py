"""From what a user asks for to what is measured, and the document about it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqconvert.digest import digest_path
from tqconvert.errors import NotFoundError, UsageError
from tqconvert.fs import require_text
from tqconvert.gguf.tags import BALANCE
from tqconvert.kv.pairs import Pair
from tqconvert.quality.base import (
    BasePlan,
    Key,
    base_bytes,
    n_scored,
    plan_base,
    require_context,
)
from tqconvert.quality.kld import Kld, KldRow, require_same_vocabulary
from tqconvert.quality.kld import row_json as kld_json
from tqconvert.quality.perplexity import PerplexityRow
from tqconvert.quality.perplexity import row_json as ppl_json
from tqconvert.quality.program import PROGRAM, Setup
from tqconvert.quality.subject import Subject, choose_pairs, digests_of, open_subject
from tqconvert.runtime.locate import Runtime


@dataclass(frozen=True, slots=True)
class Asked:
    """Options that both measurements have."""

    model: Path
    pairs: tuple[str, ...]
    type_k: str | None
    type_v: str | None


def prepare(setup: Setup, asked: Asked, *, default: str | None) -> tuple[Subject, tuple[Pair, ...]]:
    """The model and its pairs; a model without tags gets the pair `default`.

    Raises NotFoundError, UsageError and what reading a header raises.
    """
    require_text(setup.text)
    subject = open_subject(asked.model)
    require_context(setup.n_ctx, subject.layout.n_ctx_train)
    _require_text(setup, subject)
    texts = asked.pairs
    if default and not texts and asked.type_k is None and asked.type_v is None and not subject.tags:
        texts = (default,)
    return subject, choose_pairs(subject, texts, asked.type_k, asked.type_v)


def prepare_base(
    setup: Setup, subject: Subject, reference: Path | None, base: Path | None, cache: Path
) -> tuple[Subject, BasePlan, Key | None]:
    """The reference, where its base will be, and the key of a base that is kept.

    Raises UsageError, RefusedError, StorageError.
    """
    other = open_subject(reference) if reference else subject
    require_same_vocabulary(subject, other)
    key = key_of(setup, other) if base else None
    need = base_bytes(other.n_vocab, setup.n_ctx, likely_chunks(setup))
    return other, plan_base(base, cache / "quality", key, need), key


def key_of(setup: Setup, reference: Subject) -> Key:
    """What the base depends on: reads all of the model."""
    return Key(
        digests_of(reference), digest_path(setup.text).hex, setup.n_ctx, setup.n_chunks,
        runtime_id(setup.runtime),
    )  # fmt: skip


def likely_chunks(setup: Setup) -> int:
    """Chunks that the text will have, or a few more: tokens of prose hold four to five bytes."""
    return min(setup.n_chunks, setup.text.stat().st_size // (3 * setup.n_ctx) + 1)


def runtime_id(runtime: Runtime) -> str:
    """The build's id; of a build without a manifest the digest of the program."""
    if runtime.build is not None:
        return runtime.build.id
    return f"sha256:{digest_path(runtime.program(PROGRAM)).hex}"


def kld_document(
    setup: Setup, subject: Subject, reference: Subject, plan: BasePlan, measured: Kld
) -> dict[str, Any]:
    """The document of `quality kld`, without its schema and the model's name."""
    n_ctx = setup.n_ctx

    def row(row: KldRow) -> dict[str, Any]:
        return kld_json(measured, subject, row, n_ctx)

    return {
        **_common(setup, subject, measured.n_chunks, measured.rows[0].n_threads, "kld"),
        "reference": str(reference.path),
        "base": {
            "file": str(plan.path) if plan.kept else None,
            "reused": plan.reused,
            "bytes": base_bytes(reference.n_vocab, n_ctx, measured.n_chunks),
            "ppl": measured.ppl_base.to_json(),
        },
        "floor": row(measured.floor) if measured.floor else None,
        "rows": [row(r) for r in measured.rows],
    }


def ppl_document(setup: Setup, subject: Subject, rows: tuple[PerplexityRow, ...]) -> dict[str, Any]:
    """The document of `quality ppl`, without its schema and the model's name."""
    first = rows[0]
    return {
        **_common(setup, subject, first.result.n_chunks, first.n_threads, "ppl"),
        "rows": [ppl_json(subject, row, setup.n_ctx) for row in rows],
    }


def _common(
    setup: Setup, subject: Subject, n_chunks: int, n_threads: int | None, measure: str
) -> dict[str, Any]:
    build = setup.runtime.build
    text = setup.text.read_bytes()
    return {
        "measure": measure,
        "file": str(subject.path),
        "balance": subject.header.text(BALANCE) or "none",
        "k_mean": "turboquant.k_mean" in subject.header.entries,
        "text": {
            "file": str(setup.text),
            "bytes": len(text),
            "sha256": hashlib.sha256(text).hexdigest(),
        },
        "n_ctx": setup.n_ctx,
        "n_chunks": n_chunks,
        "n_scored": n_chunks * n_scored(setup.n_ctx),
        "n_threads": n_threads,
        "runtime": {
            "id": runtime_id(setup.runtime),
            "folder": str(setup.runtime.folder),
            "patched": setup.runtime.has_turbo,
            "version": build.version if build else None,
            "environment": setup.environment,
        },
    }


def _require_text(setup: Setup, subject: Subject) -> None:
    """A text that cannot have two contexts of tokens, which the program demands, is refused at once."""
    n_bytes = setup.text.stat().st_size
    if not n_bytes:
        raise NotFoundError(f"{setup.text}: is empty (expected prose to score)")
    if n_bytes < 2 * setup.n_ctx:
        raise UsageError(
            f"{setup.text}: {n_bytes} bytes are fewer than two contexts of {setup.n_ctx} tokens",
            hint="a longer text, or a shorter --ctx",
        )
    assert subject.n_vocab
