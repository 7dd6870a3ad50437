"""verify: what it finds, and that it finds all of it."""

from pathlib import Path

import pytest
from builders import LLAMA, gguf_bytes, tiny_gguf
from stores import LAYER_TYPE, put_manifest, put_model, sha256

from tqconvert.errors import NotFoundError
from tqconvert.gguf.header import read_header
from tqconvert.gguf.tags import PAGE, KvTags, render_page
from tqconvert.reference import ModelName
from tqconvert.store.install import apply_install, plan_install
from tqconvert.store.layout import Store
from tqconvert.store.link import LinkMethod
from tqconvert.store.recipe import Recipe
from tqconvert.store.verify import Report, verify_file, verify_model

NAME = ModelName.parse("tiny:1b")
RECIPE = Recipe(
    template="t", licenses=("MIT",), parameters={"top_k": 3}, messages=(("user", "hi"),)
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one model, its blob a file of its own."""
    store = Store(tmp_path / "store")
    source = tiny_gguf(tmp_path / "m.gguf")
    apply_install(plan_install(source, NAME, store, recipe=RECIPE, methods=[LinkMethod.COPY]))
    return store


def tagged(path: Path) -> Path:
    """A tagged GGUF beside its source."""
    page = render_page(read_header(path), KvTags("q8_0", "turbo4"))
    out = path.with_name("tagged.gguf")
    out.write_bytes(page + path.read_bytes())
    return out


def found(report: Report) -> set[tuple[str, str]]:
    """(kind of blob, kind of check) of all problems."""
    return {(c.subject.split()[0], c.check) for c in report.problems}


def blob_of(store: Store, kind: str) -> Path:
    """Path of the model's blob of this kind."""
    manifest = store.require_manifest(NAME)
    return next(store.blob(b.digest) for b in manifest.blobs if b.kind == kind)


def test_a_sound_model_has_no_problems(store: Store) -> None:
    """Every blob is looked at."""
    report = verify_model(store, NAME)
    assert report.problems == ()
    kinds = {c.subject.split()[0] for c in report.checks if c.check == "digest"}
    assert kinds == {"config", "model", "template", "license", "params", "messages"}


@pytest.mark.parametrize("where", [0, 100, -1])
def test_a_flipped_bit_is_found(store: Store, where: int) -> None:
    """In the magic, in the header, in the last byte of the tensors."""
    blob = blob_of(store, "model")
    data = bytearray(blob.read_bytes())
    data[where] ^= 1
    blob.write_bytes(data)
    assert ("model", "digest") in found(verify_model(store, NAME))


def test_all_problems_are_reported_at_once(store: Store) -> None:
    """A missing blob, a cut one, a changed one and a folder instead of one."""
    blob_of(store, "license").unlink()
    model = blob_of(store, "model")
    model.write_bytes(model.read_bytes()[:-64])
    blob_of(store, "params").write_bytes(b'{"top_k":4}\n')
    template = blob_of(store, "template")
    template.unlink()
    template.mkdir()
    assert found(verify_model(store, NAME)) == {
        ("license", "size"), ("model", "size"), ("model", "gguf"), ("model", "digest"),
        ("params", "digest"), ("template", "size"),
    }  # fmt: skip


def test_an_edit_through_the_other_name_is_explained(tmp_path: Path) -> None:
    """The user's file is a hard link of the blob; the report says so."""
    store, source = Store(tmp_path / "s"), tiny_gguf(tmp_path / "m.gguf")
    apply_install(plan_install(source, NAME, store, methods=[LinkMethod.HARDLINK]))
    with source.open("r+b") as f:
        f.seek(-1, 2)
        f.write(b"\xff")
    (problem,) = verify_model(store, NAME).problems
    assert "hard-linked: its other name was edited" in problem.detail


@pytest.mark.parametrize(
    ("kind", "text"),
    [("params", "[1]"), ("params", "{"), ("messages", "{}"), ("license", "\udcff"),
     ("params", "[" * 100_000)],
)  # fmt: skip
def test_layers_that_ollama_could_not_read_are_problems(
    tmp_path: Path, kind: str, text: str
) -> None:
    """Digests agree, but the content is no JSON object, no list, no UTF-8."""
    value = put_model(tmp_path, "registry.ollama.ai/library/tiny/1b", gguf_bytes(LLAMA))
    data = text.encode(errors="surrogateescape")
    path = tmp_path / "blobs" / sha256(data).replace(":", "-")
    path.write_bytes(data)
    layer = {"mediaType": LAYER_TYPE + kind, "digest": sha256(data), "size": len(data)}
    value["layers"].append(layer)
    put_manifest(tmp_path, "registry.ollama.ai/library/tiny/1b", value)
    assert found(verify_model(Store(tmp_path), NAME)) == {(kind, "content")}


def test_media_types_are_checked(tmp_path: Path) -> None:
    """A config of another type and a missing model layer are problems, unknown layers are not."""
    value = put_model(tmp_path, "registry.ollama.ai/library/tiny/1b", gguf_bytes(LLAMA))
    value["config"]["mediaType"] = "text/plain"
    value["layers"][0]["mediaType"] = "application/vnd.example.future"
    put_manifest(tmp_path, "registry.ollama.ai/library/tiny/1b", value)
    problems = verify_model(Store(tmp_path), NAME).problems
    assert {p.detail for p in problems} == {"text/plain", "no model layer"}


def test_a_pinned_digest_is_compared_with_the_manifest(store: Store) -> None:
    """name@sha256:... is the manifest's digest, as `ollama list` shows it."""
    digest = store.require_manifest(NAME).digest
    assert verify_model(store, ModelName.parse(f"tiny:1b@{digest}")).problems == ()
    wrong = ModelName.parse("tiny:1b@sha256:" + "0" * 64)
    assert found(verify_model(store, wrong)) == {("manifest", "manifest")}


def test_a_tagged_model_proves_its_source(tmp_path: Path) -> None:
    """Bytes 4096 onward have the digest of the file before it was tagged; tags are shown."""
    source = tiny_gguf(tmp_path / "m.gguf")
    store = Store(tmp_path / "s")
    apply_install(plan_install(tagged(source), NAME, store, methods=[LinkMethod.COPY]))
    report = verify_model(store, NAME)
    assert report.problems == ()
    assert str(report.source) == sha256(source.read_bytes())
    assert report.tags is not None
    assert (report.tags.type_k, report.tags.type_v) == ("q8_0", "turbo4")
    blob = blob_of(store, "model")
    data = bytearray(blob.read_bytes())
    data[PAGE + 40] ^= 1
    blob.write_bytes(data)
    assert {("model", "digest"), ("model", "source")} <= found(verify_model(store, NAME))


def test_a_torn_tag_page_is_found(tmp_path: Path) -> None:
    """Of a plain file too, which has no digest to compare with."""
    path = tagged(tiny_gguf(tmp_path / "m.gguf"))
    assert verify_file(path).problems == ()
    data = bytearray(path.read_bytes())
    data[PAGE - 40] ^= 1
    path.write_bytes(data)
    assert [(c.check, c.ok) for c in verify_file(path).problems] == [("tags", False)]


def test_a_file_is_checked_by_its_bounds_and_a_blob_by_its_name(store: Store) -> None:
    """`verify FILE` on a blob compares its digest with the file's name."""
    blob = blob_of(store, "model")
    assert verify_file(blob).problems == ()
    blob.write_bytes(blob.read_bytes() + b"\0")
    assert [c.check for c in verify_file(blob).problems] == ["digest"]


def test_what_is_not_there_is_not_found(store: Store, tmp_path: Path) -> None:
    """Neither a model nor a file."""
    with pytest.raises(NotFoundError) as e:
        verify_model(store, ModelName.parse("tiny:2b"))
    assert e.value.hint == "installed: tiny:1b"
    with pytest.raises(NotFoundError):
        verify_file(tmp_path / "none.gguf")
