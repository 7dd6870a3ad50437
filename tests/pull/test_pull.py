"""`tqconvert pull` from a registry on loopback to an installed, tagged model."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import LLAMA, gguf_bytes, keys_of
from fakeregistry import FakeRegistry
from hostile import CASES

from tqconvert.digest import Digest, digest_bytes, digest_path
from tqconvert.gguf.header import read_header
from tqconvert.gguf.tags import PAGE, read_tags
from tqconvert.reference import ModelName
from tqconvert.store.layout import Store
from tqconvert.store.manifest import SOURCE_KEY

MODEL = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 600)})


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry with one tiny model that has a template and a license."""
    with FakeRegistry(MODEL, template=b"{{ .Prompt }}", license=b"free") as r:
        yield r


@pytest.fixture
def store() -> Store:
    """The store of this test."""
    return Store(Path(os.environ["OLLAMA_MODELS"]))


def model_file(store: Store, name: str) -> Path:
    """The GGUF of an installed model."""
    manifest = store.require_manifest(ModelName.parse(name))
    return store.blob(manifest.layers_of("model")[0].digest)


def files_in(folder: Path) -> set[str]:
    """Names of all files below the folder, without locks."""
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    return {name for name in found if "/locks/" not in name}


def test_pull_installs_the_tagged_model(registry, store, run_cli) -> None:
    """The blob is the page and the source verbatim; its digest, size and source are in the manifest."""
    code, out, _ = run_cli("pull", registry.name, "--json")
    assert code == 0
    document = json.loads(out)
    target = f"127.0.0.1:{registry.port}/library/tiny:1b-tq"
    assert document["target"] == target
    file = model_file(store, target)
    data = file.read_bytes()
    assert data[PAGE:] == MODEL
    assert digest_bytes(data).blob_name == file.name
    tags = read_tags(read_header(file))
    assert tags is not None
    assert (tags.type_k, tags.type_v, tags.measured) == ("q8_0", "turbo4", False)
    layer = store.require_manifest(ModelName.parse(target)).layers_of("model")[0]
    assert layer.annotations[SOURCE_KEY] == str(digest_bytes(MODEL))
    assert layer.size == len(data)
    assert document["digests"]["source_model"] == str(digest_bytes(MODEL))
    assert document["digests"]["model"] == str(layer.digest)
    assert document["bytes"] == sum(len(b) for b in registry.blobs.values())


def test_other_layers_are_kept_byte_for_byte(registry, store, run_cli) -> None:
    """Config, template and license have the digests they had; unknown fields of the manifest stay."""
    registry.manifest = registry.manifest.replace(
        b'{"schemaVersion"', b'{"extra":[1],"schemaVersion"'
    )
    assert run_cli("pull", registry.name, "--as", "mine")[0] == 0
    manifest = store.require_manifest(ModelName.parse("mine"))
    was = json.loads(registry.manifest)
    now = json.loads(manifest.data)
    assert now["config"] == was["config"]
    assert now["layers"][1:] == was["layers"][1:]
    assert now["extra"] == [1]
    for layer in manifest.blobs:
        assert digest_path(store.blob(layer.digest)) == layer.digest


def test_a_second_pull_moves_nothing(registry, store, run_cli) -> None:
    """The second run asks for the manifest alone, writes nothing, and says `unchanged`."""
    assert run_cli("pull", registry.name)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("*") if p.is_file()}
    registry.requests.clear()
    code, out, _ = run_cli("pull", registry.name, "--json")
    assert code == 0
    assert json.loads(out)["state"] == "unchanged"
    assert json.loads(out)["bytes"] == 0
    assert len(registry.requests) == 1
    after = {p: p.stat().st_mtime_ns for p in store.root.rglob("*") if p.is_file()}
    assert {p: t for p, t in after.items() if "locks" not in str(p)} == {
        p: t for p, t in before.items() if "locks" not in str(p)
    }


def test_no_tag_installs_the_manifest_as_it_came(registry, store, run_cli) -> None:
    """--no-tag keeps every byte of manifest and blobs, under the model's own name."""
    assert run_cli("pull", registry.name, "--no-tag")[0] == 0
    manifest = store.require_manifest(ModelName.parse(registry.name))
    assert manifest.data == registry.manifest
    assert model_file(store, registry.name).read_bytes() == MODEL


def test_tagging_reuses_the_untagged_blob_of_the_store(registry, store, run_cli) -> None:
    """After --no-tag, a tagging pull fetches no model: it copies the one that is here."""
    assert run_cli("pull", registry.name, "--no-tag")[0] == 0
    registry.requests.clear()
    assert run_cli("pull", registry.name)[0] == 0
    assert registry.asked("blobs") == []
    assert model_file(store, f"{registry.name}-tq").read_bytes()[PAGE:] == MODEL


def test_a_damaged_blob_in_the_store_is_fetched_anew(registry, store, run_cli) -> None:
    """Blobs that are here are verified before they are used."""
    assert run_cli("pull", registry.name, "--no-tag")[0] == 0
    for digest, data in registry.blobs.items():
        path = store.blob(Digest.parse(digest))
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    code, _, err = run_cli("pull", registry.name)
    assert code == 0
    assert "damaged" in err
    for layer in store.require_manifest(ModelName.parse(f"{registry.name}-tq")).blobs:
        assert digest_path(store.blob(layer.digest)) == layer.digest


def test_a_name_that_is_taken_is_not_replaced_unasked(registry, store, run_cli) -> None:
    """Another content under the target's name: exit 6 before a byte moves; --yes replaces it."""
    assert run_cli("pull", registry.name, "--as", "mine", "--no-tag")[0] == 0
    registry.requests.clear()
    code, _, err = run_cli("pull", registry.name, "--as", "mine")
    assert code == 6
    assert "--yes" in err
    assert registry.asked("blobs") == []
    assert model_file(store, "mine").read_bytes() == MODEL
    assert run_cli("pull", registry.name, "--as", "mine", "--yes")[0] == 0
    assert model_file(store, "mine").read_bytes()[PAGE:] == MODEL


def test_types_by_hand(registry, store, run_cli) -> None:
    """--type-k and --type-v go into the page; one per layer too; nonsense is a usage error."""
    args = ("pull", registry.name, "--as", "mine")
    assert run_cli(*args, "--type-k", "q8_0,f16", "--type-v", "q8_0")[0] == 0
    tags = read_tags(read_header(model_file(store, "mine")))
    assert tags is not None
    assert (tags.type_k, tags.type_v) == (("q8_0", "f16"), "q8_0")
    assert run_cli(*args, "--type-k", "q8_0,f16")[0] == 0
    assert run_cli(*args, "--type-k", "f16")[0] == 6
    code, _, err = run_cli("pull", registry.name, "--as", "other", "--type-k", "turbo5")
    assert code == 2
    assert "turbo" in err
    assert store.read_manifest(ModelName.parse("other")) is None


def test_a_family_on_the_deny_list_is_installed_untagged(store, run_cli) -> None:
    """gpt-oss keeps its f16 cache: the pull goes on, and says why."""
    keys = keys_of(
        "gpt-oss", block_count=2, context_length=4096, embedding_length=256,
        attention__head_count=2, attention__head_count_kv=1, attention__key_length=64,
        attention__value_length=64, attention__sliding_window=128,
    )  # fmt: skip
    model = gguf_bytes(keys, {"token_embd.weight": (1024, 600)})
    with FakeRegistry(model) as registry:
        code, _, err = run_cli("pull", registry.name)
        assert code == 0
        assert "not tagged" in err
        assert model_file(store, f"{registry.name}-tq").read_bytes() == model
        assert run_cli("pull", registry.name, "--json")[1].find('"unchanged"') > 0


def test_to_a_folder(registry, tmp_path, store, run_cli) -> None:
    """--to writes GGUF and Modelfile there, leaves the store alone, and a second run does nothing."""
    code, out, _ = run_cli("pull", registry.name, "--to", tmp_path / "out", "-q")
    assert code == 0
    file = Path(out.strip())
    assert file == tmp_path / "out" / "tiny-1b-tq.gguf"
    assert file.read_bytes()[PAGE:] == MODEL
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert "FROM ./tiny-1b-tq.gguf" in text
    assert "TEMPLATE" in text
    assert not store.root.exists()
    registry.requests.clear()
    assert run_cli("pull", registry.name, "--to", tmp_path / "out")[0] == 0
    assert registry.asked("blobs") == []


def test_a_local_file_goes_the_same_way(tmp_path, store, run_cli) -> None:
    """A GGUF on disk is copied, tagged and installed; the file itself is not touched."""
    file = tmp_path / "My Model.gguf"
    file.write_bytes(MODEL)
    code, out, _ = run_cli("pull", file, "-q")
    assert code == 0
    assert out.strip() == "my-model:latest-tq"
    assert model_file(store, "my-model:latest-tq").read_bytes()[PAGE:] == MODEL
    assert file.read_bytes() == MODEL
    assert file.stat().st_nlink == 1
    assert '"unchanged"' in run_cli("pull", file, "--json")[1]


def test_a_pinned_digest(registry, store, run_cli) -> None:
    """name@sha256: must be the manifest's digest; a moved tag is exit 4 and nothing is installed."""
    assert run_cli("pull", f"{registry.name}@{registry.manifest_digest}")[0] == 0
    wrong = f"{registry.name}@sha256:{'0' * 64}"
    code, _, err = run_cli("pull", wrong, "--as", "other")
    assert code == 4
    assert "moved" in err
    assert store.read_manifest(ModelName.parse("other")) is None


def test_a_registry_that_wants_a_token_for_everybody(registry, run_cli) -> None:
    """A 401 with a Bearer challenge is answered by the anonymous token it offers."""
    registry.faults.token = "anybody"
    assert run_cli("pull", registry.name)[0] == 0
    assert all(h["Authorization"] == "Bearer anybody" for h in registry.asked("blobs"))


def test_a_token_that_ends_during_the_download(store, run_cli) -> None:
    """A 401 in the middle gets another token, once; tokens live for minutes, downloads for hours."""
    model = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 20000)})
    with FakeRegistry(model) as registry:
        registry.faults.token, registry.faults.token_uses = "a", 3
        assert run_cli("pull", registry.name)[0] == 0
        assert {h.get("Authorization") for h in registry.asked("blobs")} >= {
            "Bearer a",
            "Bearer a+",
        }


def test_a_pinned_digest_needs_no_tag(registry, run_cli) -> None:
    """name@sha256 without the tag `latest` in the registry is found by its digest."""
    name = registry.name.removesuffix(":1b") + ":gone"
    assert run_cli("pull", f"{name}@{registry.manifest_digest}")[0] == 0
    assert run_cli("pull", f"{name}@sha256:{'0' * 64}")[0] == 5


def test_dry_run_and_offline(registry, store, run_cli) -> None:
    """--dry-run asks for the manifest and prints the plan; --offline asks nobody."""
    code, out, _ = run_cli("pull", registry.name, "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["fetch_bytes"] == sum(len(b) for b in registry.blobs.values())
    assert not store.root.exists()
    registry.requests.clear()
    code, out, _ = run_cli("pull", registry.name, "--offline", "--json")
    assert code == 11
    assert "--offline" in json.loads(out)["error"]["message"]
    assert registry.requests == []


def test_dry_run_tells_the_tags_and_the_cache(registry, run_cli) -> None:
    """The header is fetched by a range: types, reasons and bytes of the cache before anything moves."""
    code, out, _ = run_cli("pull", registry.name, "--dry-run", "--json")
    assert code == 0
    told = json.loads(out)["would_tag"]
    assert (told["type_k"], told["type_v"], told["n_ctx"]) == ("q8_0", "turbo4", 4096)
    # 2 layers, 1 K/V head of 128, 4096 cells: f16 2 * 2 bytes; q8_0 34/32 and turbo4 66/128 bytes
    assert told["f16_bytes"] == 2 * 4096 * 128 * 4
    assert told["tagged_bytes"] == 2 * 4096 * (4 * 34 + 66)
    assert [h["Range"] for h in registry.asked("blobs")] == [f"bytes=0-{(1 << 20) - 1}"]
    code, out, _ = run_cli("pull", registry.name, "--dry-run")
    assert "would be tagged K q8_0, V turbo4: a cache of" in out
    assert "because: unmeasured" in out
    registry.faults.no_ranges = True  # then the answer is hung up on after the header
    assert json.loads(run_cli("pull", registry.name, "--dry-run", "--json")[1])["would_tag"] == told


def test_a_tagged_model_keeps_its_name_and_its_tags(store, run_cli, tmp_path) -> None:
    """Pulling NAME-tq installs NAME-tq, byte for byte, and shows the tags that came with it."""
    file = tmp_path / "m.gguf"
    file.write_bytes(MODEL)
    assert run_cli("tag", file)[0] == 0
    with FakeRegistry(file.read_bytes()) as registry:
        code, out, _ = run_cli("pull", f"{registry.name}-tq", "--json")
        assert code == 0
        document = json.loads(out)
    assert document["target"].endswith("tiny:1b-tq")
    assert document["tags"]["type_v"] == "turbo4"
    assert Path(document["model"]).read_bytes() == file.read_bytes()


def _with(layer: dict[str, object]) -> bytes:
    config = {"mediaType": "x", "digest": "sha256:" + "0" * 64, "size": 1}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode()


_MODEL_TYPE = "application/vnd.ollama.image.model"
BAD_MANIFESTS = {
    "not json": b"<html>",
    "no layers": b'{"config": {}}',
    "index": b'{"manifests": []}',
    "climbing digest": _with(
        {"mediaType": _MODEL_TYPE, "digest": "../../../../etc/passwd", "size": 5}
    ),
    "md5": _with({"mediaType": _MODEL_TYPE, "digest": "md5:" + "0" * 32, "size": 5}),
    "upper case": _with({"mediaType": _MODEL_TYPE, "digest": "sha256:" + "A" * 64, "size": 5}),
    "negative size": _with({"mediaType": _MODEL_TYPE, "digest": "sha256:" + "0" * 64, "size": -5}),
    "huge size": _with({"mediaType": _MODEL_TYPE, "digest": "sha256:" + "0" * 64, "size": 1 << 60}),
    "deep": b"[" * 100_000,
    "long": b" " * (5 << 20),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_bad_manifests_install_nothing(registry, store, run_cli, tmp_path, case: str) -> None:
    """A manifest that is no manifest, or names what is no digest: exit 4 (11 for one without end)."""
    registry.faults.manifest = BAD_MANIFESTS[case]
    before = files_in(tmp_path)
    code, out, err = run_cli("pull", registry.name)
    assert code == (11 if case == "long" else 4), err
    assert out == ""
    assert "Traceback" not in err
    assert not store.root.exists()
    assert files_in(tmp_path) == before


HOSTILE = [name for name, case in CASES.items() if case.kind and not case.length and case.data]


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_models_are_refused(store, run_cli, case: str) -> None:
    """A blob with the right digest that is no sound GGUF: exit 4, no blob, no manifest, no partial."""
    with FakeRegistry(CASES[case].data) as registry:
        code, _, err = run_cli("pull", registry.name)
        assert code == 4, err
    assert "Traceback" not in err
    assert not any(name.startswith("manifests") for name in files_in(store.root))
    assert not any("partial" in name for name in files_in(store.root))


def test_a_tensor_outside_the_file_ends_the_pull_early(store, run_cli) -> None:
    """The bounds check runs on the first megabytes, not after the last one."""
    sound = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 1000)})
    data = sound + bytes(64 << 20)
    bad = bytearray(data)
    at = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 8
    bad[at : at + 8] = (1 << 40).to_bytes(8, "little")
    with FakeRegistry(bytes(bad)) as registry:
        registry.faults.delay_s = 0.001
        assert run_cli("pull", registry.name)[0] == 4
        assert registry.sent < len(bad) // 2


def test_kept_bytes_that_are_no_gguf_any_more_are_fetched_anew(
    registry, store, run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut that lost the first bytes of a partial costs the bytes, not the pull."""
    monkeypatch.setenv("TQCONVERT_RETRIES", "1")
    registry.faults.cut_at = [1 << 20, *[0] * 60]
    assert run_cli("pull", registry.name)[0] == 11
    registry.faults.cut_at = []
    partial = next(store.partials.glob("*.partial"))
    with partial.open("r+b") as f:
        f.write(bytes(PAGE + 64))
    code, _, err = run_cli("pull", registry.name)
    assert code == 0, err
    assert "starting anew" in err
    assert model_file(store, f"{registry.name}-tq").read_bytes()[PAGE:] == MODEL


def test_two_pulls_at_once_fetch_the_model_once(registry, store) -> None:
    """The second of two processes waits, then finds nothing left to do."""
    from tqconvert.progress import Silent
    from tqconvert.pull.job import carry_out, prepare
    from tqconvert.pull.request import PullRequest
    from tqconvert.settings import Settings

    registry.faults.delay_s = 0.01
    results = []

    def work() -> None:
        request = PullRequest(registry.name)
        job = prepare(request, Settings(store=store.root), Silent())
        results.append(carry_out(job).state.value)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
        time.sleep(0.02)
    for t in threads:
        t.join(60)
    assert sorted(results) == ["new", "unchanged"]
    assert registry.sent == sum(len(b) for b in registry.blobs.values())


def test_big_endian_models_are_tagged_in_their_own_order(store, run_cli) -> None:
    """A big-endian GGUF gets a big-endian page."""
    data = gguf_bytes(LLAMA, {"token_embd.weight": (1024, 10)}, big_endian=True)
    with FakeRegistry(data) as registry:
        assert run_cli("pull", registry.name)[0] == 0
        file = model_file(store, f"{registry.name}-tq")
    assert read_header(file).byte_order == "big"
    assert read_tags(read_header(file)) is not None
