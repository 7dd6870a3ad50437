"""Small GGUF files for tests, written with `struct` alone: no code of ours, no gguf-py."""

import struct
from pathlib import Path
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q",
         I64: "q", F64: "d"}  # fmt: skip


def string(text: str | bytes, e: str = "<") -> bytes:
    """A GGUF string."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(e + "Q", len(raw)) + raw


def value(v: Any, e: str = "<") -> bytes:
    """Type and value of a key; (type, value) forces a type, a list is an array."""
    if isinstance(v, tuple):
        kind, v = v
        if kind == STRING:
            return struct.pack(e + "I", STRING) + string(v, e)
        return struct.pack(e + "I" + CODES[kind], kind, v)
    if isinstance(v, bool):
        return struct.pack(e + "I?", BOOL, v)
    if isinstance(v, int):
        return struct.pack(e + "II", U32, v)
    if isinstance(v, float):
        return struct.pack(e + "If", F32, v)
    if isinstance(v, list):
        items = [value(x, e) for x in v]
        kind = struct.unpack(e + "I", items[0][:4])[0] if items else STRING
        return struct.pack(e + "IIQ", ARRAY, kind, len(v)) + b"".join(x[4:] for x in items)
    return struct.pack(e + "I", STRING) + string(v, e)


def gguf_bytes(
    keys: dict[str, Any], tensors: dict[str, tuple[int, ...]] | None = None, *, version: int = 3,
    big_endian: bool = False, alignment: int = 32, fill: int = 7,
) -> bytes:  # fmt: skip
    """A whole GGUF; tensors are name -> shape, of f32, filled with a byte pattern."""
    e = ">" if big_endian else "<"
    tensors = {"token_embd.weight": (32, 2)} if tensors is None else tensors
    if alignment != 32:
        keys = {**keys, "general.alignment": alignment}
    out = b"GGUF" + struct.pack(e + "IQQ", version, len(tensors), len(keys))
    out += b"".join(string(k, e) + value(v, e) for k, v in keys.items())
    offset, data = 0, b""
    for i, (name, shape) in enumerate(tensors.items()):
        n = 4
        for d in shape:
            n *= d
        out += string(name, e) + struct.pack(f"{e}I{len(shape)}Q", len(shape), *shape)
        out += struct.pack(e + "IQ", 0, offset)
        body = bytes((fill + i + j) % 251 for j in range(min(n, 4096))) * (n // 4096 + 1)
        data += body[:n] + b"\0" * (-n % alignment)
        offset = len(data)
    return out + b"\0" * (-len(out) % alignment) + data


def keys_of(arch: str, **own: Any) -> dict[str, Any]:
    """Keys of a model of `arch`: block_count=2 becomes `<arch>.block_count`; `__` becomes a dot."""
    return {
        "general.architecture": arch,
        "general.name": f"tiny {arch}",
        **{f"{arch}.{k.replace('__', '.')}": v for k, v in own.items()},
    }


LLAMA = keys_of(
    "llama", block_count=2, context_length=4096, embedding_length=256, attention__head_count=2,
    attention__head_count_kv=1, attention__key_length=128, attention__value_length=128,
)  # fmt: skip


def tiny_gguf(path: Path, keys: dict[str, Any] | None = None, **options: Any) -> Path:
    """Write a small GGUF (default: a llama with head dimension 128) and return its path."""
    path.write_bytes(gguf_bytes(LLAMA if keys is None else keys, **options))
    return path
