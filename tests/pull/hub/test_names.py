"""Names of models on Hugging Face."""

import pytest

from tqconvert.errors import UsageError
from tqconvert.pull.hub.model import model_name
from tqconvert.pull.hub.name import HubName, parse_hub_name

HF = "https://huggingface.co"


@pytest.mark.parametrize(
    ("text", "selector", "revision"),
    [
        ("hf.co/o/r", None, None),
        ("huggingface.co/o/r/", None, None),
        ("HF.co/o/r:latest", None, None),
        ("hf.co/o/r:q4_k_m", "q4_k_m", None),
        ("hf.co/o/r:m-Q4_K_M.gguf", "m-Q4_K_M.gguf", None),
        ("hf.co/o/r:Q4/m-00001-of-00003.gguf", "Q4/m-00001-of-00003.gguf", None),
        ("hf.co/o/r:Q8_0@v1.0", "Q8_0", "v1.0"),
        ("hf.co/o/r@v1.0:Q8_0", "Q8_0", "v1.0"),
        ("hf.co/o/r@refs/pr/3", None, "refs/pr/3"),
        ("https://huggingface.co/o/r", None, None),
        ("https://huggingface.co/o/r/tree/main", None, "main"),
        ("https://huggingface.co/o/r/tree/main/Q4_K_M", "Q4_K_M", "main"),
        ("https://huggingface.co/o/r/blob/main/a/m.gguf?x=1#top", "a/m.gguf", "main"),
        ("https://huggingface.co/o/r/resolve/refs%2Fpr%2F3/m.gguf", "m.gguf", "refs/pr/3"),
        ("hf.co/o/r/resolve/main/m%20x.gguf", "m x.gguf", "main"),
        ("hf://o/r", None, None),
        ("hf://o/r:Q8_0", "Q8_0", None),
        ("hf://o/r@dev/a/m.gguf", "a/m.gguf", "dev"),
        ("hf://o/r@refs/pr/3/m.gguf", "m.gguf", "refs/pr/3"),
        ("http://mirror:81/o/r:Q8_0", "Q8_0", None),
    ],
)
def test_forms_that_people_use(text: str, selector: str | None, revision: str | None) -> None:
    """Typed names, pasted pages and addresses of files mean repository, selector and revision."""
    endpoint = "http://mirror:81" if "mirror" in text else HF
    assert parse_hub_name(text, endpoint) == HubName("o/r", selector, revision)


@pytest.mark.parametrize(
    "text", ["qwen3.5:27b", "host:5000/ns/m:t", "http://mirror:81/ns/m:1b", "./hf.co/o/r", "hf.co"]
)
def test_other_names_are_left_to_others(text: str) -> None:
    """Registries and paths are not Hugging Face's."""
    assert parse_hub_name(text, HF) is None


@pytest.mark.parametrize(
    "text",
    ["hf.co/o", "hf.co/o/r:", "hf.co/o/r@", "hf.co/o/r/x/y", "hf.co//r", "hf://o", "hf.co/ö/r!"],
)
def test_unreadable_names(text: str) -> None:
    """What is meant for Hugging Face and cannot be read says what is expected."""
    with pytest.raises(UsageError, match=r"expected hf\.co/ORG/REPO"):
        parse_hub_name(text, HF)


def test_a_digest_pins_no_repository() -> None:
    """name@sha256 of registries has another form here, which the hint names."""
    with pytest.raises(UsageError) as caught:
        parse_hub_name(f"hf.co/o/r@sha256:{'0' * 64}", HF)
    assert "@COMMIT" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("repository", "selector", "expected"),
    [
        ("org/Repo-GGUF", "Q4_K_M", "hf.co/org/Repo-GGUF:Q4_K_M"),
        ("a.b/r", "UD-Q4_K_XL", "hf.co/a-b/r:UD-Q4_K_XL"),
        ("o/r", "sub/model x.gguf", "hf.co/o/r:sub-model-x"),
        ("o/" + "r" * 96, "m" * 100, f"hf.co/o/{'r' * 80}:{'m' * 77}"),
    ],
)
def test_the_name_in_the_store(repository: str, selector: str, expected: str) -> None:
    """It is what Ollama can hold, also with -tq behind it."""
    name = model_name(repository, selector)
    assert str(name) == expected
    assert len(name.tagged().tag) <= 80
