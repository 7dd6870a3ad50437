"""The names that the host will ask for: what it says it supports, times types, head sizes and tuning rows."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from tqconvert.metal.hostcode import Getter
from tqconvert.metal.memory import tiled_memory
from tqconvert.metal.source import Preprocessor, code_tokens, evaluate
from tqconvert.metal.tree import MetalTree

_DEVICE = "ggml-metal-device.m"
_OPS = "ggml-metal-ops.cpp"
_TUNING = "ggml-metal-tuning.cpp"
TURBO = "ggml-metal-turbo.h"

_MIXED = ((192, 128), (320, 256), (576, 512))
"""Head sizes of K and V that differ; sizes on their left stand in no pair of their own but 192."""
_ONLY_MIXED = frozenset({320, 576})
_ROW = re.compile(r"\{ \{ \d+, GGML_TYPE_(\w+), (\d+), (\d+), -?\d+, \d+ \}, \{ (\d), (\d) \} \}")
_BASELINE = re.compile(r"dk == (\d+) && dv == (\d+)\) \{\s*return (\d+);")
_VEC_STEP = 32
"""Head sizes that the vector kernels take are multiples of it (ggml_metal_op_flash_attn_ext_use_vec)."""


class Why(NamedTuple):
    """The place in the host code that a name follows from."""

    text: str
    file: str
    line: int


class Expected(NamedTuple):
    """Names with their reasons, and threadgroup memory that launches will ask for."""

    names: Mapping[str, Why]
    memory: Mapping[str, tuple[int, Why]]
    stock_memory: Mapping[str, tuple[int, Why]]
    """The same for upstream's tiled attention, as far as its formula is understood."""
    rows: int
    """Tuning rows that were read."""
    not_covered: tuple[str, ...]


class _Text:
    """A host file and its cases."""

    def __init__(self, tree: MetalTree, name: str) -> None:
        path = tree.folder / name
        self.name = name
        self.text = path.read_text("utf-8", "replace") if path.is_file() else ""

    def line(self, at: int) -> int:
        return self.text.count("\n", 0, at) + 1

    def part(self, start: str, end: str, after: str = "") -> tuple[int, str]:
        """Offset and text from `start`, looked for behind `after`, up to `end`; (0, "") if not there."""
        found = re.compile(start).search(self.text, max(self.text.find(after), 0))
        if not found:
            return 0, ""
        stop = re.compile(end).search(self.text, found.end())
        return found.start(), self.text[found.start() : stop.start() if stop else len(self.text)]


def expected_names(tree: MetalTree, getters: Iterable[Getter]) -> Expected:
    """All names that follow from the host's tables and switches."""
    device, ops = _Text(tree, _DEVICE), _Text(tree, _OPS)
    names: dict[str, Why] = {}
    notes: list[str] = []
    heads, types, why = _attention(device, notes)
    pairs = [(h, h) for h in heads if h not in _ONLY_MIXED]
    pairs += [p for p in _MIXED if p[0] in heads]
    for kind in types:
        for name in _attention_names(kind, pairs):
            names.setdefault(name, why)
    rows = 0
    for name, reason in _tuned(tree, types):
        names.setdefault(name, reason)
        rows += 1
    for name, reason in (*_copies(device), *_rows_set(device, getters), *_dequantized(ops)):
        names.setdefault(name, reason)
    for kind in types:
        names.setdefault(f"kernel_get_rows_{kind}", why)
    for kind in _lightning(device):
        names.setdefault(f"kernel_lightning_indexer_{kind}", why)
    notes.append("other names of GET_ROWS, and those of MUL_MAT: the host says yes to any type")
    memory = {}
    for name, reason, size in _turbo(tree):
        names[name] = reason
        if size:
            memory[name] = (size, reason)
    stock = {
        name: (size, Why("FLASH_ATTN_EXT, not one query", ops.name, ops.line(at)))
        for name, size, at in tiled_memory(tree, ops.text, types, pairs)
    }
    if not stock and ops.text:
        notes.append("threadgroup memory of stock attention: its formula is not understood")
    return Expected(names, memory, stock, rows, tuple(notes))


def _attention(device: _Text, notes: list[str]) -> tuple[list[int], list[str], Why]:
    at, part = device.part(
        r"case GGML_OP_FLASH_ATTN_EXT:",
        r"\n        case GGML_OP_",
        "ggml_metal_device_supports_op(",
    )
    heads = [int(x) for x in re.findall(r"src\[0\]->ne\[0\] != (\d+)", part)]
    types = [t.lower() for t in re.findall(r"case GGML_TYPE_(\w+):", part) if "TURBO" not in t]
    if part and not types:
        notes.append("types of attention: the host says yes to any pair of equal types")
        types = ["f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]
    return heads, types, Why("supports_op FLASH_ATTN_EXT", device.name, device.line(at))


def _lightning(device: _Text) -> list[str]:
    _, part = device.part(
        r"case GGML_OP_LIGHTNING_INDEXER:",
        r"\n        case GGML_OP_",
        "ggml_metal_device_supports_op(",
    )
    return [t.lower() for t in re.findall(r"case GGML_TYPE_(\w+):", part)]


def _attention_names(kind: str, pairs: Iterable[tuple[int, int]]) -> Iterator[str]:
    for dk, dv in pairs:
        yield f"kernel_flash_attn_ext_{kind}_dk{dk}_dv{dv}"
        if dk % _VEC_STEP == 0:
            yield f"kernel_flash_attn_ext_vec_{kind}_dk{dk}_dv{dv}"


def _tuned(tree: MetalTree, types: list[str]) -> Iterator[tuple[str, Why]]:
    tuning = _Text(tree, _TUNING)
    head = tuning.text.partition("fa_vec_baseline_cfg")[0]
    baseline = {(int(a), int(b)): int(c) for a, b, c in _BASELINE.findall(head)}
    for row in _ROW.finditer(tuning.text):
        kind = row[1].lower()
        dk, dv, q, ne = (int(row[i]) for i in range(2, 6))
        if kind in types:
            suffix = "" if (q, ne) == (1, baseline.get((dk, dv), 4)) else f"_q{q}_ne{ne}"
            why = Why("tuning row", tuning.name, tuning.line(row.start()))
            yield f"kernel_flash_attn_ext_vec_{kind}_dk{dk}_dv{dv}{suffix}", why


_CASE = re.compile(r"case GGML_TYPE_(\w+):|switch \(op->type\)|return ([^;]*);|default:")


def _copies(device: _Text) -> Iterator[tuple[str, Why]]:
    """cpy: the outer switch names sources, the inner one what they become."""
    at, part = device.part(
        r"case GGML_OP_CPY:", r"\n        case GGML_OP_[A-Z_]+:\s*\n?\s*(?:return|\{)",
        "ggml_metal_device_supports_op(",
    )  # fmt: skip
    sources: list[str] = []
    targets: list[str] = []
    inside = False
    for match in _CASE.finditer(part):
        why = Why("supports_op CPY", device.name, device.line(at + match.start()))
        if match[1]:
            if inside:
                targets.append(match[1].lower())
            else:
                sources.append(match[1].lower())
        elif match[0].startswith("switch"):
            inside, targets = True, []
        elif match[2] == "true" and inside:
            for name in (f"kernel_cpy_{s}_{t}" for s in sources for t in targets):
                yield name, why
            targets = []
        elif match[2] == "false" and inside:
            inside, sources = False, []
        elif match[2] and not inside:
            # return op->type == A || op->type == B;
            for t in re.findall(r"op->type == GGML_TYPE_(\w+)", match[2]):
                for s in sources:
                    yield f"kernel_cpy_{s}_{t.lower()}", why
            sources = []


def _rows_set(device: _Text, getters: Iterable[Getter]) -> Iterator[tuple[str, Why]]:
    at, part = device.part(
        r"case GGML_OP_SET_ROWS:", r"\n        case GGML_OP_|\n        default:",
        "ggml_metal_device_supports_op(",
    )  # fmt: skip
    forms = {f.text for g in getters if g.name == "set_rows" for f in g.formats}
    why = Why("supports_op SET_ROWS", device.name, device.line(at))
    for match in re.finditer(r"case GGML_TYPE_(\w+):", part.partition("switch (op->type)")[2]):
        for index in ("i32", "i64"):
            # The index's type stood last until llama.cpp named the source as well.
            if "kernel_set_rows_%s_%s" in forms:
                yield f"kernel_set_rows_{match[1].lower()}_{index}", why
            else:
                yield f"kernel_set_rows_f32_{index}_{match[1].lower()}", why


def _dequantized(ops: _Text) -> Iterator[tuple[str, Why]]:
    at, part = ops.part(r"bool ggml_metal_op_flash_attn_ext_use_kv_f16\(", r"\n\}")
    for kind in re.findall(r"case GGML_TYPE_(\w+):", part):
        why = Why("use_kv_f16", ops.name, ops.line(at))
        yield f"kernel_flash_attn_ext_kv_{kind.lower()}_f16", why


def _turbo(tree: MetalTree) -> Iterator[tuple[str, Why, int]]:
    """Ours: name, reason and bytes of threadgroup memory, from the tables in our header."""
    header = tree.folder / TURBO
    if not header.is_file():
        return
    reader = Preprocessor(tree.includes, {})
    reader.read(header)

    def table(name: str) -> list[list[str]]:
        body = reader.macros[name].body if name in reader.macros else ()
        texts = [t.text for t in body]
        return [
            "".join(texts[i + 2 : texts.index(")", i)]).split(",")
            for i, t in enumerate(texts)
            if t == "X" and texts[i + 1] == "("
        ]

    turbo = [row[1].strip('"') for row in table("GGML_METAL_TURBO_TYPES")]
    partners = turbo + [row[1].strip('"') for row in table("GGML_METAL_TURBO_PARTNERS")]
    why = Why("tables of types and heads", TURBO, 0)
    for kind in turbo:
        for name in (
            f"kernel_set_rows_f32_i32_{kind}", f"kernel_set_rows_f32_i64_{kind}",
            f"kernel_cpy_f32_{kind}", f"kernel_cpy_{kind}_f32", f"kernel_cpy_{kind}_f16",
            f"kernel_get_rows_{kind}", f"kernel_flash_attn_ext_kv_{kind}_f16",
        ):  # fmt: skip
            yield name, why, 0
    for k in partners:
        for v in partners:
            if k in turbo or v in turbo:
                for form, macro in (
                    ("_vec", "GGML_METAL_TURBO_VEC_HEADS"),
                    ("", "GGML_METAL_TURBO_HEADS"),
                ):
                    for dk, dv in table(macro):
                        name = f"kernel_flash_attn_ext{form}_k{k}_v{v}_dk{dk}_dv{dv}"
                        size = _size(reader, f"GGML_METAL_TURBO{form.upper()}_SMEM({dk}, {dv})")
                        yield name, why, size


def _size(reader: Preprocessor, text: str) -> int:
    return evaluate(reader.expand(code_tokens(text))) or 0
