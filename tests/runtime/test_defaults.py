"""The built runtime takes the KV cache's types from the GGUF, from flags, or refuses and says why."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kvruntime import (
    logged,
    our_runtime,
    run_program,
    serving,
    tiny_latent,
    tiny_llama,
    types,
    with_keys,
)

from tqconvert.gguf.header import read_header
from tqconvert.kv.arch import layout_of
from tqconvert.kv.pairs import make_pairs
from tqconvert.kv.size import kv_bytes
from tqconvert.runtime.locate import Runtime
from tqconvert.runtime.server import parse_kv_buffers

pytestmark = pytest.mark.runtime
Cli = Callable[..., tuple[int, str, str]]
MIXED = ",".join(["f16"] * 3 + ["turbo4"] * 9 + ["q8_0"] * 6)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    """The programs under test."""
    return our_runtime()


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    """Where a test's copy of a model goes; taken away afterwards, as it is large."""
    path = tmp_path / "model.gguf"
    yield path
    path.unlink(missing_ok=True)


def bench(runtime: Runtime, model: Path, *args: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, rows and log of the shortest run of llama-bench."""
    done = run_program(
        runtime, "llama-bench", "-m", model, "-p", "4", "-n", "0", "-r", "1", "-t", "1", "-o", "json",
        "--no-warmup", "-v", *args,
    )  # fmt: skip
    return (
        done.returncode,
        json.loads(done.stdout or "[]") if not done.returncode else [],
        done.stderr,
    )


def warnings(log: str) -> list[str]:
    """Lines that tell of a tag that was not followed."""
    return [line for line in log.splitlines() if "f16 instead" in line]


@pytest.mark.parametrize(
    ("type_k", "type_v"),
    [("f16", "f16"), ("q8_0", "q8_0"), ("turbo4", "turbo4"), (MIXED, "turbo3")],
)
def test_sizes_are_those_of_the_plan(
    runtime: Runtime,
    gemma: Path,
    run_cli: Cli,
    model: Path,
    tmp_path: Path,
    type_k: str,
    type_v: str,
) -> None:
    """What llama-server allocates for a tagged model is what `plan` says, to the log's two decimals."""
    assert run_cli("tag", gemma, "--type-k", type_k, "--type-v", type_v, "-o", model)[0] == 0
    header = read_header(model)
    layout = layout_of(header)
    pair = next(p for p in make_pairs(header, layout, None, None) if p.origin == "tagged")
    assert pair.unusable is None
    k, v = pair.types
    planned = kv_bytes(layout, 2048, k=k, v=v)
    with serving(runtime, model, tmp_path / "log", n_ctx=2048) as server:
        allocated = server.kv_buffers
        line = logged(server.log.read_text())
    assert [b.cells for b in allocated] == [c.cells for c in planned.caches]
    assert [b.n_layers for b in allocated] == [c.n_layers for c in planned.caches]
    assert [b.k_mib for b in allocated] == pytest.approx(
        [c.k / 2**20 for c in planned.caches], abs=0.006
    )
    assert [b.v_mib for b in allocated] == pytest.approx(
        [c.v / 2**20 for c in planned.caches], abs=0.006
    )
    assert line.count("from the GGUF") == 2


def test_the_log_counts_the_types_of_mixed_layers(runtime: Runtime, tmp_path: Path) -> None:
    """Each cache names its types and how many layers have them; the columns of llama-bench do too."""
    model = tiny_llama(tmp_path / "m.gguf", types(["q8_0", "turbo2"], "turbo4"), head_dim=128)
    code, rows, log = bench(runtime, model)
    assert code == 0, log
    assert parse_kv_buffers(log)[0].type_k == "mixed: 1 q8_0 + 1 turbo2"
    assert (rows[0]["type_k"], rows[0]["type_v"]) == ("mixed: 1 q8_0 + 1 turbo2", "turbo4")


def test_a_flag_goes_before_a_tag(runtime: Runtime, tmp_path: Path) -> None:
    """f16 that was asked for is f16, on its own side; the log says which came from where."""
    model = tiny_llama(tmp_path / "m.gguf", types("turbo4", "turbo4"), head_dim=128)
    _, rows, log = bench(runtime, model, "-ctk", "f16")
    assert (rows[0]["type_k"], rows[0]["type_v"]) == ("f16", "turbo4")
    assert logged(log) == "K f16 (as asked), V turbo4 (from the GGUF)"


def test_without_tags_the_cache_is_f16(runtime: Runtime, tmp_path: Path) -> None:
    """An untagged model has the default of llama.cpp."""
    _, rows, log = bench(runtime, tiny_llama(tmp_path / "m.gguf"))
    assert (rows[0]["type_k"], rows[0]["type_v"]) == ("f16", "f16")
    assert logged(log) == "K f16 (default), V f16 (default)"


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("turbo9", "turbo9 is not a cache type"),
        (["q8_0"] * 3, "3 types for 2 layers"),
        (7, "<u32> is not a cache type"),
        ("turbo4", "turbo4 has blocks of 128, the head dimension of layer 0 is 64"),
    ],
)
def test_a_tag_that_cannot_be_used_is_f16(
    runtime: Runtime, tmp_path: Path, tag: object, reason: str
) -> None:
    """One warning with the reason, f16 on that side, and the other side as tagged."""
    code, rows, log = bench(runtime, tiny_llama(tmp_path / "m.gguf", types(tag, "q8_0")))
    assert code == 0, log
    assert (rows[0]["type_k"], rows[0]["type_v"]) == ("f16", "q8_0")
    (line,) = warnings(log)
    assert f"general.kv_cache.type_k: {reason}" in line


def test_a_layer_that_cannot_have_its_type_is_f16(runtime: Runtime, tmp_path: Path) -> None:
    """In an array only the layer at fault changes."""
    model = tiny_llama(tmp_path / "m.gguf", types(["q8_0", "turbo4"], "f16"))
    _, rows, log = bench(runtime, model)
    assert rows[0]["type_k"] == "mixed: 1 q8_0 + 1 f16"
    assert "layer 1 is 64" in warnings(log)[0]


def test_a_tagged_v_falls_back_without_flash_attention(runtime: Runtime, tmp_path: Path) -> None:
    """With -fa off V is f16 and K stays; with auto, flash attention is switched on."""
    model = tiny_llama(tmp_path / "m.gguf", types("turbo4", "turbo4"), head_dim=128)
    code, rows, log = bench(runtime, model, "-fa", "off")
    assert code == 0, log
    assert (rows[0]["type_k"], rows[0]["type_v"]) == ("turbo4", "f16")
    assert "needs flash attention" in warnings(log)[0]
    code, rows, log = bench(runtime, model, "-fa", "auto")
    assert (rows[0]["type_v"], warnings(log)) == ("turbo4", [])


def test_latent_attention_takes_no_turbo(runtime: Runtime, tmp_path: Path) -> None:
    """MLA: from a tag f16 with a warning, from a flag an error that names a type that works."""
    model = tiny_latent(tmp_path / "m.gguf", types("turbo4", "turbo4"))
    code, rows, log = bench(runtime, model)
    assert code == 0, log
    assert (rows[0]["type_k"], rows[0]["type_v"]) == ("f16", "f16")
    assert len(warnings(log)) == 2
    code, _, log = bench(runtime, model, "-ctk", "turbo4", "-ctv", "turbo4")
    assert code != 0
    assert "latent K of this model (MLA); q8_0 can" in log


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-ctk", "turbo4"), ("K cache type (-ctk): turbo4 has blocks of 128, the head dimension of layer 0 is 64"
         " (types that fit: f32, f16, bf16, q8_0,")),
        (("-ctv", "q8_0", "-fa", "off"), "V cache type (-ctv): q8_0 needs flash attention, which is off (-fa on"),
    ],
)  # fmt: skip
def test_a_flag_that_cannot_be_is_an_error(
    runtime: Runtime, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    """The program ends, and its message names the cure."""
    code, _, log = bench(runtime, tiny_llama(tmp_path / "m.gguf"), *args)
    assert code != 0
    assert message in log


def test_an_unknown_name_is_answered_with_the_list(runtime: Runtime, tmp_path: Path) -> None:
    """llama-server names the types that there are."""
    model = tiny_llama(tmp_path / "m.gguf")
    done = run_program(runtime, "llama-server", "-m", model, "-ctk", "turbo9")
    assert done.returncode != 0
    assert "Unsupported cache type: turbo9 (one of f32, f16," in done.stdout + done.stderr
    assert "turbo4, turbo3, turbo2" in done.stdout + done.stderr


def test_a_tag_does_what_the_flags_do(
    runtime: Runtime, gemma: Path, model: Path, tmp_path: Path
) -> None:
    """llama-perplexity gives one result for the tagged model and for flags, another for f16."""
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times, we had nothing. " * 40)
    common = ("-f", text, "-c", "256", "-b", "256", "--chunks", "1", "-t", "2")

    def perplexity(path: Path, *args: str) -> str:
        done = run_program(runtime, "llama-perplexity", "-m", path, *common, *args)
        return next(x for x in done.stdout.splitlines() + done.stderr.splitlines() if "Final" in x)[
            -40:
        ]

    with_keys(gemma, model, types("turbo3", "turbo4"))
    tagged = perplexity(model)
    assert tagged == perplexity(gemma, "-ctk", "turbo3", "-ctv", "turbo4")
    assert perplexity(model, "-ctk", "f16", "-ctv", "f16") == perplexity(gemma) != tagged
