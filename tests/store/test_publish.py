"""Manifests published, replaced and removed; hostile ones read."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import check_store, put_blob, put_manifest, put_model, snapshot

from tqconvert.errors import BadManifestError, NotFoundError, RefusedError, TqError
from tqconvert.reference import ModelName
from tqconvert.store.layout import Store
from tqconvert.store.manifest import CONFIG_TYPE, MODEL_TYPE, Manifest
from tqconvert.store.publish import (
    apply_remove,
    install_manifest,
    needed_blobs,
    plan_remove,
    plan_replace,
)

NAME = ModelName.parse("tiny:1b")
PATH = "registry.ollama.ai/library/tiny/1b"
OTHER = "registry.ollama.ai/library/other/latest"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one model of Ollama's."""
    put_model(tmp_path, OTHER, b"other weights", license="MIT")
    return Store(tmp_path)


def manifest_of(value: dict[str, Any]) -> Manifest:
    """Manifest of a JSON value."""
    return Manifest.parse(json.dumps(value).encode(), subject="test")


def weights(store: Store, data: bytes = b"weights") -> Manifest:
    """A manifest whose blobs are in the store."""
    value = put_model(store.root, "host/ns/m/t", data, license="MIT")
    (store.manifests / "host/ns/m/t").unlink()
    return manifest_of(value)


def test_bytes_of_a_manifest_are_kept(store: Store) -> None:
    """`ollama list` shows their sha256; a registry's manifest is stored as it came."""
    manifest = weights(store)
    install_manifest(store, NAME, manifest, replace=False)
    assert (store.manifests / PATH).read_bytes() == manifest.data
    assert plan_replace(store, NAME, manifest).status == "unchanged"


def test_a_manifest_without_its_blobs_is_refused(store: Store) -> None:
    """Missing, or of another size than it says."""
    manifest = weights(store)
    blob = store.blob(manifest.layers[0].digest)
    for spoil in (lambda: blob.write_bytes(b"w"), blob.unlink):
        spoil()
        assert plan_replace(store, NAME, manifest).missing == (manifest.layers[0],)
        with pytest.raises(NotFoundError, match="model blob is missing"):
            install_manifest(store, NAME, manifest, replace=True)
    assert store.read_manifest(NAME) is None


def test_replacing_needs_to_be_asked_for(store: Store) -> None:
    """Then the blobs that only the old one needed go, shared ones stay."""
    install_manifest(store, NAME, weights(store), replace=False)
    new = weights(store, b"new weights")
    with pytest.raises(RefusedError):
        install_manifest(store, NAME, new, replace=False)
    plan = plan_replace(store, NAME, new)
    assert [b.kind for b in plan.unused] == ["model"]
    install_manifest(store, NAME, new, replace=True)
    assert check_store(store.root) == {OTHER, PATH}
    assert not store.blob(plan.unused[0].digest).exists()


def test_a_broken_manifest_can_be_replaced_and_removed(store: Store) -> None:
    """What it needed is unknown, so no blob goes with it."""
    n_blobs = len(list(store.blobs.iterdir()))
    put_manifest(store.root, PATH, b"{")
    plan = plan_remove(store, NAME)
    assert (plan.own, plan.unused) == (False, ())
    apply_remove(store, plan)
    put_manifest(store.root, PATH, b"{")
    manifest = weights(store)
    with pytest.raises(RefusedError):
        install_manifest(store, NAME, manifest, replace=False)
    install_manifest(store, NAME, manifest, replace=True)
    assert check_store(store.root) == {OTHER, PATH}
    assert len(list(store.blobs.iterdir())) == n_blobs + 1


def test_removing_takes_what_no_other_model_needs(store: Store) -> None:
    """And leaves partial downloads, foreign files and the other model's blobs."""
    install_manifest(store, NAME, weights(store), replace=False)
    foreign = [store.blobs / "sha256-abc-partial", store.blobs / "notes.txt", store.root / "x"]
    foreign += [store.private / "partial" / "p"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"kept")
    done = apply_remove(store, plan_remove(store, NAME))
    assert [b.kind for b in done.unused] == ["model"]
    assert {b.kind for b in done.kept} == {"config", "license"}
    assert all(path.read_bytes() == b"kept" for path in foreign)
    assert not (store.manifests / PATH).parent.exists()
    assert store.read_manifest(ModelName.parse("other")) is not None


def test_a_model_that_changed_since_the_plan_is_not_removed(store: Store) -> None:
    """What the user saw is what goes, or nothing."""
    install_manifest(store, NAME, weights(store), replace=False)
    plan = plan_remove(store, NAME)
    install_manifest(store, NAME, weights(store, b"new"), replace=True)
    before = snapshot(store.root)
    with pytest.raises(RefusedError, match="changed since"):
        apply_remove(store, plan)
    assert snapshot(store.root) == before


def test_stray_files_are_no_models(store: Store) -> None:
    """.DS_Store and folders too deep neither show up as models nor keep blobs alive."""
    put_manifest(store.root, "registry.ollama.ai/library/tiny/.DS_Store", b"x")
    put_manifest(store.root, "registry.ollama.ai/library/tiny/deep/er", b"x")
    put_manifest(store.root, "registry.ollama.ai/shallow", b"x")
    assert [str(n) for n in store.names()] == ["other:latest"]
    assert needed_blobs(store)[1] == ()


HOSTILE = {
    "path in digest": {"digest": "sha256:../../../../etc/passwd"},
    "path as digest": {"digest": "../" * 21 + "x"},
    "other algorithm": {"digest": "sha512:" + "0" * 128},
    "upper case": {"digest": "sha256:" + "A" * 64},
    "line break": {"digest": "sha256:" + "0" * 64 + "\n"},
    "digest is a list": {"digest": ["sha256:" + "0" * 64]},
    "negative size": {"size": -1},
    "huge size": {"size": 1 << 62},
    "size is a float": {"size": 1.5},
    "size is true": {"size": True},
    "size is text": {"size": "7"},
    "no media type": {"mediaType": None},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("place", ["config", "layer"])
def test_hostile_manifests_are_refused(change: dict[str, Any], place: str) -> None:
    """Nothing in a manifest becomes a path or a size before it was checked."""
    good = {"mediaType": MODEL_TYPE, "digest": "sha256:" + "0" * 64, "size": 7}
    config = {**good, "mediaType": CONFIG_TYPE}
    value = {"config": config, "layers": [good]}
    if place == "config":
        value["config"] = {**config, **change}
    else:
        value["layers"] = [good, {**good, **change}]
    with pytest.raises(BadManifestError, match=place):
        manifest_of(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=10), x, max_size=4),
    max_leaves=12,
)
layers = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": json_values | st.sampled_from([MODEL_TYPE, CONFIG_TYPE]),
        "digest": json_values | st.from_regex(r"sha256[:-][0-9a-fA-F./]{60,66}", fullmatch=True),
        "size": json_values,
        "annotations": json_values,
        "from": json_values,
    },
)
manifests = st.fixed_dictionaries(
    {},
    optional={"config": json_values | layers, "layers": json_values | st.lists(layers, max_size=3)},
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | manifests.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_a_manifest_or_a_bad_one(data: bytes) -> None:
    """Whatever a server or a disk gives: a value whose digests are digests, or BadManifestError."""
    try:
        manifest = Manifest.parse(data, subject="x")
    except BadManifestError:
        return
    assert manifest.data == data
    for layer in manifest.blobs:
        assert len(layer.digest.hex) == 64
        assert set(layer.digest.hex) <= set("0123456789abcdef")
        assert 0 <= layer.size < 1 << 45
        assert hasattr(layer.annotations, "get")
        assert layer.kind


@pytest.mark.parametrize("depth", [10_000, 1_000_000])
def test_deep_nesting_is_a_bad_manifest(depth: int) -> None:
    """A parser that recurses must not take the program with it."""
    with pytest.raises(BadManifestError):
        Manifest.parse(b'{"layers":' + b"[" * depth + b"]" * depth + b"}", subject="x")


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="abAB09._-:/@\\ \0\n~%", max_size=40)
    | st.sampled_from(
        ["../x", "a/../b", "..", ".", "a/b/c/d", "/abs", "a//b", "~/x", "con:..", "x:.."]
    )
)
def test_no_name_leaves_the_manifests_folder(text: str) -> None:
    """A name is refused, or its manifest lies exactly four levels below manifests/."""
    store = Store(Path("/store"))
    try:
        name = ModelName.parse(text)
    except TqError:
        return
    path = store.manifest_path(name)
    parts = path.relative_to(store.manifests).parts
    assert len(parts) == 4
    assert not any(p in (".", "..") or "/" in p or "\0" in p for p in parts)
    assert Path(*path.parts) == Path(str(path))


def test_an_installed_blob_counts_as_needed_by_every_model_that_names_it(store: Store) -> None:
    """Config and layers alike."""
    put_blob(store.root, b"orphan")
    needed, unreadable = needed_blobs(store)
    other = store.require_manifest(ModelName.parse("other"))
    assert needed == {b.digest for b in other.blobs}
    assert unreadable == ()
