"""What is known about the prompts of model families, as data: a new family is a new row.

Renderers and parsers: by architecture where Ollama's own import sets them (server/create.go:797-822,
v0.32.15), or where one pair exists for the family. Chat formats: a template is used only for a GGUF whose
own chat template is, by its digest, one that it was compared with; see docs/modelfile.md.
"""

from dataclasses import dataclass

from tqconvert.digest import digest_bytes
from tqconvert.errors import UsageError


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


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A Go template of our own, equal to the chat templates with these digests on plain chats."""

    name: str
    template: str
    stop: tuple[str, ...]
    limits: str
    digests: tuple[str, ...]
    """sha256 of `tokenizer.chat_template` without white space at its ends."""


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

_GEMMA = """\
{{- $system := .System }}
{{- range .Messages }}
{{- if eq .Role "user" }}<start_of_turn>user
{{ if $system }}{{ $system }}

{{ $system = "" }}{{ end }}{{ .Content }}<end_of_turn>
{{ else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}<end_of_turn>
{{ end }}
{{- end }}<start_of_turn>model
"""

_LLAMA3 = """\
<|start_header_id|>system<|end_header_id|>

Cutting Knowledge Date: December 2023
Today Date: 26 Jul 2024

{{ .System }}<|eot_id|>
{{- range .Messages }}
{{- if ne .Role "system" }}<|start_header_id|>{{ .Role }}<|end_header_id|>

{{ .Content }}<|eot_id|>
{{- end }}
{{- end }}<|start_header_id|>assistant<|end_header_id|>

"""

_QWEN3 = """\
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ if and .IsThinkSet (not .Think) }}<think>

</think>

{{ end }}"""

_QWEN25 = """\
<|im_start|>system
{{ or .System "You are Qwen, created by Alibaba Cloud. You are a helpful assistant." }}<|im_end|>
{{ range .Messages }}
{{- if ne .Role "system" }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}
{{- end }}<|im_start|>assistant
"""

CHAT_FORMATS = (
    ChatFormat(
        "gemma", _GEMMA, ("<end_of_turn>",), "a system message goes into the first user turn",
        (
            "8d9e3a3c114fb2053ec500184677af4f7e5f8ec2582443cd535834e68b3ade29",  # gemma 3
            "ecd6ae513fe103f0eb62e8ab5bfa8d0fe45c1074fa398b089c93a7e70c15cfd6",  # gemma 1.1 and 2
        ),
    ),
    ChatFormat(
        "llama3", _LLAMA3, ("<|eot_id|>",), "without tools; the date stays 26 Jul 2024",
        (
            "93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7",  # llama 3.1 and 3.3
            "d82792f95932f1c9cef5c4bd992f171225e3bf8c7b609b4557c9e1ec96be819f",  # llama 3.2
        ),
    ),
    ChatFormat(
        "qwen2.5", _QWEN25, ("<|im_end|>",), "without tools",
        ("55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a",),
    ),
    ChatFormat(
        "qwen3", _QWEN3, ("<|im_end|>",), "without tools",
        ("87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5",),
    ),
)  # fmt: skip


def family_of(architecture: str) -> Family | None:
    """Row of the architecture, None where there is none."""
    return next((f for f in FAMILIES if architecture in f.architectures), None)


def chat_format_named(name: str) -> ChatFormat:
    """Our template of this name. Raises UsageError."""
    for found in CHAT_FORMATS:
        if found.name == name:
            return found
    known = ", ".join(f.name for f in CHAT_FORMATS)
    raise UsageError(f"{name}: no chat format (expected one of {known})")


def chat_digest(chat_template: str) -> str:
    """Digest by which a chat template is known: white space at its ends does not count."""
    return digest_bytes(chat_template.strip().encode("utf-8", "surrogatepass")).hex


def chat_format_of(chat_template: str) -> ChatFormat | None:
    """Our template that was compared with this chat template; None where none was."""
    digest = chat_digest(chat_template)
    return next((f for f in CHAT_FORMATS if digest in f.digests), None)
