"""Findings in words, and those of one place put together."""

from collections.abc import Sequence
from dataclasses import replace

from tqconvert.metal.launch import Finding


def merge(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """One finding for each kind, kernel and line, the first that was seen, with all counted."""
    first: dict[tuple[str, str, str, int], Finding] = {}
    for f in findings:
        key = (f.kind, f.kernel, f.file, f.line)
        first[key] = replace(first[key], count=first[key].count + f.count) if key in first else f
    return tuple(first.values())


def describe(kind: str, a: int, b: int) -> str:
    """What the two numbers of a finding say."""
    match kind:
        case "threadgroup_out_of_bounds" if b:
            offset = a - (1 << 64) if a >> 63 else a
            return f"{b} bytes at {offset}"
        case "device_out_of_bounds":
            return f"{b} bytes"
        case "private_out_of_bounds" if a:
            return f"index {a - (1 << 64) if a >> 63 else a}"
        case "threadgroup_memory_limit":
            return f"{a} bytes, at most {b}"
        case "threadgroup_race" | "simdgroup_race" | "simdgroup_unordered":
            return f"byte {a}, against thread {b}"
        case "device_race":
            other = f"thread {b - 1} of the same threadgroup" if b else "another threadgroup"
            return f"byte {a} of the buffer, against {other}"
        case "uninitialised_threadgroup_read":
            return f"byte {a}"
        case "divergent_barrier" if b:
            return f"{a} of {b} threads wait"
        case "divergent_simd_function" | "simd_function_with_exited_lanes":
            return f"lanes {a:08x} of simdgroup {b}"
        case "barrier_with_exited_threads":
            return f"{a} of {b} threads have ended"
        case "shuffle_from_inactive_lane":
            return f"lane {a} from {b}"
        case _:
            return ""
