"""The documents of `--json`: a shape for each command, a schema that holds them, commands that keep to it.

The fixture `_documents_are_as_promised` compares what any test makes a command print; here every cheap
form is printed once on purpose, and the schemas themselves are looked at.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from builders import LLAMA, tiny_gguf
from fakeregistry import FakeRegistry
from jsondocs import check_document

from tqconvert.cli import main
from tqconvert.documents import DOCUMENTS, name_of, schemas
from tqconvert.documents.shape import maybe, rows_of, say, schema_of

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "balance": "cli/test_balance.py", "serve": "runtime/test_serve.py", "quality": "cli/test_quality.py",
    "ollama-build.list": "cli/test_json_fields.py", "ollama-build.status": "cli/test_json_fields.py",
    "ollama-build.verify": "cli/test_json_fields.py", "ollama-build.lock": "cli/test_json_fields.py",
    "ollama-build.apply": "cli/test_json_fields.py", "ollama-build.unapply": "cli/test_json_fields.py",
    "ollama-build.edit": "cli/test_json_fields.py", "ollama-build.refresh": "cli/test_json_fields.py",
    "ollama-build.import": "cli/test_json_fields.py", "ollama-build.export": "cli/test_json_fields.py",
    "ollama-build.rebase": "cli/test_json_fields.py", "ollama-build.abort": "cli/test_json_fields.py",
    "ollama-build.lint": "cli/test_json_fields.py", "ollama-build.watch": "patches/test_watch.py",
    "ollama-build.bisect-base": "patches/test_onto.py", "ollama-build.build": "runtime/test_build.py",
    "ollama-build.continue": "cli/test_ollama_build_change.py",
    "ollama-build.skip": "cli/test_ollama_build_change.py", "ollama-build.whatis": "runtime/test_build.py",
    "push": "push/test_faults.py", "metal.names": "metal/host/test_names.py", "metal.lint": "metal/host/test_lint.py",
    "metal.check": "metal/sim/test_check.py", "metal.gpu": "metal/host/test_apple.py",
    "metal.bench": "metal/host/test_apple.py",
}  # fmt: skip
"""Commands that take a tree or a runtime: the file whose tests print their documents."""

WALK: dict[str, tuple[tuple[str, ...], ...]] = {
    "pull": (
        ("pull", "NAME", "--lock", "--attest", "s.json", "--bom", "b.json"), ("pull", "NAME"),
        ("pull", "NAME", "-n", "--as", "other"), ("pull", "NAME", "-n", "--no-tag", "--as", "other"),
        ("pull", "--locked"), ("pull", "--locked", "-n"), ("pull", "NAME", "--locked"),
        ("pull", "m.gguf", "--no-tag", "--to", "out"),
    ),
    "inspect": (
        ("inspect", "NAME-tq"), ("inspect", "m.gguf"), ("inspect", "m.gguf", "--tensors"),
        ("inspect", "m.gguf", "--keys"), ("inspect", "m.gguf", "--get", "general.architecture"),
        ("inspect", "odd.gguf"),
    ),
    "plan": (
        ("plan", "m.gguf"), ("plan", "NAME-tq", "--ctx", "2k,4k", "--memory", "1GiB"),
        ("plan", "m.gguf", "--type-k", "turbo3", "--type-v", "q8_0"),
        ("plan", "m.gguf", "--memory", "1KiB"),
    ),
    "tag": (("tag", "m.gguf", "-n"), ("tag", "m.gguf", "-o", "t.gguf"), ("tag", "t.gguf")),
    "untag": (("untag", "u.gguf", "-n"), ("untag", "u.gguf"), ("untag", "u.gguf")),
    "modelfile": (
        ("modelfile", "m.gguf"), ("modelfile", "m.gguf", "-o", "Modelfile"),
        ("modelfile", "--lint", "Modelfile"), ("modelfile", "--lint", "bad.modelfile"),
    ),
    "install": (
        ("install", "m.gguf", "--as", "mine", "-n"), ("install", "m.gguf", "--as", "mine"),
        ("install", "m.gguf", "--as", "mine"), ("install", "m.gguf", "--as", "copy", "--link", "copy"),
        ("install", "odd.gguf", "--as", "mine", "--yes"),
        ("install", "--remove", "mine", "-n"), ("install", "--remove", "copy"),
    ),
    "verify": (("verify", "NAME-tq"), ("verify", "m.gguf"), ("verify", "torn.gguf")),
    "fingerprint": (
        ("fingerprint", "m.gguf"), ("fingerprint", "NAME-tq", "--against", "m.gguf", "--tensors"),
        ("fingerprint", "m.gguf", "--against", f"sha256:{'0' * 64}"),
    ),
    "doctor": (("doctor",),),
    "config.show": (("config", "show"),),
    "cache.prune": (("cache", "prune", "-n"), ("cache", "prune")),
    "error": (("inspect", "nothing"), ("pull",), ("nope",)),
}  # fmt: skip
"""Commands with the lines that print every form of their documents, run one after the other."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with models and Modelfiles."""
    folder = tmp_path_factory.mktemp("documents")
    tensors = {"token_embd.weight": (256, 40), "blk.0.attn_k.weight": (32, 2)}
    model = tiny_gguf(folder / "m.gguf", tensors=tensors)
    tiny_gguf(folder / "odd.gguf", {**LLAMA, "general.architecture": "newnet"}, tensors={"a": (3,)})
    assert main(["tag", str(model), "-o", str(folder / "u.gguf"), "-q"]) == 0
    (folder / "torn.gguf").write_bytes(model.read_bytes()[:-100])
    (folder / "bad.modelfile").write_text("FROM ./none.gguf\nPARAMETER nonsense 1\nWHAT x\n")
    return folder


@pytest.fixture(scope="module")
def registry(folder: Path) -> Iterator[FakeRegistry]:
    """A registry with the same model."""
    with FakeRegistry((folder / "m.gguf").read_bytes(), license=b"free") as r:
        yield r


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all of them."""
    return tmp_path_factory.mktemp("store")


Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("command", WALK)
def test_what_is_printed_is_what_is_documented(
    folder: Path, registry: FakeRegistry, store: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:  # fmt: skip
    """Each line prints one document of its command, with every field promised and no other."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    needs_pull = any("NAME-tq" in line for line in WALK[command])
    assert not needs_pull or run_cli("pull", registry.name, "-q")[0] == 0
    everything = jsonschema.Draft202012Validator(schemas())
    for line in WALK[command]:
        filled = [word.replace("NAME", registry.name) for word in line]
        code, out, err = run_cli(*filled, "--json")
        assert code in (0, 1, 4) or command == "error", (line, out, err)
        assert check_document(json.loads(out)) == command, (line, out)
        everything.validate(json.loads(out))


def test_share(folder: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The document that `share` prints when it is ready."""
    from tqconvert.cli.output import Output
    from tqconvert.cli.share import announce
    from tqconvert.registry.serve import serve_store
    from tqconvert.store.layout import Store

    with serve_store(Store(store), "127.0.0.1", 0) as server:
        announce(server, Store(store), Output("share", json=True))
    assert check_document(json.loads(capsys.readouterr().out)) == "share"


def commands() -> set[str]:
    """Names of all commands as their documents have them."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {".".join(path) for path in module.commands()}


def test_every_command_has_a_document_and_a_test() -> None:
    """The program's own list of commands; the two of `quality` share one."""
    named = {name if not name.startswith("quality.") else "quality" for name in commands()}
    assert named | {"error"} == set(DOCUMENTS)
    assert {*WALK, *ELSEWHERE, "share"} == set(DOCUMENTS)
    for command, path in ELSEWHERE.items():
        text = (ROOT / "tests" / path).read_text("utf-8")
        assert '"--json"' in text, path
        assert f'"{command.rpartition(".")[2]}"' in text or f".{command}/1" in text, (command, path)


def test_the_schemas_are_schemas() -> None:
    """Valid by their own draft; open, so that fields may be added; one file for all."""
    whole = schemas()
    jsonschema.Draft202012Validator.check_schema(whole)
    everything = jsonschema.Draft202012Validator(whole)
    assert json.loads((ROOT / "docs" / "tqconvert.schema.json").read_text()) == whole
    error = {"schema": "tqconvert.error/1", "error": {"kind": "x", "message": "y", "hint": None}}
    everything.validate({**error, "later": 1})
    for broken in (
        {},
        {"schema": "tqconvert.nope/1"},
        {"schema": "tqconvert.error/1"},
        {**error, "error": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            everything.validate(broken)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"more": 1}, "'more' was unexpected"), ({"ok": "yes"}, r"\$.ok"), ({"ok": None}, r"\$.ok"),
        ({"checks": [{}]}, "'name' is a required property"),
    ],
)  # fmt: skip
def test_the_check_finds_planted_faults(change: dict[str, Any], word: str) -> None:
    """A field that nobody documented, a wrong type, a null, a missing field deep inside."""
    good = {"schema": name_of("doctor"), "ok": True, "changed": False, "checks": []}
    assert check_document(good) == "doctor"
    with pytest.raises(AssertionError, match=word):
        check_document({**good, **change})
    with pytest.raises(AssertionError, match="not in tqconvert/documents"):
        check_document({"schema": "tqconvert.nope/1"})


def test_the_language_of_shapes() -> None:
    """Each form once: as a schema, and as rows of the page."""
    shape = {
        "a": "int?: how many", "b?": "=x|y", "c": say("all", [{"d": "digest"}]),
        "e": maybe({"*": "text"}), "f": maybe(["text"], "or none"),
    }  # fmt: skip
    assert list(rows_of(shape)) == [
        ("a", "int?", "how many"), ("b", "x, y, optional", ""), ("c", "array", "all"),
        ("c[].d", "digest", ""), ("e", "object?", ""), ("e.*", "text", ""),
        ("f", "array of text?", "or none"),
    ]  # fmt: skip
    good = {"a": None, "c": [{"d": f"sha256:{'0' * 64}"}], "e": {"k": "v"}, "f": None}
    closed = schema_of(shape, closed=True)
    jsonschema.validate(good, closed)
    for change in (
        {"a": 1.5},
        {"a": True},
        {"b": "z"},
        {"c": [{"d": "md5"}]},
        {"e": {"k": 1}},
        {"f": [1]},
        {"g": 1},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **change}, closed)
