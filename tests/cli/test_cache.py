"""`cache prune`: what goes, what stays, and what a running pull holds."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

A, B = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with an old and a young partial download, staged files and a model's blob."""
    root = tmp_path / "store"
    for name, size in {
        f".tqconvert/partial/{A}.partial": 1 << 20, f".tqconvert/partial/{A}.journal": 20,
        f".tqconvert/partial/{B}.partial": 1 << 19, ".tqconvert/install/.tqconvert-x.tmp": 100,
        f".tqconvert/install/{B}.blob": 100, f"blobs/sha256-{A}": 100,
        ".tqconvert/modelfiles/host/library/m_latest.Modelfile": 10,
        ".tqconvert/locks/other.lock": 0, "manifests/host/library/m/latest": 10,
    }.items():  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    for path in (root / ".tqconvert" / "partial").glob(f"{A}.*"):
        os.utime(path, (time.time() - 10 * 86_400,) * 2)
    return root


def files(store: Path) -> set[str]:
    """Names of all files but locks."""
    found = (p.relative_to(store) for p in store.rglob("*") if p.is_file())
    return {str(p) for p in found if "locks" not in p.parts}


KEPT = {
    f"blobs/sha256-{A}", "manifests/host/library/m/latest",
    ".tqconvert/modelfiles/host/library/m_latest.Modelfile",
}  # fmt: skip


def test_leftovers_go_and_models_stay(run_cli: Any, store: Path) -> None:
    """Partials, journals and staged files are removed, nothing else; a second run finds nothing."""
    code, out, err = run_cli("cache", "prune", "--store", store)
    assert (code, err) == (0, "")
    assert files(store) == KEPT
    assert "removed 3, 1.5 MiB freed" in out
    assert "10.0 days old" in out
    assert run_cli("cache", "prune", "--store", store) == (0, "nothing to remove\n", "")


def test_dry_run_changes_nothing_and_says_the_same(run_cli: Any, store: Path) -> None:
    """--dry-run names the same files and bytes as the real run."""
    before = files(store)
    planned = json.loads(run_cli("cache", "prune", "--store", store, "-n", "--json")[1])
    assert files(store) == before
    assert "would remove" in run_cli("cache", "prune", "--store", store, "-n")[1]
    done = json.loads(run_cli("cache", "prune", "--store", store, "--json")[1])
    assert done["schema"] == "tqconvert.cache.prune/1"
    assert (planned["dry_run"], done["dry_run"]) == (True, False)
    for found in (*planned["removed"], *done["removed"]):
        del found["age_seconds"]  # a second may pass between the two
    assert planned["removed"] == done["removed"]
    assert planned["bytes"] == done["bytes"] > 1 << 20


def test_younger_than_asked_stays(run_cli: Any, store: Path) -> None:
    """--older-than keeps what was written since."""
    run_cli("cache", "prune", "--store", store, "--older-than", "7")
    assert f".tqconvert/partial/{A}.partial" not in files(store)
    assert f".tqconvert/partial/{B}.partial" in files(store)
    assert f".tqconvert/install/{B}.blob" in files(store)


def test_quiet_is_the_bytes(run_cli: Any, store: Path) -> None:
    """-q prints the bytes that were freed."""
    assert int(run_cli("cache", "prune", "--store", store, "-q")[1]) > 1 << 20


HOLD = """
import sys
from pathlib import Path
from tqconvert.store.layout import Store
with Store(Path(sys.argv[1])).locked(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_download_that_runs_is_left_alone(run_cli: Any, store: Path) -> None:
    """A partial whose lock another process holds stays, and is named as in use."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, store, A], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        code, out, _ = run_cli("cache", "prune", "--store", store)
        assert code == 0
        assert "in use, kept" in out
        assert f".tqconvert/partial/{A}.partial" in files(store)
        assert f".tqconvert/partial/{B}.partial" not in files(store)
        document = json.loads(run_cli("cache", "prune", "--store", store, "-n", "--json")[1])
        assert (document["removed"], len(document["in_use"])) == ([], 1)
        process.communicate(timeout=20)
    run_cli("cache", "prune", "--store", store)
    assert files(store) == KEPT


def test_links_out_of_the_store_are_not_followed(run_cli: Any, store: Path, tmp_path: Path) -> None:
    """A link is no leftover, and neither is what a linked folder holds."""
    other = tmp_path / "precious"
    other.mkdir()
    (other / f"{A}.partial").write_text("x")
    link = store / ".tqconvert" / "partial" / f"{'c' * 64}.partial"
    link.symlink_to(other / f"{A}.partial")
    (store / "blobs" / ".tqconvert").symlink_to(other)
    run_cli("cache", "prune", "--store", store)
    assert link.is_symlink()
    assert (other / f"{A}.partial").read_text() == "x"


def test_no_store_yet(run_cli: Any, tmp_path: Path) -> None:
    """Without a store there is nothing to do, and none is made."""
    assert run_cli("cache", "prune", "--store", tmp_path / "none")[:2] == (
        0, "nothing to remove\n",
    )  # fmt: skip
    assert not (tmp_path / "none").exists()


def test_negative_age_is_a_usage_error(run_cli: Any, store: Path) -> None:
    """--older-than takes no negative days."""
    assert run_cli("cache", "prune", "--store", store, "--older-than", "-1")[0] == 2
