"""Conversations that chat templates are compared on, each of one class, and what Jinja makes of them.

A message has `role`, `content`, and where it needs them `thinking`, `tool_calls`, `tool_name`,
`tool_call_id`, as in Ollama's API.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]

DATE = "2026-03-07"
"""The day on which all conversations take place."""


@dataclass(frozen=True)
class Chat:
    """One conversation, and what the request says beside it."""

    name: str
    kind: str
    """The class whose verdict it counts for."""
    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] = ()
    think: bool | None = None

    def request(self, template: str) -> dict[str, Any]:
        """The request that the Go program takes."""
        return {
            "template": template, "messages": list(self.messages), "tools": list(self.tools) or None,
            "think": self.think, "date": DATE,
        }  # fmt: skip


def user(text: str) -> Message:
    """A message of the user."""
    return {"role": "user", "content": text}


def bot(text: str, *calls: tuple[str, dict[str, Any]], thinking: str = "") -> Message:
    """A message of the model."""
    found: Message = {"role": "assistant", "content": text}
    if thinking:
        found["thinking"] = thinking
    if calls:
        found["tool_calls"] = [
            {"type": "function", "id": f"call{i:05}", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(calls)
        ]  # fmt: skip
    return found


def system(text: str) -> Message:
    """A system message."""
    return {"role": "system", "content": text}


def result(text: str, name: str = "get_weather", call: int = 0) -> Message:
    """What a tool answered."""
    return {"role": "tool", "content": text, "tool_name": name, "tool_call_id": f"call{call:05}"}


def tool(
    name: str, text: str, properties: dict[str, Any], required: Sequence[str] = ()
) -> dict[str, Any]:
    """A function as OpenAI's API describes it."""
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = list(required)
    return {
        "type": "function",
        "function": {"name": name, "description": text, "parameters": parameters},
    }


def text(description: str, **more: Any) -> dict[str, Any]:
    """A parameter that is a string."""
    return {"type": "string", "description": description, **more}


WEATHER = tool(
    "get_weather",
    "Look up the weather of a place",
    {"city": text("Name of the place"), "unit": text("Scale", enum=["celsius", "fahrenheit"])},
    ["city"],
)
ADD = tool(
    "add",
    'Sum of two numbers, "exact"',
    {
        "a": {"type": "integer", "description": "First"},
        "b": {"type": "number", "description": "Second"},
        "note": text("é 漢字\tand a \\ backslash"),
        "round": {"type": "boolean", "description": "Whether to round"},
    },
    ["a", "b"],
)
CLOCK = tool("clock", "The time now", {})
LISTS = tool(
    "total",
    "Total of a list",
    {
        "tags": {"type": "array", "items": {"type": "string"}, "description": "Names"},
        "values": {"type": "array", "items": {"type": "number"}, "description": "Numbers"},
    },
    ["values"],
)
UNSORTED = tool("move", "Move a thing", {"to": text("Where to"), "at": text("When")}, ["to", "at"])
MARKUP = tool("query", "Rows where a < b && c > d", {"q": text("An <expression>")}, ["q"])
KEYS = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {
            "type": "object",
            "required": ["q"],
            "properties": {"q": {"description": "What", "type": "string"}},
        },
        "description": "Keys in another order",
    },
}
EMPTY = CLOCK | {"function": CLOCK["function"] | {"parameters": {"type": "object", "properties": {}, "required": []}}}  # fmt: skip
TYPES = tool(
    "note",
    "Note a thing",
    {
        "at": {"type": ["string", "null"], "description": "When"},
        "n": {"type": ["integer", "number"]},
    },
)
EITHER = tool(
    "keep",
    "Keep it",
    {
        "x": {
            "anyOf": [{"type": "string"}, {"type": "integer", "enum": [1, 2]}],
            "description": "It",
        }
    },
    ["x"],
)
LISTED = tool(
    "buy",
    "Buy things",
    {"what": {"type": "array", "items": {"type": "object", "properties": {"n": text("Name")}}}},
)
UNPRINTED = tool("space", "No-break\u00a0space, zero\u200bwidth", {"s": text("\u2028")})
NESTED = tool(
    "book",
    "Book a seat",
    {"who": {"type": "object", "properties": {"name": text("Who")}, "required": ["name"]}},
    ["who"],
)
PARIS = ("get_weather", {"city": "Paris", "unit": "celsius"})
ROME = ("get_weather", {"city": "Rome"})

LONG = "All work and no play. " * 200
MARKS = "{{ .Prompt }} {{ x }} {% if a %} <|im_end|> </s> [INST] <end_of_turn> <|eot_id|> <|user|>"


@dataclass
class _Book:
    chats: list[Chat] = field(default_factory=list)

    def put(
        self, kind: str, name: str, *messages: Message, tools: Sequence[dict[str, Any]] = (),
        think: bool | None = None,
    ) -> None:  # fmt: skip
        self.chats.append(Chat(name, kind, messages, tools, think))


def _plain(b: _Book) -> None:
    b.put("plain", "one question", user("Hi"))
    b.put("plain", "three turns", user("Hi"), bot("Hello!"), user("What is 2+2?"))
    b.put("plain", "many turns", *(m for i in range(5) for m in (user(f"q{i}"), bot(f"a{i}"))), user("?"))  # fmt: skip
    b.put("plain", "long", user(LONG.strip()), bot(LONG.strip()), user("and?"))
    b.put("system", "one question", system("Be brief."), user("Hi"))
    b.put("system", "turns", system("Two\nlines,\n\nand a gap."), user("a"), bot("b"), user("c"))
    b.put("system", "long", system(LONG.strip()), user("Hi"), bot("Hm."), user("c"))
    b.put(
        "text",
        "other scripts",
        user("é 漢字 👍🏽 \u200f\u05e9\u05dc\u05d5\u05dd \u200b."),
        bot("Ж\u00a0ß"),
        user("ñ"),
    )
    b.put("text", "template marks from the user", user(MARKS), bot("No."), user(MARKS))
    b.put("text", "template marks elsewhere", system(MARKS), user("a"), bot(MARKS), user("b"))
    b.put("text", "quotes", user("\"q\" 's' \\ & <b> `c`"), bot("\\n \"'"), user("%s %d $x"))
    b.put(
        "text",
        "code",
        user('```py\nif a:\n    print("{}")\n\n\nx\n```'),
        bot("a\n\n\nb"),
        user("c"),
    )
    b.put("text", "one character", system("s"), user("u"), bot("b"), user("."))
    b.put("empty", "from the user", user(""))
    b.put("empty", "from the model", user("a"), bot(""), user("b"))
    b.put("empty", "system", system(""), user("a"))
    b.put(
        "edges",
        "from the user",
        user("  two spaces before, a line after\n"),
        bot("b"),
        user("\n c"),
    )
    b.put("edges", "system", system("\n s \n"), user("a"), bot("b"), user("c"))
    b.put("edges", "from the model", user("a"), bot("\n b \n\n"), user("c"), bot(" d\t"), user("e"))
    b.put("edges", "nothing but space", system(" "), user(" \n"), bot("\t"), user(" "))
    b.put("other space", "around", user("\u3000a\u00a0"), bot("\u2003b\x85"), user("\x1fc\x0b"))
    b.put("prefill", "one question", user("Name a colour"), bot("The colour is"))
    b.put("prefill", "turns", system("s"), user("a"), bot("b"), user("c"), bot("d\ne"))
    b.put("prefill", "space at its end", user("a"), bot("b "))
    b.put("role order", "no user", system("s"))
    b.put("role order", "late system", user("a"), bot("b"), system("s"), user("c"))
    b.put("role twice", "system", system("s"), system("t"), user("a"))
    b.put("role order", "the model first", bot("b"), user("c"))
    b.put("role twice", "user and model", user("a"), user("b"), bot("c"), bot("d"), user("e"))


def _tools(b: _Book) -> None:
    b.put("tools", "one", user("Weather?"), tools=[WEATHER])
    b.put("tools", "with system", system("Be brief."), user("Sum?"), tools=[ADD])
    b.put("tools", "three", user("a"), bot("b"), user("c"), tools=[WEATHER, CLOCK, ADD])
    b.put("tools", "nothing required", user("a"), tools=[EMPTY, CLOCK])
    b.put("tools", "lists", system("s"), user("a"), bot("b"), user("c"), tools=[LISTS])
    b.put("tool calls", "call", user("a"), bot("", PARIS), result("18 C"), tools=[WEATHER])
    b.put("tool calls", "again", system("s"), user("a"), bot("", PARIS), result('{"t": 18}'), bot("It is 18."), user("And in Rome?"), bot("", ROME), result("20\n"), tools=[WEATHER])  # fmt: skip
    b.put("tool calls", "no arguments", user("a"), bot("", ("clock", {})), result("12:00", "clock"), tools=[CLOCK])  # fmt: skip
    b.put("tool calls", "values", user("a"), bot("", ("f", {"b": True, "d": -1.5, "i": 3, "n": None, "s": 'é "x"\n'})), result("1", "f"), tools=[ADD])  # fmt: skip
    b.put("tool calls", "nested values", user("a"), bot("", ("f", {"l": [1, "a", [2]], "m": {"k": {}, "l": []}})), result("1", "f"), tools=[ADD])  # fmt: skip
    b.put("tool calls", "answered", user("a"), bot("", PARIS), result("18 C"), bot("18."), user("b"), tools=[WEATHER])  # fmt: skip
    b.put("tool calls and text", "one", user("a"), bot("Let me look.", PARIS), result("18 C"), tools=[WEATHER])  # fmt: skip
    b.put("parallel calls", "two", user("a"), bot("", PARIS, ROME), result("18 C"), result("20 C", call=1), tools=[WEATHER])  # fmt: skip
    b.put("parallel calls", "with text", user("a"), bot("Both.", PARIS, ROME), result("18 C"), result("20 C", call=1), bot("18, 20"), user("b"), tools=[WEATHER])  # fmt: skip
    b.put("parameter order", "not by name", user("a"), tools=[UNSORTED])
    b.put("parameter order", "in a call", user("a"), bot("", ("move", {"to": "x", "at": "y"})), result("ok", "move"), tools=[WEATHER])  # fmt: skip
    b.put("tool markup", "in a tool", user("a"), tools=[MARKUP])
    b.put("tool markup", "in a call", user("a"), bot("", ("query", {"q": "a < b & c"})), result("<r>", "query"), tools=[MARKUP])  # fmt: skip
    b.put("parameter order", "keys", user("a"), tools=[KEYS])
    b.put("type lists", "with null", user("a"), tools=[TYPES])
    b.put("alternatives", "of two types", user("a"), tools=[EITHER])
    b.put("nested parameters", "object", user("a"), tools=[NESTED])
    b.put("nested parameters", "list of objects", user("a"), tools=[LISTED])
    b.put("invisible in tools", "in a tool", user("a"), tools=[UNPRINTED])
    b.put("invisible in tools", "in a call", user("a"), bot("", ("f", {"a": "\u00a0\x7f"})), result("\u200b", "f"), tools=[WEATHER])  # fmt: skip
    b.put("numbers in calls", "of all sizes", user("a"), bot("", ("add", {"a": 3.0, "b": 2e-7, "c": 1e21, "d": 2**53 + 1})), result("1", "add"), tools=[ADD])  # fmt: skip


def _thinking(b: _Book) -> None:
    for think, word in ((True, "on"), (False, "off")):
        b.put("think", f"{word}, one question", user("Hi"), think=think)
        b.put("think", f"{word}, turns", system("s"), user("a"), bot("b"), user("c"), think=think)
    b.put(
        "thoughts", "of an earlier turn", user("a"), bot("b", thinking="hm"), user("c"), think=True
    )
    b.put("thoughts", "of earlier turns", user("a"), bot("b", thinking="h\n\nm"), user("c"), bot("d", thinking="e"), user("f"))  # fmt: skip
    b.put("thoughts and tools", "before a call", user("a"), bot("", PARIS, thinking="I look"), result("18 C"), tools=[WEATHER])  # fmt: skip
    b.put("thoughts and tools", "with text", user("a"), bot("Well.", PARIS, thinking="I look"), result("18 C"), tools=[WEATHER], think=True)  # fmt: skip
    b.put("thoughts and tools", "earlier", user("a"), bot("", PARIS, thinking="t"), result("18 C"), bot("18", thinking="u"), user("b"), tools=[WEATHER])  # fmt: skip
    b.put(
        "thoughts in the text", "earlier", user("a"), bot("<think>\nhm\n</think>\n\nb"), user("c")
    )


def _all() -> tuple[Chat, ...]:
    book = _Book()
    _plain(book)
    _tools(book)
    _thinking(book)
    return tuple(book.chats)


CHATS = _all()
KINDS = tuple(dict.fromkeys(c.kind for c in CHATS))
