"""`pull --lock` and `pull --locked`: the same models again, or an error before a byte moves."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import LLAMA, gguf_bytes, keys_of
from fakepush import PushRegistry
from fakeregistry import FakeRegistry
from stores import put_model

from tqconvert.digest import digest_bytes
from tqconvert.gguf.tags import PAGE
from tqconvert.provenance import locked as locked_module
from tqconvert.provenance.lockfile import read_lock
from tqconvert.pull import choose as choose_module
from tqconvert.reference import ModelName
from tqconvert.store.layout import Store

Cli = Callable[..., tuple[int, str, str]]
MODEL = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 600)})
OTHER = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 600)}, fill=9)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry with one tiny model."""
    with FakeRegistry(MODEL, template=b"{{ .Prompt }}", license=b"free") as r:
        yield r


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project, which is the working folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def store() -> Store:
    """The store of this test."""
    return Store(Path(os.environ["OLLAMA_MODELS"]))


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """Another machine's store."""
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "elsewhere"))
    return Store(tmp_path / "elsewhere")


def model_bytes(store: Store, name: str) -> bytes:
    """The GGUF of an installed model."""
    manifest = store.require_manifest(ModelName.parse(name))
    return store.blob(manifest.layers_of("model")[0].digest).read_bytes()


def test_lock_then_locked_on_another_machine(
    registry, store, run_cli, tmp_path, monkeypatch
) -> None:
    """What is locked is what sha256 says of the bytes; a second machine gets the same, byte for byte."""
    code, out, err = run_cli("pull", registry.name, "--as", "mine", "--lock", "--json")
    assert code == 0, err
    assert json.loads(out)["lock"] == {"file": "tqconvert.lock", "changed": True}
    [entry] = read_lock(Path("tqconvert.lock"))
    made = model_bytes(store, "mine")
    assert (entry.target, entry.name) == ("mine:latest", registry.name)
    assert entry.source == digest_bytes(MODEL)
    assert entry.result == digest_bytes(made)
    assert str(entry.source_manifest) == registry.manifest_digest
    assert entry.result_manifest == store.require_manifest(ModelName.parse("mine")).digest
    assert (entry.type_k, entry.type_v, entry.size) == ("q8_0", "turbo4", len(made))
    there = elsewhere(monkeypatch, tmp_path)
    assert run_cli("pull", "--locked")[0] == 0
    assert model_bytes(there, "mine") == made
    first = json.loads(run_cli("pull", registry.name, "--as", "mine", "--json")[1])
    registry.requests.clear()
    code, out, _ = run_cli("pull", "--locked", "--json", "--offline")
    assert (code, json.loads(out)["models"][0]["state"]) == (0, "unchanged")
    assert json.loads(out)["models"][0]["digests"] == first["digests"]
    assert run_cli("pull", "--locked", "-n", "--offline")[0] == 0
    assert registry.requests == [], "what is there as it is locked needs no network"


def test_a_second_lock_changes_no_byte(registry, run_cli) -> None:
    """An unchanged model is locked as it is installed; the file is not written again."""
    assert run_cli("pull", registry.name, "--lock")[0] == 0
    before, stamp = Path("tqconvert.lock").read_bytes(), Path("tqconvert.lock").stat()
    code, out, _ = run_cli("pull", registry.name, "--lock", "--json")
    assert (code, json.loads(out)["lock"]["changed"]) == (0, False)
    assert Path("tqconvert.lock").read_bytes() == before
    assert Path("tqconvert.lock").stat().st_mtime_ns == stamp.st_mtime_ns


def test_a_moved_tag_is_fetched_by_its_digest(registry, run_cli, tmp_path, monkeypatch) -> None:
    """The registry has another model under the tag and still the old one: the locked one comes."""
    assert run_cli("pull", registry.name, "--as", "mine", "--lock")[0] == 0
    registry.move(OTHER)
    there = elsewhere(monkeypatch, tmp_path)
    assert run_cli("pull", "--locked")[0] == 0
    assert model_bytes(there, "mine")[PAGE:] == MODEL


def test_a_moved_tag_whose_old_model_is_gone(registry, run_cli, tmp_path, monkeypatch) -> None:
    """Exit 4 with both digests and the way out; no blob was asked for. --lock takes the new one."""
    assert run_cli("pull", registry.name, "--as", "mine", "--lock")[0] == 0
    was = registry.manifest_digest
    registry.move(OTHER, keep=False)
    there = elsewhere(monkeypatch, tmp_path)
    registry.requests.clear()
    code, out, _ = run_cli("pull", "--locked", "--json")
    error = json.loads(out)["error"]
    assert (code, error["kind"]) == (4, "lock_differs")
    assert was in error["message"]
    assert registry.manifest_digest in error["message"]
    assert "--lock" in error["hint"]
    assert registry.asked("blobs") == []
    assert not there.root.exists()
    assert run_cli("pull", registry.name, "--as", "mine", "--lock")[0] == 0
    assert run_cli("pull", "--locked")[0] == 0
    assert model_bytes(there, "mine")[PAGE:] == OTHER


def test_another_version_of_the_program(registry, run_cli, tmp_path, monkeypatch) -> None:
    """Its tags would differ: refused before anybody is asked; --any-tool holds on to source and types."""
    args = ("--as", "mine", "--type-k", "q8_0", "--type-v", "q8_0")
    assert run_cli("pull", registry.name, *args, "--lock")[0] == 0
    path = Path("tqconvert.lock")
    path.write_text(path.read_text().replace('tool = "tqconvert ', 'tool = "tqconvert 9.'))
    there = elsewhere(monkeypatch, tmp_path)
    registry.requests.clear()
    code, _, err = run_cli("pull", "--locked")
    assert (code, registry.requests) == (4, [])
    assert "locked with tqconvert 9." in err
    assert "--any-tool" in err
    [entry] = read_lock(path)
    path.write_text(path.read_text().replace(entry.result.hex, "0" * 64))
    code, out, err = run_cli("pull", "--locked", "--any-tool", "--json")
    assert code == 0, err
    assert json.loads(out)["models"][0]["tags"]["type_v"] == "q8_0"
    assert model_bytes(there, "mine")[PAGE:] == MODEL


def test_what_an_older_version_installed(registry, store, run_cli, tmp_path, monkeypatch) -> None:
    """Locked as it is, with that version; fine where it is installed, refused where it must be made."""
    real = choose_module.KvTags
    monkeypatch.setattr(choose_module, "KvTags", lambda k, v: real(k, v, tool="tqconvert 0.0.9"))
    assert run_cli("pull", registry.name, "--as", "mine")[0] == 0
    monkeypatch.setattr(choose_module, "KvTags", real)
    assert run_cli("pull", registry.name, "--as", "mine", "--lock")[0] == 0
    assert read_lock(Path("tqconvert.lock"))[0].tool == "tqconvert 0.0.9"
    assert run_cli("pull", "--locked")[0] == 0
    store.blob(read_lock(Path("tqconvert.lock"))[0].result).unlink()
    code, _, err = run_cli("pull", "--locked")
    assert (code, "--any-tool" in err) == (4, True)
    elsewhere(monkeypatch, tmp_path)
    assert run_cli("pull", "--locked")[0] == 4
    assert run_cli("pull", "--locked", "--any-tool")[0] == 0


def test_a_model_that_comes_tagged(registry, run_cli, tmp_path, monkeypatch) -> None:
    """From another's store, with the annotations of that pull: locked without types, and left as it came."""
    assert run_cli("pull", registry.name, "--as", "mine")[0] == 0
    first = Store(Path(os.environ["OLLAMA_MODELS"]))
    from tqconvert.registry.serve import serve_store

    with serve_store(first, "127.0.0.1", 0) as server:
        elsewhere(monkeypatch, tmp_path)
        name = f"{server.url}/library/mine:latest"
        assert run_cli("pull", name, "--as", "other", "--lock")[0] == 0
        [entry] = read_lock(Path("tqconvert.lock"))
        assert (entry.name, entry.is_tagged) == (f"{server.url}/library/mine:latest", False)
        assert entry.source == entry.result
        monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "third"))
        assert run_cli("pull", "--locked")[0] == 0
        assert model_bytes(Store(tmp_path / "third"), "other") == model_bytes(first, "mine")


def test_into_a_folder(registry, run_cli, tmp_path) -> None:
    """--to with --locked writes the same file; several models have no folder in common."""
    assert run_cli("pull", registry.name, "--as", "mine", "--to", "a", "--lock")[0] == 0
    assert run_cli("pull", "--locked", "--to", "b")[0] == 0
    assert Path("a/mine-latest.gguf").read_bytes() == Path("b/mine-latest.gguf").read_bytes()
    assert run_cli("pull", registry.name, "--as", "two", "--lock")[0] == 0
    assert run_cli("pull", "--locked", "--to", "c")[0] == 2
    assert run_cli("pull", "mine", "--locked", "--to", "c")[0] == 0


def test_an_untagged_model_does_not_depend_on_the_program(registry, run_cli) -> None:
    """--no-tag: the result is the source, whoever installed it."""
    assert run_cli("pull", registry.name, "--no-tag", "--as", "mine", "--lock")[0] == 0
    path = Path("tqconvert.lock")
    path.write_text(path.read_text().replace('tool = "tqconvert ', 'tool = "tqconvert 9.'))
    assert run_cli("pull", "--locked")[0] == 0
    assert run_cli("install", "--remove", "mine")[0] in (0, 6)
    assert run_cli("pull", "--locked")[0] == 0


def test_a_family_that_is_not_tagged(run_cli, tmp_path, monkeypatch) -> None:
    """gpt-oss keeps its f16 cache; its lock says no types and brings it again untagged."""
    keys = keys_of(
        "gpt-oss", block_count=2, context_length=4096, embedding_length=256,
        attention__head_count=2, attention__head_count_kv=1, attention__key_length=64,
        attention__value_length=64, attention__sliding_window=128,
    )  # fmt: skip
    model = gguf_bytes(keys, {"token_embd.weight": (1024, 600)})
    with FakeRegistry(model) as registry:
        assert run_cli("pull", registry.name, "--lock")[0] == 0
        [entry] = read_lock(Path("tqconvert.lock"))
        assert (entry.is_tagged, entry.type_k, entry.target[-3:]) == (False, None, "-tq")
        there = elsewhere(monkeypatch, tmp_path)
        assert run_cli("pull", "--locked")[0] == 0
        assert model_bytes(there, entry.target) == model


def test_a_result_that_differs_gets_no_name(registry, run_cli, tmp_path, monkeypatch) -> None:
    """The tags come out otherwise than they did: exit 4, no blob of the model, no manifest."""
    assert run_cli("pull", registry.name, "--as", "mine", "--lock")[0] == 0
    [entry] = read_lock(Path("tqconvert.lock"))
    there = elsewhere(monkeypatch, tmp_path)
    real = choose_module.KvTags
    monkeypatch.setattr(choose_module, "KvTags", lambda k, v: real(k, v, evidence='"changed"'))
    for arguments in (("pull", "--locked"), ("pull", "--locked", "--to", "out")):
        code, out, _ = run_cli(*arguments, "--json")
        error = json.loads(out)["error"]
        assert (code, error["kind"]) == (4, "lock_differs")
        assert str(entry.result) in error["message"]
    assert list(there.names()) == []
    assert not any(len(p.read_bytes()) > len(MODEL) - 1 for p in there.blobs.iterdir())
    assert not Path("out/mine-latest.gguf").exists()
    monkeypatch.setattr(choose_module, "KvTags", real)
    registry.requests.clear()
    assert run_cli("pull", "--locked")[0] == 0
    assert registry.asked("blobs") == [], "the bytes that had arrived were used"


def test_what_is_installed_must_be_what_is_locked(registry, store, run_cli) -> None:
    """A model of the same source and types whose manifest is another: not `unchanged`, but exit 4."""
    assert run_cli("pull", registry.name, "--as", "mine", "--lock")[0] == 0
    name = ModelName.parse("mine")
    path = store.manifest_path(name)
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion":2', b'"schemaVersion": 2'))
    code, _, err = run_cli("pull", "--locked")
    assert code == 4
    assert "install --remove mine:latest" in err
    assert run_cli("install", "--remove", "mine")[0] == 0
    assert run_cli("pull", "--locked")[0] == 0


def test_a_digest_in_the_lock_that_is_not_the_models(registry, store, run_cli) -> None:
    """The manifest is the locked one, the model in it another: exit 4, although all is installed."""
    assert run_cli("pull", registry.name, "--as", "mine", "--lock")[0] == 0
    (entry,) = read_lock(Path("tqconvert.lock"))
    text = Path("tqconvert.lock").read_text()
    Path("tqconvert.lock").write_text(text.replace(str(entry.result), f"sha256:{'0' * 64}"))
    code, _, err = run_cli("pull", "--locked")
    assert code == 4
    assert str(entry.result) in err


def test_a_file_that_was_changed_since(registry, run_cli) -> None:
    """Tagged anew in place, its size as before: --locked and a statement of it are refused."""
    made = ("--to", "out", "--lock")
    assert run_cli("pull", registry.name, "--as", "mine:1", *made)[0] == 0
    assert run_cli("tag", "out/mine-1.gguf", "--type-k", "q4_0", "--type-v", "q4_0")[0] == 0
    code, _, err = run_cli("pull", "--locked", "--to", "out")
    assert (code, "out/mine-1.gguf" in err) == (4, True)


def test_no_statement_of_a_damaged_model(registry, store, run_cli) -> None:
    """Nothing is left to do, and a byte of the weights is another: exit 4, no document."""
    assert run_cli("pull", registry.name, "--as", "mine")[0] == 0
    manifest = store.require_manifest(ModelName.parse("mine"))
    blob = store.blob(manifest.layers_of("model")[0].digest)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    code, _, err = run_cli("pull", registry.name, "--as", "mine", "--attest", "s.json")
    assert code == 4, err
    assert not Path("s.json").exists()


def test_an_oci_name_as_it_was_typed(run_cli, tmp_path) -> None:
    """The tag that a lock file adds is not asked of the user."""
    put_model(tmp_path / "sources", "registry.ollama.ai/library/old/1", MODEL)
    with PushRegistry() as there:
        name = f"{there.host}/me/tiny"
        assert run_cli("push", "old:1", name, "--store", tmp_path / "sources")[0] == 0
        assert run_cli("pull", f"oci://{name}", "--as", "mine", "--lock")[0] == 0
        code, _, err = run_cli("pull", f"oci://{name}", "--locked")
        assert code == 0, err


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_a_moved_tag_in_an_oci_registry(run_cli, tmp_path, monkeypatch, form: str) -> None:
    """The manifest that the registry had is fetched by its digest, also where ours was made from it."""
    sources = tmp_path / "sources"
    for model, name in ((MODEL, "old"), (OTHER, "new")):
        put_model(sources, f"registry.ollama.ai/library/{name}/1", model)
    with PushRegistry() as there:
        dest = f"{there.host}/me/tiny:1"

        def push(name: str) -> None:
            assert run_cli("push", f"{name}:1", dest, "--form", form, "--store", sources)[0] == 0

        push("old")
        assert run_cli("pull", f"oci://{dest}", "--as", "mine", "--lock")[0] == 0
        (entry,) = read_lock(Path("tqconvert.lock"))
        assert entry.name == f"oci://{dest}"
        push("new")
        store = elsewhere(monkeypatch, tmp_path)
        code, _, err = run_cli("pull", "--locked")
        assert code == 0, err
        assert model_bytes(store, "mine")[PAGE:] == MODEL
        there.requests.clear()
        assert run_cli("pull", "--locked")[0] == 0
        assert there.requests == [], "what is installed as locked asks nobody"


def test_another_model_under_the_name_is_not_replaced_unasked(registry, store, run_cli) -> None:
    """As with every pull: exit 6, and --yes."""
    assert run_cli("pull", registry.name, "--as", "mine", "--lock")[0] == 0
    assert run_cli("pull", registry.name, "--as", "mine", "--no-tag", "--yes")[0] == 0
    code, _, err = run_cli("pull", "--locked")
    assert (code, "--yes" in err) == (6, True)
    assert run_cli("pull", "--locked", "--yes")[0] == 0
    assert model_bytes(store, "mine")[PAGE:] == MODEL


def test_several_models_in_one_file(registry, run_cli, tmp_path, monkeypatch) -> None:
    """All of them without a name; one by what was pulled, or by the name it got; two need --as."""
    file = Path("models/My Model.gguf")
    file.parent.mkdir()
    file.write_bytes(OTHER)
    assert run_cli("pull", registry.name, "--as", "one", "--lock")[0] == 0
    assert (
        run_cli(
            "pull", registry.name, "--as", "two", "--type-k", "q5_0", "--type-v", "q5_0", "--lock"
        )[0]
        == 0
    )
    assert run_cli("pull", file, "--lock")[0] == 0
    entries = {e.target: e.name for e in read_lock(Path("tqconvert.lock"))}
    assert entries == {
        "my-model:latest-tq": "./models/My Model.gguf", "one:latest": registry.name,
        "two:latest": registry.name,
    }  # fmt: skip
    there = elsewhere(monkeypatch, tmp_path)
    code, _, err = run_cli("pull", registry.name, "--locked")
    assert code == 2
    assert "one:latest, two:latest" in err
    assert run_cli("pull", registry.name, "--locked", "--as", "two", "-q")[1] == "two:latest\n"
    assert run_cli("pull", "one", "--locked", "-q")[1] == "one:latest\n"
    assert run_cli("pull", file, "--locked", "-q")[1] == "my-model:latest-tq\n"
    assert [n.short for n in there.names()] == ["my-model:latest-tq", "one:latest", "two:latest"]
    code, out, _ = run_cli("pull", "--locked", "-q")
    assert out.split() == sorted(entries)
    code, _, err = run_cli("pull", "nothing", "--locked")
    assert code == 5
    assert "--lock adds it" in err
    code, _, err = run_cli("pull", f"{registry.name}@sha256:{'0' * 64}", "--locked", "--as", "one")
    assert code == 4


def test_a_file_is_found_from_the_lock_files_folder(
    run_cli, project, tmp_path, monkeypatch
) -> None:
    """A relative path counts from the lock file, whatever the working folder; a changed file is exit 4."""
    Path("m.gguf").write_bytes(MODEL)
    assert run_cli("pull", "m.gguf", "--as", "mine", "--lock")[0] == 0
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    there = elsewhere(monkeypatch, tmp_path)
    lock = os.path.relpath(project / "tqconvert.lock")
    assert run_cli("pull", "--locked", "--lock-file", lock)[0] == 0
    assert model_bytes(there, "mine")[PAGE:] == MODEL
    (project / "m.gguf").write_bytes(OTHER)
    assert run_cli("pull", "--locked", "--lock-file", lock)[0] == 0, "the result is there"
    assert run_cli("install", "--remove", "mine")[0] == 0
    code, _, err = run_cli("pull", "--locked", "--lock-file", lock)
    assert code == 4
    assert str(digest_bytes(MODEL)) in err
    (project / "m.gguf").unlink()
    assert run_cli("pull", "--locked", "--lock-file", lock)[0] == 5


def test_a_file_whose_name_is_no_text(store) -> None:
    """A lock file cannot hold it: usage, before anything is installed; the documents can."""
    path = Path(os.fsdecode(b"m\xff.gguf"))
    path.write_bytes(MODEL)
    command = [sys.executable, "-m", "tqconvert", "pull", path, "--as", "mine"]
    done = subprocess.run([*command, "--lock"], capture_output=True, check=False)
    assert (done.returncode, b"no UTF-8" in done.stderr) == (2, True)
    assert not store.root.exists()
    options = ["--attest", "a.json", "--bom", "b.json"]
    assert subprocess.run([*command, *options], capture_output=True, check=False).returncode == 0
    assert json.loads(Path("a.json").read_text())["subject"]


def test_all_are_checked_before_the_first_is_fetched(
    registry, run_cli, tmp_path, monkeypatch
) -> None:
    """The second of two cannot be had: nothing of the first moves either."""
    Path("z.gguf").write_bytes(OTHER)
    assert run_cli("pull", registry.name, "--as", "a", "--lock")[0] == 0
    assert run_cli("pull", "z.gguf", "--lock")[0] == 0
    Path("z.gguf").write_bytes(MODEL)
    elsewhere(monkeypatch, tmp_path)
    registry.requests.clear()
    assert run_cli("pull", "--locked")[0] == 4
    assert registry.asked("blobs") == []


def test_dry_runs_write_nothing(registry, run_cli, tmp_path, monkeypatch) -> None:
    """--lock -n leaves no file; --locked -n checks and shows what would come."""
    assert run_cli("pull", registry.name, "--lock", "-n", "--attest", "a", "--bom", "b")[0] == 0
    assert os.listdir() == []
    assert run_cli("pull", registry.name, "--as", "mine", "--lock")[0] == 0
    there = elsewhere(monkeypatch, tmp_path)
    code, out, _ = run_cli("pull", "--locked", "-n", "--json")
    assert (code, json.loads(out)["models"][0]["state"]) == (0, "new")
    assert not there.root.exists()
    registry.move(OTHER, keep=False)
    assert run_cli("pull", "--locked", "-n")[0] == 4


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "needs a name"),
        (["", "--locked"], "needs a name"),
        (["--locked", "--lock"], "--locked takes types"),
        (["--locked", "--type-k", "q8_0"], "--locked takes types"),
        (["--locked", "--no-tag"], "--locked takes types"),
        (["x", "--any-tool"], "goes with --locked"),
        (["--locked", "--as", "x"], "--as goes with a name"),
    ],
)
def test_wrong_usage(run_cli, registry, arguments: list[str], word: str) -> None:
    """Flags that contradict each other are exit 2 and say why."""
    assert run_cli("pull", registry.name, "--lock")[0] == 0
    code, _, err = run_cli("pull", *arguments)
    assert code == 2
    assert word in err


def test_no_lock_and_a_broken_one(registry, run_cli, store) -> None:
    """--locked without a file is exit 5; a broken one stops --lock before the model is pulled."""
    code, _, err = run_cli("pull", "--locked")
    assert (code, "--lock writes it" in err) == (5, True)
    Path("tqconvert.lock").write_text("<<<<<<< HEAD\n")
    for arguments in (("--locked",), (registry.name, "--lock")):
        code, out, _ = run_cli("pull", *arguments, "--json")
        assert (code, json.loads(out)["error"]["kind"]) == (4, "bad_lock")
    assert not store.root.exists()
    code, _, err = run_cli("pull", registry.name, "--lock", "--lock-file", "none/x.lock")
    assert (code, "mkdir -p none" in err) == (2, True)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("qwen3:8b", "qwen3:8b@sha256:" + "0" * 64),
        ("http://host:5000/ns/m:1", "http://host:5000/ns/m:1@sha256:" + "0" * 64),
        ("hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M"),
        ("oci://host/repo:1", "oci://host/repo:1"),
        ("./a b.gguf", "/x/a b.gguf"),
        ("/abs/m.gguf", "/abs/m.gguf"),
    ],
)
def test_what_is_asked_for(name: str, source: str) -> None:
    """Manifests of registries by their digest; what has no such manifest by its name."""
    from tqconvert.digest import Digest
    from tqconvert.provenance.lockfile import LockedModel

    zero = Digest("0" * 64)
    entry = LockedModel("t:1", name, zero, zero, "tqconvert 1")
    assert locked_module._source(entry, Path("/x/tqconvert.lock")) == source
