"""Names that stock Ollama knows: parameters with their types, renderers, parsers.

Sources, v0.32.15 unless another version is named: api/types.go Options and Runner, parser/parser.go
deprecatedParameters, model/renderers/renderer.go, model/parsers/parsers.go.
"""

import math
import re
from decimal import Decimal
from typing import Literal

Kind = Literal["int", "float", "bool", "strings"]

PARAMETERS: dict[str, Kind] = {
    "num_ctx": "int",
    "num_batch": "int",
    "num_gpu": "int",
    "main_gpu": "int",
    "use_mmap": "bool",
    "num_thread": "int",
    "draft_num_predict": "int",
    "num_keep": "int",
    "seed": "int",
    "num_predict": "int",
    "top_k": "int",
    "top_p": "float",
    "min_p": "float",
    "typical_p": "float",
    "repeat_last_n": "int",
    "temperature": "float",
    "repeat_penalty": "float",
    "presence_penalty": "float",
    "frequency_penalty": "float",
    "stop": "strings",
}
RANGES: dict[str, tuple[float, float]] = {
    "num_ctx": (1, math.inf),
    "num_batch": (1, math.inf),
    "top_k": (0, math.inf),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "temperature": (0, math.inf),
    "repeat_penalty": (0, math.inf),
    "repeat_last_n": (-1, math.inf),
}
DEPRECATED = frozenset({
    "penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "mirostat",
    "mirostat_tau", "mirostat_eta",
})  # fmt: skip
"""Ollama warns and drops them."""

REMOVED = frozenset({
    "num_gqa", "embedding_only", "numa", "rope_frequency_base", "rope_frequency_scale", "tfs_z",
})  # fmt: skip
"""Known to Modelfiles of 2023 and 2024; refused since."""

KV_CACHE = frozenset({
    "kv_cache_type", "kv_cache_type_k", "kv_cache_type_v", "cache_type", "cache_type_k", "cache_type_v",
    "type_k", "type_v",
})  # fmt: skip
"""Asked for (ollama issue 16245) and in no release: stock Ollama refuses the Modelfile."""

SINCE: dict[str, tuple[int, int, int]] = {"draft_num_predict": (0, 30, 0), "draft": (0, 23, 1)}
"""First release that knows the name; older ones refuse the Modelfile."""

RENDERERS = frozenset({
    "cogito", "cohere", "deepseek3.1", "functiongemma", "gemma4", "gemma4-large", "gemma4-small",
    "glimmer", "glm-4.7", "glm-ocr", "laguna", "lfm2", "lfm2-thinking", "nemotron-3-nano",
    "nemotron-3.5-nano", "olmo3", "olmo3-32b-think", "olmo3-think", "olmo3.1", "ornith", "poolside-v1",
    "qwen3-coder", "qwen3-vl-instruct", "qwen3-vl-thinking", "qwen3.5", "qwen3.8",
})  # fmt: skip
PARSERS = frozenset({
    "cogito", "cohere", "deepseek3", "functiongemma", "gemma4", "gemma4-no-thinking", "glimmer",
    "glm-4.7", "glm-ocr", "harmony", "laguna", "lfm2", "lfm2-thinking", "ministral", "nemotron-3-nano",
    "nemotron-3.5-nano", "olmo3", "olmo3-think", "ornith", "passthrough", "poolside-v1", "qwen3",
    "qwen3-coder", "qwen3-thinking", "qwen3-vl-instruct", "qwen3-vl-thinking", "qwen3.5",
})  # fmt: skip

_INT = re.compile(r"[+-]?[0-9]+")
_DIGITS = r"[0-9](?:_?[0-9])*"
# One way to match each text: two groups of digits side by side took minutes to refuse a long one.
_FLOAT = re.compile(rf"[+-]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?")
_HEX = re.compile(
    r"[+-]?0[xX](?=_?\.?[0-9a-fA-F])(?:_?[0-9a-fA-F])*(?:\.(?:[0-9a-fA-F](?:_?[0-9a-fA-F])*)?)?"
    rf"[pP][+-]?{_DIGITS}"
)
_SPECIAL = re.compile(r"[+-]?(?:inf|infinity)|nan", re.IGNORECASE)
_BOOLS = frozenset({
    "1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False",
})  # fmt: skip
_FLOAT32_LIMIT = 2**128 - 2**103
"""From here on a number rounds to infinity in float32, and Go's ParseFloat refuses it."""


def accepts(kind: Kind, value: str) -> bool:
    """Whether Ollama reads the text as a value of this type, by Go's strconv rules."""
    match kind:
        case "int":
            return bool(_INT.fullmatch(value)) and -(2**63) <= integer(value) < 2**63
        case "float":
            if _SPECIAL.fullmatch(value):
                return True
            if not _FLOAT.fullmatch(value) and not _HEX.fullmatch(value):
                return False
            return _fits_float32(value.replace("_", ""))
        case "bool":
            return value in _BOOLS
        case "strings":
            return True


def integer(text: str) -> int:
    """The number that digits with a sign name, whatever zeros they begin with; 2**64 for longer ones.

    Python's own `int` refuses texts of more than 4300 digits.
    """
    digits = text.lstrip("+-").lstrip("0")
    value = 2**64 if len(digits) > 20 else int(digits or "0")
    return -value if text.startswith("-") else value


def _fits_float32(value: str) -> bool:
    if "x" in value.lower():
        try:
            return abs(float.fromhex(value)) < _FLOAT32_LIMIT
        except OverflowError:
            return False
    number = abs(float(value))
    if number == _FLOAT32_LIMIT:  # the text may lie just below what its nearest double is
        return abs(Decimal(value)) < _FLOAT32_LIMIT
    return number < _FLOAT32_LIMIT
