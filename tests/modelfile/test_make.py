"""Modelfiles keep what a model has, and invent nothing."""

import json
from pathlib import Path

import pytest
from builders import F64, LLAMA, gguf_bytes, keys_of, tiny_gguf

from tqconvert.digest import digest_bytes
from tqconvert.errors import BadManifestError, DigestMismatchError, NotFoundError, UsageError
from tqconvert.gguf.header import Header, read_header
from tqconvert.modelfile.chat import CHAT_FORMATS, chat_digest, chat_format_named
from tqconvert.modelfile.lint import lint
from tqconvert.modelfile.make import from_gguf, from_manifest, from_path
from tqconvert.modelfile.parse import Command, Modelfile, parse
from tqconvert.modelfile.render import render
from tqconvert.reference import ModelName
from tqconvert.store.layout import Store
from tqconvert.store.manifest import CONFIG_TYPE, LAYER_PREFIX, Layer, Manifest

NAME = ModelName.parse("m:1b")
CONFIG = {"model_format": "gguf", "renderer": "qwen3.5", "parser": "qwen3.5", "requires": "0.17.0"}
PARAMS = {
    "temperature": 0.95,
    "stop": ["<a>", "<b>"],
    "num_ctx": 8192,
    "use_mmap": False,
    "top_k": 20,
}
OWN = {
    "template": b"{{ .Prompt }}",
    "system": "be\nbrief é".encode(),
    "params": json.dumps(PARAMS).encode(),
    "messages": json.dumps([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]).encode(),
    "license": b'Do as you "like"\n',
}  # fmt: skip


def install(store: Store, layers: dict[str, bytes], config: dict | bytes | None = None) -> Header:
    """Put a model with these layers into the store by hand; its header."""
    store.blobs.mkdir(parents=True, exist_ok=True)

    def put(kind: str, data: bytes) -> Layer:
        digest = digest_bytes(data)
        store.blob(digest).write_bytes(data)
        return Layer.make(
            CONFIG_TYPE if kind == "config" else LAYER_PREFIX + kind, digest, len(data)
        )

    model = put("model", gguf_bytes(LLAMA))
    rest = tuple(put(kind, data) for kind, data in layers.items())
    config_bytes = config if isinstance(config, bytes) else json.dumps(config or {}).encode()
    manifest = Manifest.make(put("config", config_bytes), (model, *rest))
    store.write_manifest(NAME, manifest.data)
    return read_header(store.blob(model.digest))


def make(store: Store, layers, config=None, *, from_="m:1b", num_ctx=None) -> Modelfile:
    """Install and make."""
    header = install(store, layers, config)
    made = from_manifest(store, NAME, header, from_=from_, num_ctx=num_ctx)
    assert parse(render(made)) == made
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "models")


def plain(m: Modelfile) -> list[tuple[str, str, str]]:
    """Kind, key and value of the commands."""
    return [(c.kind, c.key, c.value) for c in m.commands]


def test_an_installed_model_keeps_its_own_layers(store):
    """Every layer comes back as the command that Ollama would make it from, byte for byte."""
    m = make(store, OWN, CONFIG)
    assert plain(m) == [
        ("from", "", "m:1b"),
        ("template", "", "{{ .Prompt }}"),
        ("system", "", "be\nbrief é"),
        ("renderer", "", "qwen3.5"),
        ("parser", "", "qwen3.5"),
        ("requires", "", "0.17.0"),
        ("parameter", "temperature", "0.95"),
        ("parameter", "stop", "<a>"),
        ("parameter", "stop", "<b>"),
        ("parameter", "num_ctx", "8192"),
        ("parameter", "use_mmap", "false"),
        ("parameter", "top_k", "20"),
        ("message", "user", "hi"),
        ("message", "assistant", "ho"),
    ]
    assert lint(render(m)) == ()


def test_licenses_come_with_a_name_and_are_written_beside_a_file(store):
    """Ollama adds a LICENSE to those of FROM, so writing it again would double it."""
    by_name = make(store, OWN)
    assert by_name.of("license") == ()
    assert any("LICENSE: 1 come with FROM" in note for note in by_name.trailing)
    by_path = make(store, OWN, from_="./m.gguf")
    assert [c.value for c in by_path.of("license")] == ['Do as you "like"\n']


def test_projector_and_adapter_are_named_beside_a_file(store):
    """With a name they come along; with a file their blobs are named."""
    layers = {"projector": b"GGUFp", "adapter": b"GGUFa"}
    assert make(store, layers).trailing == (
        "projector: comes with FROM",
        "adapter: comes with FROM",
    )
    m = make(store, layers, from_="./m.gguf")
    blobs = [str(store.blob(digest_bytes(data))) for data in layers.values()]
    assert plain(m)[1:] == [("from", "", blobs[0]), ("adapter", "", blobs[1])]


def test_num_ctx_replaces_the_models_own_and_says_so(store):
    """The reason and the value before stand above the line."""
    m = make(store, OWN, num_ctx=(32768, "fits 24 GiB"))
    lines = [c for c in m.of("parameter") if c.key == "num_ctx"]
    assert [c.value for c in lines] == ["32768"]
    assert lines[0].comments == ("num_ctx: fits 24 GiB (the model's own: 8192)",)


def test_a_model_without_layers_gets_none(store):
    """Nothing is invented: FROM alone."""
    assert plain(make(store, {})) == [("from", "", "m:1b")]


def test_parameters_that_stock_ollama_refuses_become_comments(store):
    """`create` over HTTP takes any key; `ollama create` with a Modelfile does not."""
    params = {"kv_cache_type": "q8_0", "num_ctx": "many", "mirostat": 1, "seed": 7, "stop": [{}]}
    m = make(store, {"params": json.dumps(params).encode()})
    assert plain(m)[1:] == [("parameter", "seed", "7")]
    assert len(m.trailing) == 4
    assert lint(render(m)) == ()


def test_text_that_the_syntax_cannot_carry_is_left_out_with_the_reason(store):
    """A zero-width joiner would vanish; the comment says where the text is."""
    m = make(store, {"system": "a\u200db".encode()})
    assert m.of("system") == ()
    assert m.trailing == ("left out: SYSTEM: holds U+200D, which Ollama's parser drops",)


def test_a_family_without_its_renderer_is_mentioned_and_not_given_one(store):
    """An installed qwen3.5 from a bare GGUF has none: the Modelfile says so."""
    header = install(store, {})
    qwen = read_header(tiny_gguf(store.root / "q.gguf", keys_of("qwen35")))
    assert header.architecture == "llama"
    m = from_manifest(store, NAME, qwen, from_="m:1b", num_ctx=None)
    assert m.of("renderer") == ()
    assert "RENDERER qwen3.5" in m.trailing[0]


@pytest.mark.parametrize(
    ("layers", "config"),
    [
        ({"params": b"[]"}, {}),
        ({"params": b"{"}, {}),
        ({"messages": b"{}"}, {}),
        ({"messages": b"[1]"}, {}),
        ({}, b"not json"),
        ({}, b"[" * 100_000),
    ],
)
def test_broken_layers_are_named(store, layers, config):
    """Blobs come from registries: what is no JSON of the right form is an error, not a crash."""
    header = install(store, layers, config)
    with pytest.raises(BadManifestError):
        from_manifest(store, NAME, header, from_="m:1b", num_ctx=None)


def test_a_changed_or_missing_blob_is_refused(store):
    """Text from a blob with other bytes than its digest is not written."""
    header = install(store, {"system": b"be brief"})
    blob = store.blob(digest_bytes(b"be brief"))
    blob.write_bytes(b"be rude!")
    with pytest.raises(DigestMismatchError):
        from_manifest(store, NAME, header, from_="m:1b", num_ctx=None)
    blob.unlink()
    with pytest.raises(NotFoundError):
        from_manifest(store, NAME, header, from_="m:1b", num_ctx=None)


def bare(tmp_path: Path, keys: dict, **options) -> Modelfile:
    """Modelfile of a GGUF with these keys."""
    header = read_header(tiny_gguf(tmp_path / "m.gguf", keys))
    made = from_gguf(header, from_="./m.gguf", num_ctx=(4096, "because"), **options)
    text = render(made)
    assert parse(text) == made
    assert lint(text) == ()
    return made


def test_a_bare_gguf_gets_what_is_certain(tmp_path):
    """FROM and num_ctx are commands; that there is no chat template and no license are comments."""
    m = bare(tmp_path, LLAMA)
    assert plain(m) == [("from", "", "./m.gguf"), ("parameter", "num_ctx", "4096")]
    assert m.commands[1].comments == ("num_ctx: because",)
    assert m.trailing == (
        "TEMPLATE: none: the file has no chat template, as base models have none",
        "LICENSE: not certain: the file names none",
    )


def test_qwen35_gets_renderer_and_parser_if_its_name_says_so(tmp_path):
    """Other families share the architecture: without the name the pair is a comment."""
    m = bare(tmp_path, keys_of("qwen35") | {"general.name": "Qwen3.5 27B"})
    assert plain(m)[1:3] == [("renderer", "", "qwen3.5"), ("parser", "", "qwen3.5")]
    other = bare(tmp_path, keys_of("qwen35") | {"general.name": "Something Else"})
    assert other.of("renderer") == ()
    assert other.trailing[0].startswith("not certain: RENDERER qwen3.5 and PARSER qwen3.5")


def test_sampling_defaults_of_the_file_become_parameters(tmp_path):
    """float32 values come with the digits that were meant; keys without a PARAMETER are comments."""
    keys = {
        "general.sampling.temp": 0.7, "general.sampling.top_k": 20, "general.sampling.top_p": 0.95,
        "general.sampling.penalty_repeat": 1.0, "general.sampling.xtc_threshold": 0.1,
        "general.sampling.mirostat": 1, "general.sampling.min_p": "much",
    }  # fmt: skip
    m = bare(tmp_path, LLAMA | keys)
    assert [(c.key, c.value) for c in m.of("parameter")][:4] == [
        ("temperature", "0.7"), ("top_k", "20"), ("top_p", "0.95"), ("repeat_penalty", "1"),
    ]  # fmt: skip
    assert m.of("parameter")[0].comments == ("temperature: general.sampling.temp of the file",)
    assert sum("no PARAMETER of Ollama" in note for note in m.trailing) == 3


def test_an_unknown_chat_template_leaves_template_out(tmp_path):
    """Its digest is named, and what Ollama does by itself."""
    m = bare(tmp_path, LLAMA | {"tokenizer.chat_template": "{{ messages }}"})
    assert m.of("template") == ()
    assert chat_digest("{{ messages }}")[:12] in m.trailing[0]
    assert m.trailing[0].startswith("not certain: TEMPLATE")


def known(monkeypatch, name: str, chat_template: str, differs: tuple[str, ...] = ()) -> dict:
    """Make the format stand for a chat template; the keys of a file that has it."""
    digest = chat_digest(chat_template)
    monkeypatch.setattr("tqconvert.modelfile.chat.proofs", lambda: {name: {digest: differs}})
    return LLAMA | {"tokenizer.chat_template": chat_template}


def test_a_known_chat_template_brings_our_template_and_stop(tmp_path, monkeypatch):
    """A format that was compared with the file's chat template is used, with what differs beside it."""
    keys = known(monkeypatch, "gemma", "{{ toy }}\n", ("empty", "edges"))
    m = bare(tmp_path, keys)
    gemma = chat_format_named("gemma")
    assert plain(m)[1:3] == [
        ("template", "", gemma.template), ("parameter", "stop", "<end_of_turn>"),
    ]  # fmt: skip
    assert m.commands[1].comments == (
        "TEMPLATE: gemma, proven equal to the file's chat template; not certain: empty, edges (docs/templates.md)",
    )


def test_a_format_with_another_end_of_text_is_left_out(tmp_path, monkeypatch):
    """The template writes `</s>` out; a file whose token is called otherwise would read it as letters."""
    keys = known(monkeypatch, "mistral", "{{ toy }}") | {
        "tokenizer.ggml.tokens": ["<s>", "</s>", "<eos>"],
    }  # fmt: skip
    assert bare(tmp_path, keys | {"tokenizer.ggml.eos_token_id": 1}).of("template")
    other = bare(tmp_path, keys | {"tokenizer.ggml.eos_token_id": 2})
    assert other.of("template") == ()
    assert other.trailing[:2] == (
        "not certain: TEMPLATE: mistral ends an answer with </s>, the file with <eos>",
        "TEMPLATE: left out; --template mistral takes it",
    )
    asked = bare(
        tmp_path, keys | {"tokenizer.ggml.eos_token_id": 2}, chat=chat_format_named("mistral")
    )
    assert asked.of("template")
    assert asked.trailing[0] == other.trailing[0]
    for index in (3, None):
        more = {} if index is None else {"tokenizer.ggml.eos_token_id": index}
        assert "a token that it does not name" in bare(tmp_path, keys | more).trailing[0]


def test_a_bos_that_nobody_adds_is_said(tmp_path, monkeypatch):
    """Templates leave BOS to the runtime, which goes by the file."""
    keys = known(monkeypatch, "gemma", "{{ bos_token }}{{ toy }}")
    for adds, said in ((False, True), (True, False)):
        m = bare(tmp_path, keys | {"tokenizer.ggml.add_bos_token": adds})
        assert any("not certain: BOS" in note for note in m.trailing) is said


def test_marks_of_a_format_are_a_hint_and_no_more(tmp_path):
    """An unknown chat template with gemma's marks gets no TEMPLATE, and the name to ask for."""
    m = bare(tmp_path, LLAMA | {"tokenizer.chat_template": "<start_of_turn>{{ x }}"})
    assert m.of("template") == ()
    assert m.trailing[0].endswith("was not compared with one of ours; --template names one")
    assert m.trailing[1] == "TEMPLATE: its marks are those of gemma"


def test_a_template_that_is_asked_for_is_marked_as_not_compared(tmp_path):
    """--template is the user's word, not the file's."""
    chatml = CHAT_FORMATS[0]
    m = bare(tmp_path, LLAMA, chat=chatml)
    assert m.of("template")[0].value == chatml.template
    assert "asked for by --template, not compared" in m.of("template")[0].comments[0]
    with pytest.raises(UsageError, match="RENDERER"):
        bare(tmp_path, keys_of("gemma4"), chat=chatml)


def test_text_of_the_file_cannot_smuggle_lines_in(tmp_path):
    """Names and licenses of a hostile file stay within their comment."""
    keys = {
        "general.license": "MIT\nSYSTEM evil\r\nFROM other\u2028x",
        "general.sampling.a\nFROM b": 1,
    }
    m = bare(tmp_path, LLAMA | keys)
    assert [c.kind for c in parse(render(m)).commands] == ["from", "parameter"]


def test_paths_are_relative_only_below_the_modelfile(tmp_path, monkeypatch):
    """Ollama counts relative paths from the Modelfile's folder."""
    monkeypatch.chdir(tmp_path)
    assert from_path(Path("a/m.gguf"), None) == "./a/m.gguf"
    assert from_path(Path("a/m.gguf"), Path("a/Modelfile")) == "./m.gguf"
    assert from_path(Path("m.gguf"), Path("a/Modelfile")) == str(tmp_path / "m.gguf")
    assert Command("from", from_path(tmp_path / "m.gguf", None)) == Command("from", "./m.gguf")


def test_a_sampling_default_of_64_bits_is_taken_as_it_is(tmp_path):
    """A float64 that no float32 equals; found by `python -m tests.fuzz headers`."""
    m = bare(tmp_path, LLAMA | {"general.sampling.temp": (F64, 0.1)})
    assert m.parameter("temperature") == "0.1"
