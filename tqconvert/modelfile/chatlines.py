"""The lines of a Modelfile that come from a chat format: TEMPLATE, stop, and what is not certain about them."""

from tqconvert.errors import NotFoundError
from tqconvert.gguf.header import Header
from tqconvert.modelfile.chat import (
    ChatFormat,
    chat_digest,
    chat_format_of,
    chat_formats_like,
    in_short,
)
from tqconvert.modelfile.draft import Draft
from tqconvert.modelfile.families import CANDIDATES


def add_template(draft: Draft, header: Header, chat: ChatFormat | None) -> None:
    """TEMPLATE as asked for, or by the digest of the file's own chat template."""
    if header.architecture in CANDIDATES:
        draft.note(f"not certain: {CANDIDATES[header.architecture]}")
    own = header.text("tokenizer.chat_template")
    found = chat or (chat_format_of(own) if own is not None else None)
    usable = found is None or _ends_alike(draft, header, found)
    if found is not None and not usable and chat is None:
        draft.note(f"TEMPLATE: left out; --template {found.name} takes it")
    elif found is not None:
        draft.add("template", found.template, f"TEMPLATE: {_why(found, own)}")
        for stop in found.stop:
            draft.add("parameter", stop, "stop: the end of a turn in this chat format", key="stop")
        if own and "bos_token" in own and header.get("tokenizer.ggml.add_bos_token") is False:
            draft.note("not certain: BOS: the chat template begins with one, and the file says to add none; "
                       "a TEMPLATE leaves it to the runtime")  # fmt: skip
    elif own is None:
        draft.note("TEMPLATE: none: the file has no chat template, as base models have none")
    else:
        draft.note(
            f"not certain: TEMPLATE: the file's chat template (sha256 {chat_digest(own)[:12]}) "
            "was not compared with one of ours; --template names one"
        )
        if like := chat_formats_like(own):
            draft.note(f"TEMPLATE: its marks are those of {', '.join(like)}")
        draft.note(
            "Ollama 0.30 and later uses the file's own; older ones know some (template/index.json)"
        )


def _ends_alike(draft: Draft, header: Header, chat: ChatFormat) -> bool:
    """Whether the end-of-text token that the template writes out is the file's; a note where not."""
    if not chat.eos or (eos := _eos(header)) == chat.eos:
        return True
    draft.note(f"not certain: TEMPLATE: {chat.name} ends an answer with {chat.eos}, the file with "
               f"{eos or 'a token that it does not name'}")  # fmt: skip
    return False


def _eos(header: Header) -> str | None:
    """The file's end-of-text token, None where it names none."""
    index = header.integer("tokenizer.ggml.eos_token_id")
    try:
        tokens = header.read("tokenizer.ggml.tokens")
    except NotFoundError:
        return None
    if index is None or not isinstance(tokens, tuple) or not 0 <= index < len(tokens):
        return None
    token = tokens[index]
    return token.decode("utf-8", "replace") if isinstance(token, bytes) else str(token)


def _why(chat: ChatFormat, own: str | None) -> str:
    """Where a TEMPLATE comes from, and how certain it is."""
    if own is None:
        return (
            f"{chat.name}, asked for by --template, not compared with a chat template of the file"
        )
    digest = chat_digest(own)
    if digest not in chat.proofs:
        return f"{chat.name}, asked for by --template, not compared with the file's own ({digest[:12]})"
    differs = ", ".join(in_short(chat.proofs[digest]))
    but = f"; not certain: {differs} (docs/templates.md)" if differs else ""
    return f"{chat.name}, proven equal to the file's chat template{but}"
