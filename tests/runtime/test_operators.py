"""Upstream's own operator tests, with the turbo types in their lists, on the built runtime."""

import re
import subprocess

import kvruntime
import pytest

pytestmark = [pytest.mark.runtime, pytest.mark.slow]
TURBO = ("turbo4", "turbo3", "turbo2")


def run(program: str, *args: str) -> str:
    """What a test program prints; it must end with 0."""
    path = kvruntime.our_runtime().program(program)
    done = subprocess.run(
        [str(path), *args], capture_output=True, text=True, check=False, timeout=1800
    )
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert done.returncode == 0, text[-2000:] + done.stderr[-1000:]
    return text


def passed(text: str) -> int:
    """How many cases test-backend-ops ran and passed; none may have been skipped as not supported."""
    counts = re.search(r"(\d+)/(\d+) tests passed", text)
    assert counts, text[-500:]
    assert counts[1] == counts[2]
    assert "not supported" not in text
    return int(counts[1])


@pytest.mark.parametrize("name", TURBO)
def test_attention_equals_the_generic_path(name):
    """Our attention against upstream's one over the scalar codec: ALiBi, sinks, soft caps, GQA, permutations."""
    text = run(
        "test-backend-ops", "test", "-b", "CPU", "-o", "FLASH_ATTN_EXT", "-p", f"type_K={name},"
    )
    assert passed(text) >= 336


@pytest.mark.parametrize(("op", "least"), [("SET_ROWS", 72), ("GET_ROWS", 24), ("CPY", 30)])
def test_rows_and_copies(op, least):
    """Quantizing by SET_ROWS and CPY, and reading rows, against the scalar codec."""
    assert passed(run("test-backend-ops", "test", "-b", "CPU", "-o", op, "-p", "turbo")) >= least


def test_quantize_fns_accepts_the_types():
    """Upstream's limits, with ours for 4, 3 and 2 bits; the reference gives the same bytes."""
    text = run("test-quantize-fns", "-v")
    for name in TURBO:
        assert re.search(rf"{name} absolute quantization error: +ok", text), text
        assert re.search(rf"{name} reference implementation error: +ok \(0\.000000\)", text)
        assert re.search(rf"{name} dot product error: +ok", text)
