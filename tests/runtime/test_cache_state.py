"""A turbo cache under everything that a server does with it: prefixes, shifts, slots, drafts, state files."""

import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kvruntime import complete, our_runtime, run_program, serving, tiny_latent, types, with_keys

from tqconvert.errors import ServerFailedError
from tqconvert.gguf.header import read_header
from tqconvert.runtime.locate import Runtime

pytestmark = pytest.mark.runtime

STORY = (
    "The lighthouse keeper wrote every evening about wind, ships and the price of oil. In the winter "
    "of that year no ship came for nine weeks, and the entries grew short. Then, one morning, "
)
SKIP = 8
"""Rows of K at the start of a chunk that llama-kv-stats leaves out."""


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    """The programs under test."""
    return our_runtime()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Less than one sliding window of tokens, so that no cell is dropped from a slot's file."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(STORY * 8)
    return path


@pytest.fixture(scope="module")
def stats(runtime: Runtime, gemma: Path, text: Path) -> dict[str, Any]:
    """What llama-kv-stats measures on the text."""
    out = text.with_name("stats.json")
    done = run_program(
        runtime, "llama-kv-stats", "-m", gemma, "-f", text, "-o", out, "-c", "512", "-t", "2"
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(out.read_text()))


def mean_of(stats: dict[str, Any]) -> list[float]:
    """The value of turboquant.k_mean."""
    return [s / layer["n_k"] for layer in stats["layers"] for s in layer["k_sum"]]


@pytest.fixture(scope="module", params=["plain", "centred"])
def model(
    request: pytest.FixtureRequest, gemma: Path, stats: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:  # fmt: skip
    """Gemma tagged turbo4/turbo4, without and with the mean of K."""
    path = tmp_path_factory.mktemp("model") / f"{request.param}.gguf"
    mean = {"turboquant.k_mean": mean_of(stats)} if request.param == "centred" else {}
    yield with_keys(gemma, path, {**types("turbo4", "turbo4"), **mean})
    path.unlink()


def test_a_reused_prefix_gives_what_a_fresh_one_gives(
    runtime: Runtime, model: Path, tmp_path: Path
) -> None:
    """After a prompt whose first 96 tokens were cached: tokens and probabilities to the bit.

    Batches end where the prefix does, as other batches round otherwise, whatever the cache's type.
    """
    args = ("-b", "32", "-ub", "32", "--swa-full")
    with serving(runtime, model, tmp_path / "log", *args) as server:
        tokens = server.ask("/tokenize", {"content": STORY * 4})["tokens"]
        first, second = tokens[:140], tokens[:96] + tokens[20:70]
        complete(server, first)
        reused = complete(server, second, n_probs=3)
        fresh = complete(server, second, n_probs=3, cache_prompt=False)
    assert reused["timings"]["cache_n"] == 96
    assert fresh["timings"]["cache_n"] == 0
    assert reused["tokens"] == fresh["tokens"]
    assert reused["completion_probabilities"] == fresh["completion_probabilities"]


def test_a_slot_is_saved_and_restored(runtime: Runtime, model: Path, tmp_path: Path) -> None:
    """A restored slot goes on as the one that was saved, without its prompt being processed.

    With --swa-full: without it llama-server processes the prompt anew for any type of cache.
    """
    args = ("--slot-save-path", f"{tmp_path}/", "--swa-full")
    with serving(runtime, model, tmp_path / "log", *args) as server:
        complete(server, STORY * 2, n=1)
        saved = server.ask("/slots/0?action=save", {"filename": "slot.bin"})
        expected = complete(server, STORY * 2)
    with serving(runtime, model, tmp_path / "log2", *args) as server:
        restored = server.ask("/slots/0?action=restore", {"filename": "slot.bin"})
        again = complete(server, STORY * 2)
    assert restored["n_restored"] == saved["n_saved"] > 0
    assert again["timings"]["cache_n"] == expected["timings"]["cache_n"] > 50
    assert again["tokens"] == expected["tokens"]


def test_a_slot_of_other_types_is_refused(
    runtime: Runtime, gemma: Path, stats: dict[str, Any], tmp_path: Path
) -> None:
    """Types are compared by layer, and so is the mean that K lacks; the server goes on."""
    args = ("--slot-save-path", f"{tmp_path}/")
    plain, mixed, centred = (tmp_path / f"{n}.gguf" for n in ("plain", "mixed", "centred"))
    with_keys(gemma, plain, types("turbo4", "turbo4"))
    with_keys(gemma, mixed, types(["turbo4"] * 17 + ["turbo3"], "turbo4"))
    with_keys(gemma, centred, {**types("turbo4", "turbo4"), "turboquant.k_mean": mean_of(stats)})
    try:
        with serving(runtime, plain, tmp_path / "log", *args) as server:
            complete(server, STORY)
            server.ask("/slots/0?action=save", {"filename": "slot.bin"})
        for other in (mixed, centred):
            with serving(runtime, other, tmp_path / "log", *args) as server:
                with pytest.raises(ServerFailedError, match="400"):
                    server.ask("/slots/0?action=restore", {"filename": "slot.bin"})
                assert len(complete(server, STORY)["tokens"]) == 24
            assert "mismatched key type" in (tmp_path / "log").read_text()
    finally:
        for path in (plain, mixed, centred):
            path.unlink(missing_ok=True)


def test_the_context_shifts(runtime: Runtime, model: Path, tmp_path: Path) -> None:
    """Generation goes on beyond the context: keys are rotated in the cache, and the text stays words."""
    with serving(
        runtime, model, tmp_path / "log", "--context-shift", "--keep", "4", n_ctx=256
    ) as server:
        answer = complete(server, STORY, n=260)
    assert len(answer["tokens"]) == 260
    assert answer["truncated"]
    assert "context shift" in (tmp_path / "log").read_text()
    assert "\ufffd" not in answer["content"]


def test_mixed_layers_shift_as_whole_ones(runtime: Runtime, gemma: Path, tmp_path: Path) -> None:
    """f16 and turbo keys beside q8_0 ones, which the graph rotates, go on from where the text was cut.

    The prompt is longer than what the shift leaves of it; K that was rotated wrongly knows no phrase.
    """
    model = with_keys(gemma, tmp_path / "m.gguf", types(["f16", "turbo4", "q8_0"] * 6, "f16"))
    cut = STORY.index(" that year")
    prompt = STORY * 5 + STORY[:cut]
    try:
        with serving(
            runtime, model, tmp_path / "log", "--context-shift", "--keep", "4", n_ctx=256
        ) as server:
            answer = complete(server, prompt, n=64)
    finally:
        model.unlink()
    assert answer["truncated"]
    assert "slot context shift" in (tmp_path / "log").read_text()
    assert STORY[cut : cut + 100] in answer["content"]


def test_parallel_sequences_do_not_disturb_each_other(
    runtime: Runtime, model: Path, tmp_path: Path
) -> None:
    """Two slots that work at the same time say what each says alone.

    Texts that repeat themselves, cut in a phrase: batches of other sizes round otherwise, which must
    not decide.
    """
    other = (
        "Copper wire, tin plate, zinc roof; lamp oil, rope and canvas: paid on the second of May. "
    )
    cuts = [(STORY, STORY.index(" that year")), (other, other.index(" canvas"))]
    prompts = [text * 4 + text[:at] for text, at in cuts]
    rest = [text[at : at + 12] for text, at in cuts]
    with serving(runtime, model, tmp_path / "log", "-np", "2", n_ctx=2048) as server:
        alone = [complete(server, p, n=6, id_slot=i)["content"] for i, p in enumerate(prompts)]

        def again(i: int) -> str:
            return str(complete(server, prompts[i], n=6, id_slot=i, cache_prompt=False)["content"])

        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(again, range(2)))
    assert [x[:12] for x in alone] == rest
    assert [x[:12] for x in together] == rest


def test_a_draft_model_with_a_turbo_cache(runtime: Runtime, model: Path, tmp_path: Path) -> None:
    """Speculative decoding, target and draft tagged: tokens are accepted, the text is that without."""
    with serving(runtime, model, tmp_path / "log") as server:
        plain = complete(server, STORY * 3)
    with serving(
        runtime, model, tmp_path / "log", "-md", str(model), "--spec-draft-n-max", "4",
        "--spec-draft-p-min", "0", "--spec-type", "draft-simple",
    ) as server:  # fmt: skip
        drafted = complete(server, STORY * 3)
    assert drafted["timings"]["draft_n_accepted"] > 0.5 * drafted["timings"]["draft_n"] > 0
    assert drafted["content"] == plain["content"]


def perplexity(runtime: Runtime, model: Path, text: Path, *args: str) -> float:
    """Of one chunk."""
    done = run_program(
        runtime, "llama-perplexity", "-m", model, "-f", text, "-c", "128", "-b", "128", "--chunks", "2",
        "-t", "2", *args,
    )  # fmt: skip
    lines = (done.stdout + done.stderr).splitlines()
    return float(next(x for x in lines if "Final estimate" in x).split("=")[1].split()[0])


def test_the_mean_of_k(runtime: Runtime, gemma: Path, stats: dict[str, Any], text: Path) -> None:
    """Taking the mean out changes nothing at f16, to the digit, and brings 4 bits nearer to f16."""
    model = with_keys(gemma, text.with_name("mean.gguf"), {"turboquant.k_mean": mean_of(stats)})
    try:
        exact = perplexity(runtime, gemma, text)
        assert perplexity(runtime, model, text) == exact
        for name in ("turbo3", "q4_0"):
            args = ("-ctk", name)
            plain, centred = (perplexity(runtime, m, text, *args) for m in (gemma, model))
            assert abs(centred - exact) < abs(plain - exact)
    finally:
        model.unlink()


@pytest.mark.parametrize(
    ("mean", "reason"),
    [([0.5] * 7, "7 values (expected 4608)"), ([float("nan")] * 4608, "a value is not finite")],
)
def test_a_mean_that_does_not_fit_is_left_alone(
    runtime: Runtime, gemma: Path, tmp_path: Path, mean: list[float], reason: str
) -> None:
    """One warning, and K is stored whole."""
    model = with_keys(gemma, tmp_path / "m.gguf", {"turboquant.k_mean": mean})
    try:
        done = run_program(
            runtime, "llama-bench", "-m", model, "-ctk", "q8_0", "-p", "4", "-n", "0", "-r", "1", "-v",
            "--no-warmup",
        )  # fmt: skip
    finally:
        model.unlink()
    assert done.returncode == 0
    assert done.stderr.count("K is stored whole") == 1
    assert reason in done.stderr
    assert "without its mean" not in done.stderr


def test_latent_keys_keep_their_mean(runtime: Runtime, tmp_path: Path) -> None:
    """With MLA, K is V as well: nothing may be taken out of it."""
    model = tiny_latent(tmp_path / "m.gguf", {"turboquant.k_mean": [0.5] * 256})
    done = run_program(
        runtime, "llama-bench", "-m", model, "-ctk", "q8_0", "-ctv", "q8_0", "-p", "4", "-n", "0", "-r",
        "1", "-v",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "turboquant.k_mean: K is V as well (MLA)" in done.stderr


def test_statistics_are_those_of_the_cache(
    runtime: Runtime, gemma: Path, stats: dict[str, Any], text: Path, tmp_path: Path
) -> None:
    """Sums over K as llama-kv-stats has them are those of the f16 rows in a slot's file."""
    args = ("--slot-save-path", f"{tmp_path}/")
    with serving(runtime, gemma, tmp_path / "log", *args) as server:
        complete(server, text.read_text(), n=1)
        server.ask("/slots/0?action=save", {"filename": "slot.bin"})
    keys = keys_of_slot((tmp_path / "slot.bin").read_bytes(), [[5, 11, 17], None])
    assert sorted(keys) == [layer["layer"] for layer in stats["layers"]] == list(range(18))
    for layer in stats["layers"]:
        n = layer["n_k"] + SKIP
        assert n == layer["n_q"] == stats["n_tokens"]
        rows = keys[layer["layer"]][SKIP:n].astype(np.float64)
        # Layer 0 sees what both runs have in common; further up rounding in the weights adds up.
        tolerance = 1e-4 if layer["layer"] == 0 else 1e-2
        scale = np.sqrt(np.mean(rows**2)) * layer["n_k"]
        assert np.abs(rows.sum(0) - layer["k_sum"]).max() < tolerance * scale
        assert np.allclose(
            (rows**2).sum(0), layer["k_sq"], rtol=10 * tolerance, atol=tolerance * scale
        )


def keys_of_slot(data: bytes, layers: list[list[int] | None]) -> dict[int, np.ndarray]:
    """K by layer, [n_cells, n_embd] f16, of the caches in a slot's file, in the order of their cells.

    `layers` are the numbers of each cache's layers, None for all others of eighteen.
    Layout: llama.cpp src/llama-kv-cache.cpp:2099 (state_write), :2201 (state_write_data).
    """
    found: dict[int, np.ndarray] = {}
    n_tokens = struct.unpack_from("<I", data, 8)[0]
    at = 12 + 4 * n_tokens

    def take(form: str) -> tuple[Any, ...]:
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values

    for numbers in layers:
        n_streams, n_cells = take("II")
        assert n_streams == 1
        for _ in range(n_cells):
            take("iIi")
        transposed, n_layers = take("II")
        assert not transposed
        rest = [i for i in range(18) if i not in found] if numbers is None else numbers
        assert len(rest) == n_layers
        for side in "kv":
            for number in rest:
                kind, size = take("iQ")
                assert kind == 1
                if side == "k":
                    rows = np.frombuffer(data, "<f2", n_cells * size // 2, at)
                    found[number] = rows.reshape(n_cells, -1)
                at += n_cells * size
    return found


def test_the_header_of_a_model_with_keys_is_whole(gemma: Path, tmp_path: Path) -> None:
    """The builder of these tests moves no tensor."""
    path = with_keys(gemma, tmp_path / "m.gguf", types("turbo4", "f16"))
    own, before = read_header(path), read_header(gemma)
    path.unlink()
    assert own.get("general.kv_cache.type_k") == "turbo4"
    assert own.tensors == before.tensors
