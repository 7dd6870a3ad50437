"""What is known about the prompts of model families, as data: a new family is a new row.

Renderers and parsers: by architecture where Ollama's own import sets them (server/create.go:797-822,
v0.32.15), or where one pair exists for the family. Chat formats: chat.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """Which RENDERER and PARSER the models of some architectures need."""

    architectures: tuple[str, ...]
    renderer: str
    parser: str
    source: str
    """Why this pair, in the words of a comment."""
    named: str = ""
    """Certain only if the model's name holds this text: other families share the architecture."""
    reported: tuple[tuple[str, str], ...] = ()
    """Parameters that somebody reported and nobody checked: they are written as comments."""
    reporter: str = ""


_IMPORT = "what Ollama itself sets on import (server/create.go, v0.32.15)"

FAMILIES = (
    Family(
        ("qwen35", "qwen35moe"), "qwen3.5", "qwen3.5",
        "the pair of this family (model/renderers, model/parsers)", named="qwen3.5",
        reported=(
            ("temperature", "1"), ("top_k", "20"), ("top_p", "0.95"), ("min_p", "0"),
            ("presence_penalty", "1.5"), ("repeat_penalty", "1"),
        ),
        reporter="those of qwen3.6:35b-a3b in ollama issue 15810",
    ),
    Family(("gemma4",), "gemma4", "gemma4", _IMPORT),
    Family(("laguna",), "laguna", "laguna", _IMPORT),
    Family(
        ("nemotron_h", "nemotron_h_moe", "nemotron_h_omni"), "nemotron-3-nano", "nemotron-3-nano", _IMPORT
    ),
)  # fmt: skip

CANDIDATES: dict[str, str] = {
    "lfm2": "RENDERER and PARSER lfm2 or lfm2-thinking",
    "lfm2moe": "RENDERER and PARSER lfm2 or lfm2-thinking",
    "olmo3": "RENDERER olmo3, olmo3.1, olmo3-think or olmo3-32b-think; PARSER olmo3 or olmo3-think",
    "qwen3vl": "RENDERER and PARSER qwen3-vl-instruct or qwen3-vl-thinking",
    "qwen3vlmoe": "RENDERER and PARSER qwen3-vl-instruct or qwen3-vl-thinking",
    "qwen3": "PARSER qwen3 or qwen3-thinking",
    "qwen3moe": "PARSER qwen3 or qwen3-thinking; RENDERER and PARSER qwen3-coder for Qwen3-Coder",
    "deepseek2": "RENDERER deepseek3.1 or cogito; PARSER deepseek3 or cogito; none for older ones",
}
"""Architectures with more than one answer: the file does not say which."""


def family_of(architecture: str) -> Family | None:
    """Row of the architecture, None where there is none."""
    return next((f for f in FAMILIES if architecture in f.architectures), None)
