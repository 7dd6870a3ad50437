"""Architectures with sliding windows, chunks and shared caches.

Each rule is what one file of llama.cpp's src/models/*.cpp does in `load_arch_hparams` (tree 0c1e57098).
"""

from collections.abc import Callable

from tqconvert.kv.hparams import Hparams, Keys, MissingKeyError
from tqconvert.kv.layers import LayerKind

Rule = Callable[[Keys, Hparams], None]

WINDOW = "attention.sliding_window"
PATTERN = "attention.sliding_window_pattern"


def set_pattern(hp: Hparams, n: int, *, dense_first: bool = False) -> None:
    """Every n-th layer is full, the last of n or the first; 0 means none, 1 all (llama-hparams.cpp:8)."""
    for i in range(hp.n_layer):
        if n == 0:
            hp.is_swa[i] = True
        else:
            hp.is_swa[i] = i % n != 0 if dense_first else i % n < n - 1


def _load_pattern(keys: Keys, hp: Hparams, n: int, *, dense_first: bool = False) -> None:
    """The file's pattern, per layer or as a period, else the architecture's (llama-model.cpp:3434)."""
    values = keys.array(PATTERN)
    if values is None:
        set_pattern(hp, keys.integer(PATTERN, n), dense_first=dense_first)
    else:
        _take_pattern(hp, values)


def _take_pattern(hp: Hparams, values: tuple[int, ...]) -> None:
    for i, value in enumerate(values[: hp.n_layer_all]):
        hp.is_swa[i] = bool(value)


def sliding(
    pattern: int, *, default: int | None = None, optional: bool = False, fixed: int | None = None,
    dense_first: bool = False,
) -> Rule:  # fmt: skip
    """Windows of the file's size (or `default`, or always `fixed`) in a pattern of `pattern` layers.

    `optional`: a file without a window has full attention everywhere.
    """

    def rule(keys: Keys, hp: Hparams) -> None:
        window = keys.integer(WINDOW, default or 0)
        if optional and not window:
            return
        if default is None and not optional:
            window = keys.need(WINDOW)
        hp.window, hp.window_kind = fixed or window, LayerKind.SLIDING
        _load_pattern(keys, hp, pattern, dense_first=dense_first)

    return rule


def listed(keys: Keys, hp: Hparams) -> None:
    """Windows of the file's size in the layers that the file lists."""
    hp.window, hp.window_kind = keys.need(WINDOW), LayerKind.SLIDING
    values = keys.array(PATTERN)
    if values is None:
        raise MissingKeyError(f"{keys.header.architecture}.{PATTERN}")
    _take_pattern(hp, values)


def exaone4(keys: Keys, hp: Hparams) -> None:
    """Windows in the 32B only, told by its 64 layers (exaone4.cpp:4)."""
    if hp.n_layer == 64:
        sliding(4, default=4096)(keys, hp)


def phi3(keys: Keys, hp: Hparams) -> None:
    """Full attention: the window in the file is not used."""
    if keys.integer(WINDOW):
        hp.notes.append(
            "the file has a sliding window, which llama.cpp does not use for phi3 (#13676)"
        )


def llama4(keys: Keys, hp: Hparams) -> None:
    """Chunks of 8192 whatever the file says, unless it says 0 (llama4.cpp:8)."""
    if keys.has(WINDOW) and keys.integer(WINDOW) == 0:
        return
    hp.window, hp.window_kind = 8192, LayerKind.CHUNKED
    _load_pattern(keys, hp, 4)


def gemma3n(keys: Keys, hp: Hparams) -> None:
    """Windows; layers from the 20th on share (gemma3n.cpp:7)."""
    sliding(5)(keys, hp)
    hp.n_layer_kv_from_start = 20


def gemma4(keys: Keys, hp: Hparams) -> None:
    """Windows; the last layers share, as many as the file says."""
    listed(keys, hp)
    hp.n_layer_kv_from_start = hp.n_layer_all - keys.integer("attention.shared_kv_layers")


def gemma4_assistant(keys: Keys, hp: Hparams) -> None:
    """A draft model without a cache of its own (llama-model.cpp:2809)."""
    listed(keys, hp)
    hp.n_layer_kv_from_start = 0
    hp.notes.append("a draft model: it reads the cache of the model it drafts for")
