"""Headers to start from: real and synthetic, and models whose keys lie."""

import hashlib
import random
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import builders as b
from tests.fuzz.engine import Case
from tests.fuzz.mutate import edge
from tqconvert.gguf.header import parse_header
from tqconvert.gguf.tags import KvTags, render_page
from tqconvert.kv.rules import ALIASES, DENSE, NO_CACHE, RULES

PAGE = 4096
ARCHITECTURES = (*sorted({*RULES, *DENSE, *NO_CACHE, *ALIASES}), "clip", "nobody", "", "\xff")
ARCH_KEYS = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "nextn_predict_layers",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.key_length_swa", "attention.value_length_swa", "attention.key_length_mla",
    "attention.value_length_mla", "attention.kv_lora_rank", "attention.sliding_window",
    "attention.sliding_window_pattern", "attention.shared_kv_layers", "attention.indexer.key_length",
    "attention.indexer.types", "attention.indexer.top_k", "attention.recurrent_layers",
    "full_attention_interval", "ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.group_count",
    "wkv.head_size", "token_shift_count", "shortconv.l_cache", "kda.head_dim", "ple.conv_kernel",
    "ple.ngram_size", "ple.layers", "hyper_connection.count", "num_loops", "leading_dense_block_count",
    "vision.block_count",
)  # fmt: skip
PER_LAYER = {
    "attention.head_count", "attention.head_count_kv", "feed_forward_length", "ple.layers",
    "attention.sliding_window_pattern", "attention.indexer.types", "attention.recurrent_layers",
}  # fmt: skip
GENERAL_KEYS = (
    "general.name", "general.basename", "general.finetune", "general.license", "general.license.name",
    "general.type", "general.file_type", "general.alignment", "general.sampling.temp",
    "general.sampling.top_k", "general.sampling.top_p", "general.sampling.min_p", "general.sampling.mirostat",
    "general.sampling.penalty_last_n", "general.sampling.penalty_repeat", "general.kv_cache.type_k",
    "general.kv_cache.type_v", "turboquant.schema", "turboquant.balance", "turboquant.evidence",
    "turboquant.tool", "turboquant.pad", "split.no", "split.count", "split.tensors.count",
    "tokenizer.chat_template", "tokenizer.ggml.model",
)  # fmt: skip
TEXTS = (
    "", "q8_0", "Q8_0", "turbo4", " f16 ", "nope", "none", "weights", '"unmeasured"', "{}", "[", "projector",
    "adapter", "Qwen3.5 27B", "Gemma 3", '"""', '"', "a\nb", "a\r\nFROM x", "\x1b[31m", "\u202e\u200b",
    "~nobody/x", "../../x", "\N{GRINNING FACE}" * 40, "x" * 5000, "{{ .Prompt }}",
)  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A file's bytes before its tensors' data, its length, and where its numbers are: (offset, width)."""

    data: bytes
    size: int
    order: str = "<"
    numbers: tuple[tuple[int, int], ...] = field(default=(), repr=False)


def numbers_of(data: bytes, order: str, start: int = 0) -> tuple[tuple[int, int], ...]:
    """Places of counts, lengths, types, dimensions and offsets; ends where the bytes do not go on."""
    found = [(start + 4, 4), (start + 8, 8), (start + 16, 8)]
    n_tensors, n_keys = struct.unpack_from(order + "QQ", data, start + 8)
    at = start + 24

    def number(width: int) -> int:
        nonlocal at
        found.append((at, width))
        (value,) = struct.unpack_from(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width], data, at)
        at += width
        return value

    def text() -> None:
        nonlocal at
        length = number(8)
        at += length

    def value(kind: int, most: int = 16) -> None:
        if kind == b.STRING:
            text()
        elif kind == b.ARRAY:
            element, count = number(4), number(8)
            for i in range(count):
                before = len(found)
                value(element)
                if i >= most:
                    del found[before:]
        else:
            number(struct.calcsize("=" + b.CODES[kind]))

    for _ in range(n_keys):
        text()
        value(number(4))
    for _ in range(n_tensors):
        text()
        for _ in range(number(4)):
            number(8)
        number(4)
        number(8)
    return tuple(found)


def seed_of(data: bytes, *, order: str = "<", size: int | None = None, start: int = 0) -> Seed:
    """A seed of whole bytes; the numbers behind `start` are those of a header that begins there."""
    numbers = numbers_of(data, order, start)
    if start:
        numbers += numbers_of(data, order)
    return Seed(data, len(data) if size is None else size, order, numbers)


def seeds(gemma: Path | None = None) -> list[Seed]:
    """The headers to mutate; with `gemma`, that model's own, whole and with a short vocabulary."""
    every: dict[str, Any] = {
        f"k{kind}": (kind, 1.5 if kind in (b.F32, b.F64) else 1) for kind in b.CODES
    }
    arrays = {f"a{kind}": [(kind, 0), (kind, 1)] for kind in b.CODES}
    tensors = {
        "token_embd.weight": (32, 2),
        "blk.0.attn_k.weight": (32, 3),
        "scalar": (),
        "empty": (0, 4),
    }
    plain = b.gguf_bytes(b.LLAMA, tensors)
    found = [seed_of(plain)]
    for order in "<>":
        big = order == ">"
        found += [
            seed_of(
                b.gguf_bytes({**b.LLAMA, **every, **arrays}, tensors, big_endian=big), order=order
            ),
            seed_of(
                b.gguf_bytes(
                    {**b.LLAMA, "words": ["w" * (i % 9) for i in range(3000)]}, big_endian=big
                ),
                order=order,
            ),
        ]
    found.append(seed_of(b.gguf_bytes({**b.LLAMA, "n": [[[1, 2], [3]], [[4]]]})))
    found.append(
        seed_of(b.gguf_bytes({**b.LLAMA, "bad": (b.STRING, b"\xff\xfe"), "e": []}, alignment=4096))
    )
    found.append(seed_of(b.gguf_bytes(b.LLAMA, {f"t{i}": (32,) for i in range(200)}, version=2)))
    split = {"split.no": (b.U16, 0), "split.count": (b.U16, 2), "split.tensors.count": (b.I32, 2)}
    found.append(seed_of(b.gguf_bytes({**b.LLAMA, **split})))
    page = render_page(parse_header(plain, len(plain)), KvTags("q8_0", ("turbo4", "q8_0")))
    found.append(seed_of(page + plain, start=PAGE))
    found += [
        Seed(page[:n] + bytes(PAGE - n) + plain, PAGE + len(plain)) for n in (0, 24, 200, 4090)
    ]
    found += [_gemma_short(gemma), _gemma_whole(gemma)] if gemma else []
    return found


def _gemma_whole(path: Path) -> Seed:
    with path.open("rb") as f:
        head = f.read(8 << 20)
    header = parse_header(head, path.stat().st_size)
    return seed_of(head[: header.data_start], size=header.size)


def _gemma_short(path: Path) -> Seed:
    """Gemma's header without all but 100 elements of its long arrays."""
    with path.open("rb") as f:
        head = f.read(8 << 20)
    header = parse_header(head, path.stat().st_size)
    out = bytearray(head[:24])
    for e in header.entries.values():
        if e.n_elements <= 100:
            out += head[e.start : e.end]
            continue
        values = header._replace(path=path).read(e.key)[:100]
        out += head[e.start : e.value_at - 8] + struct.pack("<Q", 100)
        if e.element == b.STRING:
            out += b"".join(b.string(v) for v in values)
        else:
            out += struct.pack(f"<100{b.CODES[int(e.element)]}", *values)
    out += head[header.kv_end : header.infos_end]
    out += bytes(-len(out) % header.alignment)
    return seed_of(bytes(out), size=len(out) + header.size - header.data_start)


def made_up_model(rng: random.Random) -> Case:
    """A well-formed header of some architecture, whose keys are plausible, edges or of a wrong type."""
    arch = rng.choice(ARCHITECTURES)
    n_layer = (
        rng.choice((1, 2, 3, 4, 6, 8, 12, 24)) if rng.random() < 0.97 else rng.choice((64, 512))
    )
    keys: dict[str, Any] = {"general.architecture": (b.STRING, arch.encode("latin-1"))}
    for name in rng.sample(ARCH_KEYS, rng.randrange(4, len(ARCH_KEYS))):
        keys[f"{arch}.{name}"] = _hparam(rng, name, n_layer)
    for name, usual in (
        ("block_count", n_layer),
        ("embedding_length", 512),
        ("context_length", 8192),
    ):
        if rng.random() < 0.95:
            keys[f"{arch}.{name}"] = usual
    for name in rng.sample(GENERAL_KEYS, rng.randrange(len(GENERAL_KEYS) // 2)):
        keys[name] = _any_value(rng)
    if rng.random() < 0.9:
        keys.pop("general.alignment", None)
    shape = rng.choice(((32, 2), (256,), (), (0, 4), (1, 1, 1, 1)))
    raw = {k.encode("latin-1", "replace") if "\xff" in k else k: v for k, v in keys.items()}
    return Case(b.gguf_bytes(raw, {"token_embd.weight": shape}, big_endian=rng.random() < 0.05))


def _hparam(rng: random.Random, name: str, n_layer: int) -> Any:
    if rng.random() < 0.12:
        return _any_value(rng)
    usual = (0, 1, 2, 3, 4, 8, 16, 64, 128, 256, 512, n_layer, n_layer - 1)
    if name in PER_LAYER and rng.random() < 0.4:
        n = n_layer if rng.random() < 0.9 else rng.randrange(n_layer + 3)
        kind = rng.choice((b.U32, b.I32, b.BOOL))
        return [
            (kind, rng.choice((0, 1, 1, 2, 8)) if kind != b.BOOL else rng.random() < 0.5)
            for _ in range(n)
        ]
    return (b.U32, rng.choice(usual))


def _any_value(rng: random.Random) -> Any:
    kind = rng.choice((*b.CODES, b.STRING, b.STRING, b.ARRAY))
    if kind == b.STRING:
        return rng.choice(TEXTS) if rng.random() < 0.9 else (b.STRING, rng.randbytes(8))
    if kind == b.ARRAY:
        inner = rng.choice((*b.CODES, b.STRING))
        if inner == b.STRING:
            return [rng.choice(TEXTS) for _ in range(rng.randrange(4))]
        return [(inner, _scalar(rng, inner)) for _ in range(rng.randrange(5))]
    return (kind, _scalar(rng, kind))


def _scalar(rng: random.Random, kind: int) -> Any:
    if kind == b.BOOL:
        return rng.random() < 0.5
    if kind in (b.F32, b.F64):
        most = 3.4028234e38 if kind == b.F32 else 1.7976931348623157e308
        return rng.choice(
            (0.0, 0.1, 0.95, 1.0, -1.0, most, 1e-45, float("nan"), float("inf"), rng.random())
        )
    width = struct.calcsize("=" + b.CODES[kind])
    number = edge(rng, width)
    if kind in (b.I8, b.I16, b.I32, b.I64):
        return struct.unpack("<" + b.CODES[kind], struct.pack("<Q", number)[:width])[0]
    return number


def resealed(page: bytes) -> bytes:
    """The page with the right checksum over what it says now."""
    return page[:-32] + hashlib.sha256(page[:-32]).digest()
