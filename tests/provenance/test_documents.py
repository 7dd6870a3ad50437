"""The in-toto statement and the bill of materials: against the real schemas, and against the bytes."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import LLAMA, gguf_bytes
from fakeregistry import FakeRegistry

from tqconvert import __version__
from tqconvert.digest import digest_path
from tqconvert.gguf.fingerprint import fingerprint_of
from tqconvert.provenance.bom import SPDX

Cli = Callable[..., tuple[int, str, str]]
KEYS = {
    **LLAMA, "general.license": "apache-2.0", "general.license.link": "https://example.org/LICENSE",
    "general.author": "A. Uthor", "general.description": "For tests.", "general.file_type": 15,
    "general.repo_url": "https://example.org/repo", "general.url": "not a url <>",
    "general.base_model.count": 2, "general.base_model.0.name": "Base",
    "general.base_model.0.organization": "Org", "general.base_model.0.version": "v1",
    "general.base_model.0.repo_url": "https://example.org/base", "general.base_model.1.name": "Second",
    "general.dataset.count": 1, "general.dataset.0.name": "Data",
}  # fmt: skip
MODEL = gguf_bytes(KEYS, {"token_embd.weight": (1024, 60)})
EPOCH = "1700000000"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry with one tiny model that says much of itself."""
    with FakeRegistry(MODEL, license=b"\n  The License\nof tests") as r:
        yield r


def pulled(
    run_cli: Cli, *arguments: object
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(JSON of the command, statement, BOM) of a pull with both documents."""
    code, out, err = run_cli("pull", *arguments, "--attest", "s.json", "--bom", "b.json", "--json")
    assert code == 0, err
    statement, bom = (json.loads(Path(name).read_text()) for name in ("s.json", "b.json"))
    return json.loads(out), statement, bom


def check_statement(statement: dict[str, Any]) -> None:
    """Parse it with the in-toto project's own messages: unknown fields and wrong types are errors."""
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.statement import Statement

    parsed = Statement.copy_from_pb(json_format.ParseDict(statement, Statement([], "", {}).pb))
    parsed.validate()
    provenance = json_format.ParseDict(statement["predicate"], Provenance())
    assert provenance.build_definition.build_type
    assert provenance.run_details.builder.id


def check_bom(bom: str) -> None:
    """Validate it with the schema that the CycloneDX project publishes, formats included."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom) is None


def test_the_checks_find_planted_faults(registry, run_cli) -> None:
    """A wrong type, a missing digest, an unknown field: each is found by what the other tests ask."""
    _, statement, bom = pulled(run_cli, registry.name)
    for broken in (
        {**statement, "subject": [{"name": "x"}]},
        {**statement, "more": 1},
        {**statement, "predicate": {**statement["predicate"], "builder": {}}},
    ):
        with pytest.raises(Exception, match=r"."):
            check_statement(broken)
    for key, value in (
        ("type", "model"),
        ("more", 1),
        ("licenses", [{"license": {"id": "gemma"}}]),
    ):
        component = {**bom["components"][0], key: value}
        with pytest.raises(AssertionError):
            check_bom(json.dumps({**bom, "components": [component]}))


def test_the_statement_names_what_sha256_finds(registry, run_cli) -> None:
    """Subjects are the GGUF and the manifest, dependencies the source; digests are those of the files."""
    document, statement, _ = pulled(run_cli, registry.name, "--as", "mine")
    assert (document["attestation"], document["bom"]) == ("s.json", "b.json")
    check_statement(statement)
    model = Path(document["model"])
    store = Path(os.environ["OLLAMA_MODELS"])
    manifest = store / "manifests/registry.ollama.ai/library/mine/latest"
    subjects = {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}
    assert subjects == {
        "mine-latest.gguf": digest_path(model).hex,
        "mine:latest": digest_path(manifest).hex,
    }
    build = statement["predicate"]["buildDefinition"]
    assert build["externalParameters"]["models"] == [
        {
            "source": registry.name, "target": "mine:latest",
            "tags": {"type_k": "q8_0", "type_v": "turbo4", "balance": "none"},
        }
    ]  # fmt: skip
    source, source_manifest = build["resolvedDependencies"]
    assert source["digest"]["sha256"] == registry.model_digest.removeprefix("sha256:")
    assert source["uri"] == registry.endpoint().url
    assert source_manifest["digest"]["sha256"] == registry.manifest_digest.removeprefix("sha256:")
    run = statement["predicate"]["runDetails"]
    assert run["builder"]["version"] == {"tqconvert": __version__}
    assert run["byproducts"][0]["digest"]["sha256"] == fingerprint_of(model).digest.hex


def test_the_bom_says_what_the_header_says(registry, run_cli) -> None:
    """License, author, base models, data sets; a URL that is none is left out."""
    document, _, bom = pulled(run_cli, registry.name, "--as", "mine")
    check_bom(Path("b.json").read_text())
    [model] = bom["components"]
    assert model["licenses"] == [
        {"license": {"id": "Apache-2.0", "url": "https://example.org/LICENSE"}}
    ]
    assert model["hashes"][0]["content"] == digest_path(document["model"]).hex
    assert (model["name"], model["description"]) == ("tiny llama", "For tests.")
    assert model["authors"] == [{"name": "A. Uthor"}]
    assert model["externalReferences"] == [{"type": "vcs", "url": "https://example.org/repo"}]
    assert model["modelCard"]["modelParameters"] == {
        "modelArchitecture": "llama", "datasets": [{"type": "dataset", "name": "Data"}]
    }  # fmt: skip
    source, base, second = model["pedigree"]["ancestors"]
    assert source["hashes"][0]["content"] == registry.model_digest.removeprefix("sha256:")
    assert (base["name"], base["group"], base["version"]) == ("Base", "Org", "v1")
    assert second == {"type": "machine-learning-model", "name": "Second"}
    properties = {p["name"]: p["value"] for p in model["properties"]}
    assert properties["tqconvert:type_v"] == "turbo4"
    assert properties["tqconvert:quantization"] == "Q4_K_M"


def test_both_are_the_same_bytes_with_a_fixed_time(
    registry, run_cli, tmp_path, monkeypatch
) -> None:
    """SOURCE_DATE_EPOCH: a pull, a second one, and one into another store write the same documents."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)
    found = []
    for store in ("a", "a", "b"):
        monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / store))
        pulled(run_cli, registry.name, "--as", "mine")
        found.append((Path("s.json").read_bytes(), Path("b.json").read_bytes()))
    assert found[0] == found[1] == found[2]
    assert b"2023-11-14T22:13:20Z" in found[0][0]
    assert b"2023-11-14T22:13:20Z" in found[0][1]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert run_cli("pull", registry.name, "--as", "mine", "--attest", "s.json")[0] == 13
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    _, statement, _ = pulled(run_cli, registry.name, "--as", "mine")
    check_statement(statement)


def test_a_local_file_tells_no_path(run_cli, tmp_path) -> None:
    """The name of the file is in the documents, its folder is not; no manifest that nobody can have."""
    Path("m.gguf").write_bytes(MODEL)
    _, statement, bom = pulled(run_cli, Path("m.gguf").absolute(), "--to", "out")
    check_statement(statement)
    check_bom(json.dumps(bom))
    assert str(tmp_path) not in json.dumps([statement, bom])
    [source] = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert source == {"name": "m.gguf", "digest": {"sha256": digest_path("m.gguf").hex}}
    names = [s["name"] for s in statement["subject"]]
    assert Path("out", names[0]).exists()


def test_all_locked_models_in_one_document(registry, run_cli) -> None:
    """Two models, one of them untagged: subjects, sources and components of both."""
    assert run_cli("pull", registry.name, "--as", "one", "--lock")[0] == 0
    assert run_cli("pull", registry.name, "--as", "two", "--no-tag", "--lock")[0] == 0
    document, statement, bom = pulled(run_cli, "--locked")
    check_statement(statement)
    check_bom(json.dumps(bom))
    assert [m["target"] for m in document["models"]] == ["one:latest", "two:latest"]
    models = statement["predicate"]["buildDefinition"]["externalParameters"]["models"]
    assert [m["tags"] and m["tags"]["type_k"] for m in models] == ["q8_0", None]
    assert len(statement["subject"]) == 4
    assert len(bom["components"]) == 2


@pytest.mark.parametrize(
    ("keys", "license_", "expected"),
    [
        ({"general.license": "gemma"}, b"", {"name": "gemma"}),
        ({"general.license": "other", "general.license.name": "Own 1.0"}, b"", {"name": "Own 1.0"}),
        ({"general.license": "MIT", "general.license.link": "file:///etc"}, b"x", {"id": "MIT"}),
        ({}, b"\n  The License\nof tests", {
            "name": "The License",
            "text": {"contentType": "text/plain", "content": "\n  The License\nof tests"}}),
        ({}, b"\xff", {"name": "\ufffd", "text": {"contentType": "text/plain", "content": "\ufffd"}}),
        ({}, b"", None),
    ],
)  # fmt: skip
def test_licenses(run_cli, keys: dict[str, str], license_: bytes, expected: object) -> None:
    """An SPDX identifier where it is one, else a name; the layer's text where the header is silent."""
    other = {"license": license_} if license_ else {}
    with FakeRegistry(gguf_bytes({**LLAMA, **keys}), **other) as registry:
        _, _, bom = pulled(run_cli, registry.name)
    check_bom(json.dumps(bom))
    [model] = bom["components"]
    assert model.get("licenses") == (expected and [{"license": expected}])


def test_spdx_names_are_spdx_names() -> None:
    """Each is one that the schema's own list has."""
    from importlib.resources import files

    schema = json.loads(
        files("cyclonedx.schema").joinpath("_res/spdx.SNAPSHOT.schema.json").read_text()
    )
    assert set(SPDX.values()) <= set(schema["enum"])


def test_hostile_headers_make_valid_documents(run_cli) -> None:
    """Counts without end, control characters, bytes that are no text."""
    keys = {
        **LLAMA, "general.base_model.count": (10, 1 << 63), "general.dataset.count": (5, -1),
        "general.base_model.0.name": "a\x00\x1b[31m\u202e", "general.name": "n" * 10000,
        "general.license": "", "general.author": "\x7f", "general.repo_url": "https://a b/\n",
    }  # fmt: skip
    with FakeRegistry(gguf_bytes(keys)) as registry:
        _, statement, bom = pulled(run_cli, registry.name)
    check_statement(statement)
    check_bom(json.dumps(bom))
    assert "externalReferences" not in bom["components"][0]


def test_files_of_the_user_are_not_replaced(registry, run_cli) -> None:
    """Another file under the name: exit 6 before a byte moves, --yes replaces it; a folder is usage."""
    Path("s.json").write_text('{"my": "notes"}')
    Path("dir").mkdir()
    for option in ("--attest", "--bom"):
        code, _, err = run_cli("pull", registry.name, option, "s.json")
        assert (code, "--yes" in err) == (6, True)
        assert run_cli("pull", registry.name, option, "dir")[0] == 2
        assert run_cli("pull", registry.name, option, "none/x.json")[0] == 2
    assert run_cli("pull", registry.name, "--attest", "x.json", "--bom", "./x.json")[0] == 2
    assert registry.requests == []
    assert Path("s.json").read_text() == '{"my": "notes"}'
    assert run_cli("pull", registry.name, "--attest", "s.json", "--yes")[0] == 0
    check_statement(json.loads(Path("s.json").read_text()))
    assert run_cli("pull", registry.name, "--bom", "s.json")[0] == 6
