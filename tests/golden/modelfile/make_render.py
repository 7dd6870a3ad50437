r"""Makes render.json: what Ollama's own packages say about our chat formats.

    git clone -b v0.19.0 https://github.com/ollama/ollama && cd ollama
    mkdir tqrender && cp .../render.go tqrender/main.go && go build -o render ./tqrender
    # the same in a clone of v0.32.15
    PYTHONPATH=tests python tests/golden/modelfile/make_render.py --oracle v0.19.0=.../render --oracle v0.32.15=.../render

Each conversation of tests/chats.py is rendered by them and by tests/chatoracle, for today, since Ollama has no
other day. What is kept: conversations whose text differs, digests of the template and of the texts for the day in chats.py,
the tags of thoughts, and the tool calls that Ollama's parser finds in what the model would write.
"""

import argparse
import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any

from chatproof import ask, program, rendered
from chats import CHATS, PARIS, ROME, WEATHER, bot, user

from tqconvert.modelfile.chat import CHAT_FORMATS, ChatFormat

HERE = Path(__file__).parent
WRITTEN = ((PARIS,), (ROME,), (PARIS, ROME))
"""Calls of the model."""


def digest_of(texts: tuple[str, ...]) -> str:
    """One digest of all texts, in order."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def written(chat_format: ChatFormat, calls: tuple[Any, ...]) -> str:
    """What a model of this format writes to make the calls: the text between prompt and end of turn.

    Ollama takes thoughts out before it looks for calls.
    """
    ask_for = [user("a")], [user("a"), bot("", *calls)]
    requests = [
        CHATS[0].request(chat_format.template) | {"messages": m, "tools": [WEATHER]}
        for m in ask_for
    ]  # fmt: skip
    prompt, whole = (a["text"] for a in ask(program(), requests))
    assert whole.startswith(prompt)
    return (
        whole.removeprefix(prompt)
        .partition(chat_format.stop[0])[0]
        .rpartition("</think>")[2]
        .lstrip()
    )


def facts(chat_format: ChatFormat, oracle: Path) -> dict[str, Any]:
    """What one release finds in the template."""
    t = chat_format.template
    outputs = [written(chat_format, calls) for calls in WRITTEN] if ".Tools" in t else []
    found, *parsed = ask(oracle, [
        {"op": "facts", "template": t},
        *({"op": "parse", "template": t, "tools": [WEATHER], "output": o} for o in outputs),
    ])  # fmt: skip
    calls = [
        {"written": o, "calls": [[c["function"]["name"], dict(sorted(c["function"]["arguments"].items()))] for c in a.get("calls", [])]}
        for o, a in zip(outputs, parsed, strict=True)
    ]  # fmt: skip
    return {"thinking": found["tags"], "tools": "tools" in found["vars"], "parsed": calls}


def row(chat_format: ChatFormat, oracles: dict[str, Path]) -> dict[str, Any]:
    """What is kept of one format. Raises ValueError where the releases find different facts."""
    today = dt.datetime.now(tz=dt.UTC).astimezone().date().isoformat()
    requests = [c.request(chat_format.template) | {"date": today, "op": "render"} for c in CHATS]
    ours = ask(program(), requests)
    differ = {
        version: [
            f"{c.kind}: {c.name}"
            for c, mine, theirs in zip(CHATS, ours, ask(oracle, requests), strict=True)
            if mine != theirs
        ]
        for version, oracle in oracles.items()
    }
    found = [facts(chat_format, oracle) for oracle in oracles.values()]
    if any(f != found[0] for f in found):
        raise ValueError(f"{chat_format.name}: {found}")
    return {
        "template": hashlib.sha256(chat_format.template.encode()).hexdigest(),
        "texts": digest_of(rendered(chat_format.template)),
        "differ": differ,
        **found[0],
    }


def main() -> None:
    """Write the file."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--oracle", action="append", required=True, metavar="VERSION=FILE")
    oracles = {v: Path(f) for v, _, f in (o.partition("=") for o in p.parse_args().oracle)}
    value = {
        "made_by": "template.Execute, thinking.InferTags and tools.NewParser of ollama",
        "releases": list(oracles), "conversations": len(CHATS),
        "formats": {f.name: row(f, oracles) for f in CHAT_FORMATS},
    }  # fmt: skip
    text = json.dumps(value, ensure_ascii=True, indent=1)
    (HERE / "render.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
