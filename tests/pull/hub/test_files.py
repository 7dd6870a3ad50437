"""Which files of a repository a name means."""

from pathlib import Path

import pytest

from tqconvert.digest import Digest
from tqconvert.errors import InvalidGgufError, NotFoundError, UsageError
from tqconvert.pull.hub.files import USUAL, choose, label_of, projector_for, selector_of
from tqconvert.registry.hublisting import HubFile

BARTOWSKI = [
    "README.md", "imatrix.gguf", "Llama-3.2-1B-Instruct-imatrix.gguf", "Llama-3.2-1B-Instruct-IQ3_M.gguf",
    "Llama-3.2-1B-Instruct-Q3_K_XL.gguf", "Llama-3.2-1B-Instruct-Q4_0.gguf", "Llama-3.2-1B-Instruct-Q4_0_4_4.gguf",
    "Llama-3.2-1B-Instruct-Q4_K_L.gguf", "Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Llama-3.2-1B-Instruct-Q4_K_S.gguf",
    "Llama-3.2-1B-Instruct-Q8_0.gguf", "Llama-3.2-1B-Instruct-f16.gguf",
]  # fmt: skip
UNSLOTH = [
    "BF16/Q-BF16-00001-of-00002.gguf", "BF16/Q-BF16-00002-of-00002.gguf", "MTP/mtp-Q-Q8_0.gguf",
    "Q-IQ4_XS.gguf", "Q-Q4_K_S.gguf", "Q-UD-Q4_K_XL.gguf", "Q-UD-IQ2_XXS.gguf", "Q8_0/Q-Q8_0-00001-of-00002.gguf",
    "Q8_0/Q-Q8_0-00002-of-00002.gguf", "imatrix_unsloth.gguf_file", "mmproj-BF16.gguf", "mmproj-F16.gguf",
    "mmproj-F32.gguf",
]  # fmt: skip


def files(*paths: str) -> list[HubFile]:
    """A listing with these files."""
    return [HubFile(p, 1 << 30, "0" * 40, Digest("0" * 64)) for p in paths]


def chosen(paths: list[str], selector: str | None) -> list[str]:
    """Paths of the files that are meant."""
    return [f.path for f in choose(files(*paths), selector, "hf.co/o/r")[0].files]


@pytest.mark.parametrize(
    ("selector", "name"),
    [
        (None, "Q4_K_M"), ("q4_k_m", "Q4_K_M"), ("Q4_0", "Q4_0"), ("q4_0_4_4", "Q4_0_4_4"), ("F16", "f16"),
        ("IQ3_M", "IQ3_M"), ("llama-3.2-1b-instruct-q8_0.gguf", "Q8_0"), ("Llama-3.2-1B-Instruct-Q8_0", "Q8_0"),
        ("q3_k_xl", "Q3_K_XL"),
    ],
)  # fmt: skip
def test_quants_beside_each_other(selector: str | None, name: str) -> None:
    """A quantization in any case, or a file with or without suffix; Q4_0 is not Q4_0_4_4."""
    assert chosen(BARTOWSKI, selector) == [f"Llama-3.2-1B-Instruct-{name}.gguf"]


@pytest.mark.parametrize(
    ("selector", "paths"),
    [
        (None, ["Q-UD-Q4_K_XL.gguf"]),
        ("UD-Q4_K_XL", ["Q-UD-Q4_K_XL.gguf"]),
        ("q4_k_xl", ["Q-UD-Q4_K_XL.gguf"]),
        ("IQ2_XXS", ["Q-UD-IQ2_XXS.gguf"]),
        ("Q8_0", ["Q8_0/Q-Q8_0-00001-of-00002.gguf", "Q8_0/Q-Q8_0-00002-of-00002.gguf"]),
        ("Q-Q8_0-00002-of-00002.gguf", ["Q8_0/Q-Q8_0-00001-of-00002.gguf", "Q8_0/Q-Q8_0-00002-of-00002.gguf"]),
        ("BF16", ["BF16/Q-BF16-00001-of-00002.gguf", "BF16/Q-BF16-00002-of-00002.gguf"]),
    ],
)  # fmt: skip
def test_folders_and_shards(selector: str | None, paths: list[str]) -> None:
    """A quantization may be a folder of shards; any shard means all; drafts are not in the way."""
    assert chosen(UNSLOTH, selector) == paths


def test_the_only_model_needs_no_known_name() -> None:
    """A repository with one model means that one."""
    assert chosen(["a.gguf", "mmproj-a.gguf"], None) == ["a.gguf"]


def test_several_models_are_listed() -> None:
    """Two of the usual quantization: the error names what tells them apart."""
    paths = ["a-7b-Q4_K_M.gguf", "a-13b-Q4_K_M.gguf", "a-13b-Q8_0.gguf"]
    for selector in (None, "Q4_K_M"):
        with pytest.raises(UsageError, match="2 models are meant") as caught:
            choose(files(*paths), selector, "hf.co/o/r")
        hint = caught.value.hint or ""
        assert ":a-13b-Q4_K_M (1.0 GiB), :a-7b-Q4_K_M (1.0 GiB)" in hint
        assert "Q8_0" not in hint
    assert chosen(paths, "7b") == ["a-7b-Q4_K_M.gguf"]


def test_what_is_not_there() -> None:
    """An unknown quantization names those that are there; a repository without GGUFs says where to look."""
    with pytest.raises(NotFoundError) as caught:
        choose(files(*BARTOWSKI), "Q2_K", "hf.co/o/r:Q2_K")
    assert ":Q4_K_M (1.0 GiB)" in (caught.value.hint or "")
    assert "imatrix" not in (caught.value.hint or "")
    with pytest.raises(NotFoundError, match="no GGUF model") as caught:
        choose(files("model.safetensors", "mmproj.gguf"), None, "hf.co/o/r")
    assert "-GGUF" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("selector", "words"),
    [("mmproj-F16.gguf", "a projector"), ("mtp-Q-Q8_0.gguf", "by itself"), ("README.md", "no GGUF")],
)  # fmt: skip
def test_files_that_are_no_model(selector: str, words: str) -> None:
    """Named by hand, they are refused with the reason."""
    with pytest.raises(UsageError, match=words):
        choose(files(*UNSLOTH, "README.md"), selector, "hf.co/o/r")


def test_missing_shards_are_named() -> None:
    """A set that is not whole is refused before anything is fetched."""
    paths = ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"]
    with pytest.raises(
        InvalidGgufError, match=r"1 of its 3 shards are missing: m-00002-of-00003\.gguf"
    ):
        choose(files(*paths), None, "hf.co/o/r")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Q-IQ4_XS.gguf", "mmproj-F16.gguf"),
        ("BF16/Q-BF16-00001-of-00002.gguf", "mmproj-F16.gguf"),
    ],
)
def test_the_projector_is_the_nearest(model: str, expected: str) -> None:
    """In the model's folder or above it, 16 bits before 32, F16 before BF16."""
    listing = files(*UNSLOTH)
    model_files = choose(listing, model, "hf.co/o/r")[0]
    found = projector_for(listing, model_files)
    assert found is not None
    assert found.path == expected


def test_a_projector_of_another_folder_is_not_taken() -> None:
    """Nor is one taken from beside the model's folder; the nearest folder wins."""
    listing = files("a/m.gguf", "b/mmproj.gguf")
    model = choose(listing, "a/m.gguf", "x")[0]
    assert projector_for(listing, model) is None
    both = files("a/m.gguf", "a/mmproj-F32.gguf", "mmproj-F16.gguf")
    found = projector_for(both, model)
    assert found is not None
    assert found.path == "a/mmproj-F32.gguf"


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("m-Q4_K_M.gguf", "Q4_K_M"), ("m.q4_k_m.gguf", "Q4_K_M"), ("m_Q5_K_S.gguf", "Q5_K_S"),
        ("Q6_K/m-00001-of-00002.gguf", "Q6_K"), ("m-UD-IQ1_S.gguf", "UD-IQ1_S"), ("qwen2.5.gguf", ""),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"), ("m-Q4_0_final.gguf", "Q4_0"), ("m-bf16.gguf", "BF16"),
        ("Q4B-chat.gguf", ""), ("m-TQ1_0.gguf", "TQ1_0"),
    ],
)  # fmt: skip
def test_labels(path: str, label: str) -> None:
    """The quantization in a file's name, else in its folder's."""
    assert label_of(path) == label


def test_selectors_are_as_short_as_can_be() -> None:
    """Quantization, else name, else path: pulled by any of them, a model has one name."""
    listing = files("a/m-Q4_K_M.gguf", "b/m-Q4_K_M.gguf", "n-Q4_K_M.gguf", "n-Q8_0.gguf")
    _, found = choose(listing, "Q8_0", "x")
    assert [selector_of(c, found) for c in found] == [
        "a/m-Q4_K_M.gguf", "b/m-Q4_K_M.gguf", "n-Q4_K_M", "Q8_0",
    ]  # fmt: skip


def test_the_documentation_has_the_order() -> None:
    """What a name without a quantization means stands in docs/huggingface.md as it is."""
    page = Path(__file__).parents[3] / "docs" / "huggingface.md"
    assert f"the first that is there of {', '.join(USUAL)};" in page.read_text("utf-8")
