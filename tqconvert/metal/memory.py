"""Threadgroup memory of upstream's tiled attention, by the formula in the host's own code.

The host checks no limit there: what is too much for a GPU is refused by Metal when the kernel runs. Other sizes
are numbers in the host's code, or follow from a loop that stops at half of the limit (the vector kernels).
"""

import re
from collections.abc import Iterable, Iterator

from tqconvert.metal.source import Macro, Preprocessor, Token, code_tokens, evaluate
from tqconvert.metal.tree import MetalTree

LIMIT = 32768
"""Bytes that every GPU of Apple's has."""
_FORMULAS = (
    # llama.cpp of today, in halves; and before, in bytes
    (re.compile(r"const size_t smem_half = ([^;]+);"), 2),
    (re.compile(r"#define FATTN_SMEM\(nsg\) ([^\n]+)"), 1),
)
_SIMDGROUPS = re.compile(r"int32_t nsg = ne00 >= (\d+) \? (\d+) : (\d+);")
_SIZES = ("nqptg", "ncpsg")
_TYPES = {"ggml_fp16_t": 2, "float": 4}
_NEVER = 1 << 30


def tiled_memory(
    tree: MetalTree, text: str, types: Iterable[str], pairs: Iterable[tuple[int, int]]
) -> Iterator[tuple[str, int, int]]:
    """Name, bytes, and the formula's offset in `text` (ggml-metal-ops.cpp) for types and head sizes.

    Nothing where the formula is not found or not understood.
    """
    found = next(((m, unit) for f, unit in _FORMULAS if (m := f.search(text))), None)
    if found is None:
        return
    match, unit = found
    simdgroups = _SIMDGROUPS.search(text, match.start())
    limit, many, few = map(int, simdgroups.groups()) if simdgroups else (_NEVER, 0, 4)
    reader = Preprocessor(tree.includes, {})
    reader.read(tree.folder / "ggml-metal-impl.h")
    for name in _SIZES:
        given = re.compile(rf"const int {name} += (\w+);").findall(text, 0, match.start())
        if not given:
            return
        reader.macros[name] = _macro(given[-1])
    reader.macros["GGML_PAD"] = Macro(("x", "n"), _tokens("(((x) + (n) - 1) / (n) * (n))"))
    formula = re.sub(r"sizeof\((\w+)\)", lambda m: str(_TYPES.get(m[1], m[0])), match[1])
    for kind in types:
        for dk, dv in pairs:
            values = {
                "ne00": dk, "ne20": dv, "dv_pad": -(-dv // 64) * 64, "is_q": "q" in kind,
                "nsg": many if dk >= limit else few,
            }  # fmt: skip
            for name, value in values.items():
                reader.macros[name] = _macro(str(int(value)))
            tokens = reader.expand(_tokens(formula))
            size = None if any(t.kind == "name" for t in tokens) else evaluate(tokens)
            if size:
                yield f"kernel_flash_attn_ext_{kind}_dk{dk}_dv{dv}", size * unit, match.start()


def _macro(text: str) -> Macro:
    return Macro(None, _tokens(text))


def _tokens(text: str) -> tuple[Token, ...]:
    return tuple(code_tokens(text))
