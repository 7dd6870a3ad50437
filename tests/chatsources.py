"""Published chat templates, from packages that carry them: fetched by pip, kept in a cache, never committed."""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ggmlbuilds import CACHE, fetch_base

from tqconvert.modelfile.chat import chat_digest

_ENV = dict(os.environ)
SDIST = "0.3.36"
WHEELS = {
    "trl-1.16.0-py3-none-any.whl": "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396",
    "xinference-4.1.0-py3-none-any.whl": "40dd71d79e85a86f85c0d8b435fe51111fcf2c09227350d4a452229709528f2d",
    "unsloth-2026.10.9-py3-none-any.whl": "feb40b99bc4f8c543a36cbd0fe6e1410d6e4ac16bd4d0c731f607adce3d63bb0",
}
"""Wheels -> their sha256. They know models by these templates, serve them with these, or write these into new ones."""
_TREE = f"llama_cpp_python-{SDIST}/vendor/llama.cpp/"
_CASES = f"{_TREE}tests/test-chat-template.cpp"
_LITERAL = re.compile(
    r"/\* \.name= \*/ \"(?P<name>[^\"]+)\",\s*(?://[^\n]*\s*)*"
    r"/\* \.template_str= \*/ (?:U8C\()?(?P<text>\"(?:\\.|[^\"\\])*\")"
)
_BETTER_KNOWN = (
    "codeqwen1.5-chat",
    "openhermes-2.5",
    "qwen2.5-coder-instruct",
    "qwen2.5-instruct-1m",
)
"""Names to prefer where several models have the same chat template."""
_DEFAULT = "You are a helpful assistant."
_SMOLLM2 = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@cache
def published() -> dict[str, tuple[str, str]]:
    """Digest -> where the chat template was found, and its text."""
    kept = (
        CACHE
        / "chat-templates"
        / f"{hashlib.sha256(repr((SDIST, WHEELS)).encode()).hexdigest()[:16]}.json"
    )
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps([*_llama_cpp(), *_wheels()]), encoding="utf-8")
        part.replace(kept)
    found: dict[str, tuple[str, str]] = {}
    for label, text in json.loads(kept.read_text(encoding="utf-8")):
        digest = chat_digest(text)
        if digest not in found or label in _BETTER_KNOWN:
            found[digest] = (label, text)
    # SmolLM2's differs in its default system message alone (HuggingFaceTB/SmolLM2-1.7B-Instruct, 31b70e2e869a).
    chatml = next(t for _, t in found.values() if _DEFAULT in t and len(t) == 328)
    smollm2 = chatml.replace(_DEFAULT, _SMOLLM2)
    found[chat_digest(smollm2)] = ("SmolLM2-1.7B-Instruct", smollm2)
    return found


def _llama_cpp() -> Iterator[tuple[str, str]]:
    """Those of llama.cpp's models/templates and of its tests."""
    with tarfile.open(fetch_base(SDIST)) as archive:
        for member in archive:
            path = Path(member.name)
            if member.name == _CASES or member.name.startswith(f"{_TREE}models/templates/"):
                data = archive.extractfile(member)
                text = data.read().decode() if data else ""
                if path.suffix == ".jinja":
                    yield path.stem, text
                for m in _LITERAL.finditer(text if member.name == _CASES else ""):
                    yield m["name"].partition(" (")[0], ast.literal_eval(m["text"])


def _wheels() -> Iterator[tuple[str, str]]:
    """Those of the wheels, which are fetched for this and not kept."""
    for name, sha256 in WHEELS.items():
        project, version = name.split("-")[:2]
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--ignore-requires-python",
                "--disable-pip-version-check",
                "-d", folder, f"{project}=={version}",
            ]  # fmt: skip
            subprocess.run(command, check=True, env=_ENV)
            path = Path(folder) / name
            assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
            with zipfile.ZipFile(path) as wheel:
                yield from {"trl": _trl, "xinference": _xinference, "unsloth": _unsloth}[project](
                    wheel
                )


def _trl(wheel: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    for name in sorted(wheel.namelist()):
        if name.endswith(".jinja"):
            yield f"trl {Path(name).stem}", wheel.read(name).decode()


def _xinference(wheel: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    for name in sorted(wheel.namelist()):
        if re.fullmatch(r"xinference/model/llm/models/[^/]+\.json", name):
            families = json.loads(wheel.read(name))
            for family in families if isinstance(families, list) else [families]:
                if text := family.get("chat_template"):
                    yield family["model_name"], text


def _unsloth(wheel: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    for node in ast.parse(wheel.read("unsloth/chat_templates.py")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                if "{%" in text:
                    yield f"unsloth {name.removesuffix('_template')}", text
