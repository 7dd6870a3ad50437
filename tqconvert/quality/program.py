"""Run llama-perplexity."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqconvert.errors import ToolMissingError
from tqconvert.kv.pairs import Pair
from tqconvert.progress import Steps
from tqconvert.quality.parse import count_done, failed
from tqconvert.runtime.locate import BUILD_HINT, Runtime

PROGRAM = "llama-perplexity"
MAX_BATCH = 2048
_TAIL = 4096
_OWN_PREFIXES = ("LLAMA_ARG_", "LLAMA_LOG_")
_TOLD_PREFIXES = ("LLAMA_", "GGML_")

_N_CHUNKS = re.compile(rb"over (\d+) chunks")

OnChunk = Callable[[int, int, str], None]
"""Gets the number of chunks that are done, of how many, and the running value."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all runs of one measurement share."""

    runtime: Runtime
    text: Path
    n_ctx: int
    n_chunks: int
    """At most; a shorter text has fewer."""
    n_threads: int | None
    env: Mapping[str, str]
    steps: Steps

    @property
    def environment(self) -> dict[str, str]:
        """Variables that may change what the runtime computes."""
        return {
            k: v for k, v in sorted(child_env(self.env).items()) if k.startswith(_TOLD_PREFIXES)
        }

    def arguments(self, model: Path) -> list[str]:
        """Arguments of every run; attention is the flash kind throughout, as a quantized V needs it."""
        # The program asserts that a batch is shorter than the context or a multiple of it.
        batch = min(self.n_ctx, MAX_BATCH)
        own = ["-m", str(model), "-c", str(self.n_ctx), "-b", str(batch), "-fa", "on", "-lv", "4"]
        return own + (["-t", str(self.n_threads)] if self.n_threads else [])

    @property
    def text_arguments(self) -> list[str]:
        """Arguments of runs that read the text."""
        return ["-f", str(self.text), "--chunks", str(self.n_chunks)]

    def counter(self, number: int, n_runs: int, name: str) -> OnChunk:
        """What tells the steps of run `number` of `n_runs`."""
        return lambda n, of, text: self.steps.step(number * of + n, n_runs * of, f"{name} {text}")


def type_arguments(pair: Pair) -> list[str]:
    """Cache types as flags; those of a side that differ by layer come from the model's tags."""
    flags = []
    for flag, names in (("-ctk", pair.effective_k), ("-ctv", pair.effective_v)):
        if len(set(names)) == 1:
            flags += [flag, names[0]]
    return flags


def child_env(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would add arguments to the program's."""
    return {k: v for k, v in env.items() if not k.startswith(_OWN_PREFIXES)}


def run_perplexity(setup: Setup, arguments: Sequence[str], *, on_chunk: OnChunk) -> str:
    """Run the program to its end; what it printed. Raises MeasureFailedError, ToolMissingError.

    However this ends, the program has ended before.
    """
    import subprocess

    from tqconvert.runtime.process import end_group, start_group

    argv = [str(setup.runtime.program(PROGRAM)), *arguments]
    log, n_chunks = bytearray(), None
    with start_group(
        argv, env=child_env(setup.env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        try:
            # Chunks of a plain run are told of in one long line.
            while data := os.read(process.stdout.fileno(), 1 << 16):
                log += data
                n_chunks = n_chunks or _N_CHUNKS.search(log)
                if found := count_done(log[-_TAIL:].decode("utf-8", "replace")):
                    on_chunk(found[0], int(n_chunks[1]) if n_chunks else setup.n_chunks, found[1])
            code = process.wait()
        finally:
            end_group(process)
    text = log.decode("utf-8", "replace")
    if code:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        raise failed(how, text)
    return text


def require_types(runtime: Runtime, pairs: Sequence[Pair]) -> None:
    """Refuse turbo types and types by layer with a runtime that is known not to have them."""
    if runtime.has_turbo is not False:
        return
    for pair in pairs:
        mixed = any(len(set(names)) > 1 for names in (pair.effective_k, pair.effective_v))
        if pair.is_turbo or mixed:
            raise ToolMissingError(
                f"{runtime.folder}: a build without our patches cannot run {pair.name}",
                hint=BUILD_HINT,
            )
