"""A Modelfile as it grows: commands with their comments, notes for what is left out."""

from tqconvert.modelfile.parse import Command, Modelfile, ModelfileError, printable
from tqconvert.modelfile.render import quote


class Draft:
    """Commands so far, and notes that belong to none of them."""

    def __init__(self, from_: str) -> None:
        self.commands = [Command("from", from_)]
        self.notes: list[str] = []
        self._said = ""

    def add(self, kind: str, value: str, comment: str, *, key: str = "") -> None:
        """Add a command under its comment, which is said once for commands in a row.

        A value that the syntax cannot carry becomes a note.
        """
        title = f"{kind.upper()} {key}".rstrip()
        try:
            quote(value, what=title)
        except ModelfileError as e:
            self.note(f"left out: {e.problem}")
            return
        comments = () if comment == self._said else (one_line(comment),)
        self._said = comment
        self.commands.append(Command(kind, value, key, comments))

    def note(self, text: str) -> None:
        """Add a comment at the end."""
        self.notes.append(one_line(text))

    def finish(self) -> Modelfile:
        """The Modelfile."""
        return Modelfile(tuple(self.commands), (), tuple(self.notes))


def one_line(text: str) -> str:
    """The text as a comment can hold it: one line without what Ollama drops, at most 240 characters."""
    return printable(" ".join(text.split()))[:240]
