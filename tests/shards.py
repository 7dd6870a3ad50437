"""A GGUF cut into shards, as llama-gguf-split --split-max-tensors does (tools/gguf-split/gguf-split.cpp)."""

import struct

from builders import I32, U16, gguf_bytes

from tqconvert.gguf.header import parse_header

ALIGNMENT = 32


def split_gguf(data: bytes, prefix: str, counts: list[int]) -> dict[str, bytes]:
    """Shards by file name, of so many tensors each; the first has the keys as well."""
    header = parse_header(data, len(data))
    assert header.alignment == ALIGNMENT
    assert sum(counts) == len(header.tensors)
    found, at = {}, 0
    for i, count in enumerate(counts):
        keys = {
            "split.no": (U16, i), "split.count": (U16, len(counts)),
            "split.tensors.count": (I32, len(header.tensors)),
        }  # fmt: skip
        own = gguf_bytes(keys, {})[24:]  # version, counts and padding stand elsewhere
        own = own[: _end_of_keys(own, len(keys))]
        if i == 0:
            own = data[24 : header.kv_end] + own
        n_kv = len(keys) + (len(header.entries) if i == 0 else 0)
        table, body = b"", b""
        for tensor in header.tensors[at : at + count]:
            name = tensor.name.encode()
            table += struct.pack("<Q", len(name)) + name
            table += struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            table += struct.pack("<IQ", _type_number(data, tensor.name), len(body))
            start = header.data_start + tensor.offset
            body += data[start : start + tensor.n_bytes]
            body += bytes(-len(body) % ALIGNMENT)
        head = b"GGUF" + struct.pack("<IQQ", 3, count, n_kv) + own + table
        name = f"{prefix}-{i + 1:05d}-of-{len(counts):05d}.gguf"
        found[name] = head + bytes(-len(head) % ALIGNMENT) + body
        at += count
    return found


def _end_of_keys(keys: bytes, n: int) -> int:
    """Where `n` keys of numbers end."""
    at = 0
    for _ in range(n):
        at += 8 + struct.unpack_from("<Q", keys, at)[0]
        at += 4 + {U16: 2, I32: 4}[struct.unpack_from("<I", keys, at)[0]]
    return at


def _type_number(data: bytes, name: str) -> int:
    """The number of the tensor's type, as it stands in the table."""
    raw = name.encode()
    at = data.index(struct.pack("<Q", len(raw)) + raw) + 8 + len(raw)
    n_dims = struct.unpack_from("<I", data, at)[0]
    return int(struct.unpack_from("<I", data, at + 4 + 8 * n_dims)[0])
