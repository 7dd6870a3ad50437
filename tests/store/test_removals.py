"""Blobs of a model that is being removed: after a kill, the next change of the store ends the work."""

from pathlib import Path

import pytest
from builders import tiny_gguf
from stores import check_store

from tqconvert.reference import ModelName
from tqconvert.store import publish
from tqconvert.store.install import apply_install, plan_install
from tqconvert.store.layout import Store
from tqconvert.store.prune import apply_prune, plan_prune
from tqconvert.store.publish import REMOVAL, apply_remove, plan_remove

NAME, OTHER = ModelName.parse("tiny:1b"), ModelName.parse("other:1b")


class KilledError(BaseException):
    """Where the process would have ended."""


def install(store: Store, source: Path, name: ModelName) -> None:
    """Install, over anything."""
    apply_install(plan_install(source, name, store, replace=True))


@pytest.fixture
def cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in which the removal of one of two models ended after its manifest."""
    store = Store(tmp_path / "store")
    install(store, tiny_gguf(tmp_path / "a.gguf"), NAME)
    install(store, tiny_gguf(tmp_path / "b.gguf", fill=9), OTHER)
    with monkeypatch.context() as m:
        real = publish._remove

        def remove(path: Path) -> None:
            if path.parent == store.blobs:
                raise KilledError
            real(path)

        m.setattr(publish, "_remove", remove)
        with pytest.raises(KilledError):
            apply_remove(store, plan_remove(store, NAME))
    assert len(list(store.blobs.glob("sha256-*"))) == 4
    return store


def done(store: Store) -> bool:
    """Whether the other model's blobs alone are there, and no note."""
    assert check_store(store.root) >= {"registry.ollama.ai/library/other/1b"}
    return not list(store.staging().glob(f"*{REMOVAL}"))


def test_prune_ends_it(cut_off: Store) -> None:
    """`cache prune` removes the blobs with their note."""
    apply_prune(cut_off, plan_prune(cut_off, older_than_s=0, now=1e12))
    assert done(cut_off)
    assert len(list(cut_off.blobs.glob("sha256-*"))) == 2


def test_the_next_removal_ends_it(cut_off: Store) -> None:
    """Also that of another model."""
    apply_remove(cut_off, plan_remove(cut_off, OTHER))
    assert list(cut_off.blobs.glob("sha256-*")) == []


def test_a_model_that_came_back_keeps_its_blobs(cut_off: Store, tmp_path: Path) -> None:
    """Installed again before anybody swept: the note is gone, the blobs are there."""
    install(cut_off, tmp_path / "a.gguf", NAME)
    apply_prune(cut_off, plan_prune(cut_off, older_than_s=0, now=1e12))
    assert done(cut_off)
    assert len(check_store(cut_off.root)) == 2


def test_a_note_of_nonsense_removes_nothing(cut_off: Store) -> None:
    """Only lines that are digests count, and only blobs that no model needs."""
    (note,) = cut_off.staging().glob(f"*{REMOVAL}")
    here = [b.digest for b in cut_off.require_manifest(OTHER).blobs]
    note.write_text("../../x\nsha256:../../x\n" + "".join(f"{d}\n" for d in here))
    apply_prune(cut_off, plan_prune(cut_off, older_than_s=0, now=1e12))
    assert done(cut_off)
    assert all(cut_off.blob(d).exists() for d in here)
