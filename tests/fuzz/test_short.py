"""The fuzzers themselves: some thousands of inputs of a fixed seed, and planted defects that they must find.

The full counts: `python -m tests.fuzz headers --count 1000000`, docs/log.md.
"""

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.engine import MEMORY_BYTES, Case, memory, minimise, rng_of, run, run_one
from tests.fuzz.headers import Headers
from tests.fuzz.manifests import Manifests
from tqconvert.errors import InvalidGgufError

ROOT = Path(__file__).parents[2]
COUNTS = {"headers": 2000, "modelfiles": 1500, "manifests": 500}


@pytest.mark.parametrize("kind", COUNTS)
def test_nothing_but_results_and_typed_errors(kind: str) -> None:
    """No exception, no second of CPU time, no 100 MB; in a process that is small when it begins."""
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        kind,
        "--count",
        str(COUNTS[kind]),
        "--seed",
        "1",
    ]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"[1-9]\d\d+ parsed", ran.stdout), ran.stdout
    assert f"{COUNTS[kind]} inputs, seed 1" in ran.stdout
    assert "0 failures" in ran.stdout


class Planted:
    """A target with one defect."""

    name = "planted"

    def __init__(self, defect: Callable[[bytes], None]) -> None:
        self.defect = defect

    def make(self, rng: random.Random) -> Case:
        """A hundred bytes; in about every second input is the word."""
        word = b"BAD" if rng.random() < 0.5 else b"ok!"
        return Case(
            rng.randbytes(50).replace(b"BAD", b"") + word + rng.randbytes(50).replace(b"BAD", b"")
        )

    def check(self, case: Case, number: int) -> str:
        """Run the defect on the inputs that have the word."""
        if b"BAD" in case.data:
            self.defect(case.data)
        return "parsed"

    def close(self) -> None:
        """Nothing."""


def _raises(_: bytes) -> None:
    raise KeyError("no such key")


def _hangs(_: bytes) -> None:
    while True:
        pass


def _backtracks(_: bytes) -> None:
    re.compile(r"(a+)+b").fullmatch("a" * 40)


def _eats(_: bytes) -> None:
    bytearray(200 << 20)


def _dies(_: bytes) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        (_raises, "KeyError"), (_hangs, "slow: TooSlowError"), (_backtracks, "slow: TooSlowError"),
        (_eats, "MemoryError"), (_dies, "worker ended with -9"),
    ],
)  # fmt: skip
def test_a_planted_defect_is_found(defect: Callable[[bytes], None], said: str) -> None:
    """An exception, a loop, a slow expression, memory and a crash are failures of the right input."""
    target = Planted(defect)
    most = memory("VmRSS") + MEMORY_BYTES  # pytest itself is larger than a worker may be
    report = run(target, count=6, seed=4, jobs=2, memory_bytes=most)
    bad = [i for i in range(6) if b"BAD" in target.make(rng_of(4, i)).data]
    assert bad
    assert sorted(f.number for f in report.failures) == bad
    assert all(f.signature.startswith(said) for f in report.failures), report.failures
    assert report.count == 6


def test_a_failure_is_made_small() -> None:
    """What does not matter for the failure is left out of the input that is saved."""
    target = Planted(_raises)
    case = Case(b"x" * 40 + b"BAD" + b"y" * 40)
    failure = run_one(target, case, 0)[1]
    assert failure is not None
    assert minimise(target, case, failure).data == b"BAD"


def test_a_defect_behind_the_header_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds, the round trip of tags and the Modelfile are compared, not only run."""
    import tests.fuzz.headers as module

    target = Headers()
    try:
        case = Case(target._small[0].data)
        assert target.check(case, 0) == "parsed"
        for number in range(36):
            target.check(case, number)
        monkeypatch.setattr(module, "original_header", lambda h: h)
        found = {i for i in range(36) if run_one(target, case, i)[1]}
        assert len(found) > 5
        wrong = target._small[0].data.replace(b"attn_k", b"token_", 1)
        with pytest.raises(InvalidGgufError):
            module.read_header(_written(target.folder / "x", wrong[:-70]))
    finally:
        target.close()


def test_a_sound_manifest_takes_all_the_ways() -> None:
    """Unchanged, the manifest is parsed and its Modelfile made: the changes are what is refused."""
    from tests.fuzz import manifests

    target = Manifests()
    try:
        blobs = [
            '{"top_k": 3}',
            '[{"role": "user", "content": "hi"}]',
            '{"renderer": "qwen3.5"}',
            "t",
        ]
        value = manifests._manifest(target._model, blobs)
        with target._store(json.dumps(value).encode(), blobs) as store:
            manifests._modelfile(store, manifests.NAME)
            manifests._own(store, manifests.NAME)
    finally:
        target.close()


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_some_kills() -> None:
    """A dozen kills of commands that end soon: each time the next run puts all right."""
    command = [sys.executable, "-m", "tests.fuzz", "kills", "--count", "12", "--seed", "1"]
    for name in ("tag", "install", "install --remove"):
        command += ["--scenario", name]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout
    assert "kills: 1" in ran.stdout
    assert "0 failures" in ran.stdout


def test_kills_see_litter_and_wrong_bytes(tmp_path: Path) -> None:
    """A file too many after the next run, a blob of other bytes, a model that is gone: each is said."""
    from tests.fuzz import kills

    (scenario,) = [s for s in kills.SCENARIOS if s.name == "install"]
    world = kills.World(scenario, tmp_path / "world", "")
    folder = world.pristine
    folder.mkdir(parents=True)
    scenario.prepare(folder)
    world.expected = kills.tree(folder)
    kills.check_killed(world, folder)
    blob = next((folder / "store" / "blobs").iterdir())
    data = blob.read_bytes()
    blob.write_bytes(b"x" + data[1:])
    with pytest.raises(AssertionError):
        kills.check_killed(world, folder)
    blob.write_bytes(data)
    (folder / "Modelfile").write_text("torn")
    with pytest.raises(AssertionError, match="neither the old bytes nor the new"):
        kills.check_killed(world, _with(folder, "Modelfile", b"FROM x\n", world))


def _with(folder: Path, name: str, before: bytes, world: object) -> Path:
    """A copy of the folder beside the pristine one, where the file had other bytes."""
    import shutil

    copy = folder.with_name("run")
    shutil.copytree(folder, copy)
    (folder / name).write_bytes(before)
    return copy
