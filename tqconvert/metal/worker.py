"""Runs launches of one compiled unit; a program of its own, for a kernel can end its process.

Started as `python -I worker.py LIBRARY` with the standard library alone. Reads one JSON object a line:
`file`, `arrays` {name: [start, size]}, `level`, `launch` (launch.py). Answers with the lines of `msl_write`
(cpu/msl_rt.cpp) and then `D` and the status; a signal ends the process behind the former.
"""

import ctypes
import json
import os
import sys
from typing import Any


def _bytes(values: Any, kind: Any) -> Any:
    return (kind * max(1, len(values)))(*values)


def _launch(so: ctypes.CDLL, order: dict[str, Any]) -> int:
    launch = order["launch"]
    fd = os.open(order["file"], os.O_RDWR)
    mapped = {}
    page = os.sysconf("SC_PAGESIZE")
    try:
        for name in {b[0] for b in launch["buffers"] if b}:
            start, size = order["arrays"][name]
            first = start // page * page
            length = max(1, -(-(start + size - first) // page)) * page
            at = so.msl_map(fd, first, length)
            if not at:
                raise MemoryError(name)
            mapped[name] = (at, length, at + start - first, size)
    finally:
        os.close(fd)
    so.msl_clear_constants()
    for index, value in launch["constants"].items():
        so.msl_set_constant(int(index), int(value).to_bytes(8, "little", signed=value < 0), 8)
    so.msl_set_level(int(order["level"]))
    addresses, sizes = [], []
    for slot in launch["buffers"]:
        _, _, at, size = mapped[slot[0]] if slot else (0, 0, 0, 0)
        offset = slot[1] if slot else 0
        addresses.append(at + offset if slot else None)
        sizes.append(size - offset)
    tg = launch["threadgroup"]
    status = so.msl_launch(
        launch["kernel"].encode(), _bytes(addresses, ctypes.c_void_p),
        _bytes(sizes, ctypes.c_size_t), len(addresses), _bytes(tg, ctypes.c_size_t), len(tg),
        _bytes(launch["grid"], ctypes.c_uint32), _bytes(launch["threads"], ctypes.c_uint32),
    )  # fmt: skip
    for at, length, _, _ in mapped.values():
        so.msl_unmap(ctypes.c_void_p(at), ctypes.c_size_t(length))
    return int(status)


def main() -> None:
    """Serve launches until stdin ends."""
    so = ctypes.CDLL(sys.argv[1])
    so.msl_map.restype = ctypes.c_void_p
    so.msl_map.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t]
    so.msl_catch_signals()
    for line in sys.stdin:
        status = _launch(so, json.loads(line))
        so.msl_write(1)
        os.write(1, f"D\t{status}\n".encode())


if __name__ == "__main__":
    main()
