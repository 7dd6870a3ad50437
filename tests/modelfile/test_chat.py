"""Chat formats: what Go renders is, byte for byte, what Jinja makes of the chat templates they stand for."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import chatproof
import pytest
from chatjinja import BOS, render_jinja
from chats import CHATS, KINDS, Chat, bot, system, user
from chatsources import published

from tqconvert.modelfile.chat import (
    CHAT_FORMATS,
    TOOL_KINDS,
    ChatFormat,
    chat_digest,
    chat_format_named,
    chat_format_of,
    chat_formats_like,
    in_short,
)
from tqconvert.modelfile.lint import lint
from tqconvert.modelfile.render import quote

RENDER = Path(__file__).parents[1] / "golden" / "modelfile" / "render.json"
GOLDEN = json.loads(RENDER.read_text(encoding="utf-8"))
pytestmark = pytest.mark.xdist_group("chat-templates")  # fetched once
each_format = pytest.mark.parametrize("chat", CHAT_FORMATS, ids=lambda f: f.name)


@pytest.fixture(scope="session")
def go() -> None:
    """Go, of a release that knows what the templates use: Ollama 0.17.1 was built with 1.24.1."""
    program = shutil.which("go")
    if program is None:
        pytest.skip("needs Go 1.24")
    done = subprocess.run([program, "env", "GOVERSION"], capture_output=True, text=True, check=True)
    found = re.match(r"go(\d+)\.(\d+)", done.stdout)
    if found is None or (int(found[1]), int(found[2])) < (1, 24):
        pytest.skip(f"needs Go 1.24 (found {done.stdout.strip()})")


@each_format
def test_template_is_the_one_that_ollama_rendered(chat):
    """A changed template must go through Ollama's own package anew (tests/golden/modelfile/make_render.py)."""
    golden = GOLDEN["formats"][chat.name]
    assert hashlib.sha256(chat.template.encode()).hexdigest() == golden["template"]
    assert GOLDEN["conversations"] == len(CHATS)


@pytest.mark.usefixtures("go")
@each_format
def test_the_go_program_renders_as_ollama_does(chat):
    """The texts are those that both releases of Ollama made too, but for objects within objects."""
    golden = GOLDEN["formats"][chat.name]
    texts = chatproof.rendered(chat.template)
    assert hashlib.sha256(json.dumps(texts).encode()).hexdigest() == golden["texts"]
    assert golden["differ"]["v0.19.0"] == []
    assert set(golden["differ"]["v0.32.15"]) <= {"nested parameters: object"}


@pytest.mark.usefixtures("go")
def test_docs_and_proofs_are_what_the_proof_says():
    """docs/templates.md and proofs.json are fresh: `python tests/chatproof.py` writes them."""
    assert chatproof.page() == chatproof.PAGE.read_text(encoding="utf-8")
    kept = json.loads(chatproof.PROOFS.read_text(encoding="utf-8"))
    assert chatproof.proved() == kept


@each_format
def test_the_published_chat_template_leads_to_the_format(chat):
    """The digests are those of the texts that were compared."""
    for digest in chat.proofs:
        assert chat_format_of(published()[digest][1] + "\n") is chat


@pytest.mark.usefixtures("go")
@each_format
def test_every_known_chat_template_is_equal_on_plain_chats(chat):
    """At least 20 conversations are equal, none of the plain ones differs, and tools work or are left out."""
    assert chat.proofs
    for digest in chat.proofs:
        verdicts = chatproof.verdicts(chat, digest)
        assert sum(v.equal for v in verdicts.values()) >= 20
        for kind in ("plain", "system", "text", "edges", "other space", "prefill"):
            assert not verdicts[kind].differs
        assert verdicts["plain"].equal == 4
        if ".Tools" in chat.template:
            assert not any(
                verdicts[k].differs for k in ("tools", "tool calls", "tool markup", "type lists")
            )


@each_format
def test_ollama_finds_the_calls_that_a_model_writes(chat):
    """Where the template shows tools, Ollama's parser gets back each call that was written in its format."""
    golden = GOLDEN["formats"][chat.name]
    paris = ["get_weather", {"city": "Paris", "unit": "celsius"}]
    rome = ["get_weather", {"city": "Rome"}]
    assert golden["tools"] == (".Tools" in chat.template) == bool(golden["parsed"])
    for found, wanted in zip(golden["parsed"], ([paris], [rome], [paris, rome]), strict=False):
        assert found["calls"] == wanted
    thinks = ".Thinking" in chat.template
    assert golden["thinking"] == (["<think>", "</think>"] if thinks else ["", ""])


@each_format
def test_template_has_no_findings_and_can_be_written(chat):
    """The linter is silent, and the syntax carries it."""
    assert lint(f"FROM x\nTEMPLATE {quote(chat.template)}\n") == ()
    assert all(lint(f"FROM x\nPARAMETER stop {quote(s)}\n") == () for s in chat.stop)


@pytest.mark.usefixtures("go")
@pytest.mark.parametrize(
    ("name", "old", "new", "kind"),
    [
        ("gemma", '{{- template "trim" .Content }}', "{{- .Content }}", "edges"),
        ("gemma", '"\\u3000"', '"\\u3001"', "other space"),
        ("gemma", "{{ $led = false }}", "", "system"),
        ("qwen2.5", "{{- $open = and $last (not .ToolCalls) }}", "", "prefill"),
        ("qwen2.5", "You are Qwen", "You are qwen", "plain"),
        ("qwen2.5", '{{ printf "%q" .Description }}', "{{ json .Description }}", "tool markup"),
        ("qwen2.5", '{{- if ne $before "tool" }}', "{{- if true }}", "parallel calls"),
        ("llama3.1", '"enum": {{ template "pretty list"', '"enum": {{ template "value"', "tools"),
        ("llama3.2", '$month = "Mar"', '$month = "March"', "plain"),
        ("qwen3", "(or $last .Thinking)", ".Thinking", "prefill"),
        ("mistral-v3", "(eq $i $query)", "(eq $i 0)", "tools"),
    ],
)  # fmt: skip
def test_the_proof_finds_a_planted_defect(name, old, new, kind, monkeypatch):
    """A template with one thing wrong is uncertain on the class that is about it."""
    chat = chat_format_named(name)
    assert old in chat.template
    monkeypatch.setattr(ChatFormat, "template", chat.template.replace(old, new))
    digest = next(reversed(chat.proofs))
    assert chatproof.verdicts.__wrapped__(chat, digest)[kind].differs


def test_conversations_are_of_all_classes_and_told_apart():
    """Each class has a conversation, each conversation a name of its own."""
    assert len(CHATS) >= 60
    assert len({(c.kind, c.name) for c in CHATS}) == len(CHATS)
    assert set(TOOL_KINDS) <= set(KINDS)


def test_jinja_renders_as_transformers_does():
    """BOS goes, a refusal is None, and an answer at the end is continued with or without its space."""
    source = (
        "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    )
    trims = source.replace("m.content", "m.content | trim")
    asked, begun = Chat("", "", [user(" a")]), Chat("", "", [user(" a"), bot(" b ")])
    assert render_jinja(source, asked) == "[ a]>"
    assert render_jinja(source, begun) == "[ a][ b "
    assert render_jinja(trims, begun) == "[a][b"
    assert render_jinja(source, Chat("", "", [system("s")])) is None
    assert BOS not in (render_jinja(source, asked) or "")


def test_a_chat_template_is_known_by_its_digest_without_outer_space():
    """One other character, and it is another template; its marks are but a hint."""
    assert chat_digest(" a\n") == chat_digest("a") == hashlib.sha256(b"a").hexdigest()
    assert chat_format_of("{{ messages }}") is None
    assert chat_formats_like("<|start_header_id|>") == ("llama3", "llama3.1", "llama3.2")
    assert chat_formats_like("{{ messages }}") == ()


def test_no_chat_template_belongs_to_two_formats():
    """The digest decides alone."""
    digests = [d for f in CHAT_FORMATS for d in f.proofs]
    assert len(digests) == len(set(digests))
    assert len({f.name for f in CHAT_FORMATS}) == len(CHAT_FORMATS)


def test_classes_with_tools_are_named_once():
    """Where plain tools differ, the finer classes say nothing more."""
    assert in_short(("empty", "parameter order")) == ("empty", "parameter order")
    assert in_short(("tools", "empty", "tool markup")) == ("empty", "anything with tools")
