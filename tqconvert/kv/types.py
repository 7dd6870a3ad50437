"""KV cache types by the runtime's own names, and the bytes of one block of each."""

import difflib
from typing import NamedTuple

from tqconvert.errors import UsageError


class CacheType(NamedTuple):
    """A cache type: `values` values take `bytes` bytes."""

    name: str
    values: int
    bytes: int

    @property
    def bits(self) -> float:
        """Bits per value."""
        return self.bytes * 8 / self.values

    @property
    def is_quantized(self) -> bool:
        """Whether several values share a block."""
        return self.values > 1

    @property
    def is_turbo(self) -> bool:
        """Whether only the patched runtime has this type."""
        return self.name.startswith("turbo")

    def size_of(self, n_values: int) -> int:
        """Bytes of `n_values` values, which must be whole blocks."""
        return n_values // self.values * self.bytes


CACHE_TYPES: dict[str, CacheType] = {
    name: CacheType(name, values, size)
    for name, values, size in (
        ("f32", 1, 4), ("f16", 1, 2), ("bf16", 1, 2), ("q8_0", 32, 34), ("q5_1", 32, 24),
        ("q5_0", 32, 22), ("q4_1", 32, 20), ("q4_0", 32, 18), ("iq4_nl", 32, 18),
        ("turbo4", 128, 66), ("turbo3", 128, 50), ("turbo2", 128, 34),
    )
}  # fmt: skip
"""The types that llama.cpp takes (kv_cache_types, common/arg.cpp:304; block sizes by the
static_asserts of ggml/src/ggml-common.h) and the patched runtime's turbo types: one fp16 gain and
128 codes of 4, 3 or 2 bits."""

F16 = CACHE_TYPES["f16"]


def parse_cache_type(text: str) -> CacheType:
    """The cache type of that name; case does not matter. Raises UsageError."""
    name = text.strip().lower()
    found = CACHE_TYPES.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, CACHE_TYPES, n=1)
    raise UsageError(
        f"{text}: not a KV cache type (expected one of {', '.join(CACHE_TYPES)})",
        hint=f"did you mean {near[0]}?" if near else None,
    )
