"""Chat templates rendered as Hugging Face's transformers does (utils/chat_template_utils.py, v5.24)."""

import datetime as dt
import json
from functools import cache
from typing import Any

import jinja2
import jinja2.ext
from chats import DATE, Chat
from jinja2.sandbox import ImmutableSandboxedEnvironment

BOS = "<BOS>"
_HERE = "\x02here\x03"


def _tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    # Without the escapes for HTML of jinja2's own filter, and without ASCII escapes.
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


@cache
def compiled(source: str) -> jinja2.Template:
    """The template, ready to render."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    day = dt.date.fromisoformat(DATE)
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _refuse
    env.globals["strftime_now"] = day.strftime
    return env.from_string(source)


def messages_of(chat: Chat) -> list[dict[str, Any]]:
    """The conversation under the names that chat templates know."""
    names = {"thinking": "reasoning_content", "tool_name": "name"}
    return [{names.get(k, k): v for k, v in m.items()} for m in chat.messages]


def render_jinja(source: str, chat: Chat, eos: str = "<EOS>") -> str | None:
    """The prompt without the BOS at its start; None where the template refuses the conversation.

    An answer of the model at the end is continued, as `continue_final_message` does.
    """
    messages = messages_of(chat)
    more: dict[str, Any] = {} if chat.think is None else {"enable_thinking": chat.think}
    last = messages[-1]
    prefill = last["role"] == "assistant" and "tool_calls" not in last
    if prefill:
        # A mark that stands behind the text, and that shows whether the template trims.
        messages[-1] = last | {"content": last["content"] + _HERE + " "}
    try:
        text = compiled(source).render(
            messages=messages, tools=list(chat.tools) or None, documents=None,
            add_generation_prompt=not prefill, bos_token=BOS, eos_token=eos, **more,
        )  # fmt: skip
    except (jinja2.TemplateError, TypeError):
        return None
    if prefill:
        if _HERE not in text:
            return None
        keeps = f"{_HERE} " in text
        text = text[: text.rindex(_HERE)]
        text = text if keeps else text.rstrip()
    return text.removeprefix(BOS)
