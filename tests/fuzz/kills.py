"""SIGKILL at random times and at random writes of commands; then the command is run again.

After a kill: no file under a final name with wrong bytes, the store's other model untouched. After the next run:
every file as if there had been no kill; what is left over goes with `cache prune`.
A new command takes one line in SCENARIOS.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import builders as b
from tests import killer, stores
from tests.fakeregistry import FakeRegistry
from tqconvert.gguf.state import look

Prepare = Callable[[Path], None]
Service = Callable[[], AbstractContextManager[str]]
OTHER = "registry.ollama.ai/library/other/1b"
KEYS = {**b.LLAMA, "tokenizer.tokens": ["word"] * 2000}
MODEL = b.gguf_bytes(KEYS, {"token_embd.weight": (256, 1500), "a": (64, 64)})
TYPES = ("--type-k", "q8_0", "--type-v", "turbo4")
STORE = ("--store", "@/store", "-q")


@dataclass(frozen=True)
class Scenario:
    """A command that is killed. In its words `@` is the folder and `%` the address of the service."""

    name: str
    command: tuple[str, ...]
    prepare: Prepare
    codes: tuple[int, ...] = (0,)
    """How it may end when it is run again."""
    service: Service | None = None
    """What it talks to, in a process of its own; yields the address."""


def run_main(arguments: list[str], folder: Path, arm: Callable[[], None] = lambda: None) -> int:
    """Start the command line in a forked process, silent and in the folder; its process id."""
    pid = os.fork()
    if not pid:
        code = 70
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            os.chdir(folder)
            os.environ["HOME"] = str(folder)
            arm()
            from tqconvert.cli import main

            code = main(arguments)
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    """Exit status; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def with_other(folder: Path) -> None:
    """A store with a model of somebody else's, and the GGUF."""
    (folder / "m.gguf").write_bytes(MODEL)
    (folder / "Modelfile").write_text("FROM ./m.gguf\nTEMPLATE t\nPARAMETER top_k 1\n")
    stores.put_model(folder / "store", OTHER, b.gguf_bytes(b.LLAMA, fill=9), template="o")


def after(*before: tuple[str, ...]) -> Prepare:
    """A folder in which these commands have been run."""

    def prepare(folder: Path) -> None:
        with_other(folder)
        for arguments in before:
            code = wait(run_main([a.replace("@", str(folder)) for a in arguments], folder))
            assert code == 0, (arguments, code)

    return prepare


def registry() -> AbstractContextManager[str]:
    """A registry with the model, not too fast."""
    server = FakeRegistry(MODEL, template=b"{{ .Prompt }}", license=b"MIT")
    server.faults.delay_s = 0.002
    return _Named(server)


@contextmanager
def docker_registry() -> Iterator[str]:
    """Debian's docker-registry with a folder of its own, for what is pushed."""
    from tests.conftest import running_docker_registry

    with (
        tempfile.TemporaryDirectory(prefix="tqconvert-registry-") as folder,
        running_docker_registry(Path(folder)) as address,
    ):
        yield address


class _Named:
    def __init__(self, server: FakeRegistry) -> None:
        self._server = server

    def __enter__(self) -> str:
        self._server.__enter__()
        return f"127.0.0.1:{self._server.port}"

    def __exit__(self, *error: object) -> None:
        self._server.__exit__(*error)


INSTALL = ("install", "@/m.gguf", "--as", "tiny:1b", "--modelfile", "@/Modelfile", *STORE)
SCENARIOS: list[Scenario] = [
    Scenario("pull", ("pull", "%/library/tiny:1b", "--as", "tiny:1b-tq", *STORE), with_other, service=registry),
    Scenario("pull --no-tag", ("pull", "%/library/tiny:1b", "--no-tag", *STORE), with_other, service=registry),
    Scenario("pull --to", ("pull", "%/library/tiny:1b", "--to", "@/out", *STORE), with_other, service=registry),
    Scenario("pull FILE", ("pull", "@/m.gguf", "--as", "tiny:1b-tq", *STORE), with_other),
    Scenario("tag", ("tag", "@/m.gguf", *TYPES, "-q"), with_other),
    Scenario("tag -o", ("tag", "@/m.gguf", *TYPES, "-o", "@/out.gguf", "--yes", "-q"), with_other),
    Scenario("untag", ("untag", "@/m.gguf", "-q"), after(("tag", "@/m.gguf", *TYPES))),
    Scenario("install", INSTALL, with_other),
    Scenario("install --link copy", (*INSTALL, "--link", "copy"), with_other),
    Scenario("install --yes", (*INSTALL, "--yes"), after(("install", "@/m.gguf", "--as", "tiny:1b", *STORE))),
    Scenario("install --remove", ("install", "--remove", "tiny:1b", *STORE), after(INSTALL), codes=(0, 5)),
    Scenario("push", ("push", "tiny:1b", "%/library/tiny:1b", *STORE), after(INSTALL), service=docker_registry),
]  # fmt: skip
"""The commands that are killed; a further one is one more line here."""


@dataclass
class World:
    """A scenario made ready: its folder before the command, after it, and how long it takes."""

    scenario: Scenario
    work: Path
    address: str
    seconds: float = 0.0
    n_calls: int = 0
    expected: dict[str, str] = None  # type: ignore[assignment]

    @property
    def pristine(self) -> Path:
        """The folder before the command."""
        return self.work / "pristine"

    def fresh(self) -> Path:
        """A copy of the pristine folder, always under the same name: paths stand in Modelfiles."""
        folder = self.work / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.pristine, folder)
        return folder

    def arguments(self, folder: Path) -> list[str]:
        """The command's words."""
        return [
            a.replace("@", str(folder)).replace("%", self.address) for a in self.scenario.command
        ]

    def make_ready(self) -> None:
        """Run it once to its end: how long it takes, how many writes it makes, what it leaves."""
        self.pristine.mkdir(parents=True)
        self.scenario.prepare(self.pristine)
        counter = self.work / "calls"
        for _ in range(2):  # once to warm up
            folder, began = self.fresh(), time.monotonic()
            code = wait(run_main(self.arguments(folder), folder, lambda: _count(counter)))
            self.seconds = time.monotonic() - began
            assert code == 0, (self.scenario.name, code)
        self.n_calls = counter.stat().st_size
        self.expected = tree(folder)


def tree(folder: Path) -> dict[str, str]:
    """Files with the sha256 of their bytes; locks are left out, for they stay and mean nothing."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "locks" not in p.parts
    }


def _count(path: Path) -> None:
    """Write a byte for each call that writes."""
    from tqconvert import fs

    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.ftruncate(fd, 0)

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            os.write(fd, b".")
            return real(*args, **kwargs)

        return wrapped

    for name in killer.writers():
        setattr(fs, name, wrap(getattr(fs, name)))


def kill_once(world: World, folder: Path, rng: random.Random) -> str | None:
    """Run the command and kill it; where, or None if it came to its end before."""
    arguments = world.arguments(folder)
    if rng.random() < 0.5:
        after_s = rng.uniform(0.0, 1.1) * world.seconds
        pid = run_main(arguments, folder)
        time.sleep(after_s)
        os.kill(pid, signal.SIGKILL)
        return f"after {after_s:.3f} s" if wait(pid) == -signal.SIGKILL else None
    number, when = rng.randrange(1, world.n_calls + 1), rng.choice(("before", "middle", "after"))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    status = wait(run_main(arguments, folder, lambda: killer._arm(number, when, nowhere)))
    os.close(nowhere)
    return f"{when} write {number}" if status == -signal.SIGKILL else None


def check_killed(world: World, folder: Path) -> None:
    """What must hold right after a kill."""
    models = stores.check_store(folder / "store")
    assert OTHER in models, models
    assert look(folder / "m.gguf").path.read_bytes()[look(folder / "m.gguf").start :] == MODEL
    for name, digest in tree(folder).items():
        if ".tqconvert" in name or name not in world.expected or name == "m.gguf":
            continue
        before = world.pristine / name
        old = hashlib.sha256(before.read_bytes()).hexdigest() if before.exists() else None
        assert digest in (world.expected[name], old), f"{name}: neither the old bytes nor the new"


def check_again(world: World, folder: Path) -> str:
    """Run the command again: all must be as if nothing had been. What it took."""
    code = wait(run_main(world.arguments(folder), folder))
    assert code in world.scenario.codes, f"run again, it ends with {code}"
    if tree(folder) == world.expected:
        return "run again"
    code = wait(run_main(["cache", "prune", "--store", str(folder / "store")], folder))
    assert code == 0, f"cache prune ends with {code}"
    found = tree(folder)
    litter = sorted(set(found) - set(world.expected))
    lost = sorted(set(world.expected) - set(found))
    changed = sorted(
        k for k in found.keys() & world.expected.keys() if found[k] != world.expected[k]
    )
    assert not (litter or lost or changed), (
        f"left over {litter}, missing {lost}, other bytes {changed}"
    )
    return "run again, cache prune"


def preload() -> None:
    """Import what commands import, once, before the forks."""
    import filelock  # noqa: F401
    import urllib3  # noqa: F401

    import tqconvert.cli
    import tqconvert.pull.job
    import tqconvert.pull.run
    import tqconvert.store.install  # noqa: F401

    tqconvert.cli.build_app()
    sys.stdout.flush()
    sys.stderr.flush()


def run_kills(count: int, seed: int, names: list[str] | None = None, *, quiet: bool = False) -> int:
    """Kill `count` times, the scenarios in turn; 0 if all was well after each."""
    preload()
    for name in [n for n in os.environ if n.startswith(("OLLAMA_", "TQCONVERT_", "HF_"))]:
        del os.environ[name]
    chosen = [s for s in SCENARIOS if not names or s.name in names]
    work = Path(tempfile.mkdtemp(prefix="tqconvert-kills-"))
    began, kills, endings, bad = time.monotonic(), Counter[str](), Counter[str](), list[str]()
    services = [_start(s.service) if s.service else (0, "") for s in chosen]
    try:
        worlds = []
        for i, (scenario, (_, address)) in enumerate(zip(chosen, services, strict=True)):
            worlds.append(World(scenario, work / str(i), address))
            worlds[-1].make_ready()
        number = 0
        while sum(kills.values()) < count and number < 20 * count:
            world = worlds[number % len(worlds)]
            rng, number = random.Random(f"{seed}/{number}"), number + 1
            folder, places = world.fresh(), list[str]()
            try:
                while place := kill_once(world, folder, rng):
                    places.append(place)
                    kills[world.scenario.name] += 1
                    check_killed(world, folder)
                    if rng.random() < 0.7:
                        break
                endings[check_again(world, folder) if places else "not killed"] += 1
                if not quiet and number % 50 == 0:
                    print(
                        f"{sum(kills.values())} kills, {len(bad)} failures",
                        file=sys.stderr,
                        flush=True,
                    )
            except Exception as e:  # noqa: BLE001 - counted, and the run goes on
                kept = work / f"failure-{len(bad)}"
                shutil.copytree(folder, kept)
                bad.append(f"{world.scenario.name}, killed {', '.join(places)}: {e}\n    {kept}")
    finally:
        for pid, _ in services:
            if pid:
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
        if not bad:
            shutil.rmtree(work, ignore_errors=True)
    if not quiet or bad:
        print(f"kills: {sum(kills.values())}, seed {seed}, {time.monotonic() - began:.0f} s")
        print("  " + ", ".join(f"{name} {n}" for name, n in kills.items()))
        print("  " + ", ".join(f"{n} put right by: {how}" for how, n in endings.items()))
        print(f"  {len(bad)} failures")
        print("\n".join(f"  {line}" for line in bad[:20]))
    return 1 if bad else 0


def _start(service: Service) -> tuple[int, str]:
    """Run the service in a forked process: its id and address. Threads and forks do not go together."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        try:
            with service() as address:
                os.write(write, address.encode())
                os.close(write)
                while True:
                    time.sleep(60)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as f:
        return pid, f.read()
