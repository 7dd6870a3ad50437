"""Chat formats: Go templates of our own, each with the published chat templates that it was proven equal to.

A format's text is put together from the files in templates/. tests/chatproof.py renders it with Go, compares it
with what Jinja makes of the published ones and writes templates/proofs.json; docs/templates.md has the table.
A new format is a row here, its files, and the digests that it is to stand for in proofs.json.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from tqconvert.digest import digest_bytes
from tqconvert.errors import UsageError


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """One Go template, the end of its turns, and what it was compared with."""

    name: str
    parts: tuple[str, ...]
    """Files of templates/, in order."""
    stop: tuple[str, ...]
    mark: str
    """What chat templates of this kind hold; other formats may share it."""
    given: tuple[tuple[str, str], ...] = ()
    """Variables that the files expect, with their text."""
    eos: str = ""
    """The end-of-text token that the template writes out; "" where it writes none."""

    @property
    def template(self) -> str:
        """The text of TEMPLATE."""
        return _put_together(self.given, self.parts)

    @property
    def proofs(self) -> Mapping[str, tuple[str, ...]]:
        """Digest of each chat template that it was compared with -> classes of conversations that differ."""
        return proofs().get(self.name, {})


@cache
def _put_together(given: tuple[tuple[str, str], ...], parts: tuple[str, ...]) -> str:
    folder = files("tqconvert.modelfile") / "templates"
    read = ((folder / f"{part}.gotmpl").read_text(encoding="utf-8") for part in parts)
    names = "".join(f"{{{{- ${name} := {_quoted(text)} }}}}\n" for name, text in given)
    return names + "".join(text.removesuffix("\n") for text in read)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


TOOL_KINDS = (
    "tools", "tool calls", "tool calls and text", "parallel calls", "parameter order", "tool markup",
    "type lists", "alternatives", "nested parameters", "invisible in tools", "numbers in calls", "thoughts and tools",
)  # fmt: skip
"""Classes of conversations with tools."""

_SENTENCE_END = "<｜end▁of▁sentence｜>"  # noqa: RUF001 - DeepSeek's tokens have wide bars
_ASSISTANT = "<｜Assistant｜>"  # noqa: RUF001
_TOOLS = ("_json", "_tool")
_CALL = '{"name": <function-name>, "arguments": <args-json-object>}'

CHAT_FORMATS: tuple[ChatFormat, ...] = (
    ChatFormat("chatml", ("chatml",), ("<|im_end|>",), "<|im_start|>", (("system", ""),)),
    ChatFormat(
        "command-r", ("_trim", "command-r"), ("<|END_OF_TURN_TOKEN|>",), "<|START_OF_TURN_TOKEN|>",
    ),
    ChatFormat("deepseek-r1", ("deepseek-r1",), (_SENTENCE_END,), _ASSISTANT, eos=_SENTENCE_END),
    ChatFormat("deepseek-v2", ("deepseek-v2",), (_SENTENCE_END,), "'Assistant: '", eos=_SENTENCE_END),
    ChatFormat("gemma", ("_trim", "gemma"), ("<end_of_turn>",), "<start_of_turn>"),
    ChatFormat("granite3.0", ("granite3",), ("<|end_of_text|>",), "<|start_of_role|>", (("system", ""),)),
    ChatFormat("granite3.3", ("_today-granite", "granite3"), ("<|end_of_text|>",), "<|start_of_role|>"),
    ChatFormat(
        "granite4.0", (*_TOOLS, "granite4"), ("<|end_of_text|>",), "<|start_of_role|>",
        (("system", "You are a helpful assistant. Please ensure responses are professional, accurate, and safe."),),
    ),
    ChatFormat("granite4.1", (*_TOOLS, "granite4"), ("<|end_of_text|>",), "<|start_of_role|>", (("system", ""),)),
    ChatFormat("llama3", ("_trim", "llama3"), ("<|eot_id|>",), "<|start_header_id|>"),
    ChatFormat(
        "llama3.1", ("_trim", "_json", "_pretty", "llama3.1"), ("<|eot_id|>",), "<|start_header_id|>", (("date", "26 Jul 2024"),),
    ),
    ChatFormat("llama3.2", ("_trim", "_json", "_pretty", "_today-llama", "llama3.1"), ("<|eot_id|>",), "<|start_header_id|>"),
    ChatFormat("mistral", ("mistral",), ("</s>",), "[INST]", eos="</s>"),
    ChatFormat("mistral-nemo", ("_trim", *_TOOLS, "mistral-v3"), ("</s>",), "[INST]", (("space", ""),), "</s>"),
    ChatFormat("mistral-v3", ("_trim", *_TOOLS, "mistral-v3"), ("</s>",), "[INST]", (("space", " "),), "</s>"),
    ChatFormat("mistral-v7", ("mistral-v7",), ("</s>",), "[INST]", eos="</s>"),
    ChatFormat("phi3", ("phi3",), ("<|end|>",), "<|user|>"),
    ChatFormat("phi4", ("phi4",), ("<|im_end|>",), "<|im_sep|>"),
    ChatFormat("qwen2", ("chatml",), ("<|im_end|>",), "<|im_start|>", (("system", "You are a helpful assistant."),)),
    ChatFormat(
        "qwen2.5", (*_TOOLS, "qwen2.5"), ("<|im_end|>",), "<|im_start|>",
        (("system", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."), ("call", _CALL)),
    ),
    ChatFormat(
        "qwen2.5-1m", (*_TOOLS, "qwen2.5"), ("<|im_end|>",), "<|im_start|>",
        (("system", "You are a helpful assistant."), ("call", _CALL)),
    ),
    ChatFormat(
        "qwen2.5-coder", (*_TOOLS, "qwen2.5"), ("<|im_end|>",), "<|im_start|>",
        (("system", "You are a helpful assistant."), ("call", f"{{{_CALL}}}")),
    ),
    ChatFormat(
        "qwen3", (*_TOOLS, "_lines", "_qwen3-system", "qwen3"), ("<|im_end|>",), "<|im_start|>",
        (("start", ""), ("unthinking", "<think>\n\n</think>\n\n")),
    ),
    ChatFormat(
        "qwen3-instruct", (*_TOOLS, "_qwen3-system", "qwen3-instruct"), ("<|im_end|>",), "<|im_start|>",
    ),
    ChatFormat(
        "qwen3-thinking", (*_TOOLS, "_lines", "_qwen3-system", "qwen3"), ("<|im_end|>",), "<|im_start|>",
        (("start", "<think>\n"), ("unthinking", "")),
    ),
    ChatFormat(
        "smollm2", ("chatml",), ("<|im_end|>",), "<|im_start|>",
        (("system", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),),
    ),
)  # fmt: skip


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
    return next((f for f in CHAT_FORMATS if digest in f.proofs), None)


def chat_formats_like(chat_template: str) -> tuple[str, ...]:
    """Names of the formats whose mark it holds: a hint, no proof."""
    return tuple(f.name for f in CHAT_FORMATS if f.mark in chat_template)


def in_short(kinds: Sequence[str]) -> tuple[str, ...]:
    """The classes, those with tools as one where the plain ones are among them."""
    if not {"tools", "tool calls"} & set(kinds):
        return tuple(kinds)
    return (*(k for k in kinds if k not in TOOL_KINDS), "anything with tools")


@cache
def proofs() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Format -> digest of a chat template, without white space at its ends -> classes that differ."""
    text = (files("tqconvert.modelfile") / "templates" / "proofs.json").read_text(encoding="utf-8")
    return {
        name: {digest: tuple(kinds) for digest, kinds in row.items()}
        for name, row in json.loads(text).items()
    }
