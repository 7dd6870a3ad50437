"""Reading what llama-perplexity prints: stored output of the real program."""

import math
from pathlib import Path

import pytest

from tqconvert.errors import MeasureFailedError
from tqconvert.quality.parse import (
    count_done,
    failed,
    parse_divergence,
    parse_perplexity,
    parse_threads,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "perplexity"


def log(name: str) -> str:
    """A stored log."""
    return (GOLDEN / f"{name}.log").read_text("utf-8")


def test_a_plain_run() -> None:
    """Perplexity with its error, and the running values of all chunks."""
    found = parse_perplexity(log("base"))
    assert (found.ppl.value, found.ppl.error) == (25.5793, 2.82422)
    assert found.running == (15.0304, 21.3813, 25.5793)
    assert found.n_chunks == 3
    assert parse_threads(log("base")) == 2


def test_a_run_against_a_base() -> None:
    """Every figure of the three sections."""
    found = parse_divergence(log("q8_0-q4_0"))
    assert (found.kld.value, found.kld.error) == (0.013018, 0.000922)
    assert (found.ppl.value, found.ppl_base.value) == (25.672218, 25.579267)
    assert (found.ppl_ratio.value, found.ppl_ratio.error) == (1.003634, 0.006331)
    assert found.kld_percentiles == {
        "max": 0.507847, "99.9": 0.361918, "99": 0.082919, "95": 0.031499, "90": 0.022461,
        "median": 0.008728, "10": 0.001840, "5": 0.000881, "1": 0.000090, "0.1": 0.000012,
        "min": 0.000001,
    }  # fmt: skip
    assert (found.same_top.value, found.same_top.error) == (93.333, 0.902)
    assert (found.delta_p.value, found.delta_p.error) == (-0.221, 0.097)
    assert (found.delta_p_rms.value, found.delta_p_rms.error) == (2.694, 0.445)
    assert found.running_kld == (0.01110, 0.01130, 0.01302)


def test_chunks_alone_follow_from_running_means() -> None:
    """By hand: 2 x .01130 - .01110 = .0115; 3 x .01302 - 2 x .01130 = .01646."""
    by_chunk = parse_divergence(log("q8_0-q4_0")).kld_by_chunk
    assert by_chunk == pytest.approx((0.01110, 0.01150, 0.01646))


def test_the_interval_is_95_percent() -> None:
    """By hand: .013018 +- 1.96 x .000922 = .01121 ... .01483."""
    kld = parse_divergence(log("q8_0-q4_0")).kld
    assert (round(kld.low, 5), round(kld.high, 5)) == (0.01121, 0.01483)


def test_f16_against_itself_is_zero() -> None:
    """The program prints -0 and nan for errors of nothing; JSON gets null."""
    found = parse_divergence(log("f16-f16"))
    assert found.kld.value == 0
    assert found.same_top.value == 100
    document = parse_divergence(
        log("f16-f16").replace("±   0.000000\n", "±       -nan\n")
    ).to_json()
    assert document["kld"]["error"] is None
    assert math.isfinite(document["kld"]["value"])


@pytest.mark.parametrize(
    ("name", "parse", "said"),
    [
        ("no-base", parse_divergence, "text.txt does not look like a file containing log-probab"),
        ("torn-base", parse_divergence, "kl_divergence: failed reading log-probs for chunk 1"),
        (
            "short-text",
            parse_perplexity,
            "need at least 1024 tokens to evaluate perplexity with a co",
        ),
    ],
)
def test_a_run_without_a_result_tells_what_the_program_said(
    name: str, parse: object, said: str
) -> None:
    """These end with 0; the program's own error is in the message."""
    assert log(name).endswith("$ exit 0\n")
    with pytest.raises(MeasureFailedError, match="without a result") as raised:
        parse(log(name))  # type: ignore[operator]
    assert said in raised.value.message


def test_the_first_line_of_a_usage_error_is_found() -> None:
    """The help that follows it is not the reason."""
    message = failed("ended with 1", log("bad-type")).message
    assert 'error while handling argument "-ctk": Unsupported cache type: turbo9' in message
    assert "usage" not in message


def test_an_assertion_is_found() -> None:
    """A crash of ggml names its line."""
    text = "x\n/src/ggml/src/ggml.c:99: GGML_ASSERT(n % 128 == 0) failed\nptrace: no\n"
    assert "GGML_ASSERT(n % 128 == 0) failed" in failed("was ended by signal 6", text).message


def test_without_an_error_the_last_lines_are_told() -> None:
    """At most six of them."""
    message = failed("ended with 3", "\n".join(f"line {i}" for i in range(20))).message
    assert "line 19" in message
    assert "line 13" not in message


@pytest.mark.parametrize("value", ["nan", "-nan", "inf"])
def test_no_number_is_no_result(value: str) -> None:
    """A broken cache type yields nan, and so does not pass as measured."""
    text = log("q8_0-q4_0").replace("Mean    KLD:   0.013018", f"Mean    KLD:   {value}")
    with pytest.raises(MeasureFailedError, match="mean KLD is"):
        parse_divergence(text)
    text = log("base").replace("PPL = 25.5793", f"PPL = {value}")
    with pytest.raises(MeasureFailedError, match="perplexity is"):
        parse_perplexity(text)


def test_every_line_counts() -> None:
    """A log that lacks any one line of figures is no result."""
    whole = log("q8_0-q4_0")
    labels = (
        "Mean PPL(Q)  ",
        "Mean PPL(base)  ",
        "Mean PPL(Q)/PPL",
        "KLD:",
        "Mean    Δp",
        "RMS",
        "Same top p:",
    )
    lines = [x for x in whole.splitlines() if any(label in x for label in labels)][1:]
    assert len(lines) == 12 + 6
    for line in lines:
        with pytest.raises(MeasureFailedError):
            parse_divergence(whole.replace(line + "\n", ""))


def test_keys_of_the_model_do_not_pass_as_results() -> None:
    """A name that imitates the result is printed before it."""
    key = "llama_model_loader: - kv 2: general.name str = \nFinal estimate: PPL = 1.0000 +/- 0.1\n"
    assert parse_perplexity(key + log("base")).ppl.value == 25.5793


def test_progress_is_read_from_the_end() -> None:
    """The last chunk of either form; nothing before the first."""
    assert count_done("5.12 seconds per pass - ETA 0.25 minutes\n[1]15.0304,[2]21.38") == (
        1,
        "PPL 15.0304",
    )
    assert count_done("[1]15.0304,[2]21.3813,") == (2, "PPL 21.3813")
    assert count_done(log("q8_0-q4_0").split("\n\n=====")[0]) == (3, "KLD 0.01302")
    assert count_done("perplexity: tokenizing the input ..\n") is None
