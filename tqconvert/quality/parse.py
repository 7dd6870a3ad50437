"""Read what llama-perplexity prints.

The program ends with 0 after most of its own errors, so only what was printed tells whether it
measured anything. Source of the forms: tools/perplexity/perplexity.cpp:647 and 1859-1982 of
llama.cpp 0c1e57098.
"""

import math
import re

from tqconvert.errors import MeasureFailedError
from tqconvert.quality.values import Divergence, Estimate, Perplexity

LAST_LINES = 6
_NUMBER = r"(-?(?:nan|inf|\d+(?:\.\d+)?(?:e[+-]?\d+)?))"
_ESTIMATE = rf"\s*{_NUMBER}\s*(?:±|\+/-)\s*{_NUMBER}"
_RUNNING_PPL = re.compile(rf"\[(\d+)\]{_NUMBER},")
_RUNNING_KLD = re.compile(rf"^\s*(\d+){_ESTIMATE}{_ESTIMATE}{_ESTIMATE}{_ESTIMATE} %", re.MULTILINE)
_THREADS = re.compile(r"n_threads = (\d+)")
_ERROR = re.compile(
    r"^(?:[\d.]+ E (?:\w+ +(?=\w+:))?|(?=error[ :])|(?=.*(?:GGML_ASSERT|ggml_abort|fatal error)))(.+)",
    re.MULTILINE,
)
PERCENTILES = {
    "max": "Maximum", "99.9": "99.9%", "99": "99.0%", "95": "95.0%", "90": "90.0%", "median": "Median",
    "10": "10.0%", "5": " 5.0%", "1": " 1.0%", "0.1": " 0.1%", "min": "Minimum",
}  # fmt: skip


def parse_perplexity(log: str) -> Perplexity:
    """The result of a plain run or of one that wrote a base. Raises MeasureFailedError."""
    running = _in_sequence(_RUNNING_PPL.findall(log), log)
    ppl = _estimate(r"Final estimate: PPL =", log)
    return Perplexity(_real(ppl, "perplexity", log), running)


def parse_divergence(log: str) -> Divergence:
    """The result of a run against a base. Raises MeasureFailedError."""
    rows = _RUNNING_KLD.findall(log)
    divergence = Divergence(
        ppl=_estimate(r"^Mean PPL\(Q\) +:", log),
        ppl_base=_estimate(r"^Mean PPL\(base\) +:", log),
        ppl_ratio=_estimate(r"^Mean PPL\(Q\)/PPL\(base\) +:", log),
        kld=_real(_estimate(r"^Mean +KLD:", log), "mean KLD", log),
        kld_percentiles={
            name: _number(rf"^{re.escape(words)} +KLD:\s*{_NUMBER}", log)
            for name, words in PERCENTILES.items()
        },
        delta_p=_estimate(r"^Mean +Δp:", log),
        delta_p_rms=_estimate(r"^RMS +Δp +:", log),
        same_top=_estimate(r"^Same top p:", log),
        running_kld=_in_sequence([(row[0], row[5]) for row in rows], log),
    )
    _real(divergence.ppl, "perplexity", log)
    return divergence


def parse_threads(log: str) -> int | None:
    """Threads that the runtime took."""
    found = _THREADS.search(log)
    return int(found[1]) if found else None


def count_done(tail: str) -> tuple[int, str] | None:
    """The last chunk that the end of a log tells of, and its running value as text."""
    if rows := _RUNNING_KLD.findall(tail):
        return int(rows[-1][0]), f"KLD {rows[-1][5]}"
    if pairs := _RUNNING_PPL.findall(tail):
        return int(pairs[-1][0]), f"PPL {pairs[-1][1]}"
    return None


def failed(what: str, log: str) -> MeasureFailedError:
    """The error for a run that measured nothing: what the runtime says of it, and its last lines."""
    said = list(dict.fromkeys(m.strip() for m in _ERROR.findall(log)))[:3]
    lines = [line for line in log.splitlines() if line.strip()][-LAST_LINES:]
    if said:
        return MeasureFailedError(
            f"llama-perplexity: {what}: " + "; ".join(_printable(s[:200]) for s in said)
        )
    last = "".join(f"\n    {_printable(line[:160])}" for line in lines) or " nothing"
    return MeasureFailedError(f"llama-perplexity: {what}; it printed last:{last}")


def _printable(line: str) -> str:
    """The line, which a terminal must not obey."""
    return "".join(c if c.isprintable() else "?" for c in line)


def _estimate(label: str, log: str) -> Estimate:
    found = re.findall(label + _ESTIMATE, log, re.MULTILINE)
    if not found:
        raise failed("ended without a result", log)
    # The last one: keys of the model are printed before, and may hold any text.
    return Estimate(*map(float, found[-1]))


def _number(pattern: str, log: str) -> float:
    found = re.findall(pattern, log, re.MULTILINE)
    if not found:
        raise failed("ended without a result", log)
    return float(found[-1])


def _real(estimate: Estimate, what: str, log: str) -> Estimate:
    """The estimate, which must be a number: a broken cache type yields nan."""
    if not math.isfinite(estimate.value):
        raise failed(f"{what} is {estimate.value}", log)
    return estimate


def _in_sequence(pairs: list[tuple[str, str]], log: str) -> tuple[float, ...]:
    """Values of chunks 1, 2, ...; anything else is no output of one run."""
    if not pairs:
        raise failed("ended without a result", log)
    if [int(n) for n, _ in pairs] != list(range(1, len(pairs) + 1)):
        raise failed("its chunks are not in order", log)
    return tuple(float(x) for _, x in pairs)
