"""What `serve` starts: llama-server with what the flags say, and what a model's cache will take."""

import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tqconvert.errors import ServerFailedError, UsageError
from tqconvert.gguf.header import Header
from tqconvert.gguf.tags import read_tags
from tqconvert.kv.arch import layout_of
from tqconvert.kv.layers import Layout
from tqconvert.kv.pairs import Pair, make_pair, make_pairs
from tqconvert.kv.plan import choose_num_ctx, overhead_of, read_model
from tqconvert.kv.size import KvSize, kv_bytes
from tqconvert.kv.types import F16, parse_cache_type
from tqconvert.runtime.locate import SERVER, Runtime
from tqconvert.runtime.process import end_group, start_group
from tqconvert.units import format_bytes

N_UBATCH = 512
"""llama-server's default."""


@dataclass(frozen=True, slots=True)
class ServePlan:
    """A command line for llama-server, and what it means."""

    command: tuple[str, ...]
    url: str
    n_ctx: int
    """Of one slot."""
    n_seq: int
    pair: Pair
    """Types of the cache: `requested`, `tagged` or, without either, `standard` f16."""
    size: KvSize
    weights_bytes: int
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """Weights, cache, and the overhead that `plan` assumes."""
        return self.weights_bytes + self.size.total + overhead_of(self.n_ctx, self.n_seq, N_UBATCH)


def plan_serve(
    runtime: Runtime, model: Path, *, n_ctx: int | None = None, n_seq: int = 1,
    type_k: str | None = None, type_v: str | None = None, host: str = "127.0.0.1", port: int = 8080,
    name: str | None = None, available: int | None = None, extra: tuple[str, ...] = (),
) -> ServePlan:  # fmt: skip
    """The command line and the memory that it will take.

    The runtime reads tags by itself, so types are given only where the user gave them. More than the
    `available` bytes of memory is told, not refused: weights are mapped, not loaded. Raises
    UsageError for types that the model or the runtime cannot use, NotFoundError, InvalidGgufError.
    """
    program = runtime.program(SERVER)
    header, weights_bytes = read_model(model)
    layout = layout_of(header)
    notes = [*layout.notes]
    if not layout.known:
        notes.append("upper bound: this model may take less than is told here, never more")
    if n_ctx is None:
        n_ctx, reason = choose_num_ctx(header, None)
        notes.append(f"context {n_ctx}: {reason}")
    pair = _choose_pair(header, layout, runtime, type_k, type_v)
    notes += _remarks(header, runtime, pair)
    k, v = pair.types
    size = kv_bytes(layout, n_ctx, k=k, v=v, n_ubatch=N_UBATCH, n_seq=n_seq)
    flags = [*(["-ctk", type_k] if type_k else []), *(["-ctv", type_v] if type_v else [])]
    command = (
        str(program), "-m", str(model), "-c", str(n_ctx * n_seq), "-np", str(n_seq), "--host", host,
        "--port", str(port), *flags, *(["--alias", name] if name else []), *extra,
    )  # fmt: skip
    shown = f"[{host}]" if ":" in host else host
    plan = ServePlan(
        command, f"http://{shown}:{port}", n_ctx, n_seq, pair, size, weights_bytes, tuple(notes)
    )
    if available is not None and plan.total_bytes > available:
        note = f"more than the {format_bytes(available)} of memory that are available now"
        return replace(plan, notes=(*plan.notes, note))
    return plan


def available_memory() -> int:
    """Bytes of memory that programs can still take without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def _choose_pair(
    header: Header, layout: Layout, runtime: Runtime, type_k: str | None, type_v: str | None
) -> Pair:
    """The types that the runtime will use. A flag goes before a tag, for its own side alone."""
    obeys = runtime.has_turbo is not False
    found = make_pairs(header, layout, None, None)
    plain = make_pair(layout, "standard", F16, F16)
    by_default = next((p for p in found if p.origin == "tagged" and obeys), plain)
    if type_k is None and type_v is None:
        return by_default
    names_k = by_default.effective_k if type_k is None else (type_k,)
    names_v = by_default.effective_v if type_v is None else (type_v,)
    # Types by layer come from a tag alone: then only the flag's side is left to check.
    k, v = (parse_cache_type(n[0] if len(n) == 1 else "f16") for n in (names_k, names_v))
    asked = make_pair(layout, "requested", k, v)
    if len(names_k) > 1:
        asked = replace(asked, type_k=names_k, effective_k=names_k)
    if len(names_v) > 1:
        asked = replace(asked, type_v=names_v, effective_v=names_v)
    if asked.unusable:
        raise UsageError(
            f"{asked.name}: {asked.unusable}", hint="tqconvert plan names the types that work"
        )
    if asked.is_turbo and not obeys:
        raise UsageError(
            f"{asked.name}: {runtime.folder} is built without the turbo types",
            hint="tqconvert ollama-build build",
        )
    return asked


def _remarks(header: Header, runtime: Runtime, pair: Pair) -> list[str]:
    notes = []
    if pair.origin == "tagged" and pair.unusable:
        notes.append(f"tag {pair.name}: {pair.unusable}")
    if read_tags(header) and runtime.has_turbo is False:
        notes.append("this runtime is built without our patches: it ignores the file's tags")
    if runtime.has_turbo is None:
        notes.append(f"{runtime.folder} has no manifest: whether it obeys tags is not known")
    return notes


def run_serve(plan: ServePlan, env: Mapping[str, str]) -> bool:
    """Run the server, its log on stderr, until it or the user ends it; True if the user did.

    Raises ServerFailedError if it ends by itself with an error.
    """
    # Its own process group: one Ctrl-C must not reach it twice, a second one skips its clean end.
    process = start_group(plan.command, env=env, stdout=2, stderr=2)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            process.send_signal(signal.SIGINT)
            process.wait(30)
        return True
    finally:
        end_group(process)
    if code:
        how = f"signal {-code}" if code < 0 else str(code)
        raise ServerFailedError(f"{SERVER}: ended with {how}; its messages stand above")
    return False
