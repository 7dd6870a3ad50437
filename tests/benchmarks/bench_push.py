"""`tqconvert push` of 1 GB to docker-registry on loopback, against `skopeo copy` of the same blobs.

skopeo copies an OCI layout that it made itself from the oci form; both send every byte to repositories
that have none of it. Runs alternate; medians of three.
"""

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.bench_tag import make_model
from tests.benchmarks.rows import Measured, Row, gemma, measure, mebibytes, seconds
from tests.conftest import running_docker_registry

SIZE = 10**9
RUNS = 3
RATIO = 1.0
MEMORY = 150 << 20


def run(work: Path, *, n_bytes: int = SIZE) -> list[Row]:
    """Three rows: all bytes, all bytes by a mount, memory."""
    for tool in ("docker-registry", "skopeo"):
        if not shutil.which(tool):
            raise SystemExit(f"the push benchmark needs {tool}")
    with running_docker_registry(work) as address:
        return _measured(work, address, n_bytes)


def _measured(work: Path, registry: str, n_bytes: int) -> list[Row]:
    model, store, layout = work / "model.gguf", work / "store", work / "layout"
    make_model(gemma(), model, n_bytes)
    ours = [sys.executable, "-m", "tqconvert"]
    _do([*ours, "install", model, "--as", "big:1", "--store", store, "-q"])
    insecure = ["--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    push = [*ours, "push", "big:1", "--form", "oci", "--store", store, "-q"]
    _do([*push, f"{registry}/first/big:1"])
    _do(["skopeo", "copy", *insecure, f"docker://{registry}/first/big:1", f"oci:{layout}:x"])
    shutil.rmtree(work / "registry")
    env = {**os.environ, "TQCONVERT_CACHE": str(work / "cache")}
    found: dict[str, list[Measured]] = {"push": [], "skopeo": [], "mount": []}
    for i in range(RUNS):
        skopeo = ["skopeo", "copy", *insecure, f"oci:{layout}:x", f"docker://{registry}/s{i}/big:1"]
        for kind, command in (
            ("push", [*push, f"{registry}/p{i}/big:1"]),
            ("mount", [*push, f"{registry}/m{i}/big:1"]),
            ("skopeo", skopeo),
        ):
            if kind != "mount":  # the registry has nothing; the client knows of nothing
                for folder in ("registry", "cache"):
                    shutil.rmtree(work / folder, ignore_errors=True)
            os.sync()
            done = measure(command, env=env)
            if done.code:
                raise RuntimeError(f"{command[0]} ended with {done.code}")
            found[kind].append(done)
    pushed, copied = (statistics.median(m.seconds for m in found[k]) for k in ("push", "skopeo"))
    mounted = statistics.median(m.seconds for m in found["mount"])
    memory = max(m.rss_bytes for m in found["push"])
    ratio = pushed / copied
    return [
        Row(f"push {n_bytes / 1e9:.0f} GB", seconds(pushed), f"skopeo copy {seconds(copied)}",
            f"{ratio:.2f}", f"<= {RATIO}", ratio <= RATIO),
        Row("push that mounts", seconds(mounted), "", "", "", ok=True),
        Row("push, memory", mebibytes(memory), "", "", "<= 150.0 MiB", memory <= MEMORY),
    ]  # fmt: skip


def _do(command: Sequence[str | os.PathLike[str]]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
