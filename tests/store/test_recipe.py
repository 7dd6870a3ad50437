"""The small blobs: byte for byte those of stock `ollama create`."""

import json
from pathlib import Path

import pytest
from builders import LLAMA, tiny_gguf

from tqconvert.digest import Digest
from tqconvert.errors import RefusedError
from tqconvert.gguf.header import read_header
from tqconvert.modelfile.parse import ModelfileError, parse
from tqconvert.store.recipe import (
    Recipe,
    config_blob,
    go_json,
    human_number,
    read_recipe,
    recipe_blobs,
    recipe_of,
)

GEMMA = Digest.parse("sha256:a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818")
MODELFILE = '''FROM ./g.gguf
TEMPLATE """<start_of_turn>user
{{ .Prompt }}<end_of_turn>
<start_of_turn>model
{{ .Response }}<end_of_turn>
"""
SYSTEM You are <terse> & "kind".
PARAMETER temperature 1
PARAMETER top_p 0.95
PARAMETER top_k 64
PARAMETER num_ctx 32768
PARAMETER stop "<end_of_turn>"
LICENSE """Gemma terms
line 2"""
LICENSE second
MESSAGE user hi
MESSAGE assistant hello
RENDERER qwen3.5
REQUIRES 0.6.0
'''
# What stock Ollama v0.19.0 wrote for `ollama create -f` of MODELFILE on Gemma 3 270M Q4_K_M.
STOCK = {
    "template": "c2e63654faaa897bba0adfef541b2fbde959dc337cc7b57365184718861bcd8b",
    "system": "d531f51b85ad237b98fcb2122008a50cb6855517f55db3520a4807e3472c6837",
    "license": "ec8e41a2f94e7083df5ffa4453b7e6fb8525fb3688f8a51bcf44dab686db01c5",
    "license 2": "16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4",
    "params": "4739497b5791f48e1af57b94bcd5e646ae8bfcaf7fc7c87afa2bb51234ade870",
    "messages": "ac29223db42ab62ec4df0a39c5ba6054f3bd78f945c536548dcf2f7431f39af4",
}
STOCK_CONFIG = "f94dac6399779fbc837573684fc585dd8258e64e81963a8fe503b4faa049b841"
STOCK_CONFIG_PLAIN = "c7deca6ada15db5344617797d395dde39a10488ea6bd972e1491661870378fef"


def test_text_params_and_messages_are_the_bytes_of_stock_ollama() -> None:
    """Digests of all six layers equal those that `ollama create` v0.19.0 made."""
    blobs = recipe_blobs(recipe_of(parse(MODELFILE)))
    assert [b.layer.digest.hex for b in blobs] == list(STOCK.values())
    assert [b.layer.kind for b in blobs] == [k.split()[0] for k in STOCK]


def test_the_config_is_the_one_of_stock_ollama(gemma: Path) -> None:
    """Same digest as `ollama create` v0.19.0 made, with and without a Modelfile's extras."""
    header = read_header(gemma)
    assert config_blob(header, Recipe(), (GEMMA,)).layer.digest.hex == STOCK_CONFIG_PLAIN
    recipe = recipe_of(parse(MODELFILE))
    layers = (GEMMA, *(b.layer.digest for b in recipe_blobs(recipe)))
    assert config_blob(header, recipe, layers).layer.digest.hex == STOCK_CONFIG


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (999, "999"), (1000, "1K"), (1001, "1K"), (10**6, "1M"), (125 * 10**6, "125M"),
     (500_500_000, "500.50M"), (500_550_000, "500.55M"), (10**9, "1B"), (28 * 10**8, "2.8B"),
     (285 * 10**7, "2.9B"), (10**12, "1000B")],
)  # fmt: skip
def test_parameters_are_counted_in_ollamas_words(n: int, text: str) -> None:
    """The table of Ollama's own test, format/format_test.go TestHumanNumber."""
    assert human_number(n) == text


def test_json_is_escaped_as_go_does() -> None:
    """HTML's characters and the two line separators become escapes; other text stays UTF-8."""
    assert go_json({"a": "<&>\u2028é"}) == b'{"a":"\\u003c\\u0026\\u003e\\u2028\xc3\xa9"}\n'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        ("1", 1),
        ("0.123456789", 0.12345679),
        ("1e2", 100),
        ("0x1p-2", 0.25),
        ("1_0.5", 10.5),
        ("0x_1_0p0", 16),
    ],
)
def test_floats_pass_through_32_bits(text: str, value: float) -> None:
    """Ollama's options are float32; the params layer has the shortest decimal of that."""
    recipe = recipe_of(parse(f"FROM x\nPARAMETER temperature {text}\n"))
    (blob,) = recipe_blobs(recipe)
    assert json.loads(blob.data) == {"temperature": value}


def test_stop_words_add_up_and_other_parameters_are_set_by_the_last() -> None:
    """As Ollama's client merges them; deprecated ones are dropped."""
    text = "FROM x\nPARAMETER stop a\nPARAMETER stop b\nPARAMETER top_k 1\nPARAMETER top_k 2\n"
    recipe = recipe_of(parse(text + "PARAMETER mirostat 1\nPARAMETER use_mmap T\n"))
    assert recipe.parameters == {"stop": ("a", "b"), "top_k": 2, "use_mmap": True}


@pytest.mark.parametrize("line", ["num_ctx many", "num_ctx 1.5", "temperture 1", "top_p nan"])
def test_a_parameter_that_ollama_refuses_is_refused(line: str) -> None:
    """Before anything is installed, with the line's number."""
    with pytest.raises(ModelfileError, match="line 2"):
        recipe_of(parse(f"FROM x\nPARAMETER {line}\n"))


@pytest.mark.parametrize("extra", ["ADAPTER ./lora.gguf", "FROM ./mmproj.gguf"])
def test_what_cannot_be_installed_is_refused_and_not_dropped(extra: str) -> None:
    """A vision model without its projector would be installed blind."""
    with pytest.raises(RefusedError, match="cannot be installed"):
        recipe_of(parse(f"FROM ./model.gguf\n{extra}\n"))


def test_from_must_be_the_file_that_is_installed(tmp_path: Path) -> None:
    """A Modelfile of another model is not taken by mistake; a name in FROM says nothing."""
    model, other = tiny_gguf(tmp_path / "a.gguf"), tiny_gguf(tmp_path / "b.gguf")
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM ./b.gguf\n")
    with pytest.raises(RefusedError, match=r"b\.gguf, another file"):
        read_recipe(modelfile, model)
    assert read_recipe(modelfile, other) == Recipe()
    modelfile.write_text("FROM qwen3:8b\n")
    assert read_recipe(modelfile, model) == Recipe()


def test_an_unknown_file_type_is_called_unknown(tmp_path: Path) -> None:
    """And an IQ4_XS file has its name, which Ollama knows since v0.30."""
    for number, name in ((30, "IQ4_XS"), (999, "unknown"), (0, "unknown")):
        path = tiny_gguf(tmp_path / "m.gguf", {**LLAMA, "general.file_type": number})
        config = json.loads(config_blob(read_header(path), Recipe(), ()).data)
        assert config["file_type"] == name
        assert config["model_family"] == "llama"


@pytest.mark.parametrize("from_", ["./" + "n" * 300, "~nobody-has-this-name/m.gguf", "a/" * 3000])
def test_a_from_that_can_be_no_file_is_no_other_file(tmp_path: Path, from_: str) -> None:
    """Names that are too long, and homes of users who are not there."""
    model, modelfile = tiny_gguf(tmp_path / "m.gguf"), tmp_path / "Modelfile"
    modelfile.write_text(f"FROM {from_}\nPARAMETER top_k {'0' * 5000}7\n")
    assert read_recipe(modelfile, model).parameters == {"top_k": 7}
