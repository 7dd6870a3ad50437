"""`tqconvert pull hf.co/...` of 1 GB from a local hub, against `hf download` from the same one.

The peer moves the same bytes and compares no digest (huggingface_hub 2.4, plain HTTPS); ours verifies the
source, and in the tagged row also hashes what it installs. Everybody ends with the bytes on the disk: we
sync, so the peer does. Runs alternate; medians of five. The hub is a Python process of its own.
"""

import contextlib
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.bench_tag import make_model
from tests.benchmarks.rows import Row, gemma, measure, seconds

SIZE = 10**9
RUNS = 5
BAR = 1.0
FILE = "big-Q4_K_M.gguf"


def run(work: Path, *, n_bytes: int = SIZE) -> list[Row]:
    """Two rows: untagged and tagged, each against `hf download`."""
    program = Path(sys.executable).parent / "hf"
    if not program.exists():
        raise SystemExit("the hub benchmark needs the program hf (huggingface-hub)")
    model = work / FILE
    make_model(gemma(), model, n_bytes)
    store, folder = work / "store", work / "hf"
    with _served(model) as address:
        env = {
            **os.environ, "HF_ENDPOINT": address, "HF_HOME": str(work / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        ours = [sys.executable, "-m", "tqconvert", "pull", "hf.co/org/repo", "--store", store, "-q"]
        kinds = {
            "no-tag": [[*ours, "--no-tag"]],
            "hf": [[program, "download", "org/repo", FILE, "--local-dir", folder], ["sync", folder / FILE]],
            "tag": [ours],
        }  # fmt: skip
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(RUNS):
            for kind, steps in kinds.items():
                shutil.rmtree(store, ignore_errors=True)
                shutil.rmtree(folder, ignore_errors=True)
                os.sync()
                began = time.perf_counter()
                for step in steps:
                    if measure(step, env=env).code:
                        raise RuntimeError(f"{step[0]} failed")
                found[kind].append(time.perf_counter() - began)
    no_tag, peer, tag = (statistics.median(found[kind]) for kind in kinds)
    return [_row("pull hf.co 1 GB, verified", no_tag, peer), _row("and tagged", tag, peer)]


def _row(work: str, ours: float, peer: float) -> Row:
    ratio = ours / peer
    return Row(
        work, seconds(ours), f"hf download, unverified {seconds(peer)}", f"{ratio:.2f}", f"<= {BAR}",
        ratio <= BAR,
    )  # fmt: skip


@contextlib.contextmanager
def _served(model: Path) -> Iterator[str]:
    """Address of a hub in a process of its own that has the model."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_hub", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def _serve(model: Path) -> None:
    """Serve until the end; the address goes to stdout."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from fakehub import FakeHub, _HubHandler

    class Fast(_HubHandler):
        """Bodies in one write, without faults."""

        def _body(self, body: bytes) -> None:
            with contextlib.suppress(OSError):
                self.wfile.write(body)

    with model.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
        FakeHub.handler = Fast
        data = memoryview(m)
        hub = FakeHub({"org/repo": {FILE: data}})  # type: ignore[dict-item]
        hub.digest(data)  # type: ignore[arg-type]
        with hub:
            print(hub.address, flush=True)
            while True:
                time.sleep(60)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
