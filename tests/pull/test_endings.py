"""How pulls end when something changes on the way: the disk, the wish, the owner, the source."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import killer
import pytest
from builders import LLAMA, gguf_bytes, keys_of
from fakeregistry import MODEL as MODEL_TYPE
from fakeregistry import FakeRegistry
from images import mounted

from tqconvert import fs
from tqconvert.digest import digest_bytes
from tqconvert.errors import NotFoundError
from tqconvert.gguf.header import read_header
from tqconvert.gguf.tags import PAGE, read_tags
from tqconvert.progress import Silent
from tqconvert.pull import assemble, plan
from tqconvert.pull.job import carry_out, prepare
from tqconvert.pull.request import PullRequest
from tqconvert.reference import ModelName
from tqconvert.registry import transfer
from tqconvert.registry.serve import serve_store
from tqconvert.settings import Settings
from tqconvert.store.layout import Store

MODEL = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 3000)})
NAME = ModelName.parse("mine")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry with one model of 12 MB that has a template."""
    with FakeRegistry(MODEL, template=b"{{ .Prompt }}") as r:
        yield r


@pytest.fixture
def store() -> Store:
    """The store of this test."""
    return Store(Path(os.environ["OLLAMA_MODELS"]))


def model_file(store: Store, name: str = "mine") -> Path:
    """The GGUF of an installed model."""
    manifest = store.require_manifest(ModelName.parse(name))
    return store.blob(manifest.layers_of("model")[0].digest)


def partials(store: Store) -> list[str]:
    """Suffixes of the files of downloads under way."""
    return sorted(p.suffix for p in store.partials.glob("*"))


def interrupted(registry: FakeRegistry, run_cli, *flags: str) -> None:
    """A pull that ends after 9 MB because the server is gone."""
    registry.faults.cut_at = [9 << 20, *[0] * 60]
    code, _, err = run_cli("pull", registry.name, "--as", "mine", "-q", *flags)
    assert code == 11, err
    registry.faults.cut_at = []


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that are gone are given up at once."""
    monkeypatch.setenv("TQCONVERT_RETRIES", "1")


@contextmanager
def tiny_tmpfs(folder: Path, n_bytes: int) -> Iterator[Path]:
    """A tmpfs of so many bytes."""
    root = folder / "tmpfs"
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(root)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)


def filled(folder: Path) -> None:
    """Fill the file system up."""
    with (folder / "fill").open("wb", buffering=0) as f:
        try:
            while f.write(bytes(1 << 16)):
                pass
        except OSError:
            return


def test_a_disk_that_fills_in_the_middle(
    registry: FakeRegistry, tmp_path: Path, run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC while bytes arrive: exit 9, nothing installed; with space again, the pull goes on."""
    # Where space can be reserved, no other program can take it away: as on NFS, it cannot.
    monkeypatch.setattr(fs, "allocate", os.ftruncate)
    monkeypatch.setattr(plan, "RESERVE", 0)
    monkeypatch.setattr(transfer, "SPAN", 2 << 20)
    with tiny_tmpfs(tmp_path, 16 << 20) as root:
        store = Store(root / "store")
        registry.faults.delay_s = 0.02
        sent, done = registry.sent, threading.Event()

        def fill() -> None:
            while registry.sent - sent < 5 << 20 and not done.wait(0.005):
                pass
            filled(root)

        thread = threading.Thread(target=fill)
        thread.start()
        args = ("pull", registry.name, "--as", "mine", "--store", store.root)
        code, _, err = run_cli(*args)
        done.set()
        thread.join(10)
        assert code == 9, err
        assert "No space left" in err
        assert "Traceback" not in err
        assert store.read_manifest(NAME) is None
        (root / "fill").unlink()
        registry.faults.delay_s = 0
        code, out, err = run_cli(*args, "--json")
        assert code == 0, err
        assert json.loads(out)["resumed_from"] > 0
        assert model_file(store).read_bytes()[PAGE:] == MODEL


def test_space_that_another_program_takes_first(
    registry: FakeRegistry, tmp_path: Path, run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reservation that fails gives back what it got, instead of leaving the disk full."""
    monkeypatch.setattr(fs, "free_bytes", lambda _: 1 << 50)
    with mounted("ext4", tmp_path) as root:
        before = os.statvfs(root).f_bfree
        filler = root / "filler"
        filler.write_bytes(bytes(8 << 20))
        code, _, err = run_cli("pull", registry.name, "--as", "mine", "--store", root / "store")
        assert code == 9, err
        assert partials(Store(root / "store")) == []
        filler.unlink()
        assert os.statvfs(root).f_bfree > before - 200


@pytest.mark.parametrize(("first", "then"), [((), ("--no-tag",)), (("--no-tag",), ())])
def test_another_wish_keeps_what_has_arrived(
    registry: FakeRegistry, store: Store, run_cli, first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    """A partial begun with tags goes on without them, and the other way round on ext4 and xfs."""
    interrupted(registry, run_cli, *first)
    if first and not fs.can_insert(store.partials, PAGE):
        pytest.skip("needs insert-range")
    code, out, _ = run_cli("pull", registry.name, "--as", "mine", "--json", *then)
    assert code == 0
    assert json.loads(out)["resumed_from"] >= 8 << 20
    data = model_file(store).read_bytes()
    assert digest_bytes(data).blob_name == model_file(store).name
    assert data[0 if then else PAGE :] == MODEL
    assert partials(store) == []


def test_another_wish_where_nothing_can_be_inserted(
    registry: FakeRegistry, tmp_path: Path, run_cli
) -> None:
    """On tmpfs a partial without room for tags is begun anew, and ends right."""
    with tiny_tmpfs(tmp_path, 96 << 20) as root:
        flags = ("--store", str(root / "store"))
        interrupted(registry, run_cli, "--no-tag", *flags)
        assert run_cli("pull", registry.name, "--as", "mine", *flags)[0] == 0
        assert model_file(Store(root / "store")).read_bytes()[PAGE:] == MODEL


def test_what_never_began_leaves_no_partial(registry: FakeRegistry, store: Store, run_cli) -> None:
    """A server that refuses the blob leaves no reserved gigabytes behind."""
    registry.faults.status = [404] * 9
    assert run_cli("pull", registry.name, "--as", "mine")[0] == 5
    assert partials(store) == []


def test_a_size_that_is_a_lie(registry: FakeRegistry, store: Store, run_cli) -> None:
    """The manifest says 10 times as many bytes as the server has: exit 11, nothing kept."""
    size = f'"size": {len(MODEL)}'.encode()
    registry.faults.manifest = registry.manifest.replace(size, size + b"0")
    code, _, err = run_cli("pull", registry.name, "--as", "mine")
    assert code == 11
    assert "answers 206" in err
    assert partials(store) == []
    assert store.read_manifest(NAME) is None


def with_layers(registry: FakeRegistry, change: Callable[[dict], None]) -> None:
    """Serve the registry's manifest with a change."""
    value = json.loads(registry.manifest)
    change(value)
    registry.manifest = json.dumps(value).encode()


def test_one_blob_as_config_and_model(registry: FakeRegistry, store: Store) -> None:
    """A manifest whose config is its model does not wait for itself; it ends, installed or refused."""

    def change(value: dict) -> None:
        value["config"] = value["layers"][0]

    with_layers(registry, change)
    command = [
        "timeout", "30", sys.executable, "-m", "tqconvert", "pull", registry.name, "--as", "mine",
        "--store", str(store.root),
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 4), ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_same_model_twice(registry: FakeRegistry, store: Store, run_cli) -> None:
    """A second layer of the same digest keeps its bytes; only the first one is tagged."""
    with_layers(registry, lambda value: value["layers"].append(dict(value["layers"][0])))
    assert run_cli("pull", registry.name, "--as", "mine")[0] == 0
    first, second = store.require_manifest(NAME).layers_of("model")
    assert store.blob(first.digest).read_bytes()[PAGE:] == MODEL
    assert store.blob(second.digest).read_bytes() == MODEL


def test_other_layers_of_all_kinds(registry: FakeRegistry, store: Store, run_cli) -> None:
    """A projector, an empty layer and foreign media types are kept as they are."""
    other = gguf_bytes(keys_of("clip"), {"v.weight": (32, 2)})
    kinds = {MODEL_TYPE.replace("model", "projector"): other, "text/plain": b"", "x/y": b"z"}
    layers = [registry._layer(kind, data) for kind, data in kinds.items()]
    with_layers(registry, lambda value: value["layers"].extend(layers))
    assert run_cli("pull", registry.name, "--as", "mine")[0] == 0
    manifest = store.require_manifest(NAME)
    assert json.loads(manifest.data)["layers"][2:] == layers
    for layer in manifest.blobs[3:]:
        assert digest_bytes(store.blob(layer.digest).read_bytes()) == layer.digest


@pytest.mark.parametrize("kind", ["projector", "adapter", "draft", "model"])
def test_every_gguf_is_checked(registry: FakeRegistry, store: Store, run_cli, kind: str) -> None:
    """A projector or adapter whose tensors lie outside the file is refused as a model is."""
    bad = gguf_bytes(keys_of("clip"), {"v.weight": (32, 2)})[:-64]
    layer = registry._layer(MODEL_TYPE.replace("model", kind), bad)
    with_layers(registry, lambda value: value["layers"].append(layer))
    assert run_cli("pull", registry.name, "--as", "mine")[0] == 4
    assert store.read_manifest(NAME) is None


def test_a_header_without_end_is_not_read_into_memory(
    registry: FakeRegistry, store: Store, run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metadata of gigabytes is refused before it fills the memory."""
    monkeypatch.setattr(assemble, "MAX_HEADER", 4 << 20)
    with FakeRegistry(gguf_bytes({**LLAMA, "x": "y" * (9 << 20)})) as registry:
        code, _, err = run_cli("pull", registry.name)
        assert code == 4
        assert "header of more than 4 MiB" in err


def test_a_lost_blob_is_repaired_with_other_types_too(
    registry: FakeRegistry, store: Store, run_cli
) -> None:
    """A model whose blob is gone is pulled again, under its name, with the types of this time."""
    args = ("pull", registry.name, "--as", "mine")
    assert run_cli(*args)[0] == 0
    model_file(store).unlink()
    code, out, err = run_cli(*args, "--type-k", "f16", "--json")
    assert code == 0, err
    assert json.loads(out)["state"] == "repair"
    tags = read_tags(read_header(model_file(store)))
    assert tags is not None
    assert tags.type_k == "f16"


def test_a_manifest_that_cannot_be_read_is_replaced_with_yes(
    registry: FakeRegistry, store: Store, run_cli
) -> None:
    """A torn manifest takes the name: exit 6, and --yes gets past it."""
    path = store.manifest_path(NAME)
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"torn')
    assert run_cli("pull", registry.name, "--as", "mine")[0] == 6
    assert run_cli("pull", registry.name, "--as", "mine", "--yes")[0] == 0
    assert model_file(store).read_bytes()[PAGE:] == MODEL


def test_the_untagged_copy_may_go_between_plan_and_pull(
    registry: FakeRegistry, store: Store, run_cli
) -> None:
    """A copy that was to be tagged and is gone when it is needed is fetched instead."""
    assert run_cli("pull", registry.name, "--as", "plain", "--no-tag")[0] == 0
    job = prepare(PullRequest(registry.name, "mine"), Settings(store=store.root), Silent())
    model_file(store, "plain").unlink()
    carry_out(job)
    assert model_file(store).read_bytes()[PAGE:] == MODEL


def test_a_modelfile_of_the_user_is_not_overwritten(
    registry: FakeRegistry, tmp_path: Path, run_cli
) -> None:
    """--to a folder with a Modelfile of its own: exit 6 first; an edited one stays; --yes replaces."""
    file = tmp_path / "out" / "Modelfile"
    file.parent.mkdir()
    file.write_text("FROM mine\n")
    args = ("pull", registry.name, "--to", file.parent)
    code, _, err = run_cli(*args)
    assert code == 6
    assert "--yes" in err
    assert registry.asked("blobs") == []
    assert run_cli(*args, "--yes")[0] == 0
    ours = file.read_text()
    assert ours.endswith("\n") and "FROM ./tiny" in ours
    file.write_text(ours + "# mine\n")
    assert run_cli(*args)[0] == 0
    assert file.read_text() == ours + "# mine\n"
    file.write_text(ours)
    assert run_cli(*args, "--memory", "1GiB")[0] == 0


@pytest.mark.slow
def test_a_kill_at_every_write_into_a_folder(tmp_path: Path) -> None:
    """--to, killed at every write: the next pull ends right, and asks for no --yes."""
    model = gguf_bytes(LLAMA, {"token_embd.weight": (256, 10)})
    pristine = tmp_path / "pristine"
    pristine.mkdir()
    with FakeRegistry(model) as registry:
        arguments = ("pull", registry.name, "-q", "--to")
        found = killer.states(pristine, tmp_path / "states", *arguments, "@/out")
        assert len(found) >= 40
        for state in found:
            folder = Path(state["folder"]) / "out"
            command = [sys.executable, "-m", "tqconvert", *arguments, str(folder)]
            again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert again.returncode == 0, (state, again.stderr)
            assert (folder / "tiny-1b-tq.gguf").read_bytes()[PAGE:] == model
            assert (folder / "Modelfile").exists()


def test_root_leaves_everything_to_the_owner_of_the_store(
    registry: FakeRegistry, tmp_path: Path, run_cli
) -> None:
    """Partials, locks, blobs and Modelfile get the owner of the store that root pulls into."""
    if os.geteuid():
        pytest.skip("needs root")
    store = Store(tmp_path / "store")
    store.root.mkdir()
    os.chown(store.root, 12345, 12345)
    interrupted(registry, run_cli, "--store", str(store.root))
    assert {p.stat().st_uid for p in store.root.rglob("*")} == {12345}
    assert run_cli("pull", registry.name, "--as", "mine", "--store", store.root)[0] == 0
    assert {p.stat().st_uid for p in store.root.rglob("*")} == {12345}


def test_a_shared_model_that_is_replaced_during_the_pull(
    registry: FakeRegistry, tmp_path: Path, run_cli
) -> None:
    """The source's blob is gone in the middle: exit 5; the next pull gets what is there now."""
    there, here = Store(tmp_path / "there"), Store(tmp_path / "here")
    new = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 3000)}, fill=9)
    args = ("pull", registry.name, "--as", "shared", "--no-tag", "--store", there.root)
    assert run_cli(*args)[0] == 0
    with serve_store(there, "127.0.0.1", 0) as server, FakeRegistry(new) as second:
        name = f"{server.url.removeprefix('http://')}/library/shared"
        job = prepare(PullRequest(name, "mine"), Settings(store=here.root), Silent())
        replace = (
            "pull",
            second.name,
            "--as",
            "shared",
            "--no-tag",
            "--yes",
            "--store",
            there.root,
        )
        assert run_cli(*replace)[0] == 0
        with pytest.raises(NotFoundError, match="does not have it"):
            carry_out(job)
        assert here.read_manifest(NAME) is None
        assert run_cli("pull", name, "--as", "mine", "--store", here.root)[0] == 0
        assert model_file(here).read_bytes()[PAGE:] == new


def test_an_interrupt_names_its_own_partial(registry: FakeRegistry, store: Store, run_cli) -> None:
    """A partial of another model in the same folder is not said to be kept by this pull."""
    store.make_folder(store.partials)
    (store.partials / ("0" * 64 + ".partial")).write_bytes(b"other")
    interrupted(registry, run_cli)
    job = prepare(PullRequest(registry.name, "mine"), Settings(store=store.root), Silent())
    digest = registry.model_digest.removeprefix("sha256:")
    assert [p.name for p in job.plan.kept_files()] == [f"{digest}.partial"]
    assert time.time() - job.plan.kept_files()[0].stat().st_mtime < 60


def test_a_closed_stderr_ends_no_pull(registry: FakeRegistry, store: Store) -> None:
    """`tqconvert pull NAME 2>&1 | head -1` installs the model; it once ended with 0 and nothing."""
    read, write = os.pipe()
    os.close(read)
    command = [
        sys.executable, "-m", "tqconvert", "pull", registry.name, "--as", "mine",
        "--store", str(store.root),
    ]  # fmt: skip
    ran = subprocess.run(command, stderr=write, stdout=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert ran.returncode == 0
    assert model_file(store).read_bytes()[PAGE:] == MODEL
