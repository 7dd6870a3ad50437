"""Run llama-kv-stats: sums over K and Q of a model that reads a text."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tqconvert.errors import MeasureFailedError
from tqconvert.fs import require_text
from tqconvert.runtime.locate import Runtime
from tqconvert.runtime.process import end_group, start_group

PROGRAM = "llama-kv-stats"
N_CTX = 2048
_TOLD_LINES = 3


def measure_kv(
    runtime: Runtime, model: Path, text: Path, output: Path, *, env: Mapping[str, str],
    n_chunks: int | None = None, n_threads: int | None = None,
) -> None:  # fmt: skip
    """Run the model over the text and write the statistics to `output`, as JSON.

    However this ends, the program has ended before. Raises NotFoundError for a missing text or
    program, UsageError for a folder, MeasureFailedError with the last lines of the program that failed.
    """
    require_text(text)
    argv = [str(runtime.program(PROGRAM)), "-m", str(model), "-f", str(text), "-o", str(output)]
    argv += ["-c", str(N_CTX)]
    argv += ["--chunks", str(n_chunks)] if n_chunks else []
    argv += ["-t", str(n_threads)] if n_threads else []
    # What adds arguments to the program's own would change what is measured.
    own = {k: v for k, v in env.items() if not k.startswith("LLAMA_ARG_")}
    with start_group(argv, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            log, _ = process.communicate()
        finally:
            end_group(process)
    if process.returncode or not output.exists():
        last = log.decode("utf-8", "replace").strip().splitlines()[-_TOLD_LINES:] or ["nothing"]
        raise MeasureFailedError(
            f"{PROGRAM} ended with {process.returncode}: {' / '.join(line.strip() for line in last)}",
            hint=f"a longer text: {N_CTX} tokens and more" if "too short" in last[-1] else None,
        )
