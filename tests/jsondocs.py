"""Hold a printed JSON document against what tqconvert/documents promises of it, to the last field."""

from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from tqconvert.documents import DOCUMENTS, name_of, schema

COMMANDS = {name_of(command): command for command in DOCUMENTS}


@cache
def _validators(command: str) -> list[Draft202012Validator]:
    """One for each form of the document."""
    whole = schema(command, closed=True)
    return [Draft202012Validator(form) for form in whole.get("anyOf", [whole])]


def check_document(document: dict[str, Any]) -> str:
    """The command whose document it is; AssertionError that names each field that is not as promised."""
    command = COMMANDS.get(document.get("schema", ""))
    assert command, f"schema {document.get('schema')!r} is not in tqconvert/documents"
    worst = []
    for validator in _validators(command):
        errors = [f"{e.json_path}: {e.message[:300]}" for e in validator.iter_errors(document)]
        if not errors:
            return command
        worst.append(errors)
    nearest = min(worst, key=len)
    raise AssertionError(
        f"`{command} --json` is not as tqconvert/documents says (then `make docs`): {nearest}"
    )
