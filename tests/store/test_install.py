"""Installing a GGUF into a store: what is written, kept, refused."""

import json
import os
import threading
from pathlib import Path

import pytest
from builders import LLAMA, tiny_gguf
from stores import check_store, put_blob, put_model, sha256, snapshot

from tqconvert import fs
from tqconvert.errors import (
    InvalidGgufError,
    LockedError,
    NotFoundError,
    RefusedError,
    StorageError,
    TruncatedGgufError,
)
from tqconvert.reference import ModelName
from tqconvert.store.install import apply_install, plan_install
from tqconvert.store.layout import Store
from tqconvert.store.link import LinkMethod
from tqconvert.store.recipe import Recipe

NAME = ModelName.parse("tiny:1b")
PATH = "registry.ollama.ai/library/tiny/1b"
RECIPE = Recipe(template="{{ .Prompt }}!", system="Be kind.", licenses=("MIT",))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that does not exist yet."""
    return Store(tmp_path / "store")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small GGUF of the user's."""
    return tiny_gguf(tmp_path / "tiny.gguf")


def install(source: Path, store: Store, name: ModelName = NAME, **options: object):
    """Plan and apply."""
    return apply_install(plan_install(source, name, store, **options))


def test_a_model_is_its_blobs_and_a_manifest(store: Store, model: Path) -> None:
    """Layers in Ollama's order, the config's diff_ids those of the layers, nothing else in blobs/."""
    result = install(model, store, recipe=RECIPE)
    assert check_store(store.root) == {PATH}
    manifest = json.loads((store.manifests / PATH).read_bytes())
    kinds = [layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]]
    assert kinds == ["model", "template", "system", "license"]
    assert result.status == "new"
    assert str(result.model) == sha256(model.read_bytes())
    config = json.loads((store.blobs / manifest["config"]["digest"].replace(":", "-")).read_bytes())
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert len(list(store.blobs.iterdir())) == 5


def test_the_same_again_writes_nothing(store: Store, model: Path) -> None:
    """Second run: unchanged, and not one write."""
    install(model, store, recipe=RECIPE)
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("*")}
    plan = plan_install(model, NAME, store, recipe=RECIPE)
    result = apply_install(plan)
    assert (plan.status, plan.steps, result.bytes_written) == ("unchanged", (), 0)
    assert {p: p.stat().st_mtime_ns for p in store.root.rglob("*")} == before


def test_a_plan_writes_nothing(store: Store, model: Path) -> None:
    """Planning does not even create the store."""
    plan = plan_install(model, NAME, store, recipe=RECIPE)
    assert [s.action for s in plan.steps] == ["link", "write", "write", "write", "write", "publish"]
    assert not store.root.exists()


def test_a_name_is_never_taken_over_unasked(store: Store, model: Path, tmp_path: Path) -> None:
    """Another model under the name: refused; with replace its blobs go, shared ones stay."""
    install(model, store, recipe=RECIPE)
    other = tiny_gguf(tmp_path / "other.gguf", fill=9)
    before = snapshot(store.root)
    with pytest.raises(RefusedError, match="another model has this name"):
        install(other, store, recipe=Recipe(licenses=("MIT",)))
    assert snapshot(store.root) == before
    result = install(other, store, recipe=Recipe(licenses=("MIT",)), replace=True)
    assert {layer.kind for layer in result.removed} == {"config", "model", "template", "system"}
    assert check_store(store.root) == {PATH}
    assert len(list(store.blobs.iterdir())) == 3
    assert model.exists()


def test_blobs_of_other_models_stay(store: Store, model: Path, tmp_path: Path) -> None:
    """Replacing a model removes only what no other model needs."""
    install(model, store)
    install(model, store, ModelName.parse("me/second"))
    install(tiny_gguf(tmp_path / "other.gguf", fill=9), store, replace=True)
    assert check_store(store.root) == {PATH, "registry.ollama.ai/me/second/latest"}


def test_nothing_is_removed_while_a_manifest_cannot_be_read(
    store: Store, model: Path, tmp_path: Path
) -> None:
    """A broken manifest may need any blob."""
    install(model, store)
    broken = store.manifests / "registry.ollama.ai" / "library" / "broken" / "latest"
    broken.parent.mkdir()
    broken.write_text("{")
    result = install(tiny_gguf(tmp_path / "other.gguf", fill=9), store, replace=True)
    assert result.removed == ()
    assert len(list(store.blobs.iterdir())) == 4


def test_a_model_that_ollama_made_is_the_same_model(store: Store, model: Path) -> None:
    """Manifests with the same blobs differ in bytes and not in content: unchanged."""
    install(model, store)
    path = store.manifests / PATH
    value = json.loads(path.read_bytes())
    del value["layers"][0]["annotations"]
    value["layers"][0]["from"] = "/somewhere"
    path.write_text(json.dumps(value))
    before = path.read_bytes()
    assert install(model, store).status == "unchanged"
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_a_damaged_blob_is_repaired(store: Store, model: Path, damage: str, tmp_path: Path) -> None:
    """What is in blobs/ is read before it is called the same."""
    result = install(model, store, methods=[LinkMethod.COPY])
    blob = store.blob(result.model)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.unlink()
    if damage != "missing":
        blob.write_bytes(data[:-1] if damage == "short" else data)
    repaired = install(model, store, methods=[LinkMethod.COPY])
    assert repaired.status == "repair"
    assert check_store(store.root) == {PATH}


def test_a_name_that_differs_by_case_alone_is_refused(store: Store, model: Path) -> None:
    """Ollama would see one name and take either of the two."""
    install(model, store)
    with pytest.raises(RefusedError, match="does not tell case apart"):
        plan_install(model, ModelName.parse("Tiny:1b"), store)


def test_a_shard_is_refused_with_the_way_that_works(store: Store, tmp_path: Path) -> None:
    """Ollama takes the last model layer for the whole model (server/images.go GetModel)."""
    keys = {**LLAMA, "split.count": (2, 2), "split.no": (2, 0)}
    shard = tiny_gguf(tmp_path / "m-00001-of-00002.gguf", keys)
    with pytest.raises(RefusedError, match="one of 2 shards") as e:
        plan_install(shard, NAME, store)
    assert "--merge" in (e.value.hint or "")


@pytest.mark.parametrize(
    "keys",
    [{"general.type": "adapter"}, {"general.type": "projector"}, {"clip.vision.block_count": 4}],
)
def test_what_is_no_model_is_refused(store: Store, tmp_path: Path, keys: dict[str, object]) -> None:
    """Adapters and projectors belong to a model."""
    file = tiny_gguf(tmp_path / "x.gguf", {"general.architecture": "clip", **keys})
    with pytest.raises(RefusedError, match="no model that can be installed"):
        plan_install(file, NAME, store)


def test_bad_files_never_reach_the_store(store: Store, model: Path, tmp_path: Path) -> None:
    """Truncated, not a GGUF, without tensors, a folder, a pipe, missing: refused before hashing."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:-8])
    with pytest.raises(TruncatedGgufError):
        plan_install(cut, NAME, store)
    cut.write_text("hello")
    with pytest.raises(InvalidGgufError):
        plan_install(cut, NAME, store)
    with pytest.raises(InvalidGgufError, match="no tensors"):
        plan_install(tiny_gguf(tmp_path / "v.gguf", tensors={}), NAME, store)
    with pytest.raises(NotFoundError):
        plan_install(tmp_path, NAME, store)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotFoundError, match="no regular file"):
        plan_install(tmp_path / "pipe", NAME, store)
    with pytest.raises(NotFoundError):
        plan_install(tmp_path / "none.gguf", NAME, store)
    assert not store.root.exists()


def test_a_file_that_is_being_written_is_refused(store: Store, model: Path) -> None:
    """A hard link would take a file into the store that changes under its digest."""
    with model.open("r+b"), pytest.raises(RefusedError, match="open for writing"):
        plan_install(model, NAME, store)


def test_a_file_that_changed_since_the_plan_is_refused(store: Store, model: Path) -> None:
    """Its digest would be wrong; the store stays as it was."""
    plan = plan_install(model, NAME, store)
    with model.open("r+b") as f:
        f.seek(-1, os.SEEK_END)
        f.write(b"x")
    os.utime(model, ns=(1, 1))
    with pytest.raises(RefusedError, match="changed while"):
        apply_install(plan)
    assert snapshot(store.root) == {}


def test_a_store_that_changed_since_the_plan_is_refused(
    store: Store, model: Path, tmp_path: Path
) -> None:
    """What the user saw in the plan is what is done, or nothing."""
    plan = plan_install(model, NAME, store)
    install(tiny_gguf(tmp_path / "other.gguf", fill=9), store)
    before = snapshot(store.root)
    with pytest.raises(RefusedError, match="changed since the plan"):
        apply_install(plan)
    assert snapshot(store.root) == before


@pytest.mark.parametrize("call", ["write_atomic", "replace", "link", "sync"])
def test_a_failing_disk_leaves_the_store_as_it_was(
    store: Store, model: Path, monkeypatch: pytest.MonkeyPatch, call: str, tmp_path: Path
) -> None:
    """ENOSPC at the Nth call of each writing function, for all N."""
    install(tiny_gguf(tmp_path / "other.gguf", fill=9), store, ModelName.parse("other"))
    before = snapshot(store.root)
    real, failed = getattr(fs, call), 0
    for last in range(20):
        left = last

        def failing(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        monkeypatch.setattr(fs, call, failing)
        methods = [LinkMethod.HARDLINK if call == "link" else LinkMethod.COPY]
        try:
            install(model, store, recipe=RECIPE, methods=methods)
        except StorageError:
            failed += 1
            monkeypatch.setattr(fs, call, real)
            assert snapshot(store.root) == before
        else:
            break
    monkeypatch.setattr(fs, call, real)
    assert failed >= (1 if call == "link" else 3)
    assert PATH in check_store(store.root)


def test_two_installs_at_once_make_one_model(store: Store, model: Path, tmp_path: Path) -> None:
    """Eight threads, the same model and others: each succeeds or says that it is locked."""
    errors: list[Exception] = []

    def work(i: int) -> None:
        try:
            name = NAME if i % 2 else ModelName.parse(f"tiny:{i}")
            install(model, store, name, methods=[LinkMethod.COPY])
        except (LockedError, RefusedError) as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(check_store(store.root)) >= 4
    assert all("changed since the plan" in str(e) for e in errors if isinstance(e, RefusedError))
    assert list(store.staging().iterdir()) == []


def test_leftovers_of_killed_runs_are_swept(store: Store, model: Path) -> None:
    """Staged blobs and temporary files of processes that are gone; others' blobs stay."""
    folder = store.staging()
    (folder / f"{'a' * 64}.blob").write_bytes(b"half")
    (folder / ".tqconvert-x.tmp").write_bytes(b"half")
    busy = folder / f"{'b' * 64}.blob"
    busy.write_bytes(b"half")
    with store.locked("b" * 64):
        install(model, store)
        assert [p.name for p in folder.iterdir()] == [busy.name]
    partial = store.private / "partial" / "download"
    partial.parent.mkdir()
    partial.write_bytes(b"kept")
    install(model, store, ModelName.parse("again"))
    assert partial.exists()
    assert not busy.exists()


def test_blobs_on_another_disk_get_there_by_a_rename(model: Path, tmp_path: Path) -> None:
    """A store whose blobs/ is a symbolic link to another disk, as users make them."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a tmpfs at /dev/shm")
    far = shm / f"tqconvert-test-{os.getpid()}"
    far.mkdir()
    try:
        store = Store(tmp_path / "store")
        store.root.mkdir()
        store.blobs.symlink_to(far)
        assert install(model, store).method is LinkMethod.COPY
        assert check_store(store.root) == {PATH}
    finally:
        import shutil

        shutil.rmtree(far)


def test_a_blob_that_ollama_pulled_is_used(store: Store, model: Path) -> None:
    """Already there with the right bytes: nothing is linked, nothing is copied."""
    put_blob(store.root, model.read_bytes())
    result = install(model, store)
    assert result.method is None
    assert check_store(store.root) == {PATH}


def test_a_pulled_model_of_the_same_name_is_not_overwritten(store: Store, model: Path) -> None:
    """Ollama's own model keeps its name and its bytes."""
    put_model(store.root, PATH, b"weights", template="x")
    before = snapshot(store.root)
    with pytest.raises(RefusedError):
        install(model, store)
    assert snapshot(store.root) == before
